"""The noise of families: what was measured is there for each of them, and bears out what the page says."""

from typing import Any

import pytest
from families import FAMILIES
from report import newest

[(_, MEASURED)] = newest("family_noise")
ROWS: list[dict[str, Any]] = MEASURED["rows"]


def test_each_family_that_runs_on_cpus_is_measured() -> None:
    assert [row["family"] for row in ROWS] == [
        name for name, family in FAMILIES.items() if not family.needs_gpu
    ], "run: python -P bench/family_noise.py"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["family"])
def test_implementations_are_about_as_far_apart_as_rounding_moves_them(row: dict[str, Any]) -> None:
    assert 0.5 < row["bf16_sigma_s"] / row["rounding_sigma_s"] < 2
