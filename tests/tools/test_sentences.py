"""What is counted as a sentence of a document."""

from pathlib import Path

import pytest
import sentences
from sentences import ROOT, words

PAGE = """# A heading. It is no sentence.

Prove a block. It ends
on the next line, after `serve --port 8000`! Is it version 0.26? Take 3.5 times e.g. that, not more.
[A link](somewhere/else.md) (in brackets). The last one has `code`. `code` begins one, too.

- An item without a stop
- Another. With two

| a table | is left out. |
|---|---|
| of all | its cells. |

```
hallmark serve. No sentence.
```

---
"""


def test_sentences_are_those_of_the_prose() -> None:
    assert list(sentences.sentences(PAGE)) == [
        "Prove a block.",
        "It ends on the next line, after serve --port 8000!",
        "Is it version 0.26?",
        "Take 3.5 times e.g. that, not more.",
        "A link (in brackets).",
        "The last one has code.",
        "code begins one, too.",
        "An item without a stop",
        "Another.",
        "With two",
    ]


@pytest.mark.parametrize(
    ("sentence", "count"),
    [("One two three.", 3), ("x + x · P", 3), ("a = b", 2), ("well-kept `--port` 8,000", 3), ("…", 0)],
)
def test_a_word_has_a_letter_or_a_digit(sentence: str, count: int) -> None:
    assert words(sentence) == count


def test_the_report_names_long_sentences(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = ROOT / "docs" / "reference" / "memory.md"
    counts = [words(sentence) for sentence in sentences.sentences(page.read_text(encoding="utf-8"))]
    monkeypatch.setattr("sys.argv", ["sentences.py", "--over", str(max(counts) - 1), str(page)])
    sentences.main()
    _, line, *long, aim = capsys.readouterr().out.splitlines()
    assert aim == "We aim at a mean below 16 words, and at no sentence over 35."
    assert line.split()[:2] == ["docs/reference/memory.md", str(len(counts))]
    assert line.split()[-1] == str(max(counts))
    assert long
    assert all(sentence.startswith(f"    {max(counts)}: ") for sentence in long)


def test_every_page_is_read_by_default() -> None:
    names = {str(page.relative_to(ROOT)) for page in sentences.PAGES}
    assert {"README.md", "deploy/README.md", "docs/README.md", "docs/start/quickstart.md"} <= names
    assert all(Path(ROOT, name).is_file() for name in names)
