"""Write the tables of docs/reference/models.md: what Hallmark works with, and the test that shows it.

The lines are those of `tests/support/supported.py`.
"""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))  # `python -P` adds no folder

from supported import GROUPS, Support

ROOT: Final = Path(__file__).parents[1]
DOCUMENT: Final = ROOT / "docs" / "reference" / "models.md"
_BLOCK: Final = re.compile(r"(<!-- supported: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(lines: Sequence[Support]) -> str:
    """Format lines as a table of Markdown."""
    rows = ["| | | | test |", "|---|---|---|---|"]
    rows += [f"| {line.what} | {line.state} | {line.says} | {_link(line.test)} |" for line in lines]
    return "\n".join(rows)


def document(content: str) -> str:
    """Return the document's content with its tables written anew."""
    return _BLOCK.sub(lambda block: f"{block[1]}\n{table(GROUPS[block[2]])}\n\n{block[3]}", content)


def _link(test: str) -> str:
    if not test:
        return ""
    file, _, function = test.partition("::")
    return f"[{function}]({os.path.relpath(ROOT / file, DOCUMENT.parent)})"


if __name__ == "__main__":
    DOCUMENT.write_text(document(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
