"""One PoC batch through the deployed model, without touching inference's state."""

import dataclasses
import logging
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, NamedTuple, Self

import torch
from torch import Tensor, nn
from vllm.config import CompilationMode, VllmConfig
from vllm.forward_context import create_forward_context, override_forward_context
from vllm.model_executor.models.interfaces import requires_raw_input_tokens, supports_multimodal
from vllm.sequence import IntermediateTensors

from hallmark.kernels.final_norm import FinalNorm, NormRounding
from hallmark.kernels.norm_sums import norm_sums
from hallmark.poc.core.errors import EngineError, UnsupportedError
from hallmark.poc.engine.deferred_norm import DeferredNorm, defer_final_norm, find_rounding
from hallmark.poc.engine.eager_operators import EagerOperators
from hallmark.poc.engine.private_layers import PrivateLayers

logger = logging.getLogger(__name__)

# In what vLLM's models hand on between stages.
_AUXILIARY: Final = "aux_hidden_states_"

# Rounding moves hidden states by a few percent in deep models; other inputs would move them by all they are.
_MAX_COMPILED_DIFFERENCE = 0.3


def compiles_embeddings(config: VllmConfig) -> bool:
    """Return whether vLLM has compiled the model for embeddings as its inputs, which is what a PoC batch has.

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


@dataclasses.dataclass(frozen=True, slots=True)
class ModelInputs:
    """What a batch comes into the model with, or into a stage of its pipeline.

    Attributes:
        shape: Sequences, and rows of each.
        rows: `[batch_size, seq_len, hidden_size]` in the model's dtype; the model may overwrite them. None
            where the model embeds tokens itself, and behind the first stage.
        tokens: int64 `[batch_size, seq_len]`, which rows are made of, for a model that reads them too.
        states: What the stage before has computed; None on the first.
    """

    shape: tuple[int, int]
    rows: Tensor | None = None
    tokens: Tensor | None = None
    states: IntermediateTensors | None = None

    @classmethod
    def of_rows(cls, rows: Tensor, tokens: Tensor | None = None) -> Self:
        """Return the inputs that some rows are."""
        return cls((rows.shape[0], rows.shape[1]), rows, tokens)

    def copy_of_first(self) -> Self:
        """Return what there is of the first sequence, in tensors of its own."""
        _, seq_len = self.shape
        states = None
        if self.states is not None:
            parts = self.states.tensors.items()
            states = IntermediateTensors({name: part[:seq_len].clone() for name, part in parts})
        rows = None if self.rows is None else self.rows[:1].clone()
        tokens = None if self.tokens is None else self.tokens[:1]
        return type(self)((1, seq_len), rows, tokens, states)


class FinalHidden(NamedTuple):
    """What a forward ends with.

    Attributes:
        states: `[batch_size * seq_len, hidden_size]` in the model's dtype, all rows.
        norm: the final norm where it is still to be applied to them.
    """

    states: Tensor
    norm: FinalNorm | None


@contextmanager
def _calls_of(module: nn.Module) -> Iterator[list[None]]:
    """Count a module's calls until the context ends."""
    calls: list[None] = []
    hook = module.register_forward_pre_hook(lambda *_: calls.append(None))
    try:
        yield calls
    finally:
        hook.remove()


def _check_kernel(hidden: Tensor, norm: FinalNorm, expected: Tensor) -> None:
    """Compare the norm of the last row, where rows are summed, with the model's own.

    Raises:
        EngineError: it is another one.
    """
    last = torch.full((1, 1), len(hidden) - 1, dtype=torch.int32, device=hidden.device)
    found = norm_sums(hidden, norm, last, 1).view(-1).float()
    step = 2 * torch.finfo(hidden.dtype).eps
    if not torch.allclose(found, expected[-1].float(), rtol=step, atol=step, equal_nan=True):
        raise EngineError(
            "the kernel that norms and sums rows does not compute what the model's final norm does: proofs "
            "from here would look like fraud"
        )


