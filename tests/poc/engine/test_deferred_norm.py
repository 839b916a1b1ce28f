"""Leaving out a model's final norm: where it is safe to, on copies, and only if the output proves it."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.layernorm import GemmaRMSNorm, RMSNorm

from hallmark.kernels.final_norm import FinalNorm, NormRounding, final_norm_reference
from hallmark.poc.engine.deferred_norm import DeferredNorm, defer_final_norm, find_rounding

WIDTH = 32


@pytest.fixture(autouse=True)
def _vllm_config() -> Iterator[None]:
    """vLLM's layers ask for a configuration when they are made."""
    with set_current_vllm_config(VllmConfig()):
        yield


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(WIDTH)
        self.mlp = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        residual = x if residual is None else residual + x
        return self.mlp(self.input_layernorm(residual)), residual


class Inner(nn.Module):
    """Built like vLLM's decoders: the final norm takes the last layer's output and the residual stream."""

    def __init__(self, norm: nn.Module, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.norm = norm
        self._after = after

    def forward(self, x: Tensor) -> Tensor:
        residual = None
        for layer in self.layers:
            x, residual = layer(x, residual)
        x, _ = self.norm(x, residual)
        return self._after(x)


class Model(nn.Module):
    def __init__(
        self, norm: nn.Module | None = None, after: Callable[[Tensor], Tensor] = lambda x: x
    ) -> None:
        super().__init__()
        if norm is None:
            norm = RMSNorm(WIDTH)
            norm.get_parameter("weight").data.uniform_(0.5, 1.5)
        self.model = Inner(norm, after)
        self.lm_head = nn.Linear(WIDTH, 8)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.model(x)
        return hidden


NORMS = [lambda: RMSNorm(WIDTH), lambda: GemmaRMSNorm(WIDTH), lambda: RMSNorm(WIDTH, dtype=torch.bfloat16)]


@torch.inference_mode()
@pytest.mark.parametrize("make_norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_norm_done_afterwards_is_the_model_s_own_to_the_bit(
    make_norm: Callable[[], nn.Module], dtype: torch.dtype
) -> None:
    """By the reference, which rounds where vLLM's own operator for this machine does."""
    torch.manual_seed(0)
    norm = make_norm()
    norm.get_parameter("weight").data.uniform_(0.5, 1.5)
    model, x = Model(norm).to(dtype), torch.randn(6, WIDTH).to(dtype)
    expected = model(x.clone())
    without_norm, stand_in = deferred_of(model)
    for _ in range(2):
        output = without_norm(x.clone())
        left_out = stand_in.take(output)
        assert left_out is not None
        assert left_out.is_called
        assert left_out.residual is not None
        rounding = find_rounding(stand_in, output, left_out.residual, expected)
        assert rounding is not None
        pending = stand_in.pending(left_out.residual, rounding)
        assert torch.equal(final_norm_reference(output, left_out.residual, pending), expected)


@torch.inference_mode()
@pytest.mark.parametrize("sum_", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
def test_where_a_norm_rounds_is_found(sum_: bool, scaled: bool, with_residual: bool) -> None:
    """Of vLLM's operators for GPUs some round twice on the way, some once, some not at all."""
    generator = torch.Generator().manual_seed(1)
    hidden, residual = (torch.randn(64, 512, generator=generator).bfloat16() for _ in range(2))
    norm = RMSNorm(512, dtype=torch.bfloat16)
    norm.get_parameter("weight").data.uniform_(0.5, 1.5)
    rounding = NormRounding(sum=sum_, scaled=scaled)
    added = residual if with_residual else None
    expected = final_norm_reference(hidden, added, FinalNorm(norm.weight, 1e-6, None, False, rounding))
    found = find_rounding(DeferredNorm(norm), hidden, added, expected)
    if with_residual:
        assert found == rounding
    else:
        assert found is not None, "without a sum there is none to round"
        assert found.scaled == scaled


@torch.inference_mode()
def test_a_norm_that_computes_something_else_is_not_made_up_for() -> None:
    norm, hidden = RMSNorm(WIDTH), torch.randn(8, WIDTH)
    assert find_rounding(DeferredNorm(norm), hidden, None, norm(hidden)) is not None
    assert find_rounding(DeferredNorm(norm), hidden, None, 1.01 * norm(hidden)) is None


@torch.inference_mode()
def test_a_model_that_does_not_call_its_norm_is_told_from_one_that_does() -> None:
    _, stand_in = deferred_of(Model())
    left_out = stand_in.take(torch.randn(3, WIDTH))
    assert left_out is not None
    assert not left_out.is_called


@torch.inference_mode()
def test_the_model_stays_as_it_is_and_new_weights_reach_the_copy() -> None:
    model, x = Model(), torch.randn(3, WIDTH)
    before, modules = model(x.clone()), dict(model.named_modules())
    without_norm, stand_in = deferred_of(model)
    assert torch.equal(model(x.clone()), before)
    assert dict(model.named_modules()) == modules
    assert without_norm.get_submodule("model.layers") is model.model.layers
    model.get_parameter("model.norm.weight").data.fill_(2.0)
    pending = stand_in.pending(None, NormRounding(sum=False, scaled=True))
    assert bool((pending.weight == 2.0).all())
    assert not pending.adds_one
    assert deferred_of(Model(GemmaRMSNorm(WIDTH)))[1].pending(None, pending.rounding).adds_one


@torch.inference_mode()
@pytest.mark.parametrize("after", [lambda x: x * 2, torch.clone, lambda x: x[:, :-1]])
def test_a_model_that_goes_on_after_its_norm_gives_itself_away(after: Callable[[Tensor], Tensor]) -> None:
    without_norm, stand_in = deferred_of(Model(after=after))
    assert stand_in.take(without_norm(torch.randn(3, WIDTH))) is None


@torch.inference_mode()
def test_an_output_of_an_earlier_batch_is_not_taken() -> None:
    without_norm, stand_in = deferred_of(Model())
    without_norm(torch.randn(3, WIDTH))
    second = without_norm(torch.randn(3, WIDTH))
    assert stand_in.take(second) is None, "two passes since the last one was taken"
    without_norm(torch.randn(3, WIDTH))
    stand_in.forget()
    assert stand_in.take(without_norm(torch.randn(3, WIDTH))) is not None


def deferred_of(model: nn.Module) -> tuple[nn.Module, DeferredNorm]:
    found = defer_final_norm(model, WIDTH)
    assert found is not None
    return found


class OwnNorm(RMSNorm):
    """A subclass may do anything."""


@pytest.mark.parametrize(
    "norm",
    [
        lambda: OwnNorm(WIDTH),
        lambda: nn.LayerNorm(WIDTH),
        lambda: RMSNorm(WIDTH, var_hidden_size=WIDTH // 2),
        lambda: RMSNorm(WIDTH, has_weight=False),
    ],
)
def test_norms_of_another_kind_stay_the_model_s(norm: Callable[[], nn.Module]) -> None:
    assert defer_final_norm(Model(norm()), WIDTH) is None


def test_two_norms_outside_the_layers_leave_open_which_is_the_last() -> None:
    model = Model()
    model.model.first_norm = RMSNorm(WIDTH)
    assert defer_final_norm(model, WIDTH) is None


def test_a_norm_of_another_width_is_not_the_final_one() -> None:
    """It may be a tower's, or a projector's."""
    assert defer_final_norm(Model(), 2 * WIDTH) is None
