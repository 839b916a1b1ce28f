"""A round resolved against the model that serves it: nothing is left open."""

import math
from dataclasses import asdict, dataclass
from typing import Self

from hallmark.poc.core.errors import FieldError, StateError
from hallmark.poc.protocol.config import DeployedModel, PoCConfig, sigma_of
from hallmark.poc.protocol.definition import Definition
from hallmark.poc.protocol.law import distance_std, r_target_for, valid_rate
from hallmark.poc.protocol.round_spec import RoundSpec, round_digest, round_settings

__all__ = ["Round", "is_below_target"]

_RATE_MARGIN = 0.01


def is_below_target(distance: float, r_target: float) -> bool:
    """Return whether a nonce with this distance counts; never where the distance is NaN.

    An `r_target` from 2 on is rate 1: no distance is too large, 2 itself included.
    """
    return not math.isnan(distance) and (r_target >= 2.0 or distance < r_target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A round with everything decided; made by `Round.resolve`.

    Attributes:
        config: The request.
        hidden_size: D of the deployed model.
        r_target: Distances below it count; 2 at rate 1.
        valid_rate: The share of nonces that count, by the law.
        definition: Inputs, projections and readout.
        batch_size: Nonces in one forward, after lowering to what fits.
        digest: Hex SHA-256 of the settings.
        distance_std: s = 1/√(2·D).
    """

    config: PoCConfig
    hidden_size: int
    r_target: float
    valid_rate: float
    definition: Definition
    batch_size: int
    digest: str
    distance_std: float

    @classmethod
    def resolve(cls, config: PoCConfig, model: DeployedModel) -> Self:
        """Decide what the request leaves open.

        Raises:
            FieldError: `r_target` and `valid_rate` disagree, no nonce is below `r_target`, `seq_len` exceeds
                what the engine takes, or inputs and readout contradict each other or the model.
            StateError: Another model is served.
        """
        if config.model and config.model not in model.served_names:
            raise StateError(
                f"the round is about model {config.model!r}, "
                f"this server serves {', '.join(model.served_names)}"
            )
        longest = min(model.max_model_len, model.max_batched_tokens)
        if config.seq_len > longest:
            raise FieldError(
                "seq_len",
                config.seq_len,
                f"1 to {longest} (max_model_len {model.max_model_len}, "
                f"max_num_batched_tokens {model.max_batched_tokens})",
            )
        r_target, rate = _resolve_target(config, model.hidden_size)
        definition = Definition.resolve(config, model)
        return cls(
            config=config,
            hidden_size=model.hidden_size,
            r_target=r_target,
            valid_rate=rate,
            definition=definition,
            batch_size=min(
                config.batch_size, model.max_batched_tokens // config.seq_len, model.max_sequences
            ),
            digest=round_digest(_settings(config, model.hidden_size, definition)),
            distance_std=distance_std(model.hidden_size),
        )

    @property
    def numbers(self) -> int:
        """How many numbers a nonce gives, k."""
        return self.definition.numbers

    @property
    def settings(self) -> dict[str, str]:
        """The settings that the digest covers, as the texts that are hashed."""
        return _settings(self.config, self.hidden_size, self.definition)

    @property
    def tolerance(self) -> float | None:
        """How far a claim may be from the recomputed distance; None is the older rule."""
        units = self.config.distance_tolerance
        return None if units is None else units * self.distance_std

    @property
    def honest_sigma(self) -> float | None:
        """RMS of honest errors in units of s; None by the older rule."""
        tolerance = self.config.distance_tolerance
        if tolerance is None:
            return None
        stated = self.config.honest_sigma
        return sigma_of(tolerance) if stated is None else stated

    @property
    def every_nonce_counts(self) -> bool:
        """Whether the round has rate 1: no distance is too large, 2 itself included."""
        return self.r_target >= 2.0

    def is_valid(self, distance: float) -> bool:
        """Return whether a nonce with this distance counts; never where the distance is NaN."""
        return is_below_target(distance, self.r_target)

    def spec(self) -> RoundSpec:
        """Return what a worker has to know."""
        return RoundSpec(
            digest=self.digest,
            block_hash=self.config.block_hash,
            hidden_size=self.hidden_size,
            seq_len=self.config.seq_len,
            batch_size=self.batch_size,
            projection=self.config.use_random_projection,
            **asdict(self.definition),
        )


def _settings(config: PoCConfig, hidden_size: int, definition: Definition) -> dict[str, str]:
    return round_settings(
        hidden_size=hidden_size,
        seq_len=config.seq_len,
        projection=config.use_random_projection,
        model=config.model,
        **asdict(definition),
    )


def _resolve_target(config: PoCConfig, hidden_size: int) -> tuple[float, float]:
    """Return the round's `r_target` and valid rate; each gives the other by the law."""
    if config.r_target is None:
        rate = 1.0 if config.valid_rate is None else config.valid_rate
        return r_target_for(rate, hidden_size), rate
    r_target = min(config.r_target, 2.0)
    rate = 1.0 if r_target == 2.0 else valid_rate(r_target, hidden_size)
    if rate == 0.0:
        raise FieldError(
            "r_target",
            config.r_target,
            f"a bound that some nonces are below: at width {hidden_size} the valid rate would be 0",
        )
    stated = config.valid_rate
    if stated is not None and abs(stated - rate) > _RATE_MARGIN * stated:
        raise FieldError(
            "r_target",
            config.r_target,
            f"leave out r_target or valid_rate, or let them agree: at width {hidden_size} r_target "
            f"{config.r_target} is a valid rate of {rate:.6g}, and valid_rate {stated:.6g} is r_target "
            f"{r_target_for(stated, hidden_size):.6f}",
        )
    return r_target, rate
