"""A round resolved against the model that serves it: nothing is left open."""

import math
from dataclasses import dataclass
from typing import Self

from hallmark.poc.core.errors import FieldError, StateError
from hallmark.poc.protocol.config import DeployedModel, PoCConfig
from hallmark.poc.protocol.law import distance_std, r_target_for, valid_rate
from hallmark.poc.protocol.round_spec import RoundSpec, round_digest, round_settings

__all__ = ["Round", "is_below_target", "nearest_power_of_two"]

_BOUNDARY_MARGIN = 0.01
_RATE_MARGIN = 0.01
_TOLERANCE_IN_SIGMAS = 3.5
"""What a tolerance is taken to be of an honest sigma that is not stated."""


def is_below_target(distance: float, r_target: float) -> bool:
    """Whether a nonce with this distance counts; never where the distance is NaN.

    An `r_target` from 2 on is rate 1: no distance is too large, 2 itself included.
    """
    return not math.isnan(distance) and (r_target >= 2.0 or distance < r_target)


def nearest_power_of_two(embedding_rms: float) -> float:
    """The power of two nearest to the RMS of an embedding table, nearest in log2.

    Raises:
        FieldError: The RMS is not a positive finite number, or lies within 1 % of the boundary between two
            powers, 2^(k + 1/2), where two machines' sums could fall on different sides.
    """
    if not (math.isfinite(embedding_rms) and embedding_rms > 0):
        raise FieldError(
            "input_scale",
            None,
            f"a power of two; the embedding table's RMS, {embedding_rms}, gives no default",
        )
    power = 2.0 ** round(math.log2(embedding_rms))
    ratio = max(embedding_rms / power, power / embedding_rms)
    if ratio * (1 + _BOUNDARY_MARGIN) > math.sqrt(2):
        raise FieldError(
            "input_scale",
            None,
            f"a power of two, to be stated for this model: its embedding table's RMS, {embedding_rms:.6g}, "
            "lies within 1 % of the boundary between two powers",
        )
    return power


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A round with everything decided; made by `Round.resolve`.

    Attributes:
        config: The request.
        hidden_size: D of the deployed model.
        r_target: Distances below it count; 2 at rate 1.
        valid_rate: The share of nonces that count, by the law.
        input_scale: A power of two.
        batch_size: Nonces in one forward, after lowering to what fits.
        digest: Hex SHA-256 of the settings.
        distance_std: s = 1/√(2·D).
    """

    config: PoCConfig
    hidden_size: int
    r_target: float
    valid_rate: float
    input_scale: float
    batch_size: int
    digest: str
    distance_std: float

    @classmethod
    def resolve(cls, config: PoCConfig, model: DeployedModel) -> Self:
        """Decide what the request leaves open.

        Raises:
            FieldError: `r_target` and `valid_rate` disagree, `seq_len` exceeds what the engine takes, or the
                input scale has to be stated.
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
        if config.input_scale is not None:
            input_scale = config.input_scale
        elif config.use_random_projection:
            input_scale = nearest_power_of_two(model.embedding_rms)
        else:
            input_scale = 1.0
        return cls(
            config=config,
            hidden_size=model.hidden_size,
            r_target=r_target,
            valid_rate=rate,
            input_scale=input_scale,
            batch_size=min(
                config.batch_size, model.max_batched_tokens // config.seq_len, model.max_sequences
            ),
            digest=round_digest(_settings(config, model.hidden_size, input_scale)),
            distance_std=distance_std(model.hidden_size),
        )

    @property
    def settings(self) -> dict[str, str]:
        """The settings that the digest covers, as the texts that are hashed."""
        return _settings(self.config, self.hidden_size, self.input_scale)

    @property
    def tolerance(self) -> float | None:
        """How far a claim may be from the recomputed distance; None is the older rule."""
        units = self.config.distance_tolerance
        return None if units is None else units * self.distance_std

    @property
    def honest_sigma(self) -> float | None:
        """RMS of honest errors in units of s; None by the older rule, and where no error is tolerated."""
        tolerance = self.config.distance_tolerance
        if not tolerance:
            return None
        stated = self.config.honest_sigma
        return tolerance / _TOLERANCE_IN_SIGMAS if stated is None else stated

    @property
    def every_nonce_counts(self) -> bool:
        """Whether the round has rate 1: no distance is too large, 2 itself included."""
        return self.r_target >= 2.0

    def is_valid(self, distance: float) -> bool:
        """Whether a nonce with this distance counts; never where the distance is NaN."""
        return is_below_target(distance, self.r_target)

    def spec(self) -> RoundSpec:
        """What a worker has to know."""
        return RoundSpec(
            digest=self.digest,
            block_hash=self.config.block_hash,
            hidden_size=self.hidden_size,
            seq_len=self.config.seq_len,
            batch_size=self.batch_size,
            input_scale=self.input_scale,
            projection=self.config.use_random_projection,
            projection_scale=self.config.projection_scale,
        )


def _settings(config: PoCConfig, hidden_size: int, input_scale: float) -> dict[str, str]:
    return round_settings(
        hidden_size=hidden_size,
        seq_len=config.seq_len,
        input_scale=input_scale,
        projection=config.use_random_projection,
        projection_scale=config.projection_scale,
        model=config.model,
    )


def _resolve_target(config: PoCConfig, hidden_size: int) -> tuple[float, float]:
    """The round's `r_target` and valid rate; each gives the other by the law."""
    if config.r_target is None:
        rate = 1.0 if config.valid_rate is None else config.valid_rate
        return r_target_for(rate, hidden_size), rate
    r_target = min(config.r_target, 2.0)
    rate = 1.0 if r_target == 2.0 else valid_rate(r_target, hidden_size)
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
