"""Where other processes of the tests import from."""

import os
from pathlib import Path


def with_support(*folders: Path) -> str:
    """Return a `PYTHONPATH` with some folders and these modules in front of the present one."""
    paths = [*map(str, folders), str(Path(__file__).parent), os.environ.get("PYTHONPATH")]
    return os.pathsep.join(filter(None, paths))
