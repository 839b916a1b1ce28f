"""Models of what comes in from outside: typed strictly, refused in our words, unknown names told.

A model is a frozen pydantic dataclass whose types are checked by pydantic and whose ranges it checks itself.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import wraps
from itertools import islice
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from hallmark.poc.core.checks import allowed_in_words
from hallmark.poc.core.errors import FieldError, writable

__all__ = [
    "MAX_UNKNOWN",
    "STRICT",
    "field_error",
    "json_schema",
    "nearest",
    "refuse_near_misses",
    "refuses_in_words",
    "unknown_names",
]

STRICT = ConfigDict(strict=True, extra="forbid")
"""No number for a text, no `true` for a number, and no argument that is not a field."""

MAX_UNKNOWN = 64
"""Members that nothing knows are looked at so far, and so much of their names: a body may be all of them."""

# Of difflib's ratio: a letter more, less, changed or two swapped, in names of five letters and longer.
_CUTOFF = 0.8

_Model = TypeVar("_Model")


def refuses_in_words(
    names: Mapping[str, str] = MappingProxyType({}), allowed: Mapping[str, str] = MappingProxyType({})
) -> Callable[[type[_Model]], type[_Model]]:
    """Let a model's constructor raise `FieldError` in the place of pydantic's error.

    Args:
        names: Fields that errors call otherwise: as the wire does.
        allowed: What the elements of a field may be, in words.
    """

    def decorate(model: type[_Model]) -> type[_Model]:
        construct = model.__init__

        @wraps(construct)
        def refuse(self: _Model, **fields: Any) -> None:
            try:
                construct(self, **fields)
            except ValidationError as exc:
                errors = exc.errors(include_url=False)
                raise field_error(errors, names=names, allowed=allowed) from exc

        setattr(model, "__init__", refuse)  # noqa: B010  # to mypy it is the same for all classes
        return model

    return decorate


def field_error(
    errors: Sequence[ErrorDetails],
    *,
    prefix: str = "",
    names: Mapping[str, str] = MappingProxyType({}),
    allowed: Mapping[str, str] = MappingProxyType({}),
) -> FieldError:
    """Put the first of pydantic's errors into our words; all fields that are missing are told at once.

    Args:
        errors: As pydantic lists them.
        prefix: What comes before the field's name.
        names: As for `refuses_in_words`.
        allowed: As for `refuses_in_words`.
    """
    missing = [_path(error["loc"], names) for error in errors if _is_missing(error)]
    if missing:
        return FieldError(", ".join(missing), None, "a value; the field is required")
    first = errors[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, FieldError):
        return FieldError(cause.field, cause.value, cause.allowed)
    in_words = allowed.get(str(first["loc"][0])) if len(first["loc"]) > 1 else None
    path = prefix + _path(first["loc"], names)
    return FieldError(path, first["input"], in_words or allowed_in_words(first))


def _is_missing(error: ErrorDetails) -> bool:
    return error["type"] == "missing" and len(error["loc"]) == 1


def _path(location: Sequence[int | str], names: Mapping[str, str]) -> str:
    """Write where an error is: `numerics.dtype`, `nonces[3]`."""
    field, *inner = location
    # No field is deeper than its elements: what follows these tells by which type of a union one was read.
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in inner[:1])
    return names.get(str(field), str(field)) + "".join(parts)


def nearest(name: str, known: Collection[str]) -> str | None:
    """Return the known name that an unknown one is a near miss of; None where there is none."""
    found = get_close_matches(name.lower(), known, n=1, cutoff=_CUTOFF)
    return found[0] if found else None


def refuse_near_misses(body: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse a body with a misspelt member: what was meant would be lost in silence.

    Raises:
        FieldError: A member that nothing knows is a near miss of a known one.
    """
    for name in islice(_unknown(body, known), MAX_UNKNOWN):
        meant = nearest(name, known) if len(name) <= MAX_UNKNOWN else None
        if meant is not None:
            raise FieldError(name, body[name], f"no such field; {meant!r}, if that was meant")


def unknown_names(body: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """Return the members of a body that nothing knows: clients of other generations send some.

    At most 64 are told, by their first 64 characters and in what has a UTF-8 form.
    """
    return [writable(name[:MAX_UNKNOWN]) for name in islice(_unknown(body, known), MAX_UNKNOWN)]


def _unknown(body: Mapping[str, Any], known: Collection[str]) -> Iterator[str]:
    return (name for name in body if name not in known)


def json_schema(
    model: type[object], names: Mapping[str, str] = MappingProxyType({}), nullable: Collection[str] = ()
) -> dict[str, Any]:
    """Return the JSON schema of a model's body, which may have other members as well.

    Args:
        model: The model.
        names: Fields that the wire calls otherwise.
        nullable: Fields in which null is absence.
    """
    schema = TypeAdapter(model).json_schema()
    properties = {}
    for name, described in schema["properties"].items():
        if name in nullable and "anyOf" not in described:
            kept = {
                key: described.pop(key) for key in ("description", "default", "title") if key in described
            }
            described = {"anyOf": [described, {"type": "null"}], **kept}
        properties[names.get(name, name)] = _inlined(described, schema.get("$defs", {}))
    return {"type": "object", "properties": properties, "required": schema["required"]}


def _inlined(part: Any, definitions: Mapping[str, Any]) -> Any:
    """Return a part of a schema with what it refers to in the place of the references."""
    if isinstance(part, list):
        return [_inlined(each, definitions) for each in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        part = {**definitions[part["$ref"].rpartition("/")[2]], **part}
    return {key: _inlined(value, definitions) for key, value in part.items() if key != "$ref"}
