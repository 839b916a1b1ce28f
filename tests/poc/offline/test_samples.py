"""Samples of a stated power: of each prover and round, over its batches."""

from dataclasses import replace

import numpy as np
import pytest
from builders import make_batch
from offline_proofs import NUMBERS, Prover, claiming, part, short_config

from hallmark.poc.core.errors import FieldError
from hallmark.poc.offline.cases import JudgedCase, joined
from hallmark.poc.offline.samples import Search, sampled_for_power
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.verdict.cheat import Allowance, Cheat
from hallmark.poc.verdict.power import nonces_needed
from hallmark.poc.verdict.sampling import draw_sample, drawing_order

SEARCH = Search(cheat=Cheat(0.25), power=0.99, seed="s")


def claim(public_key: str, nonces: range) -> ProofBatch:
    rng = np.random.default_rng(0)
    return make_batch(
        nonces,
        rng.normal(1.4, 0.01, len(nonces)).tolist(),
        public_key=public_key,
        block_hash="block",
        block_height=1,
        vectors=("AAAAAA==",) * len(nonces),
        encoding={"dtype": "f16", "k_dim": NUMBERS, "endian": "le"},
    )


def case(prover: Prover, proof: ProofBatch, **changes: object) -> JudgedCase:
    round_ = prover.round(
        short_config(public_key=proof.public_key, block_hash="block", block_height=1, **changes)
    )
    return JudgedCase(sources=("file",), proof=proof, n_claimed_before=0, round=round_, nonces=proof.nonces)


def without_vectors(proof: ProofBatch) -> ProofBatch:
    return claiming(proof, proof.dist)


def needed(prover: Prover, search: Search = SEARCH, numbers: int = NUMBERS) -> int:
    allowed = Allowance.of_config(short_config(), numbers, 1.0)
    found = nonces_needed(search.cheat, allowed, power=search.power)
    assert found is not None
    return found


def test_the_sample_is_of_a_prover_and_not_of_each_batch(prover: Prover) -> None:
    whole = claim("key", range(300))
    cases = [case(prover, part(whole, slice(first, first + 60))) for first in range(0, 300, 60)]
    cases.append(case(prover, claim("other", range(300))))
    found, samples = sampled_for_power(cases, SEARCH)
    count = needed(prover)
    first = {nonce for each in found[:5] for nonce in each.nonces}
    lowest = set(drawing_order(range(300), "s", "block", "key")[:count])
    of_each = {nonce for each in cases[:5] for nonce in draw_sample(each.proof, 1, "s")}
    assert first == lowest | of_each
    assert len(found[5].nonces) == count
    assert [(each.public_key, each.needed, each.drawn, each.claimed) for each in samples] == [
        ("key", count, len(first), 300),
        ("other", count, count, 300),
    ]
    assert all(each.is_enough for each in samples)


def test_each_batch_has_one_at_least(prover: Prover) -> None:
    whole = claim("key", range(300))
    parts = [case(prover, part(whole, slice(place, place + 1))) for place in range(100)]
    found, [sample] = sampled_for_power(parts, SEARCH)
    assert {len(each.nonces) for each in found} == {1}
    assert sample.drawn == 100 > sample.needed


def test_fewer_than_needed_are_all_taken(prover: Prover) -> None:
    few = claim("key", range(5))
    [found], [sample] = sampled_for_power([case(prover, few)], SEARCH)
    assert found.nonces == few.nonces
    assert not sample.is_enough
    assert sample.as_dict() == {
        **{"public_key": "key", "block_hash": "block", "needed": needed(prover)},
        **{"drawn": 5, "claimed": 5, "power_reached": False},
    }


def test_a_batch_without_vectors_leaves_the_prover_to_number_0(prover: Prover) -> None:
    whole = claim("key", range(300))
    parts = [part(whole, slice(0, 150)), part(whole, slice(150, 300))]
    parts[1] = without_vectors(parts[1])
    _, [sample] = sampled_for_power([case(prover, each) for each in parts], SEARCH)
    assert sample.needed == needed(prover, numbers=1) > needed(prover)


