"""The server's settings: typed, checked once at start, never changed afterwards."""

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Final, Self

from pydantic import ConfigDict, Field, SecretStr, ValidationError, model_validator

from hallmark.poc.core.errors import FieldError
from hallmark.poc.core.models import field_error, nearest
from hallmark.poc.settings.engine_limits import (
    BYTES,
    MILLISECONDS,
    OLDER_NAMES,
    SECONDS,
    SECTION,
    Count,
    EngineLimits,
    settings_section,
)
from hallmark.poc.settings.secret_sources import (
    API_KEY_VARIABLE,
    MAX_WEBHOOK_SECRETS,
    NOT_SHOWN,
    WEBHOOK_SECRETS_VARIABLE,
    read_api_key,
    read_webhook_secrets,
)
from hallmark.poc.webhooks.url import canonical_host

__all__ = [
    "API_KEY_VARIABLE",
    "NEVER_IN_THE_SECTION",
    "NO_PAGE_VARIABLE",
    "SECTION",
    "WEBHOOK_SECRETS_VARIABLE",
    "Settings",
]

NO_PAGE_VARIABLE: Final = "HALLMARK_NO_PAGE"
"""Where it is set to anything but nothing, there is no page: `hallmark serve --no-page` sets it."""

NEVER_IN_THE_SECTION = MappingProxyType(
    {
        "api_key": f"{API_KEY_VARIABLE} in the environment, or the path of a file with it as api_key_file",
        "webhook_secrets": f"{WEBHOOK_SECRETS_VARIABLE} in the environment, or the path of a file with them "
        "as webhook_secrets_file",
    }
)
"""The fields that are secrets, and how each is given instead: vLLM logs the section, `ps` shows it."""

_Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False, json_schema_extra=MILLISECONDS)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False, json_schema_extra=SECONDS)]
_PositiveSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False, json_schema_extra=SECONDS)]


