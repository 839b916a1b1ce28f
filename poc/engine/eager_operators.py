"""The operators of an eager server, for a PoC batch on a server that compiles.

Where vLLM compiles a model, its compiler fuses norms, activations and rotary embeddings, and their own fused
kernels are left out. A PoC batch skips the compiled graph and would run them one elementwise kernel after the
other. Here a batch gets what an eager server runs, and its numbers do not depend on whether the server
compiles.

vLLM has two kinds of operators. Which implementation an `IrOp` runs is a setting of the process, changed by
a context manager of vLLM's own. A `CustomOp` decides when it is made; a batch gets copies of those that are
off. What has no fused kernel in vLLM runs unfused on every server: norms with weights in another dtype than
the model's (Gemma's).
"""

import copy
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from types import MethodType
from typing import Any

from torch import nn
from vllm.config import CompilationMode, VllmConfig, set_current_vllm_config
from vllm.config.kernel import IrOpPriorityConfig
from vllm.model_executor.custom_op import CustomOp
from vllm.platforms import current_platform

__all__ = ["EagerOperators"]


class EagerOperators:
    """What an eager server with the same options would run; on an eager server, what it runs.

    Args:
        config: the engine's configuration.

    Attributes:
        priority: for each `IrOp` the implementations to try, in their order.
    """

    def __init__(self, config: VllmConfig) -> None:
        self._config = config
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

    def chosen(self) -> AbstractContextManager[None]:
        """Choose the implementations of an eager server, until the context ends."""
        context: AbstractContextManager[None] = self.priority.set_priority()
        return context

    def inferences(self) -> AbstractContextManager[None]:
        """Give inference its implementations back while a batch stands still, until the context ends."""
        context: AbstractContextManager[None] = self._inference.set_priority()
        return context

    def copy_model(self, model: nn.Module) -> nn.Module:
        """Copy a model so that every `CustomOp` which only the compiler has switched off is on.

        Args:
            model: As vLLM loaded it; nothing of it is changed, and the copy shares its parameters.

        Returns:
            The copy; the model itself where no operator is off.
        """
        with set_current_vllm_config(self._config):
            copied = self._copy(model, {})
        return model if copied is None else copied

    def describe(self) -> str:
        """Name the choices, for the fingerprint."""
        custom_ops = self._config.compilation_config.custom_ops
        off = sorted(option for option in custom_ops if option.startswith("-"))
        priority = {field.name: getattr(self.priority, field.name) for field in fields(self.priority)}
        return " ".join([*off, *(f"{name}={','.join(order)}" for name, order in priority.items())])

    def _copy(self, module: nn.Module, done: dict[int, nn.Module | None]) -> nn.Module | None:
        """Copy a module with an operator in it that is off; None where there is none.

        Args:
            module: of the model.
            done: results by the module's `id`: layers share rotary embeddings, and so shall their copies.
        """
        if id(module) in done:
            return done[id(module)]
        children = {
            name: replacement
            for name, child in module._modules.items()
            if child is not None and (replacement := self._copy(child, done)) is not None
        }
        is_off = isinstance(module, CustomOp) and self._is_off(module)
        copied: nn.Module | None = None
        if children or is_off:
            copied = _copy_with(module, children)
        if copied is not None and is_off:
            _switch_on(copied)
        done[id(module)] = copied
        return copied

    def _is_off(self, operator: CustomOp) -> bool:
        """Whether an operator is off, and not because somebody wrote so."""
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


def _copy_with(module: nn.Module, children: dict[str, nn.Module]) -> nn.Module:
    """Copy a module with other children; its methods that it keeps as attributes become the copy's."""
    copied: nn.Module = object.__new__(type(module))
    copied.__dict__ = {**module.__dict__, "_modules": {**module._modules, **children}}
    for name, value in module.__dict__.items():
        if isinstance(value, MethodType) and value.__self__ is module:
            copied.__dict__[name] = MethodType(value.__func__, copied)
    return copied


def _switch_on(operator: Any) -> None:
    """Let an operator's copy choose its method again, as one that is on."""
    operator._enforce_enable = True
    # A buffer that it converts on first use is the copy's own.
    operator._buffers = dict(operator._buffers)
    operator._forward_method = operator.dispatch_forward(compile_native=False)
