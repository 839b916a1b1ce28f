"""Files that an older Hallmark has written; tests/files says what is in them."""

import shutil
from pathlib import Path

_FILES = Path(__file__).parents[1] / "files"


def written_by_734b105(name: str, folder: Path) -> Path:
    """A copy of such a file in a folder."""
    return Path(shutil.copy(_FILES / "734b105" / name, folder / name))
