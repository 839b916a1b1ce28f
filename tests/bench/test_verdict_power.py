"""The simulation of a verdict, at small size: honest machines are safe, and forgers are not."""

import math

import numpy as np
import pytest
import verdict_power
from scipy import stats
from verdict_power import Settings


@pytest.mark.parametrize("numbers", verdict_power.NUMBERS)
@pytest.mark.parametrize("kurtosis", [3.0, 4.0, 6.0])
@pytest.mark.parametrize("calibrated_on", [64, 256])
def test_false_alarms_are_as_rare_as_stated(numbers: int, kurtosis: float, calibrated_on: int) -> None:
    found = verdict_power.false_alarms(
        np.random.default_rng([numbers, calibrated_on]),
        numbers=numbers,
        kurtosis=kurtosis,
        calibrated_on=calibrated_on,
        calibrations=20,
        batches=10,
        n=200,
    )
    assert found["fraud at 1e-07"] == 0.0
    # 200 batches at 0.01: more than nine have a probability of 4e-5.
    assert found["fraud at 0.01"] <= 9 / 200


@pytest.mark.parametrize("sigma", verdict_power.SIGMAS)
@pytest.mark.parametrize("numbers", verdict_power.NUMBERS)
def test_a_total_forger_is_caught_at_every_k(numbers: int, sigma: float) -> None:
    """With the defaults of a round too."""
    draw = np.random.default_rng(numbers)
    needed = verdict_power.nonces_to_convict(
        Settings(sigma),
        lambda n: verdict_power.honest_errors(draw, n, numbers, 3.0, math.sqrt(2.0)),
        threshold=1e-7,
        trials=50,
    )
    assert needed is not None
    assert needed <= 25


def test_the_noise_has_the_kurtosis_and_the_sigma_asked_for() -> None:
    errors = verdict_power.honest_errors(np.random.default_rng(0), 400_000, 2, 5.0, 0.05)
    assert float(errors.std()) == pytest.approx(0.05, rel=0.01)
    assert float(stats.kurtosis(errors[:, 0], fisher=False)) == pytest.approx(5.0, rel=0.05)
    squares = errors**2
    together = float(np.mean(squares[:, 0] * squares[:, 1])) / float(np.mean(squares)) ** 2
    assert together == pytest.approx(5 / 3, rel=0.05)
