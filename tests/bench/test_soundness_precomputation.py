"""The experiment on precomputation, shortened, and its predictors on data whose answer is known."""

import math
from pathlib import Path

import precomputation
import pytest
import torch
from experiments import shortened
from precomputation import Rows


@pytest.mark.slow
def test_what_is_prepared_is_no_forward(tmp_path: Path) -> None:
    results = shortened("precomputation", tmp_path)
    assert 3 <= len(results["findings"]) <= 8
    rows = {(row["projection"], row["method"]): row for row in results["rows"]}
    for row in rows.values():
        assert row["error_s"] == pytest.approx(row["law"], rel=0.2)
    # The table's outputs are the true ones but for P, and the larger P is, the less they are worth.
    hit = [rows[scale, "a table that holds the input"]["error_s"] for scale in ("0.01", "0.04")]
    assert hit[0] < 0.35 < hit[1] < rows["0.01", "mean direction"]["error_s"]
    assert rows["off, inputs of variance 1", "linear map"]["error_s"] < 0.97


def linear_rows(noise: float) -> Rows:
    draw = torch.Generator().manual_seed(6)
    last, pooled = torch.randn(600, 16, generator=draw), torch.randn(600, 16, generator=draw) / 3
    hidden = last @ torch.randn(16, 16, generator=draw) + noise * torch.randn(600, 16, generator=draw)
    return Rows(last, pooled, hidden)


@pytest.mark.parametrize(("noise", "least", "most"), [(0.0, 0.999, 1.0), (4.0, 0.55, 0.8), (1e4, -0.1, 0.1)])
def test_a_linear_map_finds_what_is_linear(noise: float, least: float, most: float) -> None:
    rows = linear_rows(noise)
    assert least <= precomputation.fit(rows.features, rows.hidden).cosine <= most


def test_a_table_answers_an_input_that_it_holds() -> None:
    rows = linear_rows(0.0)
    table = precomputation.Table(rows)
    answers = table.predict(Rows(rows.last[:5], rows.pooled[:5], rows.hidden[:5]))
    # Moved towards the mean, as held-out inputs have no near neighbour, but the nearest output all the same.
    moved = answers - rows.hidden.mean(dim=0)
    cosines = torch.cosine_similarity(moved, rows.hidden[:5] - rows.hidden.mean(dim=0), dim=1)
    assert torch.allclose(cosines, torch.ones(5), atol=1e-4)
    assert 0 < table.cosine < 0.7


def test_the_mean_direction_is_worth_what_outputs_share() -> None:
    draw = torch.Generator().manual_seed(7)
    hidden = torch.randn(2000, 256, generator=draw) + 1.0
    assert precomputation.mean_direction(hidden).cosine == pytest.approx(math.sqrt(0.5), abs=0.02)
    assert abs(precomputation.mean_direction(hidden - 1.0).cosine) < 0.05


def test_a_table_of_all_seeds_of_32_bits_fits_on_disks_and_one_of_128_bits_does_not() -> None:
    sizes = {row["seed_bits"]: row["terabytes"] for row in precomputation.table_sizes(4096)}
    assert sizes[32] == pytest.approx(2**32 * 8192 / 1e12)
    assert sizes[128] > 1e20
