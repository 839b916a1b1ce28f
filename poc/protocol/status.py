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
    """The engine's work for a round; times are of the last call, for each batch."""

    computed: int
    in_last_call: int
    seconds_each: float | None
    host_seconds_each: float | None


class StallStats(TypedDict):
    """Milliseconds that slices have held the engine while inference was at work; None before the first."""

    p50: float | None
    p99: float | None
    max: float | None


class SliceStats(TypedDict):
    """A round's slices; stalls and share are of the latest 1,000 concurrent with inference."""

    slices: int
    slices_concurrent_with_inference: int
    slices_beside_inference: Annotated[
        int, Field(description="The older name of slices_concurrent_with_inference.", deprecated=True)
    ]
    layer_ms: float | None
    max_stall_is_met: Annotated[
        bool | None,
        Field(description="Whether a slice of one layer, the shortest there is, keeps within max_stall_ms."),
    ]
    stall_ms: StallStats
    share_used: float | None


class QueueStats(TypedDict):
    """The batches that wait for a verdict, and totals since the start."""

    queued_jobs: int
    queued_nonces: int
    nonces_per_second: Annotated[float | None, Field(description="Validated lately; null before the first.")]
    completed_jobs: int
    cancelled_jobs: int
    checked_nonces: int
    failed_nonces: int
    fraud_verdicts: int


class ValidationStats(QueueStats, SliceStats):
    """Validation's queue, and what its slices take of the engine."""

    share: Annotated[float, Field(description="Share of engine time that it may take while inference is.")]
    max_stall_ms: Annotated[float, Field(description="The setting that stall_ms is to keep within.")]


class ProjectionStats(TypedDict):
    """The projections of the round that is set."""

    enabled: bool
    bytes: int


class InferenceStats(TypedDict):
    """The inference that is at work."""

    connections: int
    quiet_connections: Annotated[
        int,
        Field(
            description="Those on which nothing has moved for 10 seconds. Rounds do not wait for them where "
            "the engine has nothing to do for them either."
        ),
    ]
    is_active: bool
    longest_loop_hold_ms: Annotated[
        float | None,
        Field(
            description="The longest in the round that the event loop, which streams answers, was held by "
            "whatever while inference was served; null where none was."
        ),
    ]


class _DeliveryStats(TypedDict):
    queued: Annotated[int, Field(description="Still to be delivered, the one in flight included.")]
    in_flight: int
    delivered: int
    retried: int
    dropped: Annotated[int, Field(description="No longer attempted.")]
    dropped_by_reason: dict[str, int]
    dead_letters: Annotated[int, Field(description="Those of the dropped that still lie in the outbox.")]
    kept: Annotated[int, Field(description="The older name of dead_letters.", deprecated=True)]
    bytes: int
    oldest_age: float | None
    next_attempt: Annotated[float | None, Field(description="How long the oldest has still to wait.")]
    last_error: str | None


class CallbackStats(_DeliveryStats):
    """What one receiver has to get, and has got since the start."""


class CallbackReach(TypedDict):
    """Whether the receiver of a round's callbacks answered when the round was set."""

    reachable: Annotated[bool, Field(description="Whether it answered, whatever it said.")]
    error: Annotated[str | None, Field(description="What kept the answer away; null where there was one.")]


class OutboxStats(_DeliveryStats):
    """The sums over all receivers, and each recent one by its URL."""

    outbox: str
    used_ratio: Annotated[
        float,
        Field(
            description="How full it is: bytes of outbox_max_bytes, or the longest queue of "
            "callback_max_queue, whichever is nearer. At 1 the oldest callbacks are dropped."
        ),
    ]
    free_bytes: Annotated[
        int | None,
        Field(description="Free on the file system of the outbox; null in memory, or where that is gone."),
    ]
    receivers: dict[str, CallbackStats]


class GenerationStats(TypedDict):
    """What the oldest clients read of a round that generates."""

    total_processed: int
    nonces_per_second: float


class InterruptedRoundShown(TypedDict):
    """The round in which the last server ended, and how far its walk had come."""

    block_hash: str
    block_height: int
    public_key: str
    node_id: int | None
    callback_url: str | None
    round: str
    phase: str
    total_checked: int
    total_valid: int
    total_failed: int
    begun_at: float
    updated_at: float
    reason: str | None
    is_resumed: bool


ConfigShown = dict[str, Any]
"""The request of the round, by the fields of `PoCConfig`, with what the model decided put in its place."""


class RoundStatus(TypedDict):
    """The body of `/status`: a superset of what the older generations of clients read.

    The counters are those of the round that is set, or was last; they count generation only.
    """

    status: Annotated[str, Field(description="The state as older clients read it: IDLE where it is STOPPED.")]
    state: str
    is_model_initialized: bool
    reason: str | None
    has_failed: Annotated[
        bool, Field(description="Whether the round ended by a failure, which reason tells.")
    ]
    total_checked: int
    total_valid: int
    total_failed: int
    elapsed_seconds: float
    rate_per_second: float
    seconds_since_progress: Annotated[
        float | None, Field(description="How long the engine has not answered although there is work.")
    ]
    is_stuck: bool
    valid_nonces: list[int]
    valid_distances: list[float]
    r_target: float | None
    valid_rate: float | None
    config: ConfigShown | None
    stats: GenerationStats | None
    projection: ProjectionStats
    batches: BatchStats
    validation: ValidationStats
    inference: InferenceStats
    callbacks: OutboxStats
    interrupted_round: InterruptedRoundShown | None
    numerics: dict[str, str | int | bool]
