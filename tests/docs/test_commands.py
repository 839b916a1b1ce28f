"""The fenced blocks of the documents hold.

A block says by its info string what it is, and is checked by it:

- none, `sh`, `bash`: commands of a shell, one a line; a remark stands behind `#`
- `console`: commands behind `$ `, and what they print
- `json`, `yaml`, `toml`, `python`: parsed
- `text`: what is no command: output, formulas, pseudo-code, keys; `mermaid`: a picture

There are no others. Between `<!-- screen: x -->` or `<!-- pages -->` and `<!-- end -->` stands output.
"""

import json
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import typer.main
import yaml
from checkout import ROOT
from fastapi import FastAPI
from markdown_it import MarkdownIt
from markdown_it.token import Token
from sentences import PAGES

from hallmark.server.commands import app
from hallmark.server.http.app import mount
from hallmark.server.receiver.app import create_app

COMMANDS: Final = frozenset({"", "bash", "console", "sh"})
DATA: Final[dict[str, Callable[[str], object]]] = {
    "json": json.loads,
    "python": lambda code: compile(code, "a document", "exec"),
    "toml": tomllib.loads,
    "yaml": lambda text: [*yaml.safe_load_all(text)],
}
UNCHECKED: Final = frozenset({"mermaid", "text"})

PROGRAMS: Final = frozenset(
    {
        *(
            "cat",
            "cd",
            "chmod",
            "cp",
            "export",
            "git",
            "journalctl",
            "mkdir",
            "rm",
            "sed",
            "source",
            "systemctl",
        ),
        *(
            "createdb",
            "createuser",
            "docker",
            "helm",
            "kubectl",
            "ray",
            "systemd-sysusers",
            "systemd-tmpfiles",
        ),
    }
)
"""What else is run; of its words only the paths in the repository are checked."""

RUNNERS: Final = frozenset({"docker", "kubectl"})
"""Whose arguments may be a command of Hallmark's."""

VLLM_ROUTES: Final = {"/health": {"get"}, "/v1/chat/completions": {"post"}, "/v1/models": {"get"}}

WORD: Final = re.compile(
    r"""(?P<remark>(?<!\S)\#[^\n]*)
      | (?P<redirection>[0-9]?[<>]+&?[ ]*\S+)
      | (?P<end>[\n;|&()])
      | (?P<word>(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^\s'"\\;|&()<>])+)""",
    re.VERBOSE | re.DOTALL,
)
OUTPUT: Final = re.compile(r"<!-- (?:screen: [\w-]+|pages) -->.*?<!-- end -->", re.DOTALL)
TOP_LEVEL: Final = tuple(f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and path.name[0] != ".")


def tokens(page: Path) -> list[Token]:
    return MarkdownIt("gfm-like", {"linkify": False}).parse(OUTPUT.sub("", page.read_text(encoding="utf-8")))


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    for token in tokens(page):
        if token.type == "fence":
            yield token.info.strip(), token.content


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command, without redirections and what is set for it alone."""
    for language, code in blocks(page):
        if language == "console":
            code = "\n".join(line[2:] for line in code.splitlines() if line.startswith("$ "))
        if language in COMMANDS:
            yield from words_of(code)


def words_of(code: str) -> Iterator[list[str]]:
    words: list[str] = []
    for match in WORD.finditer(code.replace("\\\n", " ") + "\n"):
        if match["word"]:
            words += shlex.split(match["word"])
        elif match["end"]:
            while words and re.match(r"\w+=", words[0]):
                del words[0]
            if words:
                yield words
            words = []


def parse(words: list[str]) -> None:
    """Parse what stands behind `hallmark`, as the command line does, and run nothing."""
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    assert not (hasattr(command, "commands") and rest and rest[0][0] != "-"), f"no such command: {rest[0]}"
    command.make_context("hallmark", rest)


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def extras() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return set(project["optional-dependencies"])


def check_make(words: list[str]) -> None:
    assert {word for word in words[1:] if "=" not in word} <= targets()


def check_python(words: list[str]) -> None:
    options = words[1:]
    if options[:1] == ["-P"]:
        del options[0]
    if options[0] == "-c":
        compile(options[1], "a document", "exec")
    else:
        assert options[0] == "-m" or (ROOT / options[0]).is_file(), f"no such file: {options[0]}"


def check_bash(words: list[str]) -> None:
    assert (ROOT / words[1]).is_file(), f"no such file: {words[1]}"


def check_pip(words: list[str]) -> None:
    for wanted in re.findall(r"(?:\.|hallmark-poc)\[([\w,-]+)\]", " ".join(words)):
        assert set(wanted.split(",")) <= extras()


def check_curl(words: list[str], routes: dict[str, set[str]]) -> None:
    [url] = [urlsplit(word) for word in words if re.match(r"https?://", word)]
    bodies = [words[n + 1] for n, word in enumerate(words) if word in ("-d", "--data", "--json")]
    method = words[words.index("-X") + 1].lower() if "-X" in words else "post" if bodies else "get"
    there = [
        methods
        for route, methods in routes.items()
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", route), url.path)
    ]
    assert any(method in methods for methods in there), f"no such route: {method} {url.path}"
    for body in bodies:
        if not body.startswith("@"):
            json.loads(body)


CHECKS: Final[dict[str, Callable[[list[str]], None]]] = {
    "bash": check_bash,
    "hallmark": parse,
    "make": check_make,
    "pip": check_pip,
    "python": check_python,
    "python3": check_python,
}


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The routes of a node, vLLM's among them, and those of a receiver, with their methods."""
    node = FastAPI()
    mount(node)
    receiver = create_app(tmp_path_factory.mktemp("receiver") / "receiver.db")
    found = {route: {*methods} for route, methods in VLLM_ROUTES.items()}
    for application in (node, receiver):
        for route, methods in application.openapi()["paths"].items():
            found.setdefault(route, set()).update(methods)
    return found