def test_of_those_with_vectors_there_are_as_many_as_they_take_by_themselves(prover: Prover) -> None:
    """And all together are judged by as many as number 0 takes, drawn evenly."""
    whole = claim("key", range(600))
    parts = [part(whole, slice(0, 590)), part(whole, slice(590, 600)), part(whole, slice(200, 201))]
    parts[0] = without_vectors(parts[0])
    cases = [case(prover, each) for each in parts]
    found, [sample] = sampled_for_power(cases, SEARCH)
    by_one, by_two = needed(prover, numbers=1), needed(prover)
    order = drawing_order(range(600), "s", "block", "key")
    with_vectors = [nonce for nonce in order if nonce == 200 or nonce >= 590]
    assert len({*order[:by_one]}.intersection(with_vectors)) < min(by_two, len(with_vectors))
    all_together, those_with_vectors = joined(found)
    assert set(all_together.nonces) == {*order[:by_one]}
    assert those_with_vectors.with_vectors
    assert set(those_with_vectors.nonces) == {*with_vectors[:by_two], 200}
    assert sample.needed == by_one
    assert sample.drawn == len({nonce for each in found for nonce in each.nonces})


def test_small_batches_do_not_thin_the_sample_of_all_together(prover: Prover) -> None:
    """Right nonces that are sent one by one would else outnumber the wrong ones of a large batch."""
    whole = claim("key", range(300))
    slices = [slice(0, 150), *(slice(place, place + 1) for place in range(150, 300))]
    found, _ = sampled_for_power([case(prover, part(whole, each)) for each in slices], SEARCH)
    assert all(each.nonces for each in found)
    [together] = joined(found)
    assert set(together.nonces) == {*drawing_order(range(300), "s", "block", "key")[: needed(prover)]}


def test_below_rate_1_a_batch_without_vectors_does_not_keep_the_others_from_being_judged(
    prover: Prover,
) -> None:
    whole = claim("key", range(300))
    rate = {"valid_rate": 0.999}
    brought = case(prover, part(whole, slice(0, 200)), **rate)
    without = case(prover, without_vectors(part(whole, slice(150, 300))), **rate)
    nothing = {"nonces": (), "dist": (), "vectors": None, "encoding": None, "failed_nonces": (1_000,)}
    failed = case(prover, replace(whole, **nothing), **rate)  # type: ignore[arg-type]
    [alone], [sample_alone] = sampled_for_power([brought], SEARCH)
    found, [sample] = sampled_for_power([without, brought, failed], SEARCH)
    assert found[0].round is None
    assert "2 or more of each nonce below rate 1, with vectors" in str(found[0].error)
    assert (found[1], sample) == (alone, sample_alone)
    assert 0 < sample.needed == len(alone.nonces) < 200
    assert (found[2].round, found[2].error) == (failed.round, None)
    only, samples = sampled_for_power([without, failed], SEARCH)
    assert [each.error is None for each in only] == [False, False]
    assert samples == []


def test_nor_does_it_where_number_0_does_not_find_the_cheat(prover: Prover) -> None:
    whole = claim("key", range(60))
    stated = {"honest_sigma": 0.1, "honest_kurtosis": 3.0}
    parts = [part(whole, slice(0, 30)), without_vectors(part(whole, slice(30, 60)))]
    cases = [case(prover, each, **stated) for each in parts]
    found, [sample] = sampled_for_power(cases, replace(SEARCH, cheat=Cheat(0.1025)))
    assert (found[0].nonces, found[0].error) == (parts[0].nonces, None)
    assert "16,384 nonces convict with a probability of 0.99" in str(found[1].error)
    assert (sample.drawn, sample.claimed) == (30, 30)
    assert 1_000 < sample.needed < 16_384


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"distance_tolerance": None}, "by the older rule, none, errors are not looked at"),
        ({"honest_sigma": 0.3}, "16,384 nonces convict with a probability of 0.99; with a share of 1 they"),
    ],
)
def test_what_nothing_finds_is_refused(prover: Prover, changes: dict[str, object], problem: str) -> None:
    good = case(prover, claim("good", range(50)))
    refused = case(prover, claim("key", range(50)), **changes)
    earlier = replace(good, round=None, error=FieldError("x", 1, "2"))
    found, samples = sampled_for_power([refused, good, earlier], SEARCH)
    assert problem in str(found[0].error)
    assert (found[0].round, found[2]) == (None, earlier)
    assert [sample.public_key for sample in samples] == ["good"]


def test_a_power_of_no_use_is_refused() -> None:
    with pytest.raises(FieldError, match="power"):
        Search(cheat=Cheat(0.1), power=1.0, seed="s")
