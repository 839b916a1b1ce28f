"""JSON schemas of the answers, from their examples."""

from collections.abc import Collection
from typing import Any, Final

__all__ = ["schema_of"]

# A boolean is an integer to Python, so it comes first; a float may come out whole.
_TYPES: Final = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
)

_MAY_BE_NULL: Final = frozenset(
    {
        "callback_url",
        "computed_distances",
        "config",
        "error_mean",
        "error_rms",
        "honest_sigma",
        "interrupted_round",
        "n_covered",
        "r_target",
        "seconds_since_progress",
        "stats",
        "tolerance",
        "valid_rate",
        "vllm_version",
    }
)
"""Names of what is null in some states, and of lists that may hold null, although the example does not."""

_ALWAYS_WHOLE: Final = frozenset({"pow_status"})
"""Names of inner objects whose members are told too; what others hold depends on the state."""


def schema_of(example: Any, *, optional: Collection[str] = (), whole: bool = True) -> dict[str, Any]:
    """The schema of an answer.

    Args:
        example: What it looks like; what is null there may be anything.
        optional: The names that an answer may lack.
        whole: Whether to tell the members of an object.
    """
    kind = next((name for type_, name in _TYPES if isinstance(example, type_)), None)
    if kind is None:
        return {}
    schema: dict[str, Any] = {"type": kind}
    if isinstance(example, dict) and whole:
        schema["properties"] = {name: _member(name, value) for name, value in example.items()}
        schema["required"] = [name for name in example if name not in optional]
    elif isinstance(example, list) and example:
        schema["items"] = schema_of(example[0], whole=False)
    return schema


def _member(name: str, example: Any) -> dict[str, Any]:
    schema = schema_of(example, whole=name in _ALWAYS_WHOLE)
    if name not in _MAY_BE_NULL:
        return schema
    if "items" in schema:
        return {**schema, "items": {"anyOf": [schema["items"], {"type": "null"}]}}
    return {"anyOf": [schema, {"type": "null"}]}
