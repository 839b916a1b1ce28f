"""The files of a model in a folder, by their contents."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from hallmark.poc.protocol.streams import length_prefixed

__all__ = ["model_fingerprint"]

_MODEL_FILES: Final = frozenset({".json", ".safetensors", ".bin", ".pt", ".pth", ".py"})


def model_fingerprint(directory: Path) -> str:
    """Return hex SHA-256 of a model's files: names and whole contents of configuration and weights.

    Sizes and times of change would be quicker, and would not tell weights that were altered in place from
    those that were not.
    """
    files = sorted(path for path in directory.iterdir() if path.suffix in _MODEL_FILES and path.is_file())
    with ThreadPoolExecutor() as pool:
        digests = pool.map(_file_digest, files)
        return hashlib.sha256(
            b"".join(length_prefixed(path.name, digest) for path, digest in zip(files, digests, strict=True))
        ).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
