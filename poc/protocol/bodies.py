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

    public_key: Annotated[str, Field(description="Whose nonces these are.")]
    block_hash: Annotated[str, Field(description="The block that they are computed for.")]
    block_height: Annotated[int, Field(description="Its height.")]
    node_id: Annotated[int, Field(description="The prover's node number.")]


class GeneratedTemplate(_Origin):
    """The body of `/generated` without what was found."""

    protocol: Annotated[str, Field(description="The protocol they are computed by.")]
    round: Annotated[str, Field(description="The digest of the round's settings.")]
    round_settings: Annotated[dict[str, str], Field(description="The texts that the digest is of.")]
    numerics: Annotated[
        dict[str, str | int | bool], Field(description="What may change the last bits, as in the status.")
    ]
    r_target: Annotated[float, Field(description="Nonces count below this distance.")]
    encoding: Annotated[Encoding, Field(description="How to read `vectors`.")]


class GeneratedBody(GeneratedTemplate):
    """The body of `/generated`: a proof batch, and the bound that it is under."""

    covered: Annotated[
        list[int], Field(description="First and last index of the prover's walk that the batch covers.")
    ]
    nonces: Annotated[_Nonces, Field(description="Those of them that count.")]
    dist: Annotated[_Distances, Field(description="Their distances.")]
    vectors: Annotated[_Vectors, Field(description="Their numbers.")]
    failed_nonces: Annotated[_Nonces, Field(description="Those that could not be computed.")]


class Conclusion(TypedDict):
    """What a judged batch came to."""

    verdict: Annotated[str, Field(description="The conclusion: `honest`, `fraud` or `no_verdict`.")]
    fraud_detected: Annotated[
        bool, Field(description="Whether the verdict is fraud; the absence of a verdict is not.")
    ]
    probability_honest: Annotated[
        float,
        Field(description="The p-values of the m tests combined: m times the smallest, at most 1."),
    ]
    tests: Annotated[
        dict[str, float],
        Field(
            description="The p-value of each test that was asked: `nonces`, `rms`, `beyond`, `signed_mean`, "
            "`density`."
        ),
    ]
    rejected_by: Annotated[
        list[str],
        Field(
            description="The tests that alone would bring the verdict: their p-value times the number of "
            "tests is below the threshold."
        ),
    ]
    spoke: Annotated[list[str], Field(description="The older name of `rejected_by`.", deprecated=True)]
    error_rms: Annotated[
        float | None,
        Field(
            description="RMS of the errors of all numbers of the nonces judged, in units of s; null where "
            "none was."
        ),
    ]
    error_mean: Annotated[
        float | None,
        Field(description="The mean error of their distances, received less computed, in units of s."),
    ]
    n_invalid: Annotated[int, Field(description="Invalid claims among those judged.")]
    n_judged: Annotated[int, Field(description="Nonces that entered the tests of received against computed.")]
    n_duplicates: Annotated[
        int, Field(description="Claims beyond the first of their nonce, in the whole batch.")
    ]
    n_covered: Annotated[
        int | None,
        Field(
            description="Nonces among which the density test expected valid ones; null where it did not run."
        ),
    ]
    invalid_nonces: Annotated[_Nonces, Field(description="Whose claims are invalid.")]
    failed_nonces: Annotated[_Nonces, Field(description="Whose recomputation failed; they left the tests.")]
    r_target: Annotated[float, Field(description="The round's.")]
    fraud_threshold: Annotated[float, Field(description="The round's.")]
    tolerance: Annotated[
        float | None,
        Field(
            description="Of an honest distance: 3.5 · `honest_sigma` as an absolute number; null by the "
            "older rule."
        ),
    ]
    honest_sigma: Annotated[
        float | None,
        Field(
            description="RMS of honest errors in units of s that the tests allowed for; null by the older "
            "rule."
        ),
    ]
    numbers: Annotated[
        int, Field(description="How many numbers of a nonce it was judged by; 1 without vectors.")
    ]
    numerics_differ: Annotated[
        list[str],
        Field(
            description="What the prover's numerics and the verifier's differ in. It explains distances and "
            "excuses none."
        ),
    ]


class VerdictBody(Conclusion):
    """A verdict as `/validate` answers it."""

    nonces: Annotated[
        _Nonces,
        Field(description="The batch's, as they were received, repetitions included."),
    ]
    computed_distances: Annotated[
        list[float | None],
        Field(
            description="Their distances, recomputed; null where that failed or the nonce was not sampled."
        ),
    ]
    valid: Annotated[list[bool], Field(description="Whether each recomputed distance is below `r_target`.")]


class RecomputedVectors(TypedDict):
    """The recomputed numbers of a batch, in step with its nonces as they were received."""

    vectors: Annotated[
        list[str | None],
        Field(description="Recomputed; null where that failed or the nonce was not sampled."),
    ]
    encoding: Annotated[Encoding, Field(description="How to read `vectors`.")]


class ValidatedBody(_Origin, Conclusion, RecomputedVectors):
    """The body of `/validated`."""

    request_id: Annotated[str, Field(description="By which `/validate` answered for the batch.")]
    nonces: Annotated[_Nonces, Field(description="The batch's, as they were received, repetitions included.")]
    dist: Annotated[
        list[float | None],
        Field(description="Recomputed; null where that failed or the nonce was not sampled."),
    ]
    received_dist: Annotated[_Distances, Field(description="As the prover claimed them.")]
    computed_distances: Annotated[list[float | None], Field(description="The same as `dist`.")]
    received_distances: Annotated[_Distances, Field(description="The same as `received_dist`.")]
    received_vectors: Annotated[
        _Vectors | None, Field(description="As the prover claimed them; null where the batch brought none.")
    ]
    valid: Annotated[list[bool], Field(description="Whether each recomputed distance is below `r_target`.")]
