"""The simulation of a verdict over time, at small size: in the long run honest provers are safe."""

import math

import numpy as np
import pytest
import verdict_over_time
from verdict_power import THRESHOLDS, Settings


@pytest.mark.parametrize("numbers", verdict_over_time.NUMBERS)
@pytest.mark.parametrize("kurtosis", [3.0, 4.0, 6.0])
@pytest.mark.parametrize("calibrated_on", [None, 256])
def test_hardly_an_honest_prover_is_ever_convicted(
    numbers: int, kurtosis: float, calibrated_on: int | None
) -> None:
    """At the very bound of what is allowed too."""
    found = verdict_over_time.ever_convicted(
        np.random.default_rng([numbers, int(kurtosis)]),
        numbers=numbers,
        kurtosis=kurtosis,
        calibrated_on=calibrated_on,
        provers=100,
        judged_alone=1,
    )
    # At 0.01 more than five of 100 have a probability of 6e-4.
    assert found["over time"] <= 0.05


@pytest.mark.parametrize("numbers", verdict_over_time.NUMBERS)
@pytest.mark.parametrize("honest_before", [0, verdict_over_time.HONEST_BEFORE])
def test_noise_that_hides_in_batches_is_convicted(numbers: int, honest_before: int) -> None:
    found = verdict_over_time.nonces_over_time(
        np.random.default_rng(numbers),
        Settings(1.0, 3.0),
        numbers=numbers,
        noise=1.5,
        trials=50,
        most=700,
        honest_before=honest_before,
    )
    needed = [found[threshold] for threshold in THRESHOLDS]
    assert needed[0] is not None
    assert needed[1] is not None
    assert needed[0] < needed[1] < 650


@pytest.mark.parametrize("numbers", verdict_over_time.NUMBERS)
def test_a_forger_is_convicted_within_a_batch_by_every_way(numbers: int) -> None:
    rng, settings = np.random.default_rng(numbers), Settings(1.0, 3.0)
    noise = math.sqrt(2.0) / 0.05
    ways = (
        verdict_over_time.nonces_over_time(
            rng, settings, numbers=numbers, noise=noise, trials=30, most=verdict_over_time.BATCH
        ),
        verdict_over_time.nonces_in_one_batch(rng, settings, numbers=numbers, noise=noise, trials=30),
        verdict_over_time.nonces_in_batches(rng, settings, numbers=numbers, noise=noise, trials=30),
    )
    for found in ways:
        for threshold in THRESHOLDS:
            needed = found[threshold]
            assert needed is not None
            assert needed <= verdict_over_time.BATCH


def test_what_is_honest_is_convicted_by_none_of_them() -> None:
    rng, settings = np.random.default_rng(5), Settings(1.0, 3.0)
    nothing = dict.fromkeys(THRESHOLDS)
    assert (
        verdict_over_time.nonces_over_time(rng, settings, numbers=1, noise=0.9, trials=20, most=500)
        == nothing
    )
    assert verdict_over_time.nonces_in_batches(rng, settings, numbers=1, noise=0.9, trials=50) == nothing
