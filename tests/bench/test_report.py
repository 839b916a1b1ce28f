"""Results files are complete, and the documents say what they say."""

import json
import re
from pathlib import Path

import pytest
from _models import SHAPES
from _report import RESULTS, write_results
from report import DOCUMENTS, document

from hallmark.kernels.path import MAX_WIDTH

FILES = sorted(RESULTS.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_results_file_names_machine_versions_and_date(path: Path) -> None:
    results = json.loads(path.read_text())
    assert results["rows"]
    assert results["about"].endswith(".")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", results["date"])
    assert path.stem.startswith(results["bench"])
    assert path.stem.endswith(results["date"])
    assert results["machine"]["cpu"]
    assert results["machine"]["cores"] >= 1
    assert "python" in results["versions"]
    assert results["versions"].keys() & {"torch", "numpy"}


def test_rows_of_another_model_stay_and_those_of_the_same_go(tmp_path: Path) -> None:
    def write(*rows: dict[str, object], packages: tuple[str, ...] = ("torch",)) -> list[dict[str, object]]:
        path = write_results("round", "cpu", about="A.", rows=rows, packages=packages, directory=tmp_path)
        found: list[dict[str, object]] = json.loads(path.read_text())["rows"]
        return found

    small, large = {"model": "0.6B", "ms": 1}, {"model": "8B", "ms": 9}
    assert write(small) == [small]
    assert write(large) == [small, large]
    assert write({**small, "ms": 2}) == [large, {**small, "ms": 2}]
    assert write(large, packages=()) == [large], "made by other versions"
    assert write({"ms": 3}, packages=()) == [large, {"ms": 3}]
    assert write({"ms": 4}, packages=()) == [large, {"ms": 4}]


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_a_document_is_what_the_results_make_it(page: Path) -> None:
    text = page.read_text()
    assert set(re.findall(r"<!-- table: ([\w-]+) -->", text)) == DOCUMENTS[page].keys()
    assert document(page, text) == text, "run: python -P bench/report.py"


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_every_table_shows_figures(page: Path) -> None:
    blocks = re.findall(r"<!-- table: ([\w-]+) -->(.*?)<!-- end -->", page.read_text(), re.DOTALL)
    for name, block in blocks:
        assert "bench/results/" in block, f"{name} has no results file"
        assert block.count("\n|") >= 3, f"{name} has no row"


def test_the_page_that_all_read_is_short() -> None:
    (page,) = (page for page in DOCUMENTS if page.parts[-2:] == ("soundness", "README.md"))
    assert page.read_text().count("\n") <= 150


def test_a_prediction_is_never_shown_as_a_measurement() -> None:
    for path in FILES:
        results = json.loads(path.read_text())
        assert ("assumed" in results) == path.stem.startswith("prediction"), path.name


@pytest.mark.parametrize(
    ("name", "billions"),
    # Parameters of the layers, from the model cards: "Number of Paramaters (Non-Embedding)".
    [("0.6B", 0.44), ("8B", 6.95), ("32B", 31.2)],
)
def test_shapes_have_the_published_number_of_parameters(name: str, billions: float) -> None:
    shape = SHAPES[name]
    # Two operations a weight and token; with one token a sequence, attention adds next to nothing.
    assert shape.forward_flops(1000, 1) / 2000 == pytest.approx(billions * 1e9, rel=0.01)
    assert shape.hidden_size <= MAX_WIDTH