class Settings(EngineLimits):
    """What an operator may set, as `--additional-config '{"hallmark": {...}}'`.

    Times are in seconds where the name does not say milliseconds.
    """

    model_config = ConfigDict(extra="forbid")

    allow_unsupported_vllm: bool = Field(
        False, description="Start on a vLLM newer than the tested ones that lacks something."
    )
    allow_developer_mode: bool = Field(
        False, description="Start in vLLM's developer mode, whose routes ask for no token."
    )

    api_key: SecretStr | None = Field(None, min_length=1, description="Token of the control routes.")
    api_key_file: str | None = Field(
        None,
        min_length=1,
        description="A file with the token of the control routes, instead of `HALLMARK_API_KEY`.",
    )
    allow_unauthenticated: bool = Field(False, description="Serve a network without a token.")
    page: bool = Field(True, description="Serve the live page at `/poc`.")
    max_body_bytes: Count = Field(
        8 * 2**20, description="Largest body of a control request.", json_schema_extra=BYTES
    )

    max_stall_ms: _Milliseconds = Field(
        10.0,
        description="Longest that proof of compute may hold the engine at a time beside inference: all "
        "stages of a pipeline together.",
    )
    validation_share: float = Field(
        0.25,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Share of engine time that proof of compute may take beside inference.",
    )
    idle_slice_ms: _Milliseconds = Field(
        50.0, description="The same as `max_stall_ms` while no inference is at work."
    )
    stuck_after: _PositiveSeconds = Field(
        60.0, description="Work without progress for so long is reported as stuck."
    )
    inference_while_generating: bool = Field(False, description="Serve inference in GENERATING too.")
    max_queued_nonces: Count = Field(
        100_000, description="Nonces that may wait for validation, repetitions included."
    )
    shutdown_timeout: _Seconds = Field(
        5.0, description="How long a stopping server waits for the batch in flight, and then for callbacks."
    )

    outbox_path: str | None = Field(
        None,
        min_length=1,
        description="The file that keeps callbacks and the round; none: one for each port, in the user's "
        "state directory. `memory` keeps nothing beyond the server's end.",
    )
    outbox_max_bytes: int = Field(
        2**30,
        ge=2**16,
        lt=2**63,
        description="Callbacks that may be kept, for all receivers.",
        json_schema_extra=BYTES,
    )
    resume_on_start: bool = Field(
        False, description="Go on with the round that the server's end interrupted."
    )

    callback_interval: _Seconds = Field(5.0, description="Least time between two merged batches.")
    callback_max_payload_bytes: int = Field(
        2**20,
        ge=2**19,
        lt=2**31,
        description="Longest body of a merged batch.",
        json_schema_extra=BYTES,
    )
    callback_timeout: _PositiveSeconds = Field(10.0, description="Longest attempt.")
    callback_max_age: _PositiveSeconds = Field(86_400.0, description="A callback that is older is dropped.")
    callback_max_retries: int | None = Field(
        None, ge=0, lt=2**31, description="Further attempts after the first; none: any, within the age."
    )
    callback_max_queue: Count = Field(100_000, description="Callbacks one receiver may have waiting.")
    callback_max_concurrency: Count = Field(64, description="Receivers that are called at the same time.")
    callback_backoff_base: _Seconds = Field(
        1.0, description="Shortest wait before a retry, at most `callback_backoff_cap`."
    )
    callback_backoff_cap: _Seconds = Field(60.0, le=86_400, description="Longest wait before a retry.")
    callback_allowed_hosts: tuple[str, ...] | None = Field(
        None, strict=False, description="Hosts that callbacks may go to; none: any."
    )

    webhook_secrets: tuple[SecretStr, ...] = Field(
        (), max_length=MAX_WEBHOOK_SECRETS, description="What callbacks are signed with."
    )
    webhook_secrets_file: str | None = Field(
        None,
        min_length=1,
        description="A file with a secret a line that callbacks are signed with, instead of "
        "`HALLMARK_WEBHOOK_SECRETS`.",
    )

    @model_validator(mode="after")
    def _check_hosts(self) -> Self:
        for host in self.callback_allowed_hosts or ():
            try:
                canonical_host(host)
            except ValueError as exc:
                raise FieldError(
                    f"{SECTION}.callback_allowed_hosts",
                    host,
                    "names and addresses of hosts, without scheme, port and wildcards",
                ) from exc
        return self

    @model_validator(mode="after")
    def _check_backoff(self) -> Self:
        if self.callback_backoff_base > self.callback_backoff_cap:
            raise FieldError(
                f"{SECTION}.callback_backoff_base",
                self.callback_backoff_base,
                f"at most callback_backoff_cap, {self.callback_backoff_cap}",
            )
        return self

    @classmethod
    def from_additional_config(
        cls, additional_config: object, environment: Mapping[str, str] = os.environ
    ) -> Self:
        """Return the settings in vLLM's `additional_config`, and the secrets from where those are.

        Args:
            additional_config: What vLLM made of `--additional-config`; anything but a mapping with our
                section leaves the defaults.
            environment: Where `HALLMARK_API_KEY`, `HALLMARK_WEBHOOK_SECRETS` and `HALLMARK_NO_PAGE` are.

        Raises:
            FieldError: A setting is unknown, has a value that is not allowed or is a secret, or a secret
                cannot be read. No error has a secret in it, nor has its context.
        """
        section = settings_section(additional_config, warns=True)
        for name, instead in NEVER_IN_THE_SECTION.items():
            if name in section:
                raise FieldError(
                    f"{SECTION}.{name}",
                    NOT_SHOWN,
                    f"{instead}; here it would stand in vLLM's log and in every process list",
                )
        try:
            settings = cls.model_validate(section)
        except ValidationError as exc:
            error = _field_error(exc, cls)
        else:
            return settings._with_secrets(environment)._without_page(environment)
        # Here, not while the other is handled: pydantic's error has the inputs, and one may be a secret.
        raise error

    def _with_secrets(self, environment: Mapping[str, str]) -> Self:
        secrets = {
            "api_key": read_api_key(f"{SECTION}.api_key_file", self.api_key_file, environment),
            "webhook_secrets": read_webhook_secrets(
                f"{SECTION}.webhook_secrets_file", self.webhook_secrets_file, environment
            ),
        }
        return self.model_copy(update=secrets)

    def _without_page(self, environment: Mapping[str, str]) -> Self:
        return self.model_copy(update={"page": False}) if environment.get(NO_PAGE_VARIABLE) else self


def _field_error(error: ValidationError, settings: type[Settings]) -> FieldError:
    """Put an error into words in which there is no secret."""
    errors = error.errors(include_url=False)
    name = ".".join(str(part) for part in errors[0]["loc"])
    if errors[0]["type"] == "extra_forbidden":
        # The value stays out: it may be a secret under a misspelt name.
        known = [field for field in settings.model_fields if field not in NEVER_IN_THE_SECTION]
        meant = nearest(name, [*known, *OLDER_NAMES])
        meant = OLDER_NAMES.get(meant or "", meant)
        allowed = f"the settings {', '.join(known)}" if meant is None else f"{meant!r}, if that was meant"
        return FieldError(SECTION, name, allowed)
    found = field_error(errors, prefix=f"{SECTION}.")
    # A secret may stand where its file should.
    is_secret = name.startswith(("api_key", "webhook_secrets"))
    return FieldError(found.field, NOT_SHOWN, found.allowed) if is_secret else found
