"""What a node says of itself: the body of `/status`, typed from the manager to the metrics.

Times are in seconds where a name does not say milliseconds. An older name stays beside its better one.
"""

from typing import Annotated, Any

from pydantic import Field

# pydantic reads the types of typing from Python 3.12 on only.
from typing_extensions import TypedDict

__all__ = [
    "BatchStats",
    "CallbackReach",
    "CallbackStats",
    "ConfigShown",
    "GenerationStats",
    "InferenceStats",
    "InterruptedRoundShown",
    "OutboxStats",
    "ProjectionStats",
    "QueueStats",
    "RoundStatus",
    "SliceStats",
    "StallStats",
    "ValidationStats",
]


class BatchStats(TypedDict):
    """The engine's work for a round; times are of its last call."""

    computed: Annotated[int, Field(description="Batches computed in the round, validation's too.")]
    in_last_call: Annotated[int, Field(description="Batches that the last call computed.")]
    seconds_each: Annotated[
        float | None, Field(description="Seconds that each of them took; null before the first.")
    ]
    host_seconds_each: Annotated[
        float | None,
        Field(
            description="Seconds that the host took to launch each, which should be well below "
            "`seconds_each`. On a CPU they are the same."
        ),
    ]


class StallStats(TypedDict):
    """Milliseconds that slices have held the engine beside inference: the latest 1,000 of the round."""

    p50: Annotated[float | None, Field(description="Half of them took no longer; null before the first.")]
    p99: Annotated[float | None, Field(description="99 in 100 took no longer.")]
    max: Annotated[float | None, Field(description="The longest.")]


class SliceStats(TypedDict):
    """A round's slices; stalls and share are of the latest 1,000 concurrent with inference."""

    slices: Annotated[int, Field(description="Slices of batches computed in the round.")]
    slices_concurrent_with_inference: Annotated[
        int, Field(description="Those computed while inference was at work.")
    ]
    slices_beside_inference: Annotated[
        int, Field(description="The older name of `slices_concurrent_with_inference`.", deprecated=True)
    ]
    layer_ms: Annotated[
        float | None, Field(description="What one layer of a batch takes; null before the first slice.")
    ]
    max_stall_is_met: Annotated[
        bool | None,
        Field(
            description="Whether a slice of one layer, the shortest there is, keeps within `max_stall_ms`; "
            "null before the first slice."
        ),
    ]
    stall_ms: StallStats
    share_used: Annotated[
        float | None,
        Field(description="Share of engine time that slices took; null before any beside inference."),
    ]


class QueueStats(TypedDict):
    """The batches that wait for a verdict, and totals since the start."""

    queued_jobs: Annotated[int, Field(description="Batches without a verdict yet.")]
    queued_nonces: Annotated[int, Field(description="Their nonces still to compute.")]
    nonces_per_second: Annotated[float | None, Field(description="Validated lately; null before the first.")]
    completed_jobs: Annotated[int, Field(description="Batches with a verdict, since the start.")]
    cancelled_jobs: Annotated[int, Field(description="Batches given up without one, since the start.")]
    checked_nonces: Annotated[int, Field(description="Nonces recomputed, since the start.")]
    failed_nonces: Annotated[
        int, Field(description="Nonces that could not be, in batches with a verdict, since the start.")
    ]
    fraud_verdicts: Annotated[int, Field(description="Batches judged to be fraud, since the start.")]


class ValidationStats(QueueStats, SliceStats):
    """Validation's queue, and what its slices take of the engine."""

    share: Annotated[
        float,
        Field(
            description="The setting `validation_share`: the share of engine time allowed beside inference."
        ),
    ]
    max_stall_ms: Annotated[
        float, Field(description="The setting of this name, which `stall_ms` is to keep within.")
    ]


class ProjectionStats(TypedDict):
    """The projections of the round that is set."""

    enabled: Annotated[bool, Field(description="Whether the round projects.")]
    bytes: Annotated[int, Field(description="What the projections hold of the device's memory.")]


