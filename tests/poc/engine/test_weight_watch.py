"""Weights that change under a round: whatever way vLLM has of changing them, the watch tells."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from hallmark.poc.engine.weight_watch import WeightWatch

CPU = torch.device("cpu")


def make_model() -> nn.Sequential:
    model = nn.Sequential(nn.Embedding(64, 32), nn.Linear(32, 48), nn.LayerNorm(48)).to(torch.bfloat16)
    # As quantised weights lie in memory: transposed, and of another type.
    packed = torch.arange(600, dtype=torch.int32).view(20, 30).t()
    model.register_parameter("packed", nn.Parameter(packed, requires_grad=False))
    model.register_parameter("scale", nn.Parameter(torch.tensor(0.5), requires_grad=False))
    model.register_parameter("emptied", nn.Parameter(torch.empty(0)))
    return model


@pytest.fixture
def model() -> nn.Sequential:
    return make_model()


@pytest.fixture
def watch(model: nn.Sequential) -> WeightWatch:
    watch = WeightWatch(model, CPU)
    watch.remember()
    return watch


def has_changed(watch: WeightWatch) -> bool:
    differing = None if watch.moved() else watch.differing()
    return watch.moved() or (differing is not None and bool(differing.item()))


def copy_into_place(model: nn.Sequential) -> None:
    """As vLLM's loaders do; PyTorch does not count it as a new version."""
    weight = model.get_parameter("1.weight")
    before = weight._version
    weight.data.copy_(torch.randn(48, 32))
    assert weight._version == before


@torch.inference_mode()
def fill(model: nn.Sequential) -> None:
    model.get_parameter("2.weight").fill_(2.0)


def train(model: nn.Sequential) -> None:
    """By a step so small that a part of bfloat16's numbers stays what it was."""
    for parameter in model[1].parameters():
        parameter.data.add_(parameter.data.float().mul(0.004).to(parameter.dtype))


def replace(model: nn.Sequential) -> None:
    clone = model.get_parameter("1.weight").detach().clone()
    model[1].register_parameter("weight", nn.Parameter(clone))


def swap_data(model: nn.Sequential) -> None:
    weight = model.get_parameter("0.weight")
    weight.data = weight.data.clone()


def empty(model: nn.Sequential) -> None:
    """As vLLM leaves a layer whose new weights are still to come."""
    model[1].to("meta")


def delete(model: nn.Sequential) -> None:
    del model[1].bias


def change_packed(model: nn.Sequential) -> None:
    model.get_parameter("packed").data.neg_()


def change_scale(model: nn.Sequential) -> None:
    model.get_parameter("scale").data.fill_(0.25)


CHANGES: list[Callable[[nn.Sequential], None]] = [
    *(copy_into_place, fill, train, replace, swap_data, empty, delete, change_packed, change_scale),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changed_weights_are_seen(
    model: nn.Sequential, watch: WeightWatch, change: Callable[[nn.Sequential], None]
) -> None:
    assert not has_changed(watch)
    change(model)
    assert has_changed(watch)
    watch.remember()
    assert not has_changed(watch), "they are those of the next round"


def test_a_forward_changes_nothing(model: nn.Sequential, watch: WeightWatch) -> None:
    with torch.inference_mode():
        model(torch.arange(8))
    assert not has_changed(watch)


def test_without_a_round_nothing_is_held(model: nn.Sequential, watch: WeightWatch) -> None:
    watch.forget()
    copy_into_place(model)
    assert not has_changed(watch)
    assert watch.differing() is None
