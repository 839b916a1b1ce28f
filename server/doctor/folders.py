"""Whether something could be kept in a folder that may not be there yet."""

import os
from pathlib import Path
from typing import Final

__all__ = ["MIN_FREE", "writable_folder"]

MIN_FREE: Final = 2**30
"""Bytes of a disk that are to be free, for an outbox as for caches."""


def writable_folder(folder: Path) -> tuple[Path, str | None]:
    """Find the folder that is there, this one or the nearest above it, and whether it can be written.

    Returns:
        That folder, and what is wrong with it; None where nothing is.
    """
    held = folder.absolute()
    # By os.path, for which a folder that this user may not look into is one that is not there.
    while not os.path.lexists(held) and held != held.parent:
        held = held.parent
    if not os.path.isdir(held):
        return held.parent, f"{held} is no folder"
    if not os.access(held, os.W_OK | os.X_OK):
        return held, f"{held} cannot be written by this user"
    return held, None
