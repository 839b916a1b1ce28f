"""Report how long the sentences of the documents are.

Run `python -P tools/sentences.py [--over WORDS] [PAGE ...]`. Without pages, it lists only those that have
longer sentences than we aim at. A report and no gate. Headings, tables and code are left out; an item of a
list ends a sentence.
"""

import argparse
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import mean
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = sorted(
    [*ROOT.glob("*.md"), ROOT / "deploy" / "README.md", *(ROOT / "docs").glob("**/*.md")], key=str
)
MEAN: Final = 16
"""Below that we aim with the mean of a page, in words."""

LONGEST: Final = 35
"""No longer we aim to have any sentence, in words."""

_LEFT_OUT: Final = frozenset({"heading", "table"})
_END: Final = re.compile(r"(?<=[.!?…])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9`])")


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a page of Markdown, code spans and links as their text."""
    for paragraph in _paragraphs(MarkdownIt("gfm-like", {"linkify": False}).parse(text)):
        # With its backticks until here: a sentence may begin with code.
        yield from (part.replace("`", "") for part in _END.split(paragraph) if words(part))


def words(sentence: str) -> int:
    """Count the words of a sentence: what stands between spaces and has a letter or a digit."""
    return sum(any(letter.isalnum() for letter in word) for word in sentence.split())


def _paragraphs(tokens: Iterable[Token]) -> Iterator[str]:
    left_out = 0
    for token in tokens:
        kind = token.type.removesuffix("_open").removesuffix("_close")
        left_out += token.nesting * (kind in _LEFT_OUT)
        if token.type == "inline" and not left_out:
            yield "".join(map(_text, token.children or ()))


def _text(token: Token) -> str:
    if token.type == "softbreak":
        return " "
    if token.type == "html_inline":
        return ""  # a comment
    return f"`{token.content}`" if token.type == "code_inline" else token.content


def main() -> None:
    """Print a line for each page, and its long sentences where asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "pages", nargs="*", type=Path, help="the pages; by default all that are longer than we aim at"
    )
    parser.add_argument("--over", type=int, metavar="WORDS", help="print the sentences with more words")
    chosen = parser.parse_args()
    print(f"{'page':40} sentences   mean  longest")
    for page in chosen.pages or PAGES:
        found = list(sentences(page.read_text(encoding="utf-8")))
        if not found:
            continue
        counts = [words(sentence) for sentence in found]
        if not chosen.pages and mean(counts) < MEAN and max(counts) <= LONGEST:
            continue
        name = str(page.resolve().relative_to(ROOT))
        print(f"{name:40} {len(found):9} {mean(counts):6.1f} {max(counts):8}")
        if chosen.over is not None:
            for sentence, count in zip(found, counts, strict=True):
                if count > chosen.over:
                    print(f"    {count}: {sentence}")
    print(f"We aim at a mean below {MEAN} words, and at no sentence over {LONGEST}.")


if __name__ == "__main__":
    main()
