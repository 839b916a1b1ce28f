"""What a round is asked to be, and what the deployed model is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass as standard_dataclass
from dataclasses import fields
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Self, cast

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from hallmark.poc.core.checks import check_float, check_integer, check_text, is_integer
from hallmark.poc.core.errors import FieldError
from hallmark.poc.core.models import STRICT, json_schema, refuse_near_misses, refuses_in_words
from hallmark.poc.webhooks.url import without_secrets

__all__ = [
    "DEFAULT_BEYOND",
    "DEFAULT_DESIGN_EFFECT",
    "DEFAULT_KURTOSIS",
    "DEFAULT_THRESHOLD",
    "DEFAULT_TOLERANCE",
    "TOLERANCE_IN_SIGMAS",
    "UNSET",
    "Concern",
    "DeployedModel",
    "Inputs",
    "PoCConfig",
    "PoCState",
    "Readout",
    "Setting",
    "Vectors",
    "is_power_of_two",
    "sigma_of",
]

DEFAULT_THRESHOLD = 0.01
"""A round's `fraud_threshold` where it states none."""

DEFAULT_TOLERANCE = 0.35
"""A round's `distance_tolerance` where it states none, in units of s."""

TOLERANCE_IN_SIGMAS = 3.5
"""A round's `distance_tolerance` in units of its `honest_sigma`: each gives the other."""

DEFAULT_KURTOSIS = 5.0
"""A round's `honest_kurtosis` where it states none."""

DEFAULT_BEYOND = 0.02
"""A round's `honest_beyond` where it states none."""

DEFAULT_DESIGN_EFFECT = 4.0
"""A round's `honest_design_effect` where it states none."""

_AGREEMENT = 1e-6
_MAX_SIZE = 2**31 - 1


class PoCState(StrEnum):
    """Where a node stands: IDLE → GENERATING ⇄ VALIDATING → STOPPED → a new round."""

    IDLE = "IDLE"
    GENERATING = "GENERATING"
    VALIDATING = "VALIDATING"
    STOPPED = "STOPPED"


def is_power_of_two(value: float) -> bool:
    """Return whether a positive finite number is 2**k for an integer k."""
    return math.frexp(value)[0] == 0.5


Inputs = Literal["tokens", "normal"]
"""What goes into the model: rows of its own embedding table, or normal numbers."""

Readout = Literal["rows", "last"]
"""What is read of the final hidden states: signed sums over groups of rows, or the last row."""

Vectors = Literal["optional", "required"]
"""Whether a batch has to bring all numbers of its nonces."""


class Concern(StrEnum):
    """What a setting of a round is about, by which commands take the settings that they need."""

    IDENTITY = "identity"
    JUDGEMENT = "judgement"
    PARTITION = "partition"
    NODE = "node"
    COMPUTATION = "computation"
    DELIVERY = "delivery"


class Setting(NamedTuple):
    """What is said of a setting besides its type and its default.

    Attributes:
        concern: What it is about.
        option: The command line's name for it, where that is another one.
    """

    concern: Concern
    option: str | None = None


_OPTIONAL_NUMBERS = frozenset(
    {"r_target", "valid_rate", "distance_tolerance", "honest_sigma", "input_scale", "projection_scale"}
)
_POWERS = "a power of two from 2^-24 to 2^8"


def _checked_first(value: object) -> object:
    """Check a token for row 0 here: pydantic's error about a union names its parts, not the field."""
    if value is None or value == "none" or (is_integer(value) and 0 <= cast("int", value) <= _MAX_SIZE):
        return value
    raise FieldError("first", value, f"none, or an integer from 0 to {_MAX_SIZE}")


UNSET = -1
"""What older clients send for a node number that they do not state."""

_NULL_IS_ABSENCE = ("model", "seq_len")
"""What older clients send null for, although it says nothing else than leaving the field out."""

