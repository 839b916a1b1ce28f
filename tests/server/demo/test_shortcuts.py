"""What cheaters do to a model, and that it is undone."""

import copy
from typing import Any

import pytest
import torch
from transformers_engine import tiny_model

from hallmark.poc.offline.model import final_hidden
from hallmark.server.demo.shortcuts import (
    fp8,
    int8,
    last_row_only,
    layer_count,
    rounded_weights,
    without_layer,
)

TOKENS = torch.arange(3 * 12).reshape(3, 12) * 31 % 4096


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(layers=3, dtype=torch.float32)


def hidden(model: Any) -> torch.Tensor:
    return final_hidden(model, tokens=TOKENS)


def rows_of_four_sizes() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 4096, generator=generator) * torch.logspace(-6, 3, 4)[:, None]


def test_layers_are_counted(model: Any) -> None:
    assert layer_count(model) == 3


def test_int8_has_255_levels_a_row_and_keeps_the_largest() -> None:
    weight = (
        torch.randn(4, 4096, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 3, 4)[:, None]
    )
    found = int8(weight)
    for row, before in zip(found, weight, strict=True):
        step = before.abs().max() / 127
        assert len(row.unique()) <= 255
        assert (row - before).abs().max() <= 0.501 * step
        assert row.abs().max() == pytest.approx(before.abs().max().item(), rel=1e-6)
    assert torch.equal(int8(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_fp8_has_three_bits_of_mantissa_and_uses_the_whole_range() -> None:
    weight = (
        torch.randn(4, 4096, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 3, 4)[:, None]
    )
    found = fp8(weight)
    large = weight.abs() > 0.01 * weight.abs().amax(dim=-1, keepdim=True)
    assert ((found - weight).abs()[large] <= weight.abs()[large] / 15.9).all()
    for row, before in zip(found, weight, strict=True):
        assert len(row.unique()) <= 254
        assert row.abs().max() == pytest.approx(before.abs().max().item(), rel=1e-6)
    assert torch.equal(fp8(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_weights_of_layers_are_rounded_and_put_back(model: Any) -> None:
    before = copy.deepcopy(model.state_dict())
    honest = hidden(model)
    with rounded_weights(model, int8):
        rounded = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert rounded == {name for name in before if "_proj" in name}
        assert not torch.equal(hidden(model), honest)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with (
        pytest.raises(ZeroDivisionError),
        rounded_weights(model, lambda weight: weight / 0 if 1 / 0 else weight),
    ):
        pytest.fail("the rounding failed")
    assert torch.equal(hidden(model), honest)


@pytest.mark.parametrize("index", [0, 2])
def test_a_layer_that_is_left_out_is_as_good_as_deleted(model: Any, index: int) -> None:
    honest = hidden(model)
    deleted = copy.deepcopy(model)
    del deleted.model.layers[index]
    for place, layer in enumerate(deleted.model.layers):
        layer.self_attn.layer_idx = place
    deleted.config.num_hidden_layers -= 1
    with without_layer(model, index):
        torch.testing.assert_close(hidden(model), hidden(deleted), rtol=0, atol=0)
    assert torch.equal(hidden(model), honest)


def test_the_last_layer_is_run_for_the_last_row_alone(model: Any) -> None:
    honest = hidden(model)
    with without_layer(model, 2):
        stopped = hidden(model)
    with last_row_only(model, 1):
        found = hidden(model)
    assert torch.equal(found[:, -1], honest[:, -1])
    assert torch.equal(found[:, :-1], stopped[:, :-1])
    with last_row_only(model, 2):
        # What the last layer attends to is stale by then.
        assert not torch.equal(hidden(model)[:, -1], honest[:, -1])
    assert torch.equal(hidden(model), honest)
