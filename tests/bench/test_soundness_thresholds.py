"""The simulation of thresholds, shortened; it fails where a verdict, or what calibration states, does."""

from pathlib import Path

import numpy as np
import pytest
import thresholds
from experiments import shortened
from thresholds import Size, Source, batch_of, calibrated, simulate


@pytest.fixture
def source() -> Source:
    """Noise that hangs together in a nonce, with a tenth of the nonces three times as noisy."""
    draw = np.random.default_rng(0)
    errors = draw.normal(0.0, 0.05, (256, 8))
    errors[::10] *= 3
    return Source("made up", errors)


def test_honest_batches_pass_and_noisy_ones_do_not(tmp_path: Path) -> None:
    results = shortened("thresholds", tmp_path)
    rows = results["rows"]
    assert {row["added"] for row in rows} == {0.0, *thresholds.ADDED}
    assert {row["nonces"] for row in rows} == {16, 64}
    of_own_pair = [row for row in rows if "calibrated on" not in row["source"]]
    assert len({row["source"] for row in of_own_pair}) >= 3
    assert all(row["fraud at 1e-07"] == 0 for row in of_own_pair if row["added"] == 0)
    assert all(row["fraud at 1e-07"] == 1 for row in rows if row["added"] == 3 and row["nonces"] == 64)
    for row in rows:
        assert row["fraud at 1e-07"] <= row["fraud at 0.0001"] <= row["fraud at 0.01"]
        assert row["fraud at 0.01"] <= sum(row[f"{test} at 0.01"] for test in thresholds.TESTS)
    assert all(told["honest_sigma"] > told["measured_sigma"] > 0.02 for told in results["sources"])
    assert 4 <= len(results["findings"]) <= 10
    assert all(sentence.endswith(".") for sentence in results["findings"])


def test_a_batch_has_whole_nonces_of_the_source(source: Source) -> None:
    batch = batch_of(source.errors, 50, np.random.default_rng(1))
    sizes = {tuple(row) for row in np.abs(source.errors)}
    assert {tuple(row) for row in np.abs(batch)} <= sizes
    # Signs are drawn anew for each number.
    assert 0.35 < np.mean(batch > 0) < 0.65
    noisier = batch_of(source.errors, 5_000, np.random.default_rng(1), added=0.1)
    expected = np.mean(source.errors**2) + 0.1**2
    assert np.mean(noisier**2) == pytest.approx(expected, rel=0.05)


def test_halves_share_no_nonce(source: Source) -> None:
    calibrating, judged = source.split(np.random.default_rng(2))
    assert len(calibrating) == len(judged) == 128
    assert not {tuple(row) for row in calibrating} & {tuple(row) for row in judged}
    other = np.full((200, 8), 0.5)
    calibrating, judged = Source("other", source.errors, other).split(np.random.default_rng(2))
    assert np.all(calibrating == 0.5)
    assert np.array_equal(judged, source.errors)


def test_calibration_on_a_quieter_pair_convicts_honest_batches(source: Source) -> None:
    quieter = Source("quieter", source.errors, source.errors / 2)
    size = Size(3, 4, 1, (500,))
    shares = [
        next(iter(simulate(each, size, np.random.default_rng(3))))["fraud at 1e-07"]
        for each in (source, quieter)
    ]
    assert shares == [0.0, 1.0]
    assert calibrated(quieter, 3, np.random.default_rng(3))["honest_sigma"] < source.sigma
