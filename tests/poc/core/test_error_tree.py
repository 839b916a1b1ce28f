"""The exception tree and what its messages say."""

import inspect
import pickle

import pytest

from hallmark.poc.core import errors
from hallmark.poc.core.errors import FieldError, HallmarkError, QueueFullError, StateError


def test_everything_public_is_in_one_tree_and_drawn_in_the_docstring() -> None:
    assert errors.__doc__ is not None
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), HallmarkError)
        assert name in errors.__doc__
    defined = {name for name, _ in inspect.getmembers(errors, inspect.isclass)}
    assert defined == set(errors.__all__)


def test_a_field_error_names_field_value_and_what_is_allowed() -> None:
    error = FieldError("r_target", 3.5, "a number above 0")
    assert str(error) == "r_target: 3.5 is not allowed; allowed: a number above 0"
    assert (error.field, error.value, error.allowed) == ("r_target", 3.5, "a number above 0")
    assert isinstance(error, ValueError)


def test_a_long_value_is_cut() -> None:
    message = str(FieldError("nonces", "x" * 10_000, "less"))
    assert len(message) < 300
    assert "…" in message


def test_a_full_queue_says_when_to_come_back() -> None:
    error = QueueFullError("the queue holds 100000 nonces, its limit", retry_after=2.5)
    assert error.retry_after == 2.5
    with pytest.raises(HallmarkError, match="100000"):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        FieldError("dtype", "float8", "bfloat16, float16, float32"),
        QueueFullError("the queue is full", retry_after=2.5),
        StateError("the model returns something else"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_reach_other_processes_as_they_are(error: HallmarkError) -> None:
    error.add_note("a hint")
    restored = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
    assert type(restored) is type(error)
    assert (str(restored), vars(restored)) == (str(error), vars(error))
    assert restored.__notes__ == ["a hint"]
