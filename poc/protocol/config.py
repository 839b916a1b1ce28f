"""What a round is asked to be, and what the deployed model is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass as standard_dataclass
from dataclasses import fields
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field
from pydantic.dataclasses import dataclass

from hallmark.poc.core.checks import check_float, check_integer, check_text
from hallmark.poc.core.errors import FieldError
from hallmark.poc.core.models import STRICT, json_schema, refuse_near_misses, refuses_in_words
from hallmark.poc.webhooks.url import without_secrets

__all__ = [
    "DEFAULT_TOLERANCE",
    "MIN_TOLERANCE",
    "UNSET",
    "Concern",
    "DeployedModel",
    "PoCConfig",
    "PoCState",
    "Setting",
    "is_power_of_two",
]

DEFAULT_TOLERANCE = 0.35
"""A round's `distance_tolerance` where it states none, in units of s."""

MIN_TOLERANCE = 3.48
"""In units of the honest sigma: a Gaussian error is beyond it with probability 5e-4."""

_MAX_SIZE = 2**31 - 1


class PoCState(StrEnum):
    """Where a node stands: IDLE → GENERATING ⇄ VALIDATING → STOPPED → a new round."""

    IDLE = "IDLE"
    GENERATING = "GENERATING"
    VALIDATING = "VALIDATING"
    STOPPED = "STOPPED"


def is_power_of_two(value: float) -> bool:
    """Whether a positive finite number is 2**k for an integer k."""
    return math.frexp(value)[0] == 0.5


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


_OPTIONAL_NUMBERS = frozenset({"r_target", "valid_rate", "distance_tolerance", "honest_sigma", "input_scale"})
_POWERS = "a power of two from 2^-24 to 2^8"

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
    ] = 0.01
    distance_tolerance: Annotated[
        float | None,
        Field(
            description="How far a claim may be from the recomputed distance, in standard deviations of the "
            "distance; null (on the command line none) for the older rule, which compares both with "
            "r_target only."
        ),
        Setting(Concern.JUDGEMENT),
    ] = DEFAULT_TOLERANCE
    # The round's and never a batch's: a cheater would declare the noisiest pair.
    honest_sigma: Annotated[
        float | None,
        Field(
            description="RMS of honest differences between received and computed distances on the platforms "
            "of this round, in standard deviations of the distance; by default distance_tolerance / 3.5."
        ),
        Setting(Concern.JUDGEMENT),
    ] = None
    honest_kurtosis: Annotated[
        float,
        Field(description="Kurtosis of the same differences; 3 is Gaussian."),
        Setting(Concern.JUDGEMENT),
    ] = 3.0
    node_id: Annotated[
        int | None,
        Field(description="This node's number; needed to generate. -1: not stated."),
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
        Field(description="Off is the plain PoC 2.0, without projections, on inputs of variance 1."),
        Setting(Concern.COMPUTATION, option="random_projection"),
    ] = True
    projection_scale: Annotated[
        float,
        Field(description="Standard deviation of the projections' elements."),
        Setting(Concern.COMPUTATION),
    ] = 0.01
    # Where the projection is off, 1.
    input_scale: Annotated[
        float | None,
        Field(
            description="Standard deviation of the inputs' elements, a power of two; by default the one "
            "nearest to the model's embeddings."
        ),
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
        return cls(**stated)

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
        self._check_number("distance_tolerance", least=0.0, allowed="a finite number from 0 on, or null")
        self._check_number("honest_sigma", least=math.ulp(0.0), allowed="a finite number above 0, or null")
        self._check_number(
            "honest_kurtosis",
            least=math.nextafter(1.0, 2.0),
            most=1e6,
            allowed="a number above 1, at most 1e+06",
        )
        self._check_tolerance()
        self._check_number(
            "fraud_threshold",
            least=math.ulp(0.0),
            most=math.nextafter(1.0, 0.0),
            allowed="a number between 0 and 1, both excluded",
        )
        self._check_number("projection_scale", least=1e-6, most=1.0, allowed="a number from 1e-06 to 1")
        self._check_number("input_scale", least=2.0**-24, most=2.0**8, allowed=_POWERS)
        if self.input_scale is not None and not is_power_of_two(self.input_scale):
            raise FieldError("input_scale", self.input_scale, _POWERS)

    def _check_tolerance(self) -> None:
        """An honest claim must be within the tolerance but for one in 2,000, if errors are Gaussian."""
        tolerance, sigma = self.distance_tolerance, self.honest_sigma
        if tolerance is not None and sigma is not None and tolerance < MIN_TOLERANCE * sigma:
            raise FieldError(
                "distance_tolerance",
                tolerance,
                f"at least {MIN_TOLERANCE} · honest_sigma = {MIN_TOLERANCE * sigma:g}, "
                "or null for the older rule",
            )

    def _check_number(self, field: str, *, least: float, most: float = math.inf, allowed: str) -> None:
        value = getattr(self, field)
        if value is not None or field not in _OPTIONAL_NUMBERS:
            check_float(field, value, least=least, most=most, allowed=allowed)


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
        embedding_rms: Root mean square of the embedding table's elements.
        served_names: The names that clients may call the model by.
        max_batched_tokens: Most tokens of one engine step.
        max_sequences: Most sequences of one engine step.
        max_model_len: Longest sequence.
    """

    hidden_size: int
    dtype: str
    embedding_rms: float
    served_names: tuple[str, ...]
    max_batched_tokens: int
    max_sequences: int
    max_model_len: int