_OLDER_FIELDS: dict[str, dict[str, Any]] = {
    "url": {
        "type": ["string", "null"],
        "deprecated": True,
        "description": "The older name of callback_url.",
    },
    "params": {
        "type": ["object", "null"],
        "deprecated": True,
        "description": "The older clients' toy model; its seq_len counts where there is no other.",
    },
}


_ORIGINAL_FIELDS = frozenset(
    {
        *("block_hash", "block_height", "public_key", "batch_size", "r_target", "fraud_threshold"),
        *("params", "node_id", "node_count", "url"),
    }
)
"""What the original Go client sends: all of these, and nothing else."""


@refuses_in_words()
@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class PoCConfig:
    """A round as it was asked for; every field is checked, none is resolved against a model yet.

    A field is all that there is of a setting: requests, OpenAPI, the command line, the journal and offline
    verification follow from it.

    Raises:
        FieldError: A field is of another type, out of its range, or contradicts another one.
    """

    block_hash: Annotated[
        str, Field(description="Seeds everything; used as it is."), Setting(Concern.IDENTITY)
    ]
    block_height: Annotated[
        int, Field(description="Told and matched, seeds nothing."), Setting(Concern.IDENTITY)
    ]
    public_key: Annotated[str, Field(description="Whose nonces these are."), Setting(Concern.IDENTITY)]
    r_target: Annotated[
        float | None,
        Field(description="A nonce counts when its distance is below this; from 2 on every nonce counts."),
        Setting(Concern.JUDGEMENT),
    ] = None
    valid_rate: Annotated[
        float | None,
        Field(
            description="The share of nonces that count, instead of r_target. Neither: 1. Below 1 saves "
            "bandwidth and costs soundness: a prover may run only the nonces that look promising."
        ),
        Setting(Concern.JUDGEMENT),
    ] = None
    fraud_threshold: Annotated[
        float,
        Field(description="A batch is fraud when its p-value is below this."),
        Setting(Concern.JUDGEMENT),
    ] = DEFAULT_THRESHOLD
    distance_tolerance: Annotated[
        float | None,
        Field(
            description="How far an honest claim may be from the recomputed distance, in standard "
            "deviations of the distance: 3.5 · honest_sigma, of which one is stated; null (on the command "
            "line none) for the older rule, which compares both with r_target only."
        ),
        Setting(Concern.JUDGEMENT),
    ] = DEFAULT_TOLERANCE
    # The round's and never a batch's: a cheater would declare the noisiest pair.
    honest_sigma: Annotated[
        float | None,
        Field(
            description="RMS of honest differences between received and computed numbers on the platforms "
            "of this round, in their standard deviation; by default distance_tolerance / 3.5."
        ),
        Setting(Concern.JUDGEMENT),
    ] = None
    honest_kurtosis: Annotated[
        float,
        Field(
            description="Kurtosis of the same differences; 3 is Gaussian. Below, it counts as 3, and above "
            "12.25 as that."
        ),
        Setting(Concern.JUDGEMENT),
    ] = DEFAULT_KURTOSIS
    honest_beyond: Annotated[
        float,
        Field(description="The share of them beyond 3.5 · honest_sigma, at most."),
        Setting(Concern.JUDGEMENT),
    ] = DEFAULT_BEYOND
    honest_design_effect: Annotated[
        float,
        Field(description="How many of those beyond it count as one, since they come together in a nonce."),
        Setting(Concern.JUDGEMENT),
    ] = DEFAULT_DESIGN_EFFECT
    vectors: Annotated[
        Vectors,
        Field(
            description="Whether a batch has to bring all numbers of its nonces to be judged; optional: "
            "without them it is judged by its distances, the first number of each nonce."
        ),
        Setting(Concern.JUDGEMENT),
    ] = "optional"
    node_id: Annotated[
        int | None,
        Field(
            description="This node's number, from 0 and below node_count; needed to generate. -1: not stated."
        ),
        Setting(Concern.NODE),
    ] = None
    node_count: Annotated[
        int | None,
        Field(description="How many nodes share the nonces. -1: not stated."),
        Setting(Concern.PARTITION),
    ] = None
    group_id: Annotated[
        int, Field(description="Which of the node's engines this is."), Setting(Concern.NODE)
    ] = 0
    n_groups: Annotated[
        int, Field(description="How many engines the node has."), Setting(Concern.PARTITION)
    ] = 1
    batch_size: Annotated[
        int, Field(description="Nonces in one forward; lowered to what fits."), Setting(Concern.COMPUTATION)
    ] = 32
    seq_len: Annotated[int, Field(description="Rows of a nonce's input."), Setting(Concern.COMPUTATION)] = 256
    callback_url: Annotated[
        str | None,
        Field(description="Where /generated and /validated are posted below."),
        Setting(Concern.DELIVERY),
    ] = None
    use_random_projection: Annotated[
        bool,
        Field(
            description="Off, where neither inputs nor readout is stated, is the plain PoC 2.0: normal "
            "inputs of variance 1, the last row, no projections."
        ),
        Setting(Concern.COMPUTATION, option="random_projection"),
    ] = True
    projection_scale: Annotated[
        float | None,
        Field(
            description="Standard deviation of the projections' elements; by default the power of two by "
            "which a projection adds at most a sixteenth of a row's energy."
        ),
        Setting(Concern.COMPUTATION),
    ] = None
    inputs: Annotated[
        Inputs | None,
        Field(
            description="What goes into the model: tokens, rows of its own embedding table; or normal "
            "numbers. By default tokens, where the vocabulary has 4,096 or more."
        ),
        Setting(Concern.COMPUTATION),
    ] = None
    readout: Annotated[
        Readout | None,
        Field(
            description="What is read of the final hidden states: rows, signed sums over groups of rows; or "
            "the last one. By default rows for tokens, last for normal inputs and where seq_len is odd or "
            "below 10."
        ),
        Setting(Concern.COMPUTATION),
    ] = None
    numbers: Annotated[
        int | None,
        Field(
            description="Numbers that a nonce gives, where rows are read; by default one for four rows "
            "beyond the eighth, at most 16. seq_len is even and at least 2 · numbers + 8."
        ),
        Setting(Concern.COMPUTATION),
    ] = None
    vocabulary: Annotated[
        int | None,
        Field(description="Tokens are drawn below this; by default all that the model has."),
        Setting(Concern.COMPUTATION),
    ] = None
    first: Annotated[
        int | Literal["none"] | None,
        BeforeValidator(_checked_first),
        Field(
            description="The token of row 0, or none for one that is drawn; by default the one that the "
            "model's tokenizer puts in front of every text."
        ),
        Setting(Concern.COMPUTATION),
    ] = None
    input_scale: Annotated[
        float | None,
        Field(description="Standard deviation of normal inputs, a power of two; 1 by default."),
        Setting(Concern.COMPUTATION),
    ] = None
    model: Annotated[
        str,
        Field(description="The name that the round gives the model; empty: whatever is served."),
        Setting(Concern.COMPUTATION),
    ] = ""

    @classmethod
    @cache
    def known_fields(cls) -> frozenset[str]:
        """Return the members that a request may have, the older ones too."""
        return frozenset({field.name for field in fields(cls)} | _OLDER_FIELDS.keys())

    @classmethod
    def request_schema(cls) -> dict[str, Any]:
        """Return the JSON schema of a request."""
        schema = json_schema(cls, nullable=_NULL_IS_ABSENCE)
        return {**schema, "properties": {**schema["properties"], **_OLDER_FIELDS}}

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """Read a request, as clients of every generation send it; what nothing knows is left out.

        Raises:
            FieldError: As for the class, or a name is a near miss of a field's.
        """
        refuse_near_misses(body, cls.known_fields())
        stated = {field.name: body[field.name] for field in fields(cls) if field.name in body}
        for field in ("node_id", "node_count"):
            if stated.get(field) == UNSET and type(stated[field]) is int:
                stated[field] = None
        for field in _NULL_IS_ABSENCE:
            if stated.get(field, "") is None:
                del stated[field]
        if "url" in body:
            stated["callback_url"] = _one_url(body["url"], stated.get("callback_url"))
        seq_len = _older_length(body.get("params"))
        stated_len = stated.setdefault("seq_len", seq_len) if seq_len is not None else None
        if type(stated_len) is int and stated_len != seq_len:
            raise FieldError(
                "params.seq_len", seq_len, f"the same as seq_len, {stated['seq_len']!r}, or none"
            )
        _check_agreement(stated.get("distance_tolerance"), stated.get("honest_sigma"))
        return cls(**stated)

    def check_share(self, body: Mapping[str, Any]) -> list[str]:
        """Refuse a node number that is none of the nodes': its walk would be another node's.

        The original Go client is let through: it goes on counting its nodes where some have gone.

        Args:
            body: The request that this was read from.

        Returns:
            What is to be said of a request that is taken nevertheless, a sentence each.

        Raises:
            FieldError: `node_id` is not below `node_count`.
        """
        number, count = self.node_id, self.node_count
        if number is None or count is None or number < count:
            return []
        if body.keys() != _ORIGINAL_FIELDS:
            raise FieldError("node_id", number, f"a number below node_count, {count}: nodes count from 0")
        return [
            f"node_id {number} is not below node_count {count}: these are the nonces of node "
            f"{number % count}, from its number {number // count} on, and count for one of the two only"
        ]

    def __post_init__(self) -> None:
        check_text("block_hash", self.block_hash)
        check_text("public_key", self.public_key)
        check_text("model", self.model, empty=True)
        if self.callback_url is not None:
            check_text("callback_url", self.callback_url)
        check_integer("block_height", self.block_height)
        if self.node_id is not None:
            check_integer("node_id", self.node_id)
        if self.node_count is not None:
            check_integer("node_count", self.node_count, least=1)
        check_integer("n_groups", self.n_groups, least=1)
        check_integer("group_id", self.group_id, most=self.n_groups - 1)
        check_integer("batch_size", self.batch_size, least=1, most=_MAX_SIZE)
        check_integer("seq_len", self.seq_len, least=1, most=_MAX_SIZE)
        self._check_number("r_target", least=math.ulp(0.0), allowed="a finite number above 0")
        self._check_number("valid_rate", least=math.ulp(0.0), most=1.0, allowed="a number above 0, at most 1")
        self._check_number(
            "distance_tolerance", least=math.ulp(0.0), allowed="a finite number above 0, or null"
        )
        self._check_number("honest_sigma", least=math.ulp(0.0), allowed="a finite number above 0, or null")
        self._check_number(
            "honest_kurtosis",
            least=math.nextafter(1.0, 2.0),
            most=1e6,
            allowed="a number above 1, at most 1e+06",
        )
        self._check_number(
            "honest_beyond",
            least=math.ulp(0.0),
            most=math.nextafter(1.0, 0.0),
            allowed="a number between 0 and 1, both excluded",
        )
        self._check_number("honest_design_effect", least=1.0, most=1e6, allowed="a number from 1 to 1e+06")
        self._settle_tolerance()
        self._check_number(
            "fraud_threshold",
            least=math.ulp(0.0),
            most=math.nextafter(1.0, 0.0),
            allowed="a number between 0 and 1, both excluded",
        )
        self._check_number("projection_scale", least=1e-6, most=1.0, allowed="a number from 1e-06 to 1")
        if self.numbers is not None:
            check_integer("numbers", self.numbers, least=1, most=_MAX_SIZE)
        if self.vocabulary is not None:
            check_integer("vocabulary", self.vocabulary, least=1, most=_MAX_SIZE)
        self._check_number("input_scale", least=2.0**-24, most=2.0**8, allowed=_POWERS)
        if self.input_scale is not None and not is_power_of_two(self.input_scale):
            raise FieldError("input_scale", self.input_scale, _POWERS)

    def _settle_tolerance(self) -> None:
        """Let the tolerance be that of a stated sigma; what differs from the default was stated."""
        tolerance, sigma = self.distance_tolerance, self.honest_sigma
        if tolerance is None or sigma is None:
            return
        if tolerance == DEFAULT_TOLERANCE:
            object.__setattr__(self, "distance_tolerance", TOLERANCE_IN_SIGMAS * sigma)
        _check_agreement(self.distance_tolerance, sigma)

    def _check_number(self, field: str, *, least: float, most: float = math.inf, allowed: str) -> None:
        value = getattr(self, field)
        if value is not None or field not in _OPTIONAL_NUMBERS:
            check_float(field, value, least=least, most=most, allowed=allowed)


