"""The experiment of shortcuts at rate 1, shortened, and what its substitutes are made of."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from _architectures import TINY, load
from _decoder import Decoder, Plan
from _substitutes import best_guess, conviction, ridges
from experiments import shortened
from shortcuts import best_of, scales

from hallmark.poc.offline.model import last_hidden


@pytest.mark.slow
def test_the_shortened_experiment_tells_exact_savings_from_gross_ones(tmp_path: Path) -> None:
    results = shortened("shortcuts", tmp_path)
    assert len(results["findings"]) >= 3
    assert results["cells"]
    for row in results["rows"]:
        if row["kind"] == "nothing":
            assert row["error"] < 0.01
            assert row["nonces_1e-7"] is None
        if row["substitute"] == "mean direction" and row["scale"] == "1":
            assert row["error"] > 0.5
            assert row["nonces_1e-7"] < 30
        # The correction is chosen on other nonces than those it is measured on, so that it may lose a little.
        assert row["error"] < row["error_as_is"] * 1.1 + 0.01


def test_a_whole_plan_is_the_model_and_its_last_layer_needs_the_last_row_only() -> None:
    model = load(TINY, "strong")
    decoder = Decoder(model)
    inputs = torch.randn(2, 12, TINY.hidden_size, generator=torch.Generator().manual_seed(0))
    whole = decoder.whole(12)
    truth = last_hidden(model, inputs)
    with torch.no_grad():
        for plan in (whole, whole.for_last_row()):
            found = decoder.norm(decoder.run(inputs, plan)[:, -1])
            torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-4)
        shorter = decoder.norm(decoder.run(inputs, Plan(whole.layers, 6))[:, -1])
        assert not torch.allclose(shorter, truth, atol=1e-2)
    assert decoder.multiply_adds(whole.for_last_row()) < decoder.multiply_adds(whole)


def test_multiply_adds_are_weights_times_rows_and_attention() -> None:
    decoder = Decoder(load(TINY, "fresh"))
    layer = decoder.layers[0]
    weights = sum(p.numel() for p in layer.parameters() if p.ndim == 2)
    rows, seen = 5, 1 + 2 + 3 + 4 + 5
    attention = 2 * decoder.config.num_attention_heads * decoder.config.head_dim * seen
    assert decoder.multiply_adds(Plan((0,), rows)) == weights * rows + attention


def test_the_best_guess_is_closer_than_the_substitutes_own_distance() -> None:
    draw = np.random.default_rng(0)
    width, cosine = 512, 0.8
    true, other, targets = draw.normal(size=(3, 4_000, width)) / math.sqrt(width)
    substitute = cosine * true + math.sqrt(1 - cosine**2) * other

    def distances(vectors: np.ndarray) -> np.ndarray:
        norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(targets, axis=1)
        found: np.ndarray = np.sqrt(2 - 2 * (vectors * targets).sum(axis=1) / norms)
        return found

    s = 1 / math.sqrt(2 * width)
    own = np.sqrt(np.mean((distances(substitute) - distances(true)) ** 2)) / s
    guess = np.sqrt(np.mean((best_guess(distances(substitute), cosine) - distances(true)) ** 2)) / s
    assert own == pytest.approx(math.sqrt(2 * (1 - cosine)), rel=0.05)
    assert guess == pytest.approx(math.sqrt(1 - cosine**2), rel=0.05)


def test_more_error_is_convicted_by_fewer_nonces_and_none_by_none() -> None:
    draw = np.random.default_rng(0)
    needed = [conviction(draw.normal(0, error, 500))["nonces_1e-7"] for error in (0.8, 0.3, 0.1)]
    assert needed == sorted(needed)
    assert conviction(np.zeros(500))["nonces_0.01"] is None


def test_a_ridge_finds_a_linear_map() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(200, 10, generator=draw, dtype=torch.float64)
    weights = torch.randn(10, 4, generator=draw, dtype=torch.float64)
    predict = next(ridges(x, x @ weights + 3))
    torch.testing.assert_close(predict(x), x @ weights + 3, rtol=0.0, atol=0.05)


def test_scales_run_from_below_the_default_to_1() -> None:
    assert scales(2.0**-6) == {2.0**-9: "below", 2.0**-6: "embedding", 2.0**-3: "between", 1.0: "1"}


def test_the_summary_names_the_cheapest_that_hides() -> None:
    rows = [
        {"kind": kind, "substitute": name, "share": share, "error": error, "nonces_1e-7": None}
        for kind, name, share, error in (
            ("nothing", "all", 0.8, 0.0),
            ("rows", "half", 0.4, 0.09),
            ("rows", "tenth", 0.1, 0.5),
        )
    ]
    found = best_of(rows)
    assert (found["by_hidden"], found["share_hidden"]) == ("half", 0.4)
    assert (found["by_eighth"], found["error_eighth"]) == ("tenth", 0.5)
