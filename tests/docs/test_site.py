"""The documentation as a site: built without a network, whole, and complete in itself."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Final
from urllib.parse import unquote, urlsplit

import pytest
from browser import LAUNCH, Watched
from checkout import ROOT, copy_of_the_checkout
from markdown_it import MarkdownIt
from playwright.sync_api import sync_playwright
from sentences import PAGES

import hallmark.poc

# It is built once.
pytestmark = pytest.mark.xdist_group("site")

MODULES: Final = "docs/reference/python/"
"""Where the pages of docstrings are; all others are the repository's."""

LOADED: Final = frozenset(
    {"icon", "manifest", "modulepreload", "preconnect", "prefetch", "preload", "stylesheet"}
)
"""The kinds of links with which a page has the browser ask for something."""

SHOWN: Final = ("h2", "h3", "img", "li", "pre", "table", "tr")


class Html(HTMLParser):
    """A page of the site.

    Attributes:
        links: Where it leads.
        loaded: What a browser loads to show it.
        anchors: What a link may lead to in it.
        shown: How many elements of a kind its text has.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.shown: Counter[str] = Counter()
        self._is_text = False
        content = path.read_text(encoding="utf-8")
        self.loaded += re.findall(r"url\(\s*[\"']?([^\"')]+)", content)
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.loaded += [given[name] for name in ("src", "poster", "data") if name in given]
        self.loaded += [each.split()[0] for each in given.get("srcset", "").split(",") if each]
        if tag == "link" and LOADED.intersection(given.get("rel", "").split()):
            self.loaded.append(given["href"])
        elif tag == "a" and "href" in given:
            self.links.append(given["href"])
        self._is_text |= tag == "article"
        if self._is_text:
            self.shown[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        self._is_text &= tag != "article"


def is_elsewhere(url: str) -> bool:
    target = urlsplit(url)
    return target.scheme not in ("", "data") or bool(target.netloc)


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Build the site with no network: in a network of its own, where the system lets us, else by no proxy."""
    alone = ["unshare", "--map-root-user", "--net"]
    if shutil.which(alone[0]) is None or subprocess.run([*alone, "true"], capture_output=True).returncode:
        alone = []
    nowhere = dict.fromkeys(["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"], "http://127.0.0.1:9")
    return subprocess.run(
        [*alone, sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--site-dir", target],
        cwd=source,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    target = tmp_path_factory.mktemp("site")
    return target, build(ROOT, target)


@pytest.fixture(scope="module")
def site(built: tuple[Path, subprocess.CompletedProcess[str]]) -> dict[str, Html]:
    """Every page, by its path in the site."""
    return {str(path.relative_to(built[0])): Html(path) for path in sorted(built[0].rglob("*.html"))}


def of_page(page: Path) -> str:
    """The page's path in the site."""
    inside = page.relative_to(ROOT)
    return str(inside.with_name("index.html") if page.name == "README.md" else inside.with_suffix(".html"))


def test_it_is_built_without_a_warning(built: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, result = built
    assert re.findall(r"^(?:WARNING|ERROR).*", result.stdout, re.MULTILINE) == []
    assert result.returncode == 0, result.stdout


def test_nothing_is_loaded_from_elsewhere(built: tuple[Path, object], site: dict[str, Html]) -> None:
    assert {url for html in site.values() for url in html.loaded if is_elsewhere(url)} == set()
    styles = [*built[0].rglob("*.css")]
    assert styles
    for style in styles:
        urls = re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')]+)", style.read_text(encoding="utf-8"))
        assert [url for url in urls if is_elsewhere(url)] == []


def test_every_link_leads_to_a_file_and_its_heading(
    built: tuple[Path, object], site: dict[str, Html]
) -> None:
    dead = []
    for name, html in site.items():
        # The page for what is not there has the site's root for its own.
        for url in [] if name == "404.html" else [*html.links, *html.loaded]:
            target = urlsplit(url)
            if is_elsewhere(url) or target.scheme == "data":
                continue
            there = os.path.normpath(Path(name).parent / unquote(target.path)) if target.path else name
            is_there = (built[0] / there).is_file()
            if not is_there or (target.fragment and unquote(target.fragment) not in site[there].anchors):
                dead.append(f"{name}: {url}")
    assert dead == []


def test_every_page_is_there_and_is_found(built: tuple[Path, object], site: dict[str, Html]) -> None:
    index = json.loads((built[0] / "search" / "search_index.json").read_text(encoding="utf-8"))
    found = {entry["location"].partition("#")[0] or "index.html" for entry in index["docs"]}
    pages = {of_page(page) for page in PAGES}
    assert pages <= found
    assert pages == {name for name in site if name != "404.html" and not name.startswith(MODULES)}


def test_the_python_reference_has_the_docstrings(built: tuple[Path, object], site: dict[str, Html]) -> None:
    page = f"{MODULES}hallmark.poc.html"
    assert {f"hallmark.poc.{name}" for name in hallmark.poc.__all__} <= site[page].anchors
    assert "Transform the model's input" in (built[0] / page).read_text(encoding="utf-8")
    reference = site["docs/reference/python.html"]
    assert {f"python/hallmark.{name}.html" for name in ("kernels", "poc", "poc.offline.cases")} <= {
        *reference.links
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_shows_what_it_shows_on_github(page: Path, site: dict[str, Html]) -> None:
    """Lists and tables as well, of which Markdown has dialects."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(page.read_text(encoding="utf-8"))
    everything = [token for block in tokens for token in (block, *(block.children or ()))]
    tags = ["pre" if token.type == "fence" else token.tag for token in everything if token.nesting >= 0]
    expected = {tag: tags.count(tag) for tag in SHOWN}
    shown = {tag: site[of_page(page)].shown[tag] for tag in SHOWN}
    if page.name == "python.md":
        # The site adds a list of the modules' pages.
        added = sum(name.startswith(MODULES) for name in site)
        expected["h2"] += 1
        expected["li"] += added
    assert shown == expected


def test_a_folder_of_the_navigation_has_the_overviews_order(site: dict[str, Html]) -> None:
    overview = [link for link in site["docs/index.html"].links if link.startswith("guides/")]
    guide = site["docs/guides/verify.html"]
    [*navigation] = [link for link in guide.links if link and "/" not in link and link[0] != "#"]
    order = [name for name in dict.fromkeys(navigation) if f"guides/{name}" in overview]
    assert [f"guides/{name}" for name in order] == [*dict.fromkeys(overview)]


def test_what_is_wrong_with_a_page_ends_the_build(tmp_path: Path) -> None:
    source = copy_of_the_checkout(tmp_path / "source")
    (source / "docs" / "guides" / "lost.md").write_text(
        "# Lost\n\n[a](none.md) [b](#none) [c](/none) [d](none)\n"
    )
    (source / "docs" / "unlisted").mkdir()
    (source / "docs" / "unlisted" / "page.md").write_text("# Unlisted\n")
    result = build(source, tmp_path / "site")
    assert result.returncode == 1
    lost = "Doc file 'docs/guides/lost.md' contains"
    for warning in (
        f"{lost} a link 'none.md', but the target 'docs/guides/none.md' is not found",
        f"{lost} a link '#none', but there is no such anchor",
        f"{lost} an absolute link '/none'",
        f"{lost} an unrecognized relative link 'none'",
        'not included in the "nav" configuration:\n  - docs/unlisted/page.md',
    ):
        assert warning in result.stdout


def test_a_reader_finds_a_page_and_asks_nobody_else(built: tuple[Path, object]) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(built[0]))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as playwright:
        Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(**LAUNCH)
        page = browser.new_page()
        tab = Watched(page)
        root = f"http://127.0.0.1:{server.server_port}/"
        for name in ("", "docs/guides/verify.html", f"{MODULES}hallmark.poc.html"):
            page.goto(f"{root}{name}")
        page.locator("input[name=query]").fill("RandomProjection")
        page.locator(".md-search-result__link[href*='hallmark.poc.RandomProjection']").first.wait_for(
            state="attached"
        )
        browser.close()
        server.shutdown()
    assert len(tab.asked) > 10
    assert [url for url in tab.asked if not url.startswith((root, "data:", "blob:"))] == []
    assert tab.problems == []
