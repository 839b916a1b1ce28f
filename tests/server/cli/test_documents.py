"""What the documents say is so: settings, routes, commands, links."""

import re
from pathlib import Path

import command_pages
import pytest
from command_line import Cli
from fastapi import FastAPI

from hallmark.poc.settings.settings import NEVER_IN_THE_SECTION, Settings
from hallmark.server.http.app import mount

ROOT = Path(__file__).parents[3]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "deploy" / "README.md",
    *sorted((ROOT / "docs").glob("**/*.md")),
]

GROUPS = ("fleet", "model", "outbox", "queue", "receiver", "round")


def shown(default: object) -> str:
    if default is None:
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:,}" if isinstance(default, int) else f"{default:,g}"


def test_the_table_of_settings_is_complete_and_right() -> None:
    section = (ROOT / "docs/reference/settings.md").read_text()
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == [
        f"| `{name}` | {shown(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
        if name not in NEVER_IN_THE_SECTION
    ]


def test_the_table_of_routes_is_complete() -> None:
    app = FastAPI()
    mount(app)
    routes = {
        f"{method.upper()} {path.removeprefix('/api/v1/pow')}"
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }
    section = (ROOT / "README.md").read_text().partition("## API")[2].partition("\n## ")[0]
    named = set()
    for first_column in re.findall(r"^\| ([^|]*) \|", section, re.MULTILINE):
        method = ""
        # A method holds for all the paths up to the next one.
        for match in re.finditer(r"(GET|POST)|`(/[^`]*)`", first_column):
            method = match[1] or method
            if match[2]:
                named.add(f"{method} {match[2]}")
    assert named == routes


@pytest.mark.parametrize("document", command_pages.DOCUMENTS, ids=lambda path: path.name)
def test_screens_are_those_that_commands_show(document: Path) -> None:
    """`python -P tools/command_pages.py` writes them anew."""
    content = document.read_text()
    assert command_pages.document(content) == content


def test_every_page_is_to_be_found() -> None:
    index = ROOT / "docs/README.md"
    pages = [str(page.relative_to(index.parent)) for page in DOCUMENTS if index.parent in page.parents]
    text = index.read_text()
    assert [page for page in pages if page != index.name and f"({page})" not in text] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", document.read_text())
    missing = [link for link in links if not (document.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_options_of_commands_exist(document: Path, cli: Cli) -> None:
    """In every `hallmark ...` of the documents but serve, whose flags are vLLM's."""
    text = document.read_text().replace("\\\n", " ")
    for line in re.findall(r"^hallmark (?!serve).*", text, re.MULTILINE):
        words = line.split()
        is_group = words[1] in GROUPS and not words[2].startswith("-")
        command = words[1:3] if is_group else words[1:2]
        help_ = cli(*command, "--help")
        assert help_.code == 0, line
        # What stands behind a lone -- is for hallmark serve; what behind a # is a remark.
        for option in re.findall(r"--[a-z-]+", re.split(r" -- | # ", line)[0]):
            assert option in help_.out, line
