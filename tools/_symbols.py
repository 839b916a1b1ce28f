"""What a version of vLLM has of the parts that Hallmark uses, kept as data: one JSON file a version."""

import ast
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hallmark.poc.engine.pins import Definition, Pin, ReadFile, definitions

__all__ = ["Symbols", "cache_users", "known_versions", "symbols_of"]

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "poc" / "engine" / "vllm_symbols"

MODEL_FOLDERS = ("model_executor/models", "models")


@dataclass(frozen=True)
class Symbols:
    """The data of a version.

    Attributes:
        version: vLLM's version.
        definitions: What it has in the place of each pin, by `Pin.key`; None where it has nothing.
        cache_users: For each file of a model, the expressions in it that reach for a KV cache.
    """

    version: str
    definitions: Mapping[str, Definition | None]
    cache_users: Mapping[str, tuple[str, ...]]

    @classmethod
    def load(cls, version: str) -> "Symbols":
        """Read a tested version's data."""
        data = json.loads((FOLDER / f"{version}.json").read_text(encoding="utf-8"))
        found = {
            key: None if value is None else Definition(value["signature"], value["members"])
            for key, value in data["definitions"].items()
        }
        return cls(version, found, {file: tuple(uses) for file, uses in data["cache_users"].items()})

    def save(self) -> Path:
        """Write the data, and return the file."""
        path = FOLDER / f"{self.version}.json"
        data = {
            "definitions": {
                key: None if value is None else {"signature": value.signature, "members": dict(value.members)}
                for key, value in self.definitions.items()
            },
            "cache_users": self.cache_users,
        }
        path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return path

    def of(self, pin: Pin) -> Definition | None:
        """Return what stands in the place of a pin; None where the pin is newer than the data, too."""
        return self.definitions.get(pin.key)


def symbols_of(version: str, read: ReadFile, model_files: Iterable[str]) -> Symbols:
    """Read a version's data off its files.

    Args:
        version: The version.
        read: A reader of its files.
        model_files: The files of `MODEL_FOLDERS`.
    """
    return Symbols(
        version,
        {pin.key: definition for pin, definition in definitions(read)},
        cache_users(read, model_files),
    )


def cache_users(read: Callable[[str], str], files: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Find the expressions of models that reach for the KV cache of some layer, by file.

    A class that keeps a cache itself says `self.kv_cache`, which is left out: PoC refuses it by its type.
    """
    found = {}
    for file in files:
        uses = {
            ast.unparse(node)
            for node in ast.walk(ast.parse(read(file)))
            if isinstance(node, ast.Attribute)
            and node.attr == "kv_cache"
            and ast.unparse(node.value) != "self"
        }
        if uses:
            found[file] = tuple(sorted(uses))
    return found


def known_versions() -> list[str]:
    """Return the versions whose data is kept, oldest first."""
    versions = [path.stem for path in FOLDER.glob("*.json")]
    return sorted(versions, key=lambda version: [int(part) for part in version.split(".")])
