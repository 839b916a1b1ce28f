"""Write what a terminal of 80 columns shows into the documents: all pages of help, and single screens.

They are the pictures in `tests/files/screens/`, which `tests/support/screens.py` takes.
"""

import re
import sys
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))  # `python -P` adds no folder

from screens import FOLDER, command_paths

_DOCS: Final = Path(__file__).parents[1] / "docs"
DOCUMENTS: Final = sorted(_DOCS.glob("**/*.md"))

_PAGES: Final = re.compile(r"(<!-- pages -->\n).*?(<!-- end -->)", re.DOTALL)
_SCREEN: Final = re.compile(r"(<!-- screen: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def document(content: str) -> str:
    """Return a document's content with its screens written anew."""
    content = _PAGES.sub(lambda block: f"{block[1]}\n{_pages()}\n{block[2]}", content)
    return _SCREEN.sub(lambda block: f"{block[1]}{_screen(block[2])}{block[3]}", content)


def _pages() -> str:
    """Return a section for each command, with its page of help."""
    return "\n".join(
        f"### {' '.join(['hallmark', *path])}\n\n{_screen('-'.join(['help', *path]))}"
        for path in command_paths()
    )


def _screen(name: str) -> str:
    return f"```\n{(FOLDER / '80x24' / f'{name}.txt').read_text(encoding='utf-8')}```\n"


if __name__ == "__main__":
    for path in DOCUMENTS:
        path.write_text(document(path.read_text(encoding="utf-8")), encoding="utf-8")