def sigma_of(tolerance: float) -> float:
    """Return the `honest_sigma` that a round's tolerance stands for.

    It has 15 digits, as many as a float is sure of: 0.1 for 0.35, where the quotient is 0.09999999999999999.
    """
    return float(f"{tolerance / TOLERANCE_IN_SIGMAS:.15g}")


def _check_agreement(tolerance: object, sigma: object) -> None:
    """Refuse a tolerance that is not that of the sigma, where both are stated; others are no numbers."""
    numbers = int | float
    if not isinstance(tolerance, numbers) or not isinstance(sigma, numbers):
        return
    if abs(tolerance - TOLERANCE_IN_SIGMAS * sigma) > _AGREEMENT * tolerance:
        raise FieldError(
            "distance_tolerance",
            tolerance,
            f"{TOLERANCE_IN_SIGMAS} · honest_sigma = {TOLERANCE_IN_SIGMAS * sigma:g}, one of the two alone, "
            "or null for the older rule",
        )


def _one_url(older: object, url: object) -> object:
    if older is not None and not isinstance(older, str):
        raise FieldError("url", older, "text")
    if older is not None and isinstance(url, str) and url != older:
        other = without_secrets(url)
        raise FieldError("url", without_secrets(older), f"the same as callback_url, {other!r}, or none")
    return older if url is None else url


