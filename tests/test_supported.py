"""The table of what is supported: it is the document's, and the tests that it names exist."""

import re

import pytest
from supported import EXPECTED, GROUPS, Support
from supported_table import DOCUMENT, ROOT, document

LINES = [line for lines in GROUPS.values() for line in lines]


def test_the_document_has_the_table() -> None:
    content = DOCUMENT.read_text(encoding="utf-8")
    assert document(content) == content, "python -P tools/supported_table.py writes it anew"
    assert all(f"<!-- supported: {name} -->" in content for name in GROUPS)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.what)
def test_what_is_said_to_be_tested_is_named_by_a_test(line: Support) -> None:
    if line.state == EXPECTED:
        assert not line.test
        return
    file, _, function = line.test.partition("::")
    assert re.search(rf"^(async )?def {function}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
