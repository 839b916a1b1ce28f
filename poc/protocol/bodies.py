"""The bodies that are sent about proofs: what was found, and what became of it.

The fields are those of the two older generations of clients together, and ours. An older name stays beside
its better one.
"""

from typing import Annotated

from pydantic import Field

# pydantic reads the types of typing from Python 3.12 on only.
from typing_extensions import TypedDict

from hallmark.poc.protocol.vectors import Encoding

__all__ = [
    "Conclusion",
    "GeneratedBody",
    "GeneratedTemplate",
    "RecomputedVectors",
    "ValidatedBody",
    "VerdictBody",
]

_Nonces = list[int]
_Distances = list[float]
_Vectors = list[str]


class _Origin(TypedDict):
    """Whose nonces these are, and of which block."""

    public_key: str
    block_hash: str
    block_height: int
    node_id: int


class GeneratedTemplate(_Origin):
    """The body of `/generated` without what was found."""

    protocol: str
    round: Annotated[str, Field(description="The digest of the round's settings.")]
    round_settings: Annotated[dict[str, str], Field(description="The texts that the digest is of.")]
    numerics: dict[str, str | int | bool]
    r_target: float
    encoding: Encoding


class GeneratedBody(GeneratedTemplate):
    """The body of `/generated`: a proof batch, and the bound that it is under."""

    covered: list[int]
    nonces: _Nonces
    dist: _Distances
    vectors: _Vectors
    failed_nonces: _Nonces


class Conclusion(TypedDict):
    """What a judged batch came to; `hallmark.poc.verdict.judge.ValidatedBatch` says what each field is."""

    verdict: str
    fraud_detected: bool
    probability_honest: float
    tests: dict[str, float]
    rejected_by: list[str]
    spoke: Annotated[list[str], Field(description="The older name of rejected_by.", deprecated=True)]
    error_rms: float | None
    error_mean: float | None
    n_invalid: int
    n_judged: int
    n_duplicates: int
    n_covered: int | None
    invalid_nonces: _Nonces
    failed_nonces: _Nonces
    r_target: float
    fraud_threshold: float
    tolerance: float | None
    honest_sigma: float | None
    numbers: Annotated[
        int, Field(description="How many numbers of a nonce it was judged by; 1 without vectors.")
    ]
    numerics_differ: list[str]


class VerdictBody(Conclusion):
    """A verdict as `/validate` answers it."""

    nonces: _Nonces
    computed_distances: list[float | None]
    valid: list[bool]


class RecomputedVectors(TypedDict):
    """The recomputed numbers of a batch, in step with its nonces as they were received."""

    vectors: Annotated[
        list[str | None],
        Field(description="Recomputed; null where that failed or the nonce was not sampled."),
    ]
    encoding: Encoding


class ValidatedBody(_Origin, Conclusion, RecomputedVectors):
    """The body of `/validated`."""

    request_id: str
    nonces: _Nonces
    dist: Annotated[
        list[float | None],
        Field(description="Recomputed; null where that failed or the nonce was not sampled."),
    ]
    received_dist: _Distances
    computed_distances: list[float | None]
    received_distances: _Distances
    received_vectors: Annotated[_Vectors | None, Field(description="Null where the batch brought none.")]
    valid: list[bool]
