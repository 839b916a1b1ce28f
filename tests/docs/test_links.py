"""Links between the documents lead where they say on GitHub, to the heading too."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from checkout import ROOT
from markdown_it import MarkdownIt
from markdown_it.token import Token
from sentences import PAGES


def tokens(text: str) -> list[Token]:
    return MarkdownIt("gfm-like", {"linkify": False}).parse(text)


def links(text: str) -> Iterator[str]:
    for block in tokens(text):
        for token in block.children or ():
            yield from (str(token.attrs[name]) for name in ("href", "src") if name in token.attrs)


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings: a second one of a name gets -1."""
    found: set[str] = set()
    for opening, heading in pairwise(tokens(text)):
        if opening.type == "heading_open":
            shown = "".join(token.content for token in heading.children or ())
            name = unique = re.sub(r"[^\w\- ]", "", shown.strip().lower()).replace(" ", "-")
            count = 0
            while unique in found:
                count += 1
                unique = f"{name}-{count}"
            found.add(unique)
    return found


def dead_links(page: Path, text: str) -> list[str]:
    dead = []
    for link in links(text):
        target = urlsplit(link)
        if target.scheme or target.netloc:
            continue
        path = (page.parent / unquote(target.path)).resolve() if target.path else page
        if not path.is_relative_to(ROOT) or not path.exists():
            dead.append(link)
        elif target.fragment:
            there = text if path == page else path.read_text(encoding="utf-8")
            if path.suffix != ".md" or unquote(target.fragment) not in anchors(there):
                dead.append(link)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_headings(page: Path) -> None:
    assert dead_links(page, page.read_text(encoding="utf-8")) == []


def test_dead_links_are_found() -> None:
    text = """
# What `hallmark serve` does, in 3 steps

# Twice
# Twice

[1](#what-hallmark-serve-does-in-3-steps) [2](#twice-1) [3](docs/README.md) ![4](https://example.com/4.png)
[5](#twice-2) [6](docs/README.md#none) [7](nothing.md) [8](LICENSE#some) [9](../outside.md) ![10](nothing.svg)
"""
    dead = ["#twice-2", "docs/README.md#none", "nothing.md", "LICENSE#some", "../outside.md", "nothing.svg"]
    assert dead_links(ROOT / "README.md", text) == dead
