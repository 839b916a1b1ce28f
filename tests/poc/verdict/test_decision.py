"""What nonce after nonce says of a prover, and what claims of a nonce count."""

import pytest
from builders import make_claim, make_round

from hallmark.poc.verdict.clearing import Clearing
from hallmark.poc.verdict.decision import Claims, Decision, Outcome

LARGEST = 12.25


def decision(n_claimed: int = 100) -> Decision:
    return Decision(n_claimed=n_claimed, clearing=Clearing(4.0, LARGEST), power=0.99, level=0.01)


class TestDecision:
    def test_exact_numbers_clear_and_others_convict(self) -> None:
        begin = decision()
        assert (begin.outcome, begin.is_over) == (Outcome.UNDECIDED, False)
        cleared = begin.after(range(40), dict.fromkeys(range(40), (0.0, 0.0)))
        assert (cleared.outcome, cleared.is_over) == (Outcome.CLEARED, True)
        convicted = begin.after(range(10), dict.fromkeys(range(10), (LARGEST, LARGEST)))
        assert (convicted.outcome, convicted.is_over) == (Outcome.CONVICTED, True)

    def test_a_conviction_weighs_more(self) -> None:
        cleared = decision().after(range(40), dict.fromkeys(range(40), (0.0, 0.0)))
        later = range(40, 80)
        assert cleared.after(later, dict.fromkeys(later, (LARGEST, LARGEST))).outcome is Outcome.CONVICTED

    def test_the_first_claim_counts_against_and_the_worst_for_a_prover(self) -> None:
        worse = decision().after(range(40), dict.fromkeys(range(40), (0.0, LARGEST)))
        assert worse.outcome is Outcome.UNDECIDED
        assert worse.evidence.p_value == 1.0
        assert worse.ratios == dict.fromkeys(range(40), 0.0)

    def test_one_that_failed_among_few_asks_for_more(self) -> None:
        """Else there were an outcome, and no verdict of it, with nonces left that could bring one."""
        for ratio, outcome in ((0.0, Outcome.CLEARED), (LARGEST, Outcome.CONVICTED)):
            found = decision(300).after(range(40), dict.fromkeys(range(1, 40), (ratio, ratio)))
            assert (found.outcome, found.n_failed, found.is_over) == (outcome, 1, False)
            more = range(40, 99)
            found = found.after(more, dict.fromkeys(more, (ratio, ratio)))
            assert (found.n_drawn, found.is_over) == (99, False)
            assert found.after([99], {99: (ratio, ratio)}).is_over
        failed = decision(40).after(range(40), dict.fromkeys(range(1, 40), (0.0, 0.0)))
        assert failed.is_over, "no nonce is left"

    def test_a_step_costs_what_is_new_in_it(self) -> None:
        """It holds on to the one before, whose nonces are not copied; ten thousand are not too deep."""
        begin = found = decision(10_000)
        for nonce in range(10_000):
            before, found = found, found.after([nonce], {nonce: (1.0, 1.0)})
            assert found._last is not None
            assert found._last.before is before._last
        assert found.nonces == tuple(range(10_000))
        assert [*found.ratios] == [*range(10_000)]
        assert found.n_drawn == 10_000
        assert found != begin
        assert "n_drawn=10000" in repr(found)

    def test_failed_nonces_are_drawn_and_show_nothing(self) -> None:
        after = decision(4).after([3, 1], {1: (0.0, 0.0)}).after([2, 0], {})
        assert (after.nonces, [*after.ratios], after.evidence.nonces) == ((3, 1, 2, 0), [1], 1)
        assert (after.outcome, after.is_over) == (Outcome.UNDECIDED, True)
        said = after.as_dict()
        assert (said["outcome"], said["recomputed"], said["claimed"]) == ("undecided", 4, 4)
        assert (said["convicted_below"], said["cleared_from"]) == (0.01, pytest.approx(0.01))


class TestClaims:
    def test_ratios_are_those_of_each_claim(self) -> None:
        round_ = make_round(seq_len=16, readout="rows", inputs="tokens", numbers=2, honest_sigma=0.1)
        first = make_claim(round_, [7, 3], [(0.5, 0.25), (0.0, 0.0)])
        second = make_claim(round_, [3, 5], [(0.0, 0.25), (1.0, 1.0)])
        claims = Claims([first, second], round_, LARGEST)
        assert claims.nonces == [7, 3, 5]
        found = claims.scores([5, 3, 7], {7: (0.5, 0.0), 3: (0.0, 0.0), 5: (float("nan"),)})
        assert found.keys() == {3, 7}
        # An error of 0.25 s counts in full, as the limit is 0.35 s.
        assert found[3] == pytest.approx((0.0, 0.25**2 / 2 / 0.01), abs=1e-3)
        assert found[7] == pytest.approx((0.25**2 / 2 / 0.01,) * 2, rel=1e-3)

    def test_a_batch_without_vectors_is_known_by_its_first_numbers(self) -> None:
        round_ = make_round(seq_len=16, readout="rows", inputs="tokens", numbers=2, honest_sigma=0.1)
        claims = Claims([make_claim(round_, [7], [(0.5, 9.0)], vectors=False)], round_, LARGEST)
        assert claims.scores([7], {7: (0.5, 0.0)})[7] == pytest.approx((0.0, 0.0), abs=1e-9)

    def test_claims_with_vectors_and_without_both_count(self) -> None:
        round_ = make_round(seq_len=16, readout="rows", inputs="tokens", numbers=2, honest_sigma=0.1)
        right, wrong = make_claim(round_, [7], [(0.0, 0.0)]), make_claim(round_, [7], [(0.0, 0.25)])
        first = make_claim(round_, [7], [(0.0, 9.0)], vectors=False)
        far = make_claim(round_, [7], [(0.5, 0.0)], vectors=False)
        of_wrong, of_far = 0.25**2 / 2 / 0.01, LARGEST
        for claimed, against, worst in (
            ([first, wrong], of_wrong / 2, of_wrong),
            ([wrong, first], of_wrong / 2, of_wrong),
            ([right, far], of_far / 2, of_far),
            ([right, far, wrong, first], of_far / 2, of_far),
            ([right, wrong], 0.0, of_wrong),
        ):
            found = Claims(claimed, round_, LARGEST).scores([7], {7: (0.0, 0.0)})
            assert found[7] == pytest.approx((against, worst), rel=1e-3, abs=1e-6)

    def test_a_claim_that_does_not_count_is_as_far_off_as_can_be(self) -> None:
        """A number above 0 is a distance below √2."""
        round_ = make_round(
            seq_len=16, readout="rows", inputs="tokens", numbers=2, honest_sigma=0.1, valid_rate=0.5
        )
        claims = Claims([make_claim(round_, [1, 2], [(0.5, 0.5), (-0.5, 0.5)])], round_, LARGEST)
        found = claims.scores([1, 2], {1: (0.5, 0.5), 2: (-0.5, 0.5)})
        assert found[1] == pytest.approx((0.0, 0.0), abs=1e-6)
        assert found[2] == (LARGEST, LARGEST)
