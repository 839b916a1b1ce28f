"""What two platforms have computed of the same nonces, and how far that is apart."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hallmark.poc.core.errors import FieldError, StateError
from hallmark.poc.offline.cases import identity
from hallmark.poc.offline.proof_files import DeliveredBatch
from hallmark.poc.protocol.law import distance_of, distance_std
from hallmark.poc.protocol.proof import Numerics, ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.verdict.calibration import Calibration, check_law
from hallmark.poc.verdict.hypothesis_tests import number_errors

if TYPE_CHECKING:
    # It brings the kernels, and with them Triton, which is needed to recompute only.
    from hallmark.poc.offline.recompute import Recomputation

__all__ = ["PlatformNumbers", "claimed", "measured", "recomputed", "validated"]

_Key = tuple[str, int, str, int]
"""Block hash, height, public key and nonce."""


@dataclass(frozen=True)
class PlatformNumbers:
    """What one platform has computed.

    Attributes:
        distances: What it computed; NaN where that failed.
        numbers: The nonces' numbers; none of those without vectors.
        digests: With which round settings, where that is known.
        numerics: Its fingerprint; empty where it is not known.
    """

    distances: Mapping[_Key, float]
    numbers: Mapping[_Key, Sequence[float]]
    digests: Mapping[_Key, str | None]
    numerics: Numerics


def claimed(batches: Sequence[DeliveredBatch]) -> PlatformNumbers:
    """Return what the provers of some proofs have computed, which must be one platform at rate 1.

    Raises:
        StateError: They are of several platforms, or of a round below rate 1.
    """
    numerics = [batch.proof.numerics for batch in batches if batch.proof.numerics is not None]
    if any(other != numerics[0] for other in numerics[1:]):
        raise StateError("the proofs are of several platforms, by their numerics; calibrate each by itself")
    distances: dict[_Key, float] = {}
    numbers: dict[_Key, Sequence[float]] = {}
    digests: dict[_Key, str | None] = {}
    for batch in batches:
        if batch.r_target is not None and batch.r_target < 2.0:
            raise _below_rate_1(batch.r_target)
        proof = batch.proof
        _take(proof, distances, numbers)
        digests |= {identity(proof, nonce): proof.round_digest for nonce in proof.nonces}
    return PlatformNumbers(distances, numbers, digests, dict(numerics[0]) if numerics else {})


def _take(proof: ProofBatch, distances: dict[_Key, float], numbers: dict[_Key, Sequence[float]]) -> None:
    """Note what a batch says of its nonces."""
    keys = [identity(proof, nonce) for nonce in proof.nonces]
    distances |= dict(zip(keys, proof.dist, strict=True))
    vectors = proof.numbers()
    if vectors is not None:
        numbers |= dict(zip(keys, vectors.tolist(), strict=True))


def validated(batches: Sequence[DeliveredBatch]) -> PlatformNumbers:
    """Return what the validator of some `/validated` bodies has computed.

    Raises:
        FieldError: The proofs carry no recomputed distances.
    """
    distances: dict[_Key, float] = {}
    numbers: dict[_Key, Sequence[float]] = {}
    for batch in batches:
        if batch.computed is None:
            raise FieldError(
                "PROOFS",
                batch.source,
                "a body of /validated, which has the distances of both sides; or give --against or --model",
            )
        _take(batch.computed, distances, numbers)
    return PlatformNumbers(distances, numbers, {}, {})


def recomputed(
    recomputation: "Recomputation", rounds: Sequence[Round], numerics: Numerics
) -> PlatformNumbers:
    """Return what this machine has computed of some rounds.

    Raises:
        StateError: One of the rounds is below rate 1.
    """
    distances: dict[_Key, float] = {}
    numbers: dict[_Key, Sequence[float]] = {}
    for round_ in rounds:
        if not round_.every_nonce_counts:
            raise _below_rate_1(round_.r_target)
        config = round_.config
        for nonce, its_own in recomputation.numbers(round_).items():
            key = (config.block_hash, config.block_height, config.public_key, nonce)
            failed = not all(map(math.isfinite, its_own))
            distances[key] = math.nan if failed else distance_of(its_own[0], round_.hidden_size)
            numbers[key] = its_own
    return PlatformNumbers(distances, numbers, {}, numerics)


def measured(
    first: PlatformNumbers, second: PlatformNumbers, common: Sequence[_Key], hidden_size: int
) -> Calibration:
    """Compare what two platforms have computed; a nonce that failed on one of them is left out.

    Raises:
        FieldError: There are too few, or the width is another one.
        StateError: The sides' rounds differ, or are below rate 1.
    """
    for key in common:
        digests = first.digests.get(key), second.digests.get(key)
        if None not in digests and digests[0] != digests[1]:
            raise StateError(
                f"nonce {key[3]} was computed with the round settings {digests[0]!r} on one platform and "
                f"{digests[1]!r} on the other"
            )
    keys = [key for key in common if math.isfinite(second.distances[key])]
    left, right = ([side.distances[key] for key in keys] for side in (first, second))
    theirs, ours = None, None
    if keys and all(key in first.numbers and key in second.numbers for key in keys):
        counts = {len(side.numbers[key]) for side in (first, second) for key in keys}
        if len(counts) > 1:
            raise StateError(f"the sides have {' and '.join(map(str, sorted(counts)))} numbers a nonce")
        theirs, ours = (np.array([side.numbers[key] for key in keys]) for side in (first, second))
    calibration = Calibration.measure(number_errors(left, right, distance_std(hidden_size), theirs, ours))
    check_law(left, hidden_size)
    return calibration


def _below_rate_1(r_target: float) -> StateError:
    return StateError(
        f"the proofs are of a round with r_target {r_target:.6f}, below rate 1, where only low distances are "
        "reported and errors are selected with them; calibrate at rate 1"
    )
