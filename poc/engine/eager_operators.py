"""The operators of an eager server, for a PoC batch on a server that compiles.

Where vLLM compiles a model, its compiler fuses norms, activations and rotary embeddings, and their own fused
kernels are left out. A PoC batch skips the compiled graph and would run them one elementwise kernel after the
other. Here a batch gets what an eager server runs: then its numbers do not depend on whether the server
compiles.

vLLM has two kinds of operators. Which implementation an `IrOp` runs, and whether by way of PyTorch's
dispatcher, are settings of the process, changed by context managers of vLLM's own. A `CustomOp` decides when
it is made; a batch gets copies of those that are off. Two kinds stay as they are. Operators that are no part
of a module, such as the quantisation of FP8 activations, or that vLLM finds by a layer's name, such as those
of shared experts, are not reached; the fingerprint names them. Norms with weights in another dtype than the
model's (Gemma's) have no fused kernel in vLLM, on any server.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from enum import Enum
from typing import Any, Final

from torch import nn
from vllm.config import CompilationMode, VllmConfig, set_current_vllm_config
from vllm.config.kernel import IrOpPriorityConfig
from vllm.ir import enable_torch_wrap
from vllm.model_executor.custom_op import CustomOp
from vllm.platforms import current_platform

from hallmark.poc.engine.module_copy import copy_with

__all__ = ["EagerOperators"]


# Operators that choose their method when they are made, whether they are on or off.
_CHOOSING_THEMSELVES: Final = frozenset({"chunk_gated_delta_rule"})


class EagerOperators:
    """What an eager server with the same options would run; on an eager server, what it runs.

    Args:
        config: the engine's configuration.

    Attributes:
        priority: for each `IrOp` the implementations to try, in their order.
    """

    def __init__(self, config: VllmConfig) -> None:
        self._config = config
        self._switched_on: Counter[str] = Counter()
        # By the `id` of what was copied, None where nothing was: what layers share, their copies share.
        self._copies: dict[int, Any] = {}
        self._inference: IrOpPriorityConfig = config.kernel_config.ir_op_priority
        compiling = current_platform.get_default_ir_op_priority(config)
        eager = current_platform.get_default_ir_op_priority(_as_eager(config))
        self.priority: IrOpPriorityConfig = replace(
            self._inference,
            **{
                field.name: getattr(eager, field.name)
                for field in fields(eager)
                # An operator's own choice stays: it is another one than the platform's.
                if getattr(self._inference, field.name) == getattr(compiling, field.name)
            },
        )

    @contextmanager
    def chosen(self) -> Iterator[None]:
        """Choose the implementations of an eager server, until the context ends."""
        with self.priority.set_priority(), enable_torch_wrap(False):
            yield

    @contextmanager
    def given_back(self) -> Iterator[None]:
        """Give inference its implementations back while a batch stands still, until the context ends."""
        wrap = bool(self._config.compilation_config.ir_enable_torch_wrap)
        with self._inference.set_priority(), enable_torch_wrap(wrap):
            yield

    def copy_model(self, model: nn.Module) -> nn.Module:
        """Copy a model so that every `CustomOp` which only the compiler has switched off is on.

        Args:
            model: As vLLM loaded it; nothing of it is changed, and the copy shares its parameters.

        Returns:
            The copy, the same one each time; the model itself where nothing is off, or where the server does
            not compile.
        """
        if self._config.compilation_config.mode == CompilationMode.NONE:
            return model
        with set_current_vllm_config(self._config):
            copied = self._copy(model)
        return model if copied is None else copied

    def copy_layers(self, layers: Mapping[str, Any]) -> dict[str, Any]:
        """Copy layers that vLLM finds by name, as `copy_model` does; their copies are the model's."""
        return {
            name: self.copy_model(layer) if isinstance(layer, nn.Module) else layer
            for name, layer in layers.items()
        }

    def describe(self) -> str:
        """Name the choices, for the fingerprint: what is off, and the order of implementations."""
        compilation = self._config.compilation_config
        off = {option for option in compilation.custom_ops if option.startswith("-")}
        if compilation.mode != CompilationMode.NONE:
            # vLLM counts the operators that it has made and left off.
            not_reached = Counter(compilation.disabled_custom_ops) - self._switched_on
            off |= {f"-{name}" for name in not_reached}
        priority = {field.name: getattr(self.priority, field.name) for field in fields(self.priority)}
        return " ".join([*sorted(off), *(f"{name}={','.join(order)}" for name, order in priority.items())])

    def _copy(self, original: Any) -> Any:
        """Copy a module, or an object that one keeps, with an operator in it that is off.

        Returns:
            The copy; None where there is no such operator.
        """
        if id(original) in self._copies:
            return self._copies[id(original)]
        self._copies[id(original)] = None  # of what refers to it from within
        parts = vars(original)
        if isinstance(original, nn.Module):
            parts = {**parts, **original._modules}
        replacements = {
            name: copied
            for name, part in parts.items()
            if _may_keep_operators(part) and (copied := self._copy(part)) is not None
        }
        is_off = isinstance(original, CustomOp) and self._is_off(original)
        if replacements or is_off:
            copied = self._copies[id(original)] = copy_with(original, replacements)
            if is_off:
                _switch_on(copied)
                self._switched_on[str(copied.name)] += 1
        return self._copies[id(original)]

    def _is_off(self, operator: CustomOp) -> bool:
        """Return whether an operator is off, and not because somebody wrote so."""
        name = getattr(operator, "name", None)
        return not (
            name is None
            or operator._enforce_enable
            or operator.enabled()
            or f"-{name}" in self._config.compilation_config.custom_ops
        )


def _as_eager(config: VllmConfig) -> VllmConfig:
    eager = copy.copy(config)
    eager.compilation_config = copy.copy(config.compilation_config)
    eager.compilation_config.mode = CompilationMode.NONE
    return eager


def _may_keep_operators(part: object) -> bool:
    """Return whether what a module keeps is a module too, or an object of vLLM's with attributes."""
    of_vllm = type(part).__module__.startswith("vllm.model_executor.") and not isinstance(part, Enum)
    return isinstance(part, nn.Module) or (of_vllm and hasattr(part, "__dict__"))


def _switch_on(operator: Any) -> None:
    """Let an operator's copy choose its method again, as one that is on."""
    operator._enforce_enable = True
    # A buffer that it converts on first use is the copy's own.
    operator._buffers = dict(operator._buffers)
    if operator.name not in _CHOOSING_THEMSELVES:
        operator._forward_method = operator.dispatch_forward(compile_native=False)
