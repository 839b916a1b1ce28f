"""The server's settings: typed, checked once at start, never changed afterwards."""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from hallmark.poc.checks import allowed_in_words
from hallmark.poc.errors import FieldError

__all__ = ["API_KEY_VARIABLE", "SECTION", "Settings"]

SECTION = "hallmark"
"""The key of vLLM's `--additional-config` that holds the settings."""

API_KEY_VARIABLE = "HALLMARK_API_KEY"

_Count = Annotated[int, Field(ge=1, lt=2**31)]
_Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """What an operator may set, as `--additional-config '{"hallmark": {...}}'`.

    Times are in seconds where the name does not say milliseconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    batch_size: _Count = Field(32, description="Largest batch of nonces the server sizes itself for.")
    seq_len: _Count = Field(
        256, description="Input length of the largest batch; longer ones get smaller batches."
    )
    allow_unsupported_vllm: bool = Field(False, description="Start on a vLLM outside the tested range.")

    api_key: SecretStr | None = Field(
        None, min_length=1, description="Token of the control routes; better given as HALLMARK_API_KEY."
    )
    allow_unauthenticated: bool = Field(False, description="Serve a network without a token.")
    max_body_bytes: _Count = Field(8 * 2**20, description="Largest body of a control request.")

    max_stall_ms: _Milliseconds = Field(
        10.0, description="Longest that proof of compute may hold the engine at a time beside inference."
    )
    validation_share: float = Field(
        0.25,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Share of engine time it may take then.",
    )
    idle_slice_ms: _Milliseconds = Field(
        50.0, description="The same as max_stall_ms while no inference is at work."
    )
    engine_timeout: float = Field(
        120.0,
        gt=0,
        allow_inf_nan=False,
        description="A worker that is stuck for so long ends.",
    )
    stuck_after: float = Field(
        60.0, gt=0, allow_inf_nan=False, description="Work without progress for so long is reported as stuck."
    )
    inference_while_generating: bool = Field(False, description="Serve inference in GENERATING too.")
    max_queued_nonces: _Count = Field(
        100_000, description="Nonces that may wait for validation, repetitions included."
    )
    shutdown_timeout: _Seconds = Field(
        5.0, description="How long a stopping server waits for the batch in flight, and then for callbacks."
    )

    callback_interval: _Seconds = Field(5.0, description="Least time between two merged batches.")
    callback_timeout: float = Field(10.0, gt=0, allow_inf_nan=False, description="Longest attempt.")
    callback_max_retries: int = Field(10, ge=0, lt=2**31, description="Further attempts after the first.")
    callback_max_queue: _Count = Field(1_000, description="Deliveries one receiver may have waiting.")
    callback_retry_base: _Seconds = Field(1.0, description="Wait before the first retry.")
    callback_retry_cap: _Seconds = Field(60.0, description="Longest wait before a retry.")
    callback_allowed_hosts: tuple[str, ...] | None = Field(
        None, strict=False, description="Hosts that callbacks may go to; none given: any."
    )

    @model_validator(mode="after")
    def _check_backoff(self) -> Self:
        if self.callback_retry_base > self.callback_retry_cap:
            raise FieldError(
                f"{SECTION}.callback_retry_base",
                self.callback_retry_base,
                f"at most callback_retry_cap, {self.callback_retry_cap}",
            )
        return self

    @classmethod
    def from_additional_config(
        cls, additional_config: object, environment: Mapping[str, str] = os.environ
    ) -> Self:
        """The settings in vLLM's `additional_config`; the API key may come from the environment.

        Args:
            additional_config: What vLLM made of `--additional-config`; anything but a mapping with our
                section leaves the defaults.
            environment: Where `HALLMARK_API_KEY` is looked up when the section has no `api_key`.

        Raises:
            FieldError: A setting is unknown or has a value that is not allowed; secrets are not repeated.
        """
        section = additional_config.get(SECTION, {}) if isinstance(additional_config, Mapping) else {}
        if not isinstance(section, Mapping):
            # The value stays out: it may be a text that holds the API key.
            raise FieldError(SECTION, f"{type(section).__name__} (not shown)", "an object of settings")
        values: dict[str, Any] = dict(section)
        key = environment.get(API_KEY_VARIABLE)
        if key is not None and values.get("api_key") is None:
            if not key:
                raise FieldError(
                    API_KEY_VARIABLE, key, "a token; set it to a non-empty token, or unset it to have none"
                )
            values["api_key"] = key
        try:
            return cls(**values)
        except ValidationError as exc:
            # Without its cause: pydantic's text repeats the inputs, and one of them may be a secret.
            raise _field_error(exc, cls) from None


def _field_error(error: ValidationError, settings: type[Settings]) -> FieldError:
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, FieldError):
        return cause
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        # The value stays out: it may be a secret under a misspelt name.
        return FieldError(SECTION, name, f"the settings {', '.join(settings.model_fields)}")
    value = "(not shown)" if name == "api_key" else first["input"]
    return FieldError(f"{SECTION}.{name}", value, allowed_in_words(first))
