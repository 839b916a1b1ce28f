"""The forward around small models: what it makes of tokens, and of a model that leaves its final norm out."""

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.layernorm import RMSNorm

from hallmark.kernels.final_norm import FinalNorm, final_norm_reference
from hallmark.kernels.norm_sums import norm_sums
from hallmark.poc.core.errors import EngineError, UnsupportedError
from hallmark.poc.engine.forward import ModelForward, ModelInputs

WIDTH, VOCABULARY = 32, 64
TOKENS = torch.arange(12).view(2, 6)


@pytest.fixture(autouse=True)
def _vllm_config() -> Iterator[None]:
    """vLLM's layers ask for a configuration when they are made."""
    with set_current_vllm_config(VllmConfig()):
        yield


class Model(nn.Module):
    """A model with vLLM's signature: a row is all that it looks at.

    Args:
        norms: Whether its forward ends with its final norm.
        multiplier: Of embeddings, in a forward from tokens only.
        width: Of what its embedding function returns.
        norm: What its final norm is.
    """

    def __init__(
        self,
        *,
        norms: bool = True,
        multiplier: float = 1.0,
        width: int = WIDTH,
        norm: type[nn.Module] = RMSNorm,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.norm: Any = norm(WIDTH)
        self.norm.get_parameter("weight").data.uniform_(0.5, 1.5)
        self.norms, self.multiplier = norms, multiplier

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        embedded: Tensor = self.embedding(input_ids)
        return embedded

    def forward(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, **_: object) -> Tensor:
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.multiplier * self.embed_input_ids(input_ids)
        hidden: Tensor = self.layer(inputs_embeds)
        return self.norm(hidden) if self.norms else hidden

    def compute_logits(self, hidden_states: Tensor) -> Tensor:
        """As MiMo: the norm that the forward has left out comes first."""
        return hidden_states if self.norms else self.norm(hidden_states)


def forward_of(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> ModelForward:
    """A forward with no attention to prepare, on a server that does not compile."""
    module = "hallmark.poc.engine.forward"
    monkeypatch.setattr(f"{module}.create_forward_context", lambda *_, **__: None)
    monkeypatch.setattr(f"{module}.dataclasses.replace", lambda *_, **__: None)
    monkeypatch.setattr(f"{module}.override_forward_context", lambda _: contextlib.nullcontext())
    config: Any = VllmConfig()
    config.model_config = SimpleNamespace(
        model="org/small",
        dtype=torch.float32,
        enable_prompt_embeds=False,
        get_hidden_size=lambda: WIDTH,
        uses_mrope=False,
    )
    attention: Any = SimpleNamespace(metadata=lambda *_: (None, None), by_name={})
    operators: Any = SimpleNamespace(copy_model=lambda model: model, chosen=contextlib.nullcontext)
    return ModelForward(model, config, attention, operators, torch.device("cpu"))


def assert_the_norm_stays(
    model: Model, expected: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Try to leave the norm out; what the forward then returns is what the model makes of its last layer."""
    forward = forward_of(model, monkeypatch)
    inputs = forward.embed(TOKENS)
    forward.leave_norm_to_sums(ModelInputs.of_rows(inputs))
    assert forward.final_norm == "the model's own"
    states, norm = forward.final_hidden(ModelInputs.of_rows(inputs, TOKENS))
    assert norm is None
    assert torch.equal(states, expected(model.layer(inputs).flatten(0, 1)))


@torch.inference_mode()
@pytest.mark.parametrize("norms", [True, False])
def test_the_final_norm_is_left_to_the_sums(norms: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be it the model that calls it or not: the rows that it is given, and the norm."""
    model = Model(norms=norms)
    forward = forward_of(model, monkeypatch)
    inputs = forward.embed(TOKENS)
    assert inputs.shape == (2, 6, WIDTH)
    given = model.layer(inputs).flatten(0, 1)
    if norms:
        states, norm = forward.final_hidden(ModelInputs.of_rows(inputs.clone(), TOKENS))
        assert norm is None
        assert torch.equal(states, model.norm(given))
    forward.leave_norm_to_sums(ModelInputs.of_rows(inputs))
    assert forward.final_norm.startswith("PoC's, rounding ")
    for _ in range(2):
        states, norm = forward.final_hidden(ModelInputs.of_rows(inputs.clone(), TOKENS))
        assert torch.equal(states, given)
        assert norm is not None
        assert torch.equal(final_norm_reference(states, None, norm), model.norm(given))


@torch.inference_mode()
@pytest.mark.parametrize("norms", [True, False])
def test_a_norm_that_cannot_be_made_up_for_is_the_model_s(
    norms: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Called behind a forward that leaves it out."""
    model = Model(norms=norms)
    own = model.norm._forward_method
    monkeypatch.setattr(model.norm, "_forward_method", lambda x: 1.01 * own(x))
    assert_the_norm_stays(model, model.norm, monkeypatch)


@torch.inference_mode()
def test_a_norm_of_another_kind_stays_the_model_s(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(norm=nn.LayerNorm)
    assert_the_norm_stays(model, model.norm, monkeypatch)


@torch.inference_mode()
def test_a_norm_that_is_not_on_the_way_to_the_logits_is_not_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only norm outside the layers may be a tower's, and the final one of another class."""

    class Tower(Model):
        def compute_logits(self, hidden_states: Tensor) -> Tensor:
            return hidden_states

    model = Tower(norms=False)
    assert_the_norm_stays(model, lambda states: states, monkeypatch)


@torch.inference_mode()
def test_a_norm_that_is_reached_by_another_name_too_is_not_applied_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Aliased(Model):
        def __init__(self) -> None:
            super().__init__()
            self.alias = self.norm

        def forward(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, **_: object) -> Tensor:
            assert inputs_embeds is not None
            normed: Tensor = self.alias(self.layer(inputs_embeds))
            return normed

    model = Aliased()
    assert_the_norm_stays(model, model.norm, monkeypatch)


@torch.inference_mode()
def test_a_model_that_reads_its_norm_s_weight_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reader(Model):
        def forward(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, **_: object) -> Tensor:
            assert inputs_embeds is not None
            normed: Tensor = self.layer(inputs_embeds) * self.norm.weight
            return normed

    forward = forward_of(Reader(), monkeypatch)
    inputs = forward.embed(TOKENS)
    forward.leave_norm_to_sums(ModelInputs.of_rows(inputs))
    assert forward.final_norm == "the model's own"
    assert forward.final_hidden(ModelInputs.of_rows(inputs, TOKENS)).norm is None


@torch.inference_mode()
def test_a_kernel_that_norms_otherwise_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(hidden: Tensor, norm: FinalNorm, order: Tensor, numbers: int) -> Tensor:
        return 1.1 * norm_sums(hidden, norm, order, numbers)

    forward = forward_of(Model(), monkeypatch)
    monkeypatch.setattr("hallmark.poc.engine.forward.norm_sums", wrong)
    with pytest.raises(EngineError, match="does not compute what the model's final norm does"):
        forward.leave_norm_to_sums(ModelInputs.of_rows(forward.embed(TOKENS)))


@torch.inference_mode()
def test_a_model_that_has_changed_since_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what a forward that broke off has left behind is not taken for it."""

    class Changing(Model):
        fails = changes = False

        def forward(self, *args: Any, **kwargs: Any) -> Tensor:
            found: Tensor = super().forward(*args, **kwargs)
            if Changing.fails:
                raise RuntimeError("in the middle")
            return 2 * found if Changing.changes else found

    forward = forward_of(Changing(), monkeypatch)
    inputs = forward.embed(TOKENS)
    forward.leave_norm_to_sums(ModelInputs.of_rows(inputs))
    Changing.fails = True
    with pytest.raises(RuntimeError, match="in the middle"):
        forward.final_hidden(ModelInputs.of_rows(inputs.clone(), TOKENS))
    Changing.fails = False
    forward.final_hidden(ModelInputs.of_rows(inputs.clone(), TOKENS))
    Changing.changes = True
    with pytest.raises(EngineError, match="no longer what its final norm is given"):
        forward.final_hidden(ModelInputs.of_rows(inputs.clone(), TOKENS))
    Changing.changes = False
    forward._model.norms = False
    with pytest.raises(EngineError, match="no longer what its final norm is given"):
        forward.final_hidden(ModelInputs.of_rows(inputs.clone(), TOKENS))


@torch.inference_mode()
def test_a_model_that_makes_the_same_of_tokens_and_of_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    forward_of(Model(), monkeypatch).check_embeddings(TOKENS[:1])


@torch.inference_mode()
def test_a_multiplier_inside_the_forward_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Falcon-H1: rows of its table are not what its layers begin with."""
    with pytest.raises(UnsupportedError, match=r"org/small \(Model\): its forward from the rows"):
        forward_of(Model(multiplier=2.0), monkeypatch).check_embeddings(TOKENS[:1])


@torch.inference_mode()
def test_embeddings_of_another_width_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedError, match=r"org/small \(Model\): its embedding function returns"):
        forward_of(Model(width=WIDTH // 2), monkeypatch).embed(TOKENS)


@torch.inference_mode()
def test_outputs_of_another_width_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in OPT-350m, which projects its hidden states back to the width of its embeddings."""

    class Narrowing(Model):
        def forward(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, **_: object) -> Tensor:
            return super().forward(input_ids, inputs_embeds)[..., : WIDTH // 2]

    forward = forward_of(Narrowing(), monkeypatch)
    with pytest.raises(UnsupportedError, match=r"the shape \(12, 16\) for 12 tokens and .* the width 32"):
        forward.final_hidden(ModelInputs.of_rows(forward.embed(TOKENS)))


@torch.inference_mode()
def test_tokens_are_given_to_models_that_read_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """And to no other: one that has the choice could take them in the place of the inputs."""
    given: list[Tensor | None] = []

    class Reader(Model):
        def forward(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, **_: object) -> Tensor:
            given.append(input_ids)
            return super().forward(input_ids, inputs_embeds)

    for reads in (False, True):
        model = Reader()
        model.requires_raw_input_tokens = reads  # type: ignore[assignment]  # a class variable of vLLM's
        forward = forward_of(model, monkeypatch)
        forward.leave_norm_to_sums(ModelInputs.of_rows(forward.embed(TOKENS), TOKENS))
        forward.final_hidden(ModelInputs.of_rows(forward.embed(TOKENS), TOKENS))
    assert given[:3] == [None] * 3
    for tokens in given[3:]:
        assert tokens is not None
        assert tokens.dtype == torch.int32, "as vLLM's own are, for which its graphs are compiled"
        # The norm is tried with one sequence.
        assert torch.equal(tokens, TOKENS.flatten().int()[: len(tokens)])
    assert len(given) == 6
