"""What the engine's workers read of the settings: sizes and a timeout, and never a secret."""

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hallmark.poc.core.errors import FieldError
from hallmark.poc.core.models import field_error, nearest
from hallmark.poc.settings.secret_sources import NOT_SHOWN

__all__ = [
    "BYTES",
    "MILLISECONDS",
    "OLDER_NAMES",
    "SECONDS",
    "SECTION",
    "Count",
    "EngineLimits",
    "settings_section",
]

logger = logging.getLogger(__name__)

SECTION: Final = "hallmark"
"""The key of vLLM's `--additional-config` that holds the settings."""

OLDER_NAMES: Final = {"batch_size": "max_batch_size"}

# What a setting is counted in, for the table in docs/reference/settings.md.
BYTES: Final[dict[str, Any]] = {"unit": "bytes"}
SECONDS: Final[dict[str, Any]] = {"unit": "seconds"}
MILLISECONDS: Final[dict[str, Any]] = {"unit": "milliseconds"}

Count = Annotated[int, Field(ge=1, lt=2**31)]


class EngineLimits(BaseModel):
    """The largest batch that an engine is prepared for, and how long it may take."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    max_batch_size: Count = Field(
        32, description="Largest batch of nonces the server sizes itself for. Older name: `batch_size`."
    )
    seq_len: Count = Field(
        256, description="Input length of the largest batch; longer ones get smaller batches."
    )
    engine_timeout: float = Field(
        120.0,
        ge=1,  # a call of a round computes batches for half a second
        allow_inf_nan=False,
        description="A worker that is stuck for so long ends.",
        json_schema_extra=SECONDS,
    )

    @classmethod
    def from_additional_config(cls, additional_config: object) -> Self:
        """Read the limits out of vLLM's `additional_config`, which the server has checked as a whole.

        Raises:
            FieldError: One has a value that is not allowed.
        """
        try:
            return cls.model_validate(settings_section(additional_config))
        except ValidationError as exc:
            raise field_error(exc.errors(include_url=False), prefix=f"{SECTION}.") from exc


def settings_section(additional_config: object, *, warns: bool = False) -> dict[str, Any]:
    """Return our section of vLLM's `additional_config`, older names replaced; empty where there is none.

    Args:
        additional_config: What vLLM made of `--additional-config`.
        warns: Whether older names are logged, which one process of a server is enough for.

    Raises:
        FieldError: It is no object, a key beside it is a near miss of its name, or a setting stands in it
            under both of its names.
    """
    if not isinstance(additional_config, Mapping):
        return {}
    for key in additional_config:
        # vLLM takes any key: what was meant for us would be lost in silence.
        if isinstance(key, str) and key != SECTION and nearest(key, [SECTION]) is not None:
            raise FieldError("--additional-config", key, f"{SECTION!r}, if that was meant")
    section = additional_config.get(SECTION, {})
    if not isinstance(section, Mapping):
        # The value stays out: it may be a text that holds the API key.
        raise FieldError(SECTION, f"{type(section).__name__} {NOT_SHOWN}", "an object of settings")
    settings = dict(section)
    for older, name in OLDER_NAMES.items():
        if older not in settings:
            continue
        if name in settings:
            raise FieldError(f"{SECTION}.{older}", settings[older], f"none beside {name}, which it is now")
        if warns:
            logger.warning("The setting %s.%s is called %s.%s now", SECTION, older, SECTION, name)
        settings[name] = settings.pop(older)
    return settings
