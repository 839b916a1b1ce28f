"""The experiment on other weights, shortened, and its methods, which do what their names say."""

from pathlib import Path

import pytest
import torch
from _altered import calibration_inputs, matrices_of
from _calibration import second_moments
from _provided import SMALL, provide
from _pruned import least_in_rows, two_of_four, wanda
from _quantised import awq, float8, gptq, integers, offset_integers
from _retrained import low_rank_change
from experiments import shortened
from torch import Tensor

WEIGHT = torch.randn(48, 72, generator=torch.Generator().manual_seed(0))


def moments(uneven: float) -> Tensor:
    """Σ xxᵀ of correlated inputs, some of them larger than others."""
    draw = torch.Generator().manual_seed(1)
    mixed = torch.randn(400, 24, generator=draw) @ torch.randn(24, 72, generator=draw)
    x = (mixed + torch.randn(400, 72, generator=draw)) * torch.logspace(0, uneven, 72)
    return x.T @ x


def damage(weight: Tensor, seen: Tensor) -> float:
    """Mean square of what outputs are off by, up to a factor."""
    off = weight - WEIGHT
    return float(((off @ seen) * off).sum())


def test_attacks_are_measured(tmp_path: Path) -> None:
    results = shortened("detection", tmp_path)
    error = {(row["attack"], row["rows"]): row["error"] for row in results["rows"]}
    convicted = {(row["attack"], row["rows"]): row["calibrated_1e-07"] for row in results["rows"]}
    for rows in (24, 48):
        assert error["honest", rows] == 0
        assert convicted["honest", rows] is None
        assert 0.005 < error["INT8 by channel", rows] < error["FP8", rows] < error["INT4 by 128", rows]
    assert error["INT4 by 32", 24] < error["INT4 by channel", 24]
    assert error["INT8 by channel", 24] < error["W8A8, INT8", 24]
    assert error["pruned 10 %, by size", 24] < error["pruned 50 %, by size", 24]
    little, more = (error[f"fine-tuned, {tuned}", 24] for tuned in ("1 step at 1e-06", "4 steps at 1e-05"))
    assert 0 < little < more
    assert error["LoRA of rank 8, 0.3 %", 24] < 0.3 * error["LoRA of rank 8, 3 %", 24]
    assert error["another model", 24] > 0.9
    assert convicted["another model", 24] <= 3
    assert len(results["findings"]) == 3


def test_rounding_keeps_what_lies_on_the_grid() -> None:
    for bits, group in ((8, None), (4, 32), (4, 128)):
        once = integers(WEIGHT, bits, group)
        assert not torch.equal(once, WEIGHT)
        torch.testing.assert_close(integers(once, bits, group), once)
        assert len(set(once[0, :32].tolist())) <= 2**bits - 1
    blocks = offset_integers(WEIGHT, 4, 32)
    torch.testing.assert_close(offset_integers(blocks, 4, 32), blocks, atol=1e-5, rtol=0)
    assert all(len(set(row[:32].tolist())) <= 16 for row in blocks)
    assert float((float8(WEIGHT) - WEIGHT).abs().max()) < float(WEIGHT.abs().max()) / 16


def test_calibrated_quantisation_does_less_damage() -> None:
    correlated, uneven = moments(0.0), moments(2.0)
    plain = integers(WEIGHT, 4, 32)
    assert damage(gptq(WEIGHT, correlated, 4, 32), correlated) < 0.7 * damage(plain, correlated)
    assert damage(awq(WEIGHT, uneven, 4, 32), uneven) < 0.9 * damage(plain, uneven)


def test_pruning_leaves_the_share_that_it_says() -> None:
    pruned = least_in_rows(WEIGHT, WEIGHT.abs(), 0.25)
    assert ((pruned == 0).sum(1) == 18).all()
    assert pruned.abs()[pruned != 0].min() > 0
    halved = two_of_four(WEIGHT, WEIGHT.abs())
    assert ((halved.reshape(48, 18, 4) != 0).sum(2) == 2).all()
    uneven = moments(2.0)
    by_score = least_in_rows(WEIGHT, wanda(WEIGHT, uneven), 0.5)
    assert damage(by_score, uneven) < damage(least_in_rows(WEIGHT, WEIGHT.abs(), 0.5), uneven)


def test_second_moments_are_of_what_matrices_are_given() -> None:
    model = provide(SMALL)
    inputs = calibration_inputs(model, 4, 24)
    found = second_moments(model, inputs)
    first = matrices_of(model)["0.self_attn.q_proj"]
    given = model.model.base_model.layers[0].input_layernorm(inputs).flatten(0, 1)
    torch.testing.assert_close(found[first], given.T @ given, rtol=1e-3, atol=1e-2)


def test_a_change_of_low_rank_has_its_rank_and_size() -> None:
    change = low_rank_change(WEIGHT, 3, 0.1, torch.Generator().manual_seed(0)) - WEIGHT
    assert float(change.norm() / WEIGHT.norm()) == pytest.approx(0.1, rel=1e-3)
    sizes = torch.linalg.svdvals(change)
    assert float(sizes[2]) > 1e-3 > float(sizes[3])
