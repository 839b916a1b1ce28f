"""The demo's proofs on the small model, judged without a server: two honest ones, nine that are not."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import offline_proofs
import pytest

from hallmark.poc.core.errors import StateError
from hallmark.poc.offline.model import OfflineModel
from hallmark.poc.protocol.config import PoCConfig
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.verdict.judge import ValidatedBatch, Verdict, judge
from hallmark.server.demo.claims import CLAIMED_NONCES, Claim, claims
from hallmark.server.demo.prover import Prover
from hallmark.server.demo.story import FRAUD_THRESHOLD
from hallmark.server.models.small import LAYERS

SHAPE: dict[str, Any] = {"seq_len": 64, "batch_size": 32}
NONCES = 96


@contextmanager
def step(_: str) -> Iterator[Callable[[str], None]]:
    yield lambda _: None


def ignore(_: str) -> None:
    """Nobody looks on."""


@pytest.fixture(scope="module")
def prover(small_model: Path) -> Prover:
    return Prover(OfflineModel.load(small_model, device="cpu", dtype="float32"), SHAPE)


@pytest.fixture(scope="module")
def proofs(small_model: Path, prover: Prover) -> tuple[ProofBatch, ProofBatch]:
    """Honest proofs of two blocks."""
    node = offline_proofs.Prover(small_model)
    node.model = prover.model
    first = node.prove(range(NONCES), block_hash="first", block_height=1, **SHAPE)
    return first, node.prove(range(NONCES), block_hash="second", block_height=2, **SHAPE)


@pytest.fixture(scope="module")
def claimed(prover: Prover, proofs: tuple[ProofBatch, ProofBatch]) -> list[Claim]:
    return list(claims(prover, *proofs, step))


def verdict(prover: Prover, proof: ProofBatch, settings: Mapping[str, Any]) -> ValidatedBatch:
    """What a validator of the second block says, who recomputes in the same arithmetic."""
    config = PoCConfig(
        block_hash="second",
        block_height=2,
        public_key=proof.public_key,
        fraud_threshold=FRAUD_THRESHOLD,
        **SHAPE,
        **settings,
    )
    round_ = Round.resolve(config, prover.model.deployed("", 64 * 32))
    proof.check_against(round_, prover.model.numerics)
    numbers = prover.numbers(proof, ignore)
    return judge(proof, dict(zip(proof.nonces, numbers, strict=True)), round_)


def test_every_claim_gets_the_verdict_that_it_deserves(
    prover: Prover, proofs: tuple[ProofBatch, ProofBatch], claimed: list[Claim]
) -> None:
    calibration = prover.calibration(proofs[0], prover.numbers(proofs[0], ignore))
    assert calibration.sigma < 1e-3, "vectors are rounded, and the rest is the same"
    assert [claim.deserved for claim in claimed].count(Verdict.HONEST) == 2
    assert len(claimed) == 11
    for claim in claimed:
        if claim.deserved is None:
            with pytest.raises(StateError, match="at height 3, the round about block 'second' at height 2"):
                verdict(prover, claim.proof, calibration.settings)
            continue
        found = verdict(prover, claim.proof, calibration.settings)
        assert found.verdict is claim.deserved, claim.title
        assert bool(found.rejected_by) is (claim.deserved is Verdict.FRAUD)


def test_cheaters_prove_a_part_of_the_honest_nonces(
    proofs: tuple[ProofBatch, ProofBatch], claimed: list[Claim]
) -> None:
    assert claimed[0].proof == proofs[1]
    for claim in claimed[1:]:
        assert claim.proof.nonces == tuple(range(CLAIMED_NONCES))
        assert len(claim.proof.dist) == CLAIMED_NONCES
        numbers = claim.proof.numbers()
        assert numbers is not None
        assert numbers.shape == (CLAIMED_NONCES, 14)


def test_the_model_is_whole_again(
    prover: Prover, proofs: tuple[ProofBatch, ProofBatch], claimed: list[Claim]
) -> None:
    assert claimed
    bare = replace(proofs[1], vectors=None, encoding=None)
    assert prover.numbers(bare, ignore) == prover.numbers(proofs[1], ignore)
    assert prover.calibration(proofs[1], prover.numbers(proofs[1], ignore)).sigma < 1e-3


def test_a_claim_is_told_in_two_lines_of_a_terminal(claimed: list[Claim]) -> None:
    assert [claim.title for claim in claimed if str(LAYERS) in claim.title] == [
        f"1 of {LAYERS} layers left out",
        f"2 of {LAYERS} layers cut short",
    ]
    for claim in claimed:
        assert len(claim.title) < 32
        assert len(claim.story) <= 76
        assert claim.story.endswith(".")
