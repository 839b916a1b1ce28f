"""Which nonces of a prover count over time, and that a body of `/validated` says what the judge does."""

from typing import Any

import numpy as np
import pytest
from builders import make_round
from judged import judged_batch, validated_body

from hallmark.poc.core.errors import FieldError
from hallmark.poc.protocol.round import Round
from hallmark.poc.verdict.judge import Verdict
from hallmark.poc.verdict.prover_record import ProverRecord, Reason, ScoredBatch

ROUND = make_round(honest_sigma=0.1)


def scored(round_: Round, *arguments: Any, **options: Any) -> ScoredBatch:
    judged = judged_batch(round_, *arguments, **options)
    of_verdict = ScoredBatch.of_verdict(judged, round_.hidden_size)
    of_body = ScoredBatch.of_body(validated_body(judged))
    assert of_body.uncounted == of_verdict.uncounted
    assert [*of_body.ratios] == [*of_verdict.ratios]
    # Recomputed numbers are rounded to halves in a body.
    assert [*of_body.ratios.values()] == pytest.approx([*of_verdict.ratios.values()], rel=0.05, abs=1e-4)
    return of_verdict


class TestWhatCounts:
    @pytest.mark.parametrize("vectors", [True, False])
    def test_the_mean_square_over_what_is_allowed(self, vectors: bool) -> None:
        found = scored(ROUND, range(2_000), 1.3, vectors=vectors)
        assert [*found.ratios] == [*range(2_000)]
        assert found.uncounted == {}
        # Chi-square of as many numbers, without what is clipped.
        spread = 1.69 * np.sqrt(2 / (2_000 * (ROUND.numbers if vectors else 1)))
        assert np.mean([*found.ratios.values()]) == pytest.approx(1.68, abs=5 * spread)

    def test_nonces_ascend_whatever_the_order_of_the_batch(self) -> None:
        assert [*scored(ROUND, [7, 3, 5]).ratios] == [3, 5, 7]

    def test_of_a_repeated_nonce_the_first_claim_counts(self) -> None:
        twice = judged_batch(ROUND, [3, 4, 3, 3], 1.0)
        found = ScoredBatch.of_verdict(twice, ROUND.hidden_size)
        once = ScoredBatch.of_body({**validated_body(twice), **_first(validated_body(twice), 2)})
        assert [*found.ratios] == [3, 4]
        assert [*once.ratios.values()] == pytest.approx([*found.ratios.values()], rel=0.05)

    def test_what_was_not_recomputed_does_not(self) -> None:
        found = scored(ROUND, range(300), 1.0, failed=[5])
        assert found.uncounted == {Reason.NOT_RECOMPUTED: 1}
        assert 5 not in found.ratios
        found = scored(ROUND, range(30), 1.0, sampled=range(10, 20))
        assert [*found.ratios] == [*range(10, 20)]
        assert found.uncounted == {Reason.NOT_RECOMPUTED: 20}

    def test_a_round_of_the_older_rule_does_not(self) -> None:
        older = make_round(distance_tolerance=None)
        assert older.honest_sigma is None
        found = scored(older, range(4), 1.0)
        assert (found.ratios, found.uncounted) == ({}, {Reason.NO_SIGMA: 4})

    def test_below_rate_1_all_numbers_but_the_first_do(self) -> None:
        half = make_round(honest_sigma=0.1, valid_rate=0.5)
        low = [nonce for nonce in range(40) if judged_batch(half, [nonce]).n_invalid == 0]
        found = scored(half, low, 1.0)
        assert [*found.ratios] == low
        alone = scored(half, low, 1.0, vectors=False)
        assert (alone.ratios, alone.uncounted) == ({}, {Reason.SELECTED: len(low)})

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"tolerance": 0.0}, "tolerance"),
            ({"tolerance": "0.01"}, "tolerance"),
            ({"honest_sigma": True}, "honest_sigma"),
            ({"honest_sigma": -0.1}, "honest_sigma"),
            ({"honest_sigma": 1e-9}, "tolerance"),
            ({"honest_sigma": 1e9}, "tolerance"),
        ],
    )
    def test_settings_that_cannot_be_are_refused(self, changes: dict[str, Any], named: str) -> None:
        body = validated_body(judged_batch(ROUND, range(4)))
        with pytest.raises(FieldError) as error:
            ScoredBatch.of_body({**body, **changes})
        assert error.value.field == named

    def test_a_body_of_before_there_was_a_sigma_does_not_count(self) -> None:
        body = validated_body(judged_batch(ROUND, range(4)))
        for name in ("tolerance", "honest_sigma", "numbers", "received_vectors", "vectors", "encoding"):
            del body[name]
        assert ScoredBatch.of_body(body).uncounted == {Reason.NO_SIGMA: 4}


def _first(body: dict[str, Any], count: int) -> dict[str, Any]:
    """The first entries of a body's lists of nonces."""
    names = ("nonces", "dist", "received_dist", "vectors", "received_vectors")
    return {name: body[name][:count] for name in names}


class TestRecord:
    def test_batches_and_rounds_add_up(self) -> None:
        record = ProverRecord(public_key="key")
        for seed, nonces in enumerate((range(10), range(5, 20))):
            batch = scored(ROUND, nonces, 1.0, seed=seed)
            record = record.after(batch, [n for n in batch.ratios if n > 9 or not seed], opens_round=not seed)
        nothing = scored(make_round(distance_tolerance=None), range(3))
        record = record.after(nothing, (), opens_round=True)
        assert (record.rounds, record.batches, record.evidence.nonces) == (1, 3, 20)
        assert record.uncounted == {Reason.REPEATED: 5, Reason.NO_SIGMA: 3}

    def test_rounds_of_another_sigma_and_as_many_numbers_as_they_like_are_judged_together(self) -> None:
        """1.5 sigma in each, and no batch is fraud."""
        record = ProverRecord(public_key="key")
        for seed in range(12):
            round_ = make_round(
                **{"honest_sigma": (0.05, 0.2)[seed % 2]},
                **{"numbers": (2, 4)[seed % 2], "fraud_threshold": 1e-7, "block_hash": f"block {seed}"},
            )
            judged = judged_batch(round_, range(16), 1.5, seed=seed)
            assert judged.verdict is Verdict.HONEST
            batch = ScoredBatch.of_verdict(judged, round_.hidden_size)
            record = record.after(batch, batch.ratios, opens_round=True)
        assert record.rounds == 12
        assert record.is_fraud(1e-7)
        shown = record.as_dict(1e-7)
        assert (shown["fraud_detected"], shown["nonces"]) == (True, 192)
        assert shown["p_value"] == pytest.approx(10 ** -shown["log10_largest_wealth"])