def _older_length(params: object) -> int | None:
    """Return the length that the older clients' toy model states."""
    if params is None:
        return None
    if not isinstance(params, Mapping):
        raise FieldError("params", params, "an object")
    if "model" in params:
        raise FieldError(
            "params.model", params["model"], "none: this server proves by distances, not by artifacts"
        )
    seq_len = params.get("seq_len")
    if seq_len is not None and type(seq_len) is not int:
        raise FieldError("params.seq_len", seq_len, "a valid integer")
    return seq_len


@standard_dataclass(frozen=True, slots=True, kw_only=True)
class DeployedModel:
    """What the engine serves: the facts that a request is resolved against.

    Attributes:
        hidden_size: Width of the hidden state, D.
        dtype: The model's dtype by PyTorch's name, e.g. `bfloat16`.
        vocabulary: Tokens of the model that its embedding table has rows for; 0 where its embeddings have
            another width than the hidden state.
        table_rows: Rows of the embedding table, without padding.
        first: The token that its tokenizer puts in front of every text; None where it puts none.
        served_names: The names that clients may call the model by.
        max_batched_tokens: Most tokens of one engine step.
        max_sequences: Most sequences of one engine step.
        max_model_len: Longest sequence.
    """

    hidden_size: int
    dtype: str
    vocabulary: int
    table_rows: int
    first: int | None
    served_names: tuple[str, ...]
    max_batched_tokens: int
    max_sequences: int
    max_model_len: int
