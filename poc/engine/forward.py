"""One PoC batch through the deployed model, without touching inference's state."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from vllm.config import CompilationMode, VllmConfig
from vllm.forward_context import create_forward_context, override_forward_context

from hallmark.kernels.final_norm import FinalNorm
from hallmark.poc.core.errors import EngineError
from hallmark.poc.engine.attention import PrivateAttention
from hallmark.poc.engine.deferred_norm import DeferredNorm, defer_final_norm
from hallmark.poc.engine.eager_operators import EagerOperators

# Rounding moves hidden states by a few percent in deep models; other inputs would move them by all they are.
_MAX_COMPILED_DIFFERENCE = 0.3


def compiles_embeddings(config: VllmConfig) -> bool:
    """Whether vLLM has compiled the model for embeddings as its inputs, which is what a PoC batch has.

    Without `--enable-prompt-embeds` its graph was traced for token ids. Where Inductor partitions the graph,
    or guards are evaluated, a forward changes something process-wide while it runs, so that none can stand
    still in the middle.
    """
    compilation = config.compilation_config
    return (
        compilation.mode != CompilationMode.NONE
        and bool(config.model_config.enable_prompt_embeds)
        and not compilation.use_inductor_graph_partition
        and not compilation.dynamic_shapes_config.evaluate_guards
    )


@contextmanager
def inferences_turn(operators: EagerOperators) -> Iterator[None]:
    """Give inference what a forward has taken of the process while that stands still, and take it again.

    vLLM keeps the context of a forward and the choice of operators in globals of its modules.
    """
    with operators.given_back(), override_forward_context(None):
        yield


class FinalHidden(NamedTuple):
    """What a batch's forward ends with.

    Attributes:
        hidden_states: `[batch_size * seq_len, hidden_size]` in the model's dtype.
        norm: the final norm where it is still to be applied to them.
    """

    hidden_states: Tensor
    norm: FinalNorm | None


class ModelForward:
    """The deployed model's forward under a context of our own.

    Args:
        model: the model as vLLM loaded it, compiled or not.
        config: the engine's configuration.
        attention: the private attention layers and metadata.
        operators: the operators that it runs where it is not compiled.
        device: the worker's device.

    Attributes:
        is_compiled: whether it runs the graph that vLLM compiled.
    """

    def __init__(
        self,
        model: Any,
        config: VllmConfig,
        attention: PrivateAttention,
        operators: EagerOperators,
        device: torch.device,
    ) -> None:
        self._config = config
        self._attention = attention
        self._operators = operators
        self._device = device
        self._deferred: DeferredNorm | None = None
        self.is_compiled = compiles_embeddings(config)
        self._model = model if self.is_compiled else operators.copy_model(model)

    @property
    def defers_norm(self) -> bool:
        """Whether the final norm is left to whoever takes the last rows."""
        return self._deferred is not None

    def defer_norm(self, inputs: Tensor) -> None:
        """Leave the final norm out from now on, if the model's output turns out to be what the norm returns.

        Args:
            inputs: as for `final_hidden`, to try it with.
        """
        deferred = defer_final_norm(self._model)
        if self.is_compiled or deferred is None:
            return  # the compiled graph has its norm in it
        without_norm, stand_in = deferred
        if stand_in.take(self._run(without_norm, inputs)) is not None:
            self._model, self._deferred = without_norm, stand_in

    def check_compiled(self, inputs: Tensor) -> None:
        """Compare the compiled model with the model itself, where a batch runs the compiled one.

        vLLM calls compiled code without its guards: arguments of another kind than those it was traced with
        would go unnoticed.

        Args:
            inputs: as for `final_hidden`, to try it with.

        Raises:
            EngineError: they differ by more than rounding does.
        """
        if not self.is_compiled:
            return
        compiled = self._run(self._model, inputs.clone()).float()
        eager = self._run(self._model, inputs, skip_compiled=True).float()
        difference = float((compiled - eager).norm() / eager.norm())
        if not difference < _MAX_COMPILED_DIFFERENCE:
            raise EngineError(
                "the model that vLLM compiled for --enable-prompt-embeds computes something else than the "
                f"model itself: hidden states differ by {difference:.3g} of their norm; leave that flag out"
            )

    def final_hidden(self, inputs: Tensor) -> FinalHidden:
        """Prefill one batch.

        Args:
            inputs: `[batch_size, seq_len, hidden_size]` in the model's dtype; the model may overwrite it.

        Raises:
            EngineError: the model has changed since the norm was left out.
        """
        hidden_states = self._run(self._model, inputs)
        if self._deferred is None:
            return FinalHidden(hidden_states, None)
        norm = self._deferred.take(hidden_states)
        if norm is None:
            raise EngineError("the model's output is no longer what its final norm returns")
        return FinalHidden(hidden_states, norm)

    def _run(self, model: Any, inputs: Tensor, *, skip_compiled: bool | None = None) -> Tensor:
        batch_size, seq_len, hidden_size = inputs.shape
        metadata, slot_mapping = self._attention.metadata(batch_size, seq_len)
        positions = torch.arange(seq_len, dtype=torch.int64, device=self._device).repeat(batch_size)
        # A fresh context for each forward: MoE layers count through it.
        context = create_forward_context(
            metadata,
            self._config,
            slot_mapping=slot_mapping,
            skip_compiled=not self.is_compiled if skip_compiled is None else skip_compiled,
        )
        context = dataclasses.replace(context, no_compile_layers=self._attention.layers)
        # What is compiled has chosen already, and may still be compiled for a shape it has not had yet.
        operators = nullcontext() if self.is_compiled else self._operators.chosen()
        with operators, override_forward_context(context):
            output = model(
                input_ids=None,
                positions=positions,
                intermediate_tensors=None,
                inputs_embeds=inputs.view(batch_size * seq_len, hidden_size),
            )
        # With EAGLE3 a model returns the hidden states and auxiliary ones beside them.
        hidden_states: Tensor = output[0] if isinstance(output, tuple) else output
        return hidden_states