class InferenceStats(TypedDict):
    """The inference that is at work."""

    connections: Annotated[
        int, Field(description="Connections on which inference is served, the quiet ones included.")
    ]
    quiet_connections: Annotated[
        int,
        Field(
            description="Those on which nothing has moved for 10 seconds. Rounds do not wait for them where "
            "the engine has nothing to do for them either."
        ),
    ]
    is_active: Annotated[bool, Field(description="Whether any inference is at work.")]
    longest_loop_hold_ms: Annotated[
        float | None,
        Field(
            description="The longest in the round that the event loop, which streams answers, was held by "
            "whatever while inference was served; null where none was."
        ),
    ]


class _DeliveryStats(TypedDict):
    queued: Annotated[int, Field(description="Still to be delivered, the one in flight included.")]
    in_flight: Annotated[int, Field(description="Being delivered.")]
    delivered: Annotated[int, Field(description="Answered with a 2xx, since the start.")]
    retried: Annotated[int, Field(description="Attempts after a callback's first, since the start.")]
    dropped: Annotated[int, Field(description="No longer attempted, since the start.")]
    dropped_by_reason: Annotated[
        dict[str, int],
        Field(
            description="The same by reason: `rejected`, `retries`, `full`, `expired`, `forbidden`, `memory`."
        ),
    ]
    dead_letters: Annotated[
        int,
        Field(description="Those of the dropped that still lie in the outbox, to be retried by hand."),
    ]
    kept: Annotated[int, Field(description="The older name of `dead_letters`.", deprecated=True)]
    bytes: Annotated[int, Field(description="Bytes of all in the outbox, dead letters included.")]
    oldest_age: Annotated[
        float | None, Field(description="Age in seconds of the oldest that is queued; null where none is.")
    ]
    next_attempt: Annotated[
        float | None,
        Field(description="Seconds to the next attempt; null where none waits."),
    ]
    last_error: Annotated[str | None, Field(description="What the latest failed attempt failed with.")]


class CallbackStats(_DeliveryStats):
    """What one receiver has to get, and has got since the start."""


class CallbackReach(TypedDict):
    """Whether the receiver of a round's callbacks answered when the round was set."""

    reachable: Annotated[bool, Field(description="Whether it answered, whatever it said.")]
    error: Annotated[str | None, Field(description="What kept the answer away; null where there was one.")]


class OutboxStats(_DeliveryStats):
    """The outbox: the sums over all receivers, and each recent one by its URL."""

    outbox: Annotated[str, Field(description="The file that it is.")]
    used_ratio: Annotated[
        float,
        Field(
            description="How full it is: bytes of `outbox_max_bytes`, or the longest queue of "
            "`callback_max_queue`, whichever is nearer. At 1 the oldest callbacks are dropped."
        ),
    ]
    free_bytes: Annotated[
        int | None,
        Field(description="Free on the file system of the outbox; null in memory, or where that is gone."),
    ]
    receivers: Annotated[
        dict[str, CallbackStats],
        Field(description="Each recent receiver by its URL, with the fields from `queued` to `last_error`."),
    ]


class GenerationStats(TypedDict):
    """What the oldest clients read of a round that generates."""

    total_processed: Annotated[int, Field(description="As `total_checked`.")]
    nonces_per_second: Annotated[float, Field(description="As `rate_per_second`.")]


class InterruptedRoundShown(TypedDict):
    """The round in which the last server ended, and how far its walk had come."""

    block_hash: Annotated[str, Field(description="The round's block.")]
    block_height: Annotated[int, Field(description="Its height.")]
    public_key: Annotated[str, Field(description="Whose nonces it found.")]
    node_id: Annotated[int | None, Field(description="The node's number in it.")]
    callback_url: Annotated[str | None, Field(description="Its receiver.")]
    round: Annotated[str, Field(description="The digest of its settings.")]
    phase: Annotated[str, Field(description="The state that the node was in.")]
    total_checked: Annotated[int, Field(description="Nonces that it had computed.")]
    total_valid: Annotated[int, Field(description="Those that count.")]
    total_failed: Annotated[int, Field(description="Those that could not be computed.")]
    begun_at: Annotated[float, Field(description="When it began, in seconds since the epoch.")]
    updated_at: Annotated[float, Field(description="When it was last written down, in the same.")]
    reason: Annotated[
        str | None, Field(description="What it failed with; null where the server ended in it.")
    ]
    is_resumed: Annotated[bool, Field(description="Whether the round that is set goes on with it.")]


