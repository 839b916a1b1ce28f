"""What the documents say is so: what is generated, commands, examples."""

import re
from pathlib import Path

import command_pages
import pytest
import reference_pages
from command_line import Cli
from offline_proofs import Prover, write

from hallmark.server.models.small import build_small_model

ROOT = Path(__file__).parents[3]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "deploy" / "README.md",
    *sorted((ROOT / "docs").glob("**/*.md")),
]

GROUPS = ("fleet", "model", "outbox", "queue", "receiver", "round")


@pytest.mark.parametrize("document", reference_pages.DOCUMENTS, ids=lambda path: path.name)
def test_reference_pages_say_what_the_code_says(document: Path) -> None:
    """`python -P tools/reference_pages.py` writes them anew."""
    content = document.read_text()
    assert reference_pages.document(content) == content


def test_all_that_is_generated_stands_on_a_page() -> None:
    content = "".join(document.read_text() for document in reference_pages.DOCUMENTS)
    assert sorted(re.findall("<!-- reference: (.*) -->", content)) == sorted(reference_pages.BLOCKS)


@pytest.mark.parametrize("document", command_pages.DOCUMENTS, ids=lambda path: path.name)
def test_screens_are_those_that_commands_show(document: Path) -> None:
    """`python -P tools/command_pages.py` writes them anew."""
    content = document.read_text()
    assert command_pages.document(content) == content


def test_examples_of_python_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One block after the other, beside a model and an honest proof of it."""
    build_small_model(tmp_path / "model")
    proof = Prover(tmp_path / "model").prove(range(4), batch_size=32, seq_len=256)
    write(tmp_path / "proofs.jsonl", proof.as_dict())
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/reference/python.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == page.count("```python") == 2
    for block in blocks:
        exec(block, {})  # noqa: S102
    told = capsys.readouterr().out
    assert re.fullmatch(r"4 nonces more\n\('proofs.jsonl, proof 1',\) honest [0-9.]+\n262144\n", told), told


def test_every_page_is_to_be_found() -> None:
    """Each page is linked from the index of all, or from that of its folder."""
    index = ROOT / "docs" / "README.md"
    missing = []
    for page in (ROOT / "docs").glob("**/*.md"):
        near = [each for each in (index, page.with_name("README.md")) if each != page and each.exists()]
        links = (
            each.parent / link for each in near for link in re.findall(r"\]\(([^)#:]+)\)", each.read_text())
        )
        if page != index and page not in map(Path.resolve, links):
            missing.append(str(page.relative_to(ROOT)))
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
