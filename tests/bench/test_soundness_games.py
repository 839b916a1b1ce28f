"""The experiment on games of chance with claims, shortened."""

from typing import Any

import numpy as np
import pytest
from _judging import round_for
from _simulated import judged_walk, noisier, shaved, shaved_where_it_pays
from experiments import shortened


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("games")
    return shortened("games", directory)


def test_more_forged_nonces_are_seen_no_later(results: dict[str, Any]) -> None:
    needed = [row["nonces_1e-07"] or 10**9 for row in results["mixtures"]]
    assert needed == sorted(needed)
    assert needed[0] <= 32


def test_an_honest_prover_is_not_convicted_at_the_strict_threshold(results: dict[str, Any]) -> None:
    assert results["repeated"][1]["convictions"] == 0
    assert 3 <= len(results["findings"]) <= 9
    assert all(sentence.endswith(".") for sentence in results["findings"])


@pytest.mark.parametrize("lowered", [shaved, shaved_where_it_pays])
def test_shaving_by_nearly_the_tolerance_is_convicted(lowered: Any) -> None:
    round_ = round_for(valid_rate=0.1, honest_sigma=0.05)
    judged = judged_walk(
        round_, lowered(0.34, round_), 4_000, 0.05, np.random.default_rng(0), tells_coverage=True
    )
    assert judged is not None
    assert judged.probability_honest < 1e-7


def test_an_honest_walk_is_not() -> None:
    for rate in (0.1, 1.0):
        round_ = round_for(valid_rate=rate, honest_sigma=0.05)
        rule = noisier(0.0, round_)
        judged = judged_walk(round_, rule, 4_000, 0.05, np.random.default_rng(0), tells_coverage=True)
        assert judged is not None
        assert judged.probability_honest > 0.01
