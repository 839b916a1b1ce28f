"""Build the documentation's site from the pages as they lie in the repository: MkDocs calls what stands here.

A page has the address of its file, so that its links need no change. A file that a page links to is a part of
the site too. A folder in the navigation stands for its pages, in the order of docs/README.md's links.

Each module that the page on Python has a heading for gets a page of its docstrings.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs_autorefs import AutorefsExtension
from sentences import PAGES, ROOT

_STYLE: Final = "tools/site.css"
_OVERVIEW: Final = "docs/README.md"
_PYTHON: Final = "docs/reference/python.md"
_SHOWN: Final = frozenset({".css", ".json", ".png", ".svg", ".txt"})
"""What browsers show as it is; other text they would save."""

_PACKAGES: Final = ("kernels", "poc", "server")
_sources = TemporaryDirectory(prefix="hallmark-site-")
"""Where the sources have their packages' names."""


@event_priority(100)  # before mkdocstrings reads it
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put pages in the place of the navigation's folders, and tell mkdocstrings where the sources are."""
    config.nav = [_expanded(entry) for entry in config.nav or []]
    package = Path(_sources.name, "hallmark")
    if not package.exists():
        package.mkdir()
        for name in _PACKAGES:
            (package / name).symlink_to(ROOT / name)
    config.plugins["mkdocstrings"].config["handlers"]["python"]["paths"] = [_sources.name]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take the pages and what they link to in the place of docs/ alone."""
    site = Files([file for file in files if file.src_dir != config.docs_dir])
    pages = [page.relative_to(ROOT).as_posix() for page in PAGES]
    linked = {path for page in pages for path in _linked(page) if (ROOT / path).is_file()}
    for path in [*pages, *sorted(linked.difference(pages)), _STYLE]:
        is_shown = path in pages or PurePosixPath(path).suffix in _SHOWN
        file = File(path, str(ROOT), config.site_dir, False, dest_uri=None if is_shown else f"{path}.txt")
        site.append(file)
    for module, page in _module_pages().items():
        site.append(File.generated(config, page, content=f"# {module}\n\n::: {module}\n"))
    # It takes `vectors[31][3]` for a link to a name `3`.
    extensions: list[object] = [*config.markdown_extensions]
    config["markdown_extensions"] = [each for each in extensions if not isinstance(each, AutorefsExtension)]
    return site


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """End the page on Python with links to its modules."""
    if page.file.src_uri != _PYTHON:
        return markdown
    folder = PurePosixPath(_PYTHON).parent
    links = (
        f"- [{module}]({PurePosixPath(page).relative_to(folder)})" for module, page in _module_pages().items()
    )
    return "\n".join([markdown, "## Docstrings", "", *links, ""])


def _module_pages() -> dict[str, str]:
    """Return the public modules, each with its page on the site."""
    text = (ROOT / _PYTHON).read_text(encoding="utf-8")
    modules = re.findall(r"^### (hallmark\.[\w.]+)$", text, re.MULTILINE)
    return {module: f"{PurePosixPath(_PYTHON).with_suffix('')}/{module}.md" for module in modules}


def _linked(page: str) -> Iterator[str]:
    """Yield the paths that a page links to or shows, in its order."""
    for block in MarkdownIt("gfm-like", {"linkify": False}).parse((ROOT / page).read_text(encoding="utf-8")):
        for token in block.children or ():
            target = urlsplit(str(token.attrGet("href") or token.attrGet("src") or ""))
            path = normpath(PurePosixPath(page).parent / unquote(target.path))
            if target.path and not target.scheme and not target.netloc and not path.startswith("../"):
                yield path


def _expanded(entry: Any) -> Any:
    """Return an entry of the navigation with its folder's pages."""
    if isinstance(entry, dict):
        [(title, below)] = entry.items()
        if isinstance(below, str) and below.endswith("/"):
            pages = _pages_of(PurePosixPath(below))
            if _PYTHON in pages:
                pages.append({"Docstrings": [*_module_pages().values()]})
            return {title: pages}
    return entry


def _pages_of(folder: PurePosixPath) -> list[Any]:
    """Return a folder's pages for the navigation, its own first, and its folders after them."""
    order = [*_linked(_OVERVIEW)]

    def place(page: str) -> tuple[bool, int, str]:
        return not page.endswith("/README.md"), order.index(page) if page in order else len(order), page

    pages = [str(folder / path.name) for path in (ROOT / folder).glob("*.md")]
    folders = sorted(path.name for path in (ROOT / folder).iterdir() if any(path.glob("*.md")))
    return [*sorted(pages, key=place), *({name.capitalize(): _pages_of(folder / name)} for name in folders)]
