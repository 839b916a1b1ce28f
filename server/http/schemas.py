"""The request bodies, as the clients of every generation send them.

Types are checked here, strictly: no number for a text, no `true` for a number. Ranges are the business of
`PoCConfig` and `ProofBatch`, which these become. Fields that are not known are ignored, as the older servers
do: `use_layer_hooks`, `use_sign_flips`, the dimensions of the toy model in `params`.
"""

from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, ValidationError
from pydantic_core import PydanticCustomError

from hallmark.poc.core.checks import allowed_in_words
from hallmark.poc.core.errors import FieldError
from hallmark.poc.protocol.config import DEFAULT_TOLERANCE, PoCConfig
from hallmark.poc.protocol.proof import MAX_NUMERICS, ProofBatch
from hallmark.poc.webhooks.url import without_secrets

__all__ = ["ProofBatchRequest", "RoundRequest"]

_UNSET = -1
"""What older clients send for a node number that they do not state."""


def _at_most(count: int) -> BeforeValidator:
    """Refuse what has too many entries before each of them is looked at."""

    def check(value: object) -> object:
        if isinstance(value, list | dict) and len(value) > count:
            raise PydanticCustomError("too_long", "at most {count} entries", {"count": count})
        return value

    return BeforeValidator(check)


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    @classmethod
    def parse(cls, body: dict[str, Any]) -> Self:
        """A request from a parsed body.

        Raises:
            FieldError: A field is missing or of another type.
        """
        try:
            return cls.model_validate(body)
        except ValidationError as exc:
            raise _field_error(exc) from exc


class RoundRequest(_Request):
    """The body of `/init`, `/init/generate` and `/init/validate`."""

    block_hash: str = Field(description="Seeds everything; used as it is.")
    block_height: int = Field(description="Told and matched, seeds nothing.")
    public_key: str = Field(description="Whose nonces these are.")
    r_target: float | None = Field(
        None, description="A nonce counts when its distance is below this; from 2 on every nonce counts."
    )
    valid_rate: float | None = Field(
        None, description="The share of nonces that count, instead of r_target. Neither: 1."
    )
    fraud_threshold: float = Field(0.01, description="A batch is fraud when its p-value is below this.")
    distance_tolerance: float | None = Field(
        DEFAULT_TOLERANCE,
        description="How far a claim may be from the recomputed distance, in standard deviations of the "
        "distance; null for the older rule, which compares both with r_target only.",
    )
    honest_sigma: float | None = Field(
        None,
        description="RMS of honest differences between received and computed distances on the platforms of "
        "this round, in standard deviations of the distance; null: distance_tolerance / 3.5.",
    )
    honest_kurtosis: float = Field(3.0, description="Kurtosis of the same differences; 3 is Gaussian.")
    node_id: int | None = Field(None, description="This node's number; needed to generate. -1: not stated.")
    node_count: int | None = Field(None, description="How many nodes share the nonces. -1: not stated.")
    group_id: int = Field(0, description="Which of the node's engines this is.")
    n_groups: int = Field(1, description="How many engines the node has.")
    batch_size: int = Field(32, description="Nonces in one forward; lowered to what fits.")
    seq_len: int | None = Field(None, description="Tokens of a nonce's input; 256 where nothing says more.")
    callback_url: str | None = Field(
        None, description="Where `/generated` and `/validated` are posted below."
    )
    url: str | None = Field(None, description="The older name of callback_url.")
    use_random_projection: bool = Field(True, description="Off gives the plain PoC 2.0.")
    projection_scale: float = Field(0.01, description="Standard deviation of the projections' elements.")
    input_scale: float | None = Field(
        None, description="Standard deviation of the inputs' elements, a power of two; null: by the model."
    )
    model: str | None = Field(None, description="A served name of the model; null: whatever is served.")
    params: dict[str, Any] | None = Field(
        None, description="The older clients' toy model; its seq_len counts where there is no other."
    )

    def to_config(self) -> PoCConfig:
        """The round that is asked for.

        Raises:
            FieldError: A field is out of its range, or two contradict each other.
        """
        stated = self.model_dump(exclude_unset=True, exclude={"url", "params", "seq_len", "model"})
        for field in ("node_id", "node_count"):
            if stated.get(field) == _UNSET:
                stated[field] = None
        stated["callback_url"] = self._callback_url()
        seq_len = self._seq_len()
        if seq_len is not None:
            stated["seq_len"] = seq_len
        return PoCConfig(**stated, model=self.model or "")

    def _callback_url(self) -> str | None:
        if self.url is not None and self.callback_url not in (None, self.url):
            other = without_secrets(self.callback_url or "")
            raise FieldError(
                "url", without_secrets(self.url), f"the same as callback_url, {other!r}, or none"
            )
        return self.url if self.callback_url is None else self.callback_url

    def _seq_len(self) -> int | None:
        params = self.params or {}
        if "model" in params:
            raise FieldError(
                "params.model", params["model"], "none: this server proves by distances, not by artifacts"
            )
        if self.seq_len is not None:
            return self.seq_len
        seq_len = params.get("seq_len")
        if seq_len is not None and type(seq_len) is not int:
            raise FieldError("params.seq_len", seq_len, "a valid integer")
        return seq_len


class ProofBatchRequest(_Request):
    """The body of `/validate`."""

    public_key: str = Field(description="Whose nonces these are, not whose round it is.")
    block_hash: str = Field(description="The round's.")
    block_height: int = Field(description="The round's.")
    node_id: int = Field(0, description="The prover's node number.")
    nonces: Annotated[list[int], FailFast()] = Field(description="The nonces, in any order.")
    dist: Annotated[list[float], FailFast()] = Field(description="Their claimed distances, from 0 to 2.")
    protocol: str | None = Field(
        None, description="The protocol it was computed by; another one than the server's is refused."
    )
    round: str | None = Field(
        None,
        description="The digest of the prover's round settings; another one than the round's is refused.",
    )
    covered: Annotated[list[int], _at_most(2)] | None = Field(
        None, description="First and last index of the prover's walk that the batch covers."
    )
    failed_nonces: Annotated[list[int], FailFast()] = Field(
        default_factory=list, description="Nonces that the prover could not compute."
    )
    numerics: Annotated[dict[str, str | int | bool], _at_most(MAX_NUMERICS)] | None = Field(
        None, description="The prover's numerics fingerprint; another dtype than the server's is refused."
    )

    def to_proof(self) -> ProofBatch:
        """The batch.

        Raises:
            FieldError: A field is out of its range, or lengths differ.
        """
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return ProofBatch.from_dict({**fields, "node_id": 0 if self.node_id == _UNSET else self.node_id})


def _field_error(error: ValidationError) -> FieldError:
    errors = error.errors(include_url=False)
    missing = [".".join(map(str, each["loc"])) for each in errors if each["type"] == "missing"]
    if missing:
        return FieldError(", ".join(missing), None, "a value; the field is required")
    first = errors[0]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    return FieldError(name.removeprefix("."), first["input"], allowed_in_words(first))
