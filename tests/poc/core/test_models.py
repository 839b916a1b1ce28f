"""Names that nothing knows, and errors about what clients sent."""

from typing import Annotated, Any

import pytest
from pydantic import StringConstraints, TypeAdapter, ValidationError

from hallmark.poc.core.checks import allowed_in_words
from hallmark.poc.core.errors import FieldError
from hallmark.poc.core.models import MAX_UNKNOWN, refuse_near_misses, unknown_names

KNOWN = ("batch_size", "callback_url")


def test_only_a_bounded_part_of_a_body_is_looked_at_for_misspellings() -> None:
    many = {f"z{i}": 0 for i in range(MAX_UNKNOWN)}
    refuse_near_misses({**many, "bacth_size": 1}, KNOWN)
    with pytest.raises(FieldError, match="'batch_size', if that was meant"):
        refuse_near_misses({"bacth_size": 1, **many}, KNOWN)
    refuse_near_misses({"batch_size" * 10_000: 1}, KNOWN)


def test_what_is_told_of_unknown_names_is_bounded_and_can_be_written() -> None:
    body = {"\ud800": 1, "x" * 10**6: 1, "batch_size": 1, **{f"z{i}": 0 for i in range(1000)}}
    told = unknown_names(body, KNOWN)
    assert told[:2] == [r"\ud800", "x" * MAX_UNKNOWN]
    assert len(told) == MAX_UNKNOWN
    "".join(told).encode()


def test_an_error_can_be_written_and_is_never_long() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("\ud800", "x" * 10**6, deep):
        message = str(FieldError("\udfff" * 1000, value, "y" * 10**6))
        assert len(message.encode()) < 5000


@pytest.mark.parametrize(
    ("kind", "value", "allowed"),
    [
        (int, "one", "a valid integer"),
        (int, "9" * 5000, "a valid integer"),
        (int, 1.5, "a valid integer"),
        (float, "half", "a valid number"),
        (bool, "perhaps", "true or false"),
        (Annotated[str, StringConstraints(max_length=3)], "four", "text of at most 3 characters"),
    ],
)
def test_what_is_allowed_is_not_told_in_pydantics_words(kind: Any, value: object, allowed: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(value)
    assert allowed_in_words(caught.value.errors()[0]) == allowed
