"""Everything Hallmark raises on purpose, as one tree.

::

    HallmarkError
    ├── FieldError (also a ValueError)   400  a field is wrong or missing
    ├── StateError                       409  the state or the model does not allow it
    ├── UnknownRequestError              404  no such request id
    ├── QueueFullError                   429  the validation queue is full; says when to come back
    ├── NotReadyError                    503  the engine is not ready yet
    ├── RoundCancelledError              409  the round was stopped or replaced before the job was judged
    ├── SignatureError                   401  a callback was not signed with a secret that its receiver knows
    ├── EngineError                      503  a batch failed on the engine; ends the round
    ├── DatabaseError                    503  a SQLite file or a PostgreSQL database cannot be used
    │   └── OutboxError                  503  the outbox cannot be read or written; ends the round
    └── UnsupportedError                      this vLLM set-up cannot run proof of compute; refused at start

The numbers are the HTTP statuses that the server answers with, or the receiver of callbacks.
"""

__all__ = [
    "DatabaseError",
    "EngineError",
    "FieldError",
    "HallmarkError",
    "NotReadyError",
    "OutboxError",
    "QueueFullError",
    "RoundCancelledError",
    "SignatureError",
    "StateError",
    "UnknownRequestError",
    "UnsupportedError",
]

_MAX_VALUE = 200
_MAX_ALLOWED = 2000


class HallmarkError(Exception):
    """The root of the tree; never raised itself."""


class FieldError(HallmarkError, ValueError):
    """A field has a value that is not allowed, or is missing.

    Attributes:
        field: The field's name as the caller wrote it.
        value: What was found there.
        allowed: What would have been accepted, in words.
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        self.field = field
        self.value = value
        self.allowed = allowed
        # A field may be the key of an object that a client sent.
        message = (
            f"{_cut(field)}: {_cut(_shown(value))} is not allowed; allowed: {_cut(allowed, _MAX_ALLOWED)}"
        )
        super().__init__(writable(message))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle what it was made of, for processes that report to another one."""
        return type(self), (self.field, self.value, self.allowed), self.__dict__


def writable(text: str) -> str:
    """Return a text in what has a UTF-8 form: lone surrogates of a client's JSON have none."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _shown(value: object) -> str:
    try:
        return repr(value)
    except RecursionError:
        return "what is nested too deep"


def _cut(text: str, longest: int = _MAX_VALUE) -> str:
    return text if len(text) <= longest else f"{text[:longest]}…"


class StateError(HallmarkError):
    """The present state, round or model does not allow the request; the message names both sides."""


class UnknownRequestError(HallmarkError):
    """No validation with this request id is known: never accepted, or its result has expired."""


class QueueFullError(HallmarkError):
    """The validation queue has no room for the batch.

    Attributes:
        retry_after: Seconds after which there is likely to be room.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle what it was made of."""
        return type(self), (*self.args, self.retry_after), self.__dict__


class NotReadyError(HallmarkError):
    """The engine cannot take a round yet."""


class RoundCancelledError(HallmarkError):
    """A job's round was stopped or replaced before the job was judged."""


class SignatureError(HallmarkError):
    """A callback's signature is missing, wrong or too old; the message never repeats a secret."""


class EngineError(HallmarkError):
    """The engine failed to compute a batch, or answered something that is not one."""


class DatabaseError(HallmarkError):
    """A file of SQLite cannot be opened, read or written; the message names the file and says why."""


class OutboxError(DatabaseError):
    """The outbox cannot be opened, read or written; the message names the file and says why."""


class UnsupportedError(HallmarkError):
    """This vLLM set-up cannot run proof of compute; the message is one sentence that says why."""
