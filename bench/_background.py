"""What goes on in a thread of its own for the length of a block."""

import threading
from abc import ABC, abstractmethod
from typing import Self


class Background(ABC):
    """Runs beside a block; what fails in its thread is raised where the block ends.

    Args:
        name: The thread's.
    """

    def __init__(self, name: str) -> None:
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._watched, name=name)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, exc_type: object, exc: object, traceback: object) -> None:
        self._over.set()
        self._thread.join()
        self._clean_up()
        if self._failure is not None and exc is None:
            raise self._failure

    @abstractmethod
    def _run(self) -> None:
        """Go on until `_over` is set."""

    def _clean_up(self) -> None:  # noqa: B027  # most have nothing to do
        """Put things in order when the thread has ended."""

    def _watched(self) -> None:
        try:
            self._run()
        except BaseException as exc:  # noqa: BLE001  # raised where the block ends
            self._failure = exc