ConfigShown = dict[str, Any]
"""The request of the round, by the fields of `PoCConfig`, with what the model decided put in its place."""


class RoundStatus(TypedDict):
    """The body of `/status`: a superset of what the older generations of clients read.

    The counters are those of the round that is set, or was last; they count generation only.
    """

    status: Annotated[
        str, Field(description="The state as older clients read it: `IDLE` where it is `STOPPED`.")
    ]
    state: Annotated[
        str, Field(description="Where the node stands: `IDLE`, `GENERATING`, `VALIDATING` or `STOPPED`.")
    ]
    is_model_initialized: Annotated[
        bool, Field(description="Whether the engine is ready to compute for the round.")
    ]
    reason: Annotated[str | None, Field(description="Why the round ended.")]
    has_failed: Annotated[
        bool, Field(description="Whether the round ended by a failure, which `reason` tells.")
    ]
    total_checked: Annotated[int, Field(description="Nonces generated, the failed ones included.")]
    total_valid: Annotated[int, Field(description="Those that count.")]
    total_failed: Annotated[int, Field(description="Those that could not be computed.")]
    elapsed_seconds: Annotated[float, Field(description="From the round's start to its end, or to now.")]
    rate_per_second: Annotated[float, Field(description="Nonces checked in a second of generating.")]
    seconds_since_progress: Annotated[
        float | None,
        Field(
            description="How long the engine has not answered although there is work; null where there is "
            "none."
        ),
    ]
    is_stuck: Annotated[
        bool, Field(description="Whether that is `stuck_after` or longer, which is logged too.")
    ]
    valid_nonces: Annotated[list[int], Field(description="The latest 1,000 nonces that count.")]
    valid_distances: Annotated[list[float], Field(description="Their distances.")]
    r_target: Annotated[float | None, Field(description="A nonce of the round counts below this distance.")]
    valid_rate: Annotated[float | None, Field(description="The share of nonces that do.")]
    config: Annotated[
        ConfigShown | None,
        Field(
            description="The round's request with everything decided: its fields, those that the model "
            "decided filled in, and `requested_batch_size`, `hidden_size` and the digest `round`; null "
            "before the first."
        ),
    ]
    stats: Annotated[
        GenerationStats | None,
        Field(description="What the oldest clients read; null unless the state is `GENERATING`."),
    ]
    projection: ProjectionStats
    batches: BatchStats
    validation: ValidationStats
    inference: InferenceStats
    callbacks: OutboxStats
    interrupted_round: Annotated[
        InterruptedRoundShown | None,
        Field(
            description="The round in which the last server ended, and how far it had come; null once there "
            "is another round or a stop."
        ),
    ]
    numerics: Annotated[
        dict[str, str | int | bool],
        Field(
            description="What may change the last bits: versions, device, dtype, quantization, caches, "
            "attention, parallelism. `states`: which layers keep a state of each sequence, and in which "
            "dtypes. `forward`: `eager` or `compiled`; `operators`: which of vLLM's "
            "implementations that has. `kernels`: `triton` or `reference`. `embedding`: the model's own "
            "function or PoC's, which takes rows of the model's table. `final_norm`: the model's own or "
            "PoC's, which norms the rows where it sums them, and where that rounds. `independent_nonces`: "
            "whether a nonce has the same numbers whatever else is in its batch. During a round its batch "
            "shape too."
        ),
    ]