class ModelForward:
    """The deployed model's forward under a context of our own.

    Args:
        model: the model as vLLM loaded it, compiled or not.
        config: the engine's configuration.
        layers: the private layers and their metadata.
        operators: the operators that it runs where it is not compiled.
        device: the worker's device.

    Attributes:
        is_compiled: whether it runs the graph that vLLM compiled.
    """

    def __init__(
        self,
        model: Any,
        config: VllmConfig,
        layers: PrivateLayers,
        operators: EagerOperators,
        device: torch.device,
    ) -> None:
        self._config = config
        self._layers = layers
        self._operators = operators
        self._device = device
        self._deferred: DeferredNorm | None = None
        self._rounding: NormRounding | None = None
        # Whether the model calls its norm, and whether with a residual.
        self._settled = False, False
        self.is_compiled = compiles_embeddings(config)
        self._model = model if self.is_compiled else operators.copy_model(model)

    @property
    def reads_tokens(self) -> bool:
        """Whether the model reads tokens beside their embeddings; any other may take them in their place."""
        return bool(requires_raw_input_tokens(self._model))

    @property
    def final_norm(self) -> str:
        """Who does the final norm, and where it rounds where that is whoever sums the rows."""
        if self._rounding is None:
            return "the model's own"
        places = [name for name, is_so in self._rounding._asdict().items() if is_so]
        return f"PoC's, rounding {' and '.join([*places, 'result'])}"

    def embed(self, tokens: Tensor) -> Tensor:
        """Look tokens up by the model's own embedding function, a collective where ranks share its table.

        Args:
            tokens: int64 `[n, seq_len]`.

        Returns:
            `[n, seq_len, width]`, a fresh tensor in the model's dtype.

        Raises:
            UnsupportedError: the function returns anything else.
        """
        model: Any = self._model
        if supports_multimodal(model):
            model = model.get_language_model()
        with self._chosen_operators():
            embedded: Tensor = model.embed_input_ids(tokens.reshape(-1))
        width, dtype = self._config.model_config.get_hidden_size(), self._config.model_config.dtype
        if embedded.shape != (tokens.numel(), width) or embedded.dtype != dtype:
            raise UnsupportedError(
                f"PoC does not work with {self.name}: its embedding function returns {embedded.dtype} of "
                f"shape {tuple(embedded.shape)} for {tokens.numel()} tokens, not {dtype} of the width {width}"
            )
        return embedded.view(*tokens.shape, width)

    def check_embeddings(self, tokens: Tensor) -> None:
        """Compare a forward from embeddings with one from the tokens themselves, to the bit.

        Args:
            tokens: int64 `[1, seq_len]`.

        Raises:
            UnsupportedError: they differ: what the model makes of tokens is not what it makes of their
                embeddings.
        """
        embedded = self.embed(tokens)
        shape = tokens.shape[0], tokens.shape[1]
        from_tokens = self._run(ModelInputs(shape, tokens=tokens), skip_compiled=True)
        from_rows = self._run(ModelInputs(shape, embedded, tokens), skip_compiled=True)
        if not all(map(torch.equal, _tensors(from_tokens), _tensors(from_rows))):
            raise UnsupportedError(
                f"PoC does not work with {self.name}: its forward from the rows of its embedding table is "
                "not its forward from the tokens"
            )

    def check_compiled(self, inputs: ModelInputs) -> None:
        """Compare the compiled model with the model itself, where a batch runs the compiled one.

        vLLM calls compiled code without its guards: arguments of another kind than those it was traced with
        would go unnoticed.

        Args:
            inputs: of a sequence, to try it with.

        Raises:
            EngineError: they differ by more than rounding does.
        """
        if not self.is_compiled:
            return
        compiled, eager = (
            torch.cat(
                [part.flatten() for part in _tensors(self._run(inputs.copy_of_first(), skip_compiled=skips))]
            ).float()
            for skips in (False, True)
        )
        difference = float((compiled - eager).norm() / eager.norm())
        if not difference < _MAX_COMPILED_DIFFERENCE:
            raise EngineError(
                "the model that vLLM compiled for --enable-prompt-embeds computes something else than the "
                f"model itself: hidden states differ by {difference:.3g} of their norm; leave that flag out"
            )

    def leave_norm_to_sums(self, inputs: ModelInputs) -> None:
        """Leave the final norm out from now on, where that can be done and can be made up for.

        The model's output then has to be what its norm is given, and the norm to round where one of ours can.
        Elsewhere the model keeps its norm; where its forward leaves it out by itself, it is called behind it.

        Args:
            inputs: of a sequence, to try it with.
        """
        found = defer_final_norm(self._model, self._config.model_config.get_hidden_size())
        if found is None:
            return
        without_norm, deferred = found
        with _calls_of(deferred.norm) as calls:
            own = self._states(inputs.copy_of_first(), skip_compiled=True)
        is_called = bool(calls)
        try:
            output = self._states(inputs.copy_of_first(), skip_compiled=True, model=without_norm)
        except (AttributeError, TypeError) as error:
            logger.info("The model keeps its final norm, with which it does more than to call it: %s", error)
            return
        left_out = deferred.take(output)
        # The compiled graph has its norm in it.
        if left_out is None or left_out.is_called != is_called or (is_called and self.is_compiled):
            return
        with self._chosen_operators():
            if not is_called:
                logits_of: Any = self._model.compute_logits
                with _calls_of(deferred.norm) as calls:
                    logits_of(output[-1:].clone())
                if not calls:
                    return  # it is no part of the model's way to its logits
                norm: Any = deferred.norm
                own = norm(output.clone())
            rounding = find_rounding(deferred, output, left_out.residual, own)
            if rounding is not None:
                _check_kernel(output, deferred.pending(left_out.residual, rounding), own)
        if is_called and rounding is None:
            return
        self._deferred, self._rounding = deferred, rounding
        self._settled = is_called, left_out.residual is not None
        if is_called:
            self._model = without_norm

    def advance(self, inputs: ModelInputs) -> IntermediateTensors:
        """Prefill one batch through a stage that is not the last; returns what the next one goes on from."""
        states = self._run(inputs)
        if not isinstance(states, IntermediateTensors):
            raise EngineError(f"a stage of {self.name} returns no states for the next one")
        given = {} if inputs.states is None else inputs.states.tensors
        # What the last stage is given of all the others for EAGLE3, which vLLM's runner hands on too.
        handed_on = {name: part for name, part in given.items() if name.startswith(_AUXILIARY)}
        return IntermediateTensors({**handed_on, **states.tensors})

    def final_hidden(self, inputs: ModelInputs) -> FinalHidden:
        """Prefill one batch through the model, or through the last stage of it.

        Raises:
            EngineError: the model has changed since its norm was left out.
        """
        if self._deferred is None:
            return FinalHidden(self._states(inputs), None)
        self._deferred.forget()
        states = self._states(inputs)
        left_out = self._deferred.take(states)
        if left_out is None or (left_out.is_called, left_out.residual is not None) != self._settled:
            raise EngineError("the model's output is no longer what its final norm is given")
        if self._rounding is None:
            with self._chosen_operators():
                normed: Tensor = self._deferred.norm(states)
            return FinalHidden(normed, None)
        return FinalHidden(states, self._deferred.pending(left_out.residual, self._rounding))

    @property
    def name(self) -> str:
        """What refusals call the model: its path, and its class."""
        return f"the model {self._config.model_config.model} ({type(self._model).__name__})"

    def _chosen_operators(self) -> AbstractContextManager[None]:
        # What is compiled has chosen already, and may still be compiled for a shape it has not had yet.
        return nullcontext() if self.is_compiled else self._operators.chosen()

    def _states(self, inputs: ModelInputs, *, skip_compiled: bool | None = None, model: Any = None) -> Tensor:
        """Run the model to its end.

        Raises:
            UnsupportedError: it returns no row of hidden states for each token.
        """
        states = self._run(inputs, skip_compiled=skip_compiled, model=model)
        shape = math.prod(inputs.shape), self._config.model_config.get_hidden_size()
        if not isinstance(states, Tensor) or states.shape != shape:
            raise UnsupportedError(
                f"PoC does not work with {self.name}: its forward returns the shape "
                f"{tuple(getattr(states, 'shape', ()))} for {shape[0]} tokens and hidden states of the width "
                f"{shape[1]}"
            )
        return states

    def _run(
        self, inputs: ModelInputs, *, skip_compiled: bool | None = None, model: Any = None
    ) -> Tensor | IntermediateTensors:
        """Run the model, or a copy of it, from rows where there are some, from tokens where not.

        Returns:
            What it returns: hidden states, or what the next stage goes on from.
        """
        batch_size, seq_len = inputs.shape
        rows = batch_size * seq_len
        metadata, slot_mapping = self._layers.metadata(batch_size, seq_len)
        positions = torch.arange(seq_len, dtype=torch.int64, device=self._device).repeat(batch_size)
        model_config = self._config.model_config
        if model_config.uses_mrope:
            # Time, height and width, which are the same for a text. Not every supported version counts them.
            positions = positions.repeat(getattr(model_config, "mrope_num_dims", 3), 1)
        # A fresh context for each forward: MoE layers count through it.
        context = create_forward_context(
            metadata,
            self._config,
            slot_mapping=slot_mapping,
            skip_compiled=not self.is_compiled if skip_compiled is None else skip_compiled,
        )
        context = dataclasses.replace(context, no_compile_layers=self._layers.by_name)
        embeds_tokens = inputs.rows is None and inputs.states is None
        read = inputs.tokens if embeds_tokens or self.reads_tokens else None
        with self._chosen_operators(), override_forward_context(context):
            output = (self._model if model is None else model)(
                # As in vLLM's own buffer: a compiled graph is called without its guards, and reads no other.
                input_ids=None if read is None else read.reshape(rows).int(),
                positions=positions,
                intermediate_tensors=inputs.states,
                inputs_embeds=None if inputs.rows is None else inputs.rows.reshape(rows, -1),
            )
        # With EAGLE3 a model returns the hidden states and auxiliary ones beside them.
        states: Tensor | IntermediateTensors = output[0] if isinstance(output, tuple) else output
        return states


def _tensors(states: Tensor | IntermediateTensors) -> list[Tensor]:
    """Return what a forward returns: one tensor, or several between stages."""
    return [*states.tensors.values()] if isinstance(states, IntermediateTensors) else [states]
