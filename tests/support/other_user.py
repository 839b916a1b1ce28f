"""What a user may do who is not root."""

import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

__all__ = ["as_nobody", "public_folder"]

_NOBODY: Final = 65_534


def as_nobody(run: Callable[[], Any]) -> Any:
    """Run something in a fork, by root's tests as the user nobody, by others' as who they are."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(_NOBODY)
                os.setuid(_NOBODY)
            with os.fdopen(writer, "wb") as file:
                pickle.dump(run(), file)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        content = file.read()
    assert os.waitpid(child, 0)[1] == 0, "what was run has failed"
    return pickle.loads(content)  # noqa: S301  # of this process's own child


@contextmanager
def public_folder() -> Iterator[Path]:
    """A folder that everybody may look into, unlike pytest's, and only its owner may write."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path
