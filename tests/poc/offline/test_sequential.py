"""What is recomputed next, and when it stops: by a real recomputation of the small model."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from offline_proofs import BATCH_SIZE, Prover, claiming, off, part, short_config

from hallmark.poc.core.errors import StateError
from hallmark.poc.offline.cases import JudgedCase, prover_records, summarize
from hallmark.poc.offline.model import OfflineModel
from hallmark.poc.offline.recompute import Recomputation
from hallmark.poc.offline.samples import Search
from hallmark.poc.offline.sequential import SequentialCases
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.round_tensors import RoundTensors
from hallmark.poc.verdict.cheat import Cheat
from hallmark.poc.verdict.decision import Outcome
from hallmark.poc.verdict.judge import Verdict
from hallmark.poc.verdict.sampling import drawing_order
from hallmark.poc.verdict.sequential_test import Evidence

SEARCH = Search(cheat=Cheat(0.3), power=0.99, seed="s")


@pytest.fixture(scope="module")
def honest(prover: Prover) -> ProofBatch:
    return prover.prove(range(60))


def cases(prover: Prover, proofs: Iterable[ProofBatch], **changes: object) -> list[JudgedCase]:
    """Batches of any provers in rounds with the same settings."""
    found = []
    for number, proof in enumerate(proofs, start=1):
        of_proof = {name: getattr(proof, name) for name in ("public_key", "block_hash", "block_height")}
        round_ = prover.round(short_config(**{**of_proof, **changes}))
        found.append(
            JudgedCase(
                sources=(f"proof {number}",),
                proof=proof,
                n_claimed_before=0,
                round=round_,
                nonces=tuple(dict.fromkeys(proof.nonces)),
            )
        )
    return found


def run(
    prover: Prover, found: Iterable[JudgedCase], search: Search = SEARCH
) -> tuple[list[JudgedCase], list[int]]:
    """The rows, and the sizes of the batches that were computed."""
    sequential, recomputation = SequentialCases(found, search), Recomputation(prover.model)
    sizes = [*sequential.run(recomputation)]
    assert sequential.n_undecided == 0
    rows = sequential.judged(recomputation, prover.model.numerics)
    assert sum(sizes) == sequential.n_recomputed == sum(len(row.nonces) for row in rows if row.verdict)
    return rows, sizes


def outcome(row: JudgedCase) -> Outcome:
    assert row.decision is not None
    return row.decision.outcome


def verdict(row: JudgedCase) -> Verdict:
    assert row.verdict is not None
    return row.verdict.verdict


class TestStops:
    def test_an_honest_prover_is_cleared_after_few_nonces_of_all_its_batches(
        self, prover: Prover, honest: ProofBatch
    ) -> None:
        parts = [part(honest, slice(0, 20)), part(honest, slice(20, 60))]
        [row], sizes = run(prover, cases(prover, parts))
        assert (outcome(row), verdict(row)) == (Outcome.CLEARED, Verdict.HONEST)
        assert row.sources == ("proof 1", "proof 2")
        assert set(sizes) == {BATCH_SIZE}
        assert row.decision is not None
        order = drawing_order(honest.nonces, "s", honest.block_hash, honest.public_key)
        assert row.decision.nonces == order[: sum(sizes)]
        assert sum(sizes) < 30
        assert {nonce < 20 for nonce in row.nonces} == {True, False}

    def test_a_forger_is_convicted_after_fewer(self, prover: Prover, honest: ProofBatch) -> None:
        [row], sizes = run(prover, cases(prover, [replace(honest, public_key="thief")]))
        assert (outcome(row), verdict(row)) == (Outcome.CONVICTED, Verdict.FRAUD)
        assert row.verdict is not None
        assert row.verdict.rejected_by == ("sequential",)
        assert [*row.verdict.tests] == ["sequential"]
        assert sizes == [BATCH_SIZE]

    def test_who_is_between_the_two_is_undecided_when_its_nonces_run_out(
        self, prover: Prover, honest: ProofBatch
    ) -> None:
        weak = off(part(honest, slice(0, 20)), np.random.default_rng(0), 0.11)
        search = replace(SEARCH, cheat=Cheat(0.12))
        [row], sizes = run(prover, cases(prover, [weak]), search)
        assert (outcome(row), verdict(row)) == (Outcome.UNDECIDED, Verdict.NO_VERDICT)
        assert sizes == [8, 8, 4]

    def test_a_share_of_wrong_nonces_is_looked_for(self, prover: Prover, honest: ProofBatch) -> None:
        cheating = off(prover.prove(range(400)), np.random.default_rng(1), 1.4, share=0.3)
        search = replace(SEARCH, cheat=Cheat(1.4, 0.3))
        rows, _ = run(prover, cases(prover, [cheating]), search)
        assert [*map(outcome, rows)] == [Outcome.CONVICTED]
        rows, _ = run(prover, cases(prover, [prover.prove(range(100))]), search)
        assert [*map(outcome, rows)] == [Outcome.CLEARED]

    def test_another_seed_draws_others(self, prover: Prover, honest: ProofBatch) -> None:
        drawn = []
        for seed in ("s", "t", "s"):
            [row], _ = run(prover, cases(prover, [honest]), replace(SEARCH, seed=seed))
            assert row.decision is not None
            drawn.append(row.decision.nonces)
        assert drawn[0] == drawn[2] != drawn[1]


class TestPacking:
    def test_batches_are_full_across_provers(self, prover: Prover, honest: ProofBatch) -> None:
        """Five provers, who are decided at different times, and are more than half of a batch."""
        rng = np.random.default_rng(2)
        proofs = [replace(honest, public_key="thief")]
        for number, noise in enumerate((0.0, 0.05, 0.08, 0.1)):
            proofs.append(off(prover.prove(range(60), public_key=f"prover {number}"), rng, noise))
        rows, sizes = run(prover, cases(prover, proofs))
        assert [*map(outcome, rows)] == [Outcome.CONVICTED, *[Outcome.CLEARED] * 4]
        assert set(sizes) == {BATCH_SIZE}
        drawn = [len(row.nonces) for row in rows]
        assert drawn[0] < min(drawn[1:])
        assert len(set(drawn)) > 2

    def test_more_provers_than_a_batch_has_room_for_fill_several(self, prover: Prover) -> None:
        proofs = [prover.prove(range(20), public_key=f"prover {number}") for number in range(11)]
        rows, sizes = run(prover, cases(prover, proofs))
        assert {*map(outcome, rows)} == {Outcome.CLEARED}
        assert set(sizes[:-1]) == {BATCH_SIZE}
        drawn = sorted(len(row.nonces) for row in rows)
        assert drawn[-1] - drawn[0] <= 2

    def test_a_step_has_batches_for_all_that_compute(self, prover: Prover, honest: ProofBatch) -> None:
        sequential = SequentialCases(cases(prover, [honest]), SEARCH, at_once=3)
        recomputation = Recomputation(prover.model)
        sizes = []
        for size in sequential.run(recomputation):
            sizes.append(size)
            assert recomputation.n_open == BATCH_SIZE * (-len(sizes) % 3)
        assert sizes == [BATCH_SIZE] * 3
        [row] = sequential.judged(recomputation, prover.model.numerics)
        assert outcome(row) is Outcome.CLEARED

    def test_rounds_go_on_beside_each_other(self, prover: Prover, honest: ProofBatch) -> None:
        later = prover.prove(range(60), block_hash="0xb", block_height=8)
        rows, sizes = run(prover, cases(prover, [honest, later]))
        assert [*map(outcome, rows)] == [Outcome.CLEARED] * 2
        assert [row.proof.block_height for row in rows] == [7, 8]
        assert set(sizes) == {BATCH_SIZE}

    def test_a_prover_with_few_nonces_leaves_its_place_to_others(
        self, prover: Prover, honest: ProofBatch
    ) -> None:
        few = part(prover.prove(range(3), public_key="few"), slice(0, 3))
        rows, sizes = run(prover, cases(prover, [few, honest]))
        assert [*map(outcome, rows)] == [Outcome.UNDECIDED, Outcome.CLEARED]
        assert set(sizes) == {BATCH_SIZE}


class TestClaims:
    def test_a_nonce_of_two_batches_counts_once(self, prover: Prover, honest: ProofBatch) -> None:
        again = [part(honest, slice(0, 12)), part(honest, slice(4, 16))]
        [row], _ = run(prover, cases(prover, again))
        assert row.decision is not None
        assert row.decision.n_claimed == 16
        assert len(row.decision.nonces) == len(set(row.decision.nonces))

    def test_a_second_and_wrong_claim_is_not_cleared(self, prover: Prover, honest: ProofBatch) -> None:
        """The first counts against a prover, as over time, and is right."""
        wrong = off(honest, np.random.default_rng(3), 1.4)
        [row], _ = run(prover, cases(prover, [honest, wrong]))
        assert (outcome(row), verdict(row)) == (Outcome.UNDECIDED, Verdict.NO_VERDICT)
        [row], _ = run(prover, cases(prover, [wrong, honest]))
        assert outcome(row) is Outcome.CONVICTED

    def test_a_batch_without_vectors_is_judged_by_its_distances(
        self, prover: Prover, honest: ProofBatch
    ) -> None:
        mixed = [part(honest, slice(0, 30)), claiming(part(honest, slice(30, 60)), honest.dist[30:])]
        [row], _ = run(prover, cases(prover, mixed))
        assert outcome(row) is Outcome.CLEARED
        forged = [mixed[0], claiming(mixed[1], [2.0 - distance for distance in mixed[1].dist])]
        [row], _ = run(prover, cases(prover, forged))
        assert outcome(row) is Outcome.CONVICTED

    def test_a_right_claim_of_the_other_kind_does_not_hide_a_wrong_one(
        self, prover: Prover, honest: ProofBatch
    ) -> None:
        wrong = off(honest, np.random.default_rng(3), 1.4)
        right_first, wrong_first = claiming(honest, honest.dist), claiming(wrong, wrong.dist)
        for proofs in ([right_first, wrong], [wrong, right_first], [honest, wrong_first]):
            [row], _ = run(prover, cases(prover, proofs))
            assert (outcome(row), verdict(row)) == (Outcome.CONVICTED, Verdict.FRAUD)

    @pytest.mark.parametrize("first", [True, False])
    def test_below_rate_1_a_batch_without_vectors_saves_no_forger(self, prover: Prover, first: bool) -> None:
        half = prover.prove(range(120), valid_rate=0.5)
        forged = replace(half, public_key="thief")
        without = claiming(part(forged, slice(0, 4)), forged.dist[:4])
        proofs = [without, forged] if first else [forged, without]
        rows, _ = run(prover, cases(prover, proofs, valid_rate=0.5))
        assert [row.sources for row in rows] == [("proof 2",), ("proof 1",)][:: 1 if first else -1]
        judged, refused = rows
        assert (outcome(judged), verdict(judged)) == (Outcome.CONVICTED, Verdict.FRAUD)
        assert judged.decision is not None
        assert judged.decision.n_claimed == len(half.nonces)
        assert (refused.round, refused.verdict) == (None, None)
        assert "2 or more of each nonce below rate 1, with vectors" in str(refused.error)

    def test_a_claim_that_does_not_count_is_as_far_off_as_can_be(self, prover: Prover) -> None:
        """Its number is right, and not below r_target."""
        every = prover.prove(range(40))
        [row], _ = run(prover, cases(prover, [every], valid_rate=0.5))
        assert (outcome(row), verdict(row)) == (Outcome.CONVICTED, Verdict.FRAUD)

    def test_below_rate_1_the_number_that_selects_is_left_out(self, prover: Prover) -> None:
        half = prover.prove(range(120), valid_rate=0.5)
        [row], _ = run(prover, cases(prover, [half], valid_rate=0.5))
        assert outcome(row) is Outcome.CLEARED
        numbers = half.numbers()
        assert numbers is not None
        shifted = off(half, np.random.default_rng(4), 0.5)
        [row], _ = run(prover, cases(prover, [shifted], valid_rate=0.5))
        assert outcome(row) is Outcome.CONVICTED

    def test_too_few_valid_nonces_are_fraud_by_density(self, prover: Prover) -> None:
        half = prover.prove(range(200), valid_rate=0.5)
        kept = [place for place, nonce in enumerate(half.nonces) if nonce % 5 < 2]
        thin = replace(
            half,
            nonces=tuple(half.nonces[place] for place in kept),
            dist=tuple(half.dist[place] for place in kept),
            vectors=tuple((half.vectors or ())[place] for place in kept),
            covered=(0, 199),
        )
        [row], _ = run(prover, cases(prover, [thin], valid_rate=0.5, fraud_threshold=1e-4))
        assert outcome(row) is Outcome.CLEARED, "what it delivers is right"
        assert verdict(row) is Verdict.FRAUD
        assert row.verdict is not None
        assert row.verdict.rejected_by == ("density",)
        assert [*row.verdict.tests] == ["sequential", "density"]
        assert row.decision is not None
        assert row.decision.level == 0.5e-4, "there are two tests"


class Failing(OfflineModel):
    """The small model, some nonces of which fail."""

    failing: frozenset[int] = frozenset()

    def numbers(self, tensors: RoundTensors, keys: Sequence[NonceKey]) -> list[list[float]]:
        found = super().numbers(tensors, keys)
        return [
            [float("nan")] * len(of_nonce) if nonce in self.failing else of_nonce
            for (_, nonce), of_nonce in zip(keys, found, strict=True)
        ]


class TestFailures:
    def test_with_many_failed_nonces_there_is_no_verdict(self, prover: Prover, honest: ProofBatch) -> None:
        model = Failing(prover.model.model, "cpu")
        for failing, expected in (
            (frozenset(honest.nonces[::2]), Verdict.NO_VERDICT),
            (frozenset(honest.nonces), Verdict.NO_VERDICT),
            (frozenset[int](), Verdict.HONEST),
        ):
            model.failing = failing
            sequential, recomputation = SequentialCases(cases(prover, [honest]), SEARCH), Recomputation(model)
            assert sum(sequential.run(recomputation)) >= 16
            [row] = sequential.judged(recomputation, model.numerics)
            assert verdict(row) is expected
            assert row.verdict is not None
            assert set(row.verdict.failed_nonces) == set(row.nonces) & failing

    @pytest.mark.parametrize("key", ["02a1b2c3", "thief"])
    def test_one_that_failed_among_few_is_no_end_without_a_verdict(self, prover: Prover, key: str) -> None:
        proof = replace(prover.prove(range(140)), public_key=key)
        model = Failing(prover.model.model, "cpu")
        order = drawing_order(proof.nonces, "s", proof.block_hash, key)
        for failing, n_drawn, expected in (
            (order[:1], 104, Verdict.FRAUD if key == "thief" else Verdict.HONEST),
            (order[:2], 140, Verdict.NO_VERDICT),
        ):
            model.failing = frozenset(failing)
            sequential, recomputation = SequentialCases(cases(prover, [proof]), SEARCH), Recomputation(model)
            assert sum(sequential.run(recomputation)) == n_drawn
            [row] = sequential.judged(recomputation, model.numerics)
            assert verdict(row) is expected

    def test_who_declares_many_as_failed_is_not_honest(self, prover: Prover, honest: ProofBatch) -> None:
        declaring = replace(honest, failed_nonces=tuple(range(100, 110)))
        [row], _ = run(prover, cases(prover, [declaring]))
        assert (outcome(row), verdict(row)) == (Outcome.CLEARED, Verdict.NO_VERDICT)

    def test_a_prover_of_failed_nonces_alone_has_no_verdict(self, prover: Prover, honest: ProofBatch) -> None:
        nothing = replace(honest, nonces=(), dist=(), vectors=(), failed_nonces=(1, 2))
        [row], sizes = run(prover, cases(prover, [nothing]))
        assert (verdict(row), sizes) == (Verdict.NO_VERDICT, [])

    def test_so_has_one_of_several_such_batches_and_the_others_are_judged(
        self, prover: Prover, honest: ProofBatch
    ) -> None:
        failed = [
            replace(
                honest,
                public_key="none",
                nonces=(),
                dist=(),
                vectors=None,
                encoding=None,
                failed_nonces=(nonce,),
            )
            for nonce in (1, 2)
        ]
        rows, _ = run(prover, cases(prover, [*failed, honest]))
        assert [*map(verdict, rows)] == [Verdict.NO_VERDICT, Verdict.HONEST]
        assert rows[0].sources == ("proof 1", "proof 2")


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"distance_tolerance": None}, "by the older rule, none, errors are not looked at"),
            ({"honest_sigma": 0.3}, "calibrate a smaller sigma"),
        ],
    )
    def test_rounds_that_say_too_little(
        self, prover: Prover, honest: ProofBatch, changes: dict[str, object], problem: str
    ) -> None:
        rows, sizes = run(prover, cases(prover, [honest, honest], **changes))
        assert [problem in str(row.error) for row in rows] == [True, True]
        assert [(row.round, row.verdict, row.sources) for row in rows] == [
            (None, None, ("proof 1",)),
            (None, None, ("proof 2",)),
        ]
        assert sizes == []

    def test_one_number_below_rate_1(self, prover: Prover) -> None:
        half = prover.prove(range(40), valid_rate=0.5)
        [row], _ = run(prover, cases(prover, [claiming(half, half.dist)], valid_rate=0.5))
        assert "2 or more of each nonce below rate 1, with vectors" in str(row.error)

    def test_what_was_refused_before_stays_refused(self, prover: Prover, honest: ProofBatch) -> None:
        [case] = cases(prover, [honest])
        refused = replace(case, round=None, error=StateError("another block"))
        rows, _ = run(prover, [refused, case])
        assert [row.error is None for row in rows] == [True, False]


class TestSummary:
    def test_cleared_provers_are_credited_with_all_that_was_not_found_invalid(
        self, prover: Prover, honest: ProofBatch
    ) -> None:
        parts = [part(honest, slice(0, 20)), part(honest, slice(10, 60))]
        thief = replace(honest, public_key="thief")
        rows, _ = run(prover, cases(prover, [*parts, thief]))
        records = prover_records(rows)
        summary = summarize(rows, records, 0.01, {}, None)
        assert (summary["batches"], summary["honest"], summary["fraud"]) == (3, 1, 1)
        assert summary["credited_nonces"] == 60

    def test_a_claim_that_does_not_count_is_credited_to_nobody_drawn_or_not(self, prover: Prover) -> None:
        every, half = prover.prove(range(200)), prover.prove(range(200), valid_rate=0.5)
        order = drawing_order(every.nonces, "s", every.block_hash, every.public_key)
        last = next(nonce for nonce in reversed(order) if nonce not in half.nonces)
        place = every.nonces.index(last)
        assert every.vectors is not None
        assert half.vectors is not None
        more = replace(
            half,
            nonces=(*half.nonces, last),
            dist=(*half.dist, every.dist[place]),
            vectors=(*half.vectors, every.vectors[place]),
        )
        [row], _ = run(prover, cases(prover, [more], valid_rate=0.5))
        assert (outcome(row), last in row.nonces) == (Outcome.CLEARED, False)
        summary = summarize([row], prover_records([row]), 0.01, {}, None)
        assert summary["credited_nonces"] == len(half.nonces)

    def test_over_time_nonces_count_in_the_order_in_which_they_were_drawn(
        self, prover: Prover, honest: ProofBatch
    ) -> None:
        """So that what is found over time is what stopped the draw; in ascending order it would not be."""
        noisy = off(honest, np.random.default_rng(5), 0.14)
        parts = [part(noisy, slice(0, 20)), part(noisy, slice(20, 60))]
        [row], _ = run(prover, cases(prover, parts))
        [record] = prover_records([row])
        assert row.decision is not None
        stopped_by = row.decision.evidence
        assert record.evidence.log_stakes == pytest.approx(stopped_by.log_stakes, rel=1e-9)
        assert record.evidence.log_largest_wealth == pytest.approx(stopped_by.log_largest_wealth)
        ascending = Evidence().after([row.decision.ratios[nonce] for nonce in sorted(row.nonces)])
        assert ascending.log_largest_wealth != pytest.approx(stopped_by.log_largest_wealth)
        assert (record.rounds, record.batches) == (1, 2)
        assert record.evidence.nonces == len(row.nonces)
        assert sum(record.uncounted.values()) == 60 - len(row.nonces)

    def test_gaps_between_batches_are_named(self, prover: Prover, honest: ProofBatch) -> None:
        parts = [
            replace(part(honest, slice(first, last + 1)), covered=(first, last))
            for first, last in ((0, 19), (30, 59))
        ]
        rows, _ = run(prover, cases(prover, parts))
        summary = summarize(rows, prover_records(rows), 0.01, {}, None)
        assert [gap["indices"] for gap in summary["gaps"]] == [[20, 29]]
