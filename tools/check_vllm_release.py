#!/usr/bin/env python3
"""Tell whether a release of vLLM can be taken into the tested range: `check_vllm_release.py [VERSION]`.

Downloads the release (the newest where none is named), looks for every part of vLLM that Hallmark uses,
compares signatures with those of the newest tested version, looks for models that reach for an attention
layer's cache, and prints the table that decides. Exit code 0: the release may be tried (`make test-next`); 1:
something that Hallmark uses is missing.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hallmark.poc.engine.pins import PINS, Definition, check
from hallmark.poc.engine.versions import TESTED

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

from _release import Release, fetch
from _symbols import MODEL_FOLDERS, Symbols, known_versions, symbols_of

# The names that models give to a plain attention layer; other objects with a cache are refused by their type.
_ATTENTION = ("attn.kv_cache", "attn_layer.kv_cache")


def main() -> int:
    """Check the release that the command line names; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version", nargs="?", help="a release such as 0.33.0; the newest where none is named")
    parser.add_argument("--save", action="store_true", help="keep its symbols among those of tested versions")
    arguments = parser.parse_args()
    release = fetch(arguments.version)
    found = symbols_of(release.version, release.read, release.files(*MODEL_FOLDERS))
    tested = Symbols.load(known_versions()[-1])
    problems = [problem for pin in PINS for problem in check(pin, found.of(pin))]
    _show(release, found, tested, problems)
    if arguments.save:
        print(f"saved {found.save().name}")
    return 1 if problems else 0


def _show(release: Release, found: Symbols, tested: Symbols, problems: list[str]) -> None:
    changes = list(changed_signatures(found, tested))
    models = new_cache_users(found, tested)
    table = Table(title=f"vLLM {release.version}; Hallmark is tested with {TESTED}", show_lines=True)
    table.add_column("question", width=22)
    table.add_column("answer", overflow="fold", ratio=1)
    table.add_column("raise the range?", width=18)
    table.add_row(
        "parts that Hallmark uses",
        "\n".join(problems) if problems else f"all {len(PINS)} are there",
        "no: mend what needs them" if problems else "yes",
    )
    table.add_row(
        f"changed since {tested.version}",
        "\n".join(changes) if changes else "nothing",
        "read them first" if changes else "yes",
    )
    table.add_row(
        f"models that reach for an attention layer's cache, new since {tested.version}",
        "\n".join(models) if models else "none",
        "yes: a start refuses the models that write there" if models else "yes",
    )
    requires = [f"Python {release.metadata['Requires-Python']}"]
    requires += [f"{name} {release.requirement(name)}" for name in ("torch", "transformers", "fastapi")]
    table.add_row("what it requires", "\n".join(requires), "if pyproject.toml allows it")
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table, markup=False)
    if not problems:
        console.print(f"Next: make test-next VERSION={release.version}", highlight=False)


def changed_signatures(found: Symbols, tested: Symbols) -> Iterator[str]:
    """Yield what differs between the pinned symbols of two versions, a line each."""
    for pin in PINS:
        new, old = found.of(pin), tested.of(pin)
        if new is None or old is None or new == old:
            continue
        if new.signature != old.signature:
            yield f"{pin.key}: ({old.signature}) is now ({new.signature})"
        yield from _changed_members(pin.key, new, old)


def _changed_members(key: str, new: Definition, old: Definition) -> Iterator[str]:
    for name, declared in new.members.items():
        if declared != old.members.get(name):
            yield f"{key}.{name}: {old.members.get(name)} is now {declared}"


def new_cache_users(found: Symbols, tested: Symbols) -> list[str]:
    """Return the models' files that reach for an attention layer's cache and did not before, a line each."""
    lines = []
    for file, uses in found.cache_users.items():
        known = tested.cache_users.get(file, ())
        new = [use for use in uses if use.endswith(_ATTENTION) and use not in known]
        if new:
            lines.append(f"{file}: {', '.join(new)}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
