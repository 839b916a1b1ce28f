"""Distances forged from predictions: how they are made and judged, and the experiment itself, shortened."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _forging import SIGMA, TESTS, TOLERANCE, Errors, forged_errors, nonces_to_convict, verdicts
from _judging import round_for
from experiments import shortened

from hallmark.poc.protocol.law import distance_std, r_target_for
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.verdict.judge import judge

WIDTH = 256


def pairs(cosine: float, n: int = 20_000) -> tuple[Any, Any]:
    """Distances of outputs and of predictions that have this cosine with them."""
    draw = np.random.default_rng(2)
    guessed, noise = draw.standard_normal((2, n)) / math.sqrt(WIDTH)
    true = cosine * guessed + math.sqrt(1 - cosine**2) * noise
    return np.sqrt(2 - 2 * true), np.sqrt(2 - 2 * guessed)


@pytest.mark.parametrize("cosine", [0.0, 0.5, 0.9, 0.99])
def test_a_forger_misses_by_what_its_prediction_does_not_know(cosine: float) -> None:
    true, guessed = pairs(cosine)
    errors = forged_errors(true, guessed, cosine, 1.0, WIDTH).distances
    assert len(errors) == len(true)
    rms = float(np.sqrt(np.mean(errors**2)))
    assert rms == pytest.approx(math.sqrt(1 - cosine**2), rel=0.03)
    # To believe the prediction as it is, is worse.
    assert rms <= float(np.std(guessed - true)) / distance_std(WIDTH) + 1e-9


def test_below_rate_1_a_forger_claims_the_nearest_and_all_its_claims_count() -> None:
    true, guessed = pairs(0.3)
    errors = forged_errors(true, guessed, 0.3, 0.1, WIDTH).distances
    assert len(errors) == 2000
    nearest = np.argsort(guessed, kind="stable")[:2000]
    claimed = errors * distance_std(WIDTH) + true[nearest]
    assert (claimed < r_target_for(0.1, WIDTH) + 1e-12).all()
    # A prediction of cosine 0.3 seldom means a valid nonce: the claims are too low.
    assert errors.mean() < -0.3


@pytest.mark.parametrize(("rate", "threshold"), [(1.0, 0.01), (1.0, 1e-7), (0.1, 0.01), (0.1, 1e-7)])
def test_verdicts_are_the_judges(rate: float, threshold: float) -> None:
    """Batches of all sizes and of errors about where verdicts turn, against the product's judge."""
    settings: dict[str, Any] = {} if rate == 1.0 else {"valid_rate": rate}
    round_ = round_for(WIDTH, fraud_threshold=threshold, **settings)
    assert round_.honest_sigma == pytest.approx(SIGMA)
    draw = np.random.default_rng(3)
    seen = set()
    for n in (1, 2, 5, 20, 60):
        for size in (0.05, 0.1, 0.15, 0.2, 0.3, 0.6):
            errors = draw.normal(-0.03, size, n)
            received = draw.uniform(1.2, 1.35, n)
            computed = received - errors * distance_std(WIDTH)
            batch = Errors.of(received[None], computed[None], WIDTH)
            proof = ProofBatch(
                public_key="prover",
                block_hash="soundness",
                block_height=1,
                node_id=0,
                nonces=tuple(range(n)),
                dist=tuple(received),
                covered=None if rate == 1.0 else (0, n * 10 - 1),
            )
            judged = judge(proof, dict(enumerate(computed)), round_)
            spoke = {test for test, says in zip(TESTS, verdicts(batch, rate, threshold), strict=True) if says}
            assert spoke == set(judged.rejected_by) - {"density"}, (n, size)
            seen.add(frozenset(spoke))
    assert len(seen) > 2


def test_the_nonces_that_convict() -> None:
    draw = np.random.default_rng(4)
    gross, fine, honest = (draw.normal(0.0, size, 20_000) for size in (1.0, 0.2, 0.07))
    found = [
        nonces_to_convict(Errors(errors, errors), 1.0, 0.01, most=2000).nonces
        for errors in (gross, fine, honest)
    ]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0] < 8 < found[1] < 60
    assert found[2] is None
    stricter = nonces_to_convict(Errors(fine, fine), 1.0, 1e-7, most=2000).nonces
    assert stricter is not None
    assert stricter > found[1]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_experiment_shortened(tmp_path: Path) -> None:
    results = shortened("forging", tmp_path)
    assert 3 <= len(results["findings"]) <= 8
    # Whoever forges a tiny fresh model's distances is convicted, and the more cheaply the sooner.
    for row in results["rows"]:
        assert row["nonces_1e-07"] is not None
        assert row["beyond"] > 0.1
    ladder = {row["cosine"]: row for row in results["ladder"] if row["rate"] == 1.0}
    assert ladder[0.0]["nonces_0.01"] < ladder[0.95]["nonces_0.01"] < ladder[0.98]["nonces_0.01"]
    assert ladder[0.0]["beyond"] > TOLERANCE
    # So near to the truth that it passes for an honest prover with noise.
    assert ladder[0.998]["nonces_0.01"] is None
    first, last = (results["samples"][i]["cosine"] for i in (0, 3))
    assert last > first
