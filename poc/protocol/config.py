"""What a round is asked to be, and what the deployed model is."""

import math
from dataclasses import dataclass
from enum import StrEnum

from hallmark.poc.core.checks import check_bool, check_float, check_integer, check_text
from hallmark.poc.core.errors import FieldError

__all__ = [
    "DEFAULT_TOLERANCE",
    "MIN_TOLERANCE",
    "DeployedModel",
    "PoCConfig",
    "PoCState",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PoCConfig:
    """A round as it was asked for; every field is checked, none is resolved against a model yet.

    Attributes:
        block_hash: Seeds everything; text, used as received.
        block_height: Told and matched, seeds nothing.
        public_key: Whose nonces these are.
        r_target: A nonce counts when its distance is below this; 2 or more lets every nonce count.
        valid_rate: The share of nonces that count, instead of `r_target`. Neither: 1.
        fraud_threshold: A batch is fraud when its p-value is below this.
        distance_tolerance: How far a claim may be from the recomputed distance, in units of s; None is the
            older rule, which compares both with `r_target` only.
        honest_sigma: RMS of received − computed of honest nonces, in units of s, for the pair of platforms
            that the round is between; None: the largest that the tolerance allows for, `distance_tolerance`
            / 3.5. The round's and never a batch's: a cheater would declare the noisiest pair.
        honest_kurtosis: Kurtosis of the same differences; 3 is Gaussian.
        node_id: This node's number in the partition of nonces; None where it does not generate.
        node_count: How many nodes share the nonces.
        group_id: Which of the node's engines this is.
        n_groups: How many engines the node has.
        batch_size: Nonces in one forward; part of the definition, lowered to what fits.
        seq_len: Rows of a nonce's input.
        callback_url: Where batches and verdicts go.
        use_random_projection: Off gives the plain PoC 2.0: no projections, inputs of variance 1.
        projection_scale: Standard deviation of the projections' elements.
        input_scale: Standard deviation of the input's elements, a power of two; None takes the power
            nearest to the model's embeddings, or 1 where the projection is off.
        model: The served name the round is about; empty: whatever is served.

    Raises:
        FieldError: A field is out of its range.
    """

    block_hash: str
    block_height: int
    public_key: str
    r_target: float | None = None
    valid_rate: float | None = None
    fraud_threshold: float = 0.01
    distance_tolerance: float | None = DEFAULT_TOLERANCE
    honest_sigma: float | None = None
    honest_kurtosis: float = 3.0
    node_id: int | None = None
    node_count: int | None = None
    group_id: int = 0
    n_groups: int = 1
    batch_size: int = 32
    seq_len: int = 256
    callback_url: str | None = None
    use_random_projection: bool = True
    projection_scale: float = 0.01
    input_scale: float | None = None
    model: str = ""

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
        check_bool("use_random_projection", self.use_random_projection)
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
        if value is None and field in _OPTIONAL:
            return
        # A frozen dataclass: `10` and `10.0` must be the same request.
        object.__setattr__(self, field, check_float(field, value, least=least, most=most, allowed=allowed))


_OPTIONAL = frozenset({"r_target", "valid_rate", "distance_tolerance", "honest_sigma", "input_scale"})
_POWERS = "a power of two from 2^-24 to 2^8"


@dataclass(frozen=True, slots=True, kw_only=True)
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
