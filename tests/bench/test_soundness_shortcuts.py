"""The experiment on shortcuts, shortened, and its parts: what they leave out is what they say."""

from pathlib import Path

import pytest
import torch
from _altered import Deployed, layers_of
from _conviction import rms
from _provided import SMALL, provide
from _shortcuts import (
    ChosenRows,
    early_keys,
    low_rank,
    stopped,
    top_neurons,
    window,
    with_linear_map,
    without_layers,
    without_least_inputs,
)
from _work import Work, shape_of
from experiments import shortened
from torch import nn

from hallmark.poc.protocol.round_tensors import RoundTensors

ROWS = 24
DRAW = torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def deployed() -> Deployed:
    found = Deployed(provide(SMALL), ROWS, 4)
    assert found.truth.shape == (4, 4)
    return found


def test_shortcuts_are_measured(tmp_path: Path) -> None:
    results = shortened("shortcuts", tmp_path)
    rows = {row["shortcut"]: row for row in results["rows"]}
    honest = rows["honest: rows 0 to 7 stop a layer early"]
    assert honest["error"] < 1e-5
    assert honest["saved"] > 0
    assert honest["calibrated_1e-07"] is None
    singles = [rows[f"layer {place} left out"] for place in range(4)]
    assert all(row["saved"] == pytest.approx(1 / 4) for row in singles)
    assert min(row["error"] for row in singles) > 0.2
    for sooner, later in (("1 layer", "2 layers"),):
        for which in ("all rows but the last stop", "half of each group stops"):
            less, more = rows[f"{which} {sooner} early"], rows[f"{which} {later} early"]
            assert 0 < less["saved"] < more["saved"]
            assert 0.1 < less["error"] < 1.2 * more["error"]
    assert rows["half of the groups guessed"]["error"] > 0.4
    assert rows["W8A8 in 1 of 4 layers"]["error"] < rows["W8A8 in 4 of 4 layers"]["error"]
    limits = {row["sigma"]: row["error"] for row in results["limits"]}
    assert 0 < limits["calibrated"] < limits["default"]
    assert results["combined"]
    assert all(row["saved"] < 1 for row in results["rows"])


def test_shares_of_work_are_those_of_all_of_it(deployed: Deployed) -> None:
    layers, shape = layers_of(deployed.model), shape_of(deployed.model)
    work, flops = Work(shape, ROWS), shape.layer_flops(ROWS)
    assert len(layers) * work.layer == pytest.approx(1.0)
    assert work.attention + work.mlp == pytest.approx(work.layer)
    # Two operations a weight and row.
    for layer in layers:
        maps = {name.rpartition(".")[2]: m for name, m in layer.named_modules() if isinstance(m, nn.Linear)}
        assert {name: 2 * ROWS * each.weight.numel() for name, each in maps.items()} == {
            name: count for name, count in flops.items() if name != "scores"
        }
    # Longer nonces do more of it in attention.
    assert Work(shape, 4 * ROWS).parts["scores"] > 3 * work.parts["scores"]


def test_a_model_without_layers_says_nothing(deployed: Deployed) -> None:
    layers = layers_of(deployed.model)
    with without_layers(layers, range(len(layers))):
        assert rms(deployed.errors()) > 0.9
    with stopped(layers, len(layers), slice(None)):
        assert rms(deployed.errors()) > 0.9
    assert not deployed.errors().any()


def test_rows_that_are_not_read_may_stop_before_the_last_layer_and_no_others(deployed: Deployed) -> None:
    layers = layers_of(deployed.model)
    with stopped(layers, 1, slice(8)):
        assert rms(deployed.errors()) < 1e-5
    with stopped(layers, 1, slice(9)):
        assert rms(deployed.errors()) > 0.01


def test_left_out_pairs_leave_every_group_balanced(deployed: Deployed) -> None:
    deployed.running = deployed.nonces
    left_out = ChosenRows(deployed, 0.5)()
    round_ = deployed.round
    keys = [(round_.config.public_key, nonce) for nonce in deployed.nonces]
    order = RoundTensors(round_.spec(), torch.float32, "cpu").order(keys).long()
    assert not left_out[:, :8].any()
    kept = ~left_out.gather(1, order)
    for group in range(round_.numbers):
        ranks = [rank for rank in range(order.shape[1]) if rank // 2 % round_.numbers == group]
        for sign in (0, 1):
            assert (kept[:, ranks[sign::2]].sum(1) == len(ranks) // 4).all()


def test_attention_sees_the_keys_that_are_named() -> None:
    causal = torch.full((1, 1, 5, 5), -torch.inf).triu(1)
    latest, earliest = (mask(causal)[0, 0] == 0 for mask in (window(2, 1), early_keys(2)))
    assert latest[3].tolist() == [True, False, True, True, False]
    assert earliest[4].tolist() == [True, True, False, False, False]


def test_a_matrix_of_low_rank_is_its_own_product_of_thin_ones() -> None:
    thin = torch.randn(60, 5, generator=DRAW) @ torch.randn(5, 40, generator=DRAW)
    full = torch.randn(60, 40, generator=DRAW)
    inputs = torch.randn(200, 40, generator=DRAW)
    moments = inputs.T @ inputs
    torch.testing.assert_close(low_rank(thin, moments, 0.25), thin, atol=1e-3, rtol=0)
    approximated = low_rank(full, moments, 0.25)
    assert torch.linalg.matrix_rank(approximated) == int(0.25 * 60 * 40 / 100)
    assert float((approximated - full).norm() / full.norm()) > 0.3


def test_inputs_that_add_nothing_go_first() -> None:
    weight = torch.randn(8, 20, generator=DRAW)
    moments = torch.eye(20)
    moments[[3, 7], [3, 7]] = 0.0
    dropped = without_least_inputs(weight, moments, 0.1)
    assert [i for i in range(20) if not dropped[:, i].any()] == [3, 7]


def test_all_neurons_are_the_mlp(deployed: Deployed) -> None:
    layers = layers_of(deployed.model)
    with top_neurons(layers, 1.0):
        assert rms(deployed.errors()) < 1e-4
    with top_neurons(layers, 0.2):
        assert rms(deployed.errors()) > 0.05


def test_linear_layers_are_found_by_a_linear_map() -> None:
    layers = [nn.Linear(12, 12) for _ in range(3)]
    given = torch.randn(8, 40, 12, generator=DRAW)
    with torch.no_grad():
        states = [given, layers[0](given), layers[1](layers[0](given))]
        fresh = torch.randn(2, 40, 12, generator=DRAW)
        wanted = layers[1](layers[0](fresh))
        with with_linear_map(layers, 0, 1, states[0], states[2]):
            found = layers[1](layers[0](fresh))
    torch.testing.assert_close(found[:, 8:], wanted[:, 8:], atol=0.02, rtol=0)
    # The first rows went the model's way.
    torch.testing.assert_close(found[:, :8], wanted[:, :8])
