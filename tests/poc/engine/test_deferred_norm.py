"""Leaving out a model's final norm: where it is safe to, on copies, and only if the output proves it."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.layernorm import GemmaRMSNorm, RMSNorm

from hallmark.kernels.final_norm import final_norm_reference
from hallmark.poc.engine.deferred_norm import defer_final_norm

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


@torch.inference_mode()
def test_the_norm_done_afterwards_is_the_model_s_own() -> None:
    torch.manual_seed(0)
    model, x = Model(), torch.randn(6, WIDTH)
    expected = model(x.clone())
    deferred = defer_final_norm(model)
    assert deferred is not None
    without_norm, stand_in = deferred
    for _ in range(2):
        output = without_norm(x.clone())
        norm = stand_in.take(output)
        assert norm is not None
        assert norm.residual is not None
        torch.testing.assert_close(final_norm_reference(output, 6, norm), expected)


@torch.inference_mode()
def test_the_model_stays_as_it_is_and_new_weights_reach_the_copy() -> None:
    model, x = Model(), torch.randn(3, WIDTH)
    before, modules = model(x.clone()), dict(model.named_modules())
    deferred = defer_final_norm(model)
    assert deferred is not None
    without_norm, stand_in = deferred
    assert torch.equal(model(x.clone()), before)
    assert dict(model.named_modules()) == modules
    assert without_norm.get_submodule("model.layers") is model.model.layers
    model.get_parameter("model.norm.weight").data.fill_(2.0)
    norm = stand_in.take(without_norm(x))
    assert norm is not None
    assert bool((norm.weight == 2.0).all())


@torch.inference_mode()
@pytest.mark.parametrize("after", [lambda x: x * 2, torch.clone, lambda x: x[:, :-1]])
def test_a_model_that_goes_on_after_its_norm_gives_itself_away(after: Callable[[Tensor], Tensor]) -> None:
    deferred = defer_final_norm(Model(after=after))
    assert deferred is not None
    without_norm, stand_in = deferred
    assert stand_in.take(without_norm(torch.randn(3, WIDTH))) is None


@torch.inference_mode()
def test_an_output_of_an_earlier_batch_is_not_taken() -> None:
    deferred = defer_final_norm(Model())
    assert deferred is not None
    without_norm, stand_in = deferred
    first = without_norm(torch.randn(3, WIDTH))
    second = without_norm(torch.randn(3, WIDTH))
    assert stand_in.take(second) is None, "two passes since the last one was taken"
    assert stand_in.take(first) is None


@torch.inference_mode()
def test_a_weight_of_another_dtype_rounds_otherwise() -> None:
    deferred = defer_final_norm(Model(RMSNorm(WIDTH, dtype=torch.bfloat16)))
    assert deferred is not None
    without_norm, stand_in = deferred
    assert stand_in.take(without_norm(torch.randn(3, WIDTH))) is None


class OwnNorm(RMSNorm):
    """A subclass may do anything."""


@pytest.mark.parametrize(
    "norm",
    [
        lambda: GemmaRMSNorm(WIDTH),
        lambda: OwnNorm(WIDTH),
        lambda: nn.LayerNorm(WIDTH),
        lambda: RMSNorm(WIDTH, var_hidden_size=WIDTH // 2),
        lambda: RMSNorm(WIDTH, has_weight=False),
    ],
)
def test_norms_of_another_kind_stay_the_model_s(norm: Callable[[], nn.Module]) -> None:
    assert defer_final_norm(Model(norm())) is None


def test_two_norms_outside_the_layers_leave_open_which_is_the_last() -> None:
    model = Model()
    model.model.first_norm = RMSNorm(WIDTH)
    assert defer_final_norm(model) is None