def check(words: list[str], routes: dict[str, set[str]]) -> None:
    program = Path(words[0]).name
    if program in RUNNERS and "hallmark" in words[:-1]:
        check(words[words.index("hallmark") :], routes)
    elif program == "curl":
        check_curl(words, routes)
    elif program in CHECKS:
        CHECKS[program](words)
    else:
        assert program in PROGRAMS, f"no command that is known here: {program}; is the block `text`?"
    missing = [word for word in words if word.startswith(TOP_LEVEL) and not (ROOT / word).exists()]
    assert missing == []


def said(error: Exception) -> str:
    """What is wrong; an option that is missing has its name in no message."""
    return str(error) or repr(getattr(error, "param", error))


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_are_ones(page: Path, routes: dict[str, set[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    # The guides say to set it once.
    monkeypatch.setenv("HALLMARK_RECEIVER_DATABASE", "postgresql://hallmark@db.internal/hallmark")
    wrong = []
    for words in commands(page):
        try:
            check(words, routes)
        except Exception as error:  # noqa: BLE001  # the command line's parser has its own kinds
            wrong.append(f"{shlex.join(words)}: {said(error)}")
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_say_what_they_are(page: Path) -> None:
    wrong = []
    for language, code in blocks(page):
        if language in DATA:
            try:
                DATA[language](code)
            except (SyntaxError, ValueError, yaml.YAMLError) as error:
                wrong.append(f"{code}: {error}")
        elif language not in COMMANDS | UNCHECKED:
            wrong.append(f"{code}: no info string that is known here: {language}")
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_within_sentences_exist(page: Path) -> None:
    """`make TARGET` and `hallmark COMMAND`; what is behind them may be a part."""
    wrong = []
    tree: Any = typer.main.get_command(app)
    for block in tokens(page):
        for token in block.children or ():
            words = token.content.split() if token.type == "code_inline" else []
            if words[:1] == ["make"] and len(words) > 1 and words[1] not in targets():
                wrong.append(token.content)
            if words[:1] == ["hallmark"] and len(words) > 1 and re.fullmatch("[a-z]+", words[1]):
                command = tree.commands.get(words[1])
                below = getattr(command, "commands", {})
                is_wrong = (
                    below and len(words) > 2 and re.fullmatch("[a-z]+", words[2]) and words[2] not in below
                )
                if command is None or is_wrong:
                    wrong.append(token.content)
    assert wrong == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("hallmark round strat URL", "no such command: strat"),
        ("hallmark verify proofs.json \\\n    --modle m", "No such option: --modle"),
        ("docker compose exec node hallmark docter", "no such command: docter"),
        ("(make tset)", "tset"),
        ("python -P bench/nothing.py", "no such file: bench/nothing.py"),
        ("A=1 bash deploy/nothing.sh", "no such file: deploy/nothing.sh"),
        ("pip install '.[verfy]'  # remark", "verfy"),
        ("hallmark round start http://127.0.0.1:8000 > answer", "block_hash"),
        ("curl -s http://127.0.0.1:8000/api/v1/pow/stop", "no such route: get /api/v1/pow/stop"),
        ("curl http://127.0.0.1:8000/api/v1/pow/stop -d '{'", "Expecting property name"),
        ("cp deploy/nothing.yaml /etc/", "deploy/nothing.yaml"),
        ("c_j = √hidden · ⟨R'_j, z_j⟩", "no command that is known here: c_j"),
    ],
)
def test_a_wrong_command_is_found(line: str, fault: str, routes: dict[str, set[str]]) -> None:
    wrong = [*words_of(line)]
    with pytest.raises(Exception) as caught:  # noqa: PT011  # of several kinds
        check(wrong[0], routes)
    assert fault in said(caught.value)
