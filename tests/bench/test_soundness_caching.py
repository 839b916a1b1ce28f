"""What depends on token and block only: kept exactly it changes nothing, and the experiment, shortened."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _altered import Floats, layers_of, round_of
from _models import SHAPES
from _prediction import Readout, run_sequences
from _provided import SMALL, provide
from _token_cache import ExactTable, final_from_tables, first_row_lookups
from caching import expected_distinct, net_saving, prefix_rows, shape_rows
from experiments import shortened

from hallmark.poc.offline.model import OfflineModel

ROWS = 24
SAME = 1e-3
"""In s: more than products of fp32 in another order change a number by."""


@pytest.fixture(scope="module")
def model() -> OfflineModel:
    return provide(SMALL)


def errors_with_table(model: OfflineModel, made_for: str, **config: Any) -> Floats:
    """Errors in s of numbers from q, k and v of the first layer that are kept of a block."""
    spec = round_of(model, ROWS, **config).spec()
    readout = Readout(spec, range(6))
    tokens = readout.drawn
    true = readout.numbers(run_sequences(model, spec, tokens).final)
    table = ExactTable(model, round_of(model, ROWS, block_hash=made_for, **config).spec(), tokens)
    return np.abs(readout.numbers(final_from_tables(model, spec, tokens, table.lookups())) - true)


def test_q_k_and_v_of_the_first_layer_may_be_kept_for_one_block(model: OfflineModel) -> None:
    assert errors_with_table(model, "the block").max() < SAME
    assert errors_with_table(model, "another block").mean() > 0.1


def test_without_the_projection_they_may_be_kept_for_ever(model: OfflineModel) -> None:
    config = {"use_random_projection": False, "inputs": "tokens", "readout": "rows"}
    assert errors_with_table(model, "another block", **config).max() < SAME


def test_the_first_row_may_be_kept_where_all_nonces_begin_alike_and_no_other(model: OfflineModel) -> None:
    spec = round_of(model, ROWS, first=1).spec()
    readout, layers = Readout(spec, range(4)), list(layers_of(model))
    tested = run_sequences(model, spec, readout.drawn)
    assert tested.tokens is not None
    other = tested.tokens[:1].flip(1)
    for first, rows, same in ((1, slice(0, 1), True), (2, slice(0, 1), False), (1, slice(0, 2), False)):
        other[:, 0] = first
        lookups = first_row_lookups(run_sequences(model, spec, other, layers).outputs)
        found = readout.numbers(final_from_tables(model, spec, tested.tokens, lookups, rows))
        largest = float(np.abs(found - readout.numbers(tested.final)).max())
        assert (largest < SAME) is same, (first, rows, largest)
    assert all("forward" not in vars(layer) for layer in layers)


def test_distinct_tokens_are_counted_as_they_are_drawn() -> None:
    draw = np.random.default_rng(0)
    counted = np.mean([len(set(draw.integers(100, size=150))) for _ in range(200)])
    assert expected_distinct(100, 150) == pytest.approx(counted, rel=0.01)
    assert expected_distinct(1e12, 10) == pytest.approx(10)
    assert expected_distinct(10, 1e6) == pytest.approx(10)


def test_a_table_that_fills_saves_nothing_at_first_and_all_in_the_end() -> None:
    saved = [net_saving(0.01, 4096, 64, nonces) for nonces in (1, 64, 10**7)]
    assert saved[0] < 1e-4
    assert saved[0] < saved[1] < saved[2]
    assert saved[2] == pytest.approx(0.01, rel=1e-3)


def test_a_table_waits_until_it_has_seen_a_token_in_enough_contexts() -> None:
    draw = np.random.default_rng(0)
    counts = np.bincount(draw.integers(5000, size=300 * 64), minlength=5000)
    for contexts in (1, 4):
        looked_up = np.maximum(counts - contexts, 0).sum() / counts.sum()
        assert net_saving(1.0, 5000, 64, 300, contexts) == pytest.approx(looked_up, rel=0.03)


def test_longer_prefixes_are_rarer_and_larger_models_save_less() -> None:
    for row in prefix_rows({"one": 50_000}):
        assert row["seen_1"] > row["seen_2"] >= row["seen_3"] >= 0
        assert row["saving"] < 3 / 256
    small, large = shape_rows({name: (SHAPES[name], 151_936) for name in ("0.6B", "32B")})
    assert small["saving"] > large["saving"] > 0
    assert small["pays"] == large["pays"] == 594


def test_the_experiment_shortened(tmp_path: Path) -> None:
    results = shortened("caching", tmp_path)
    assert len(results["findings"]) == 4
    rows = {row["kept"]: row for row in results["rows"]}
    for exact in ("row 0 of all layers", "q, k, v of layer 0"):
        assert rows[exact]["error"] < SAME
        assert rows[exact]["default_1e-07"] is None
    means = [row for kept, row in rows.items() if kept.endswith("by token")]
    assert len(means) == 5
    assert all(row["error"] > 0.1 for row in [*means, rows["the same of an earlier block"]])
    depths = [rows[f"output of the first {name}, by token"]["saving"] for name in ("layer", "2 layers")]
    assert depths[1] == pytest.approx(2 * depths[0])
    assert torch.isfinite(torch.tensor([row["net"] for row in results["rows"]])).all()
