"""The experiment of readouts, shortened, and what its readouts are."""

from pathlib import Path

import pytest
import torch
from _decoder import Plan
from experiments import shortened
from readouts import Candidate, missing_rows, readouts


@pytest.mark.slow
def test_the_shortened_experiment_judges_every_readout(tmp_path: Path) -> None:
    results = shortened("readouts", tmp_path)
    assert len(results["findings"]) >= 3
    by_name = {line["readout"]: line for line in results["readouts"]}
    assert set(by_name) == {"last row", "mean", "signed sum", "balanced sum", "layers"}
    # Only what the last row does not need can be left out without an error.
    assert by_name["last row"]["share_free"] < 1.0
    assert by_name["signed sum"]["share_free"] == 1.0
    for row in results["rows"]:
        if row["kind"] == "exact":
            assert row["error"] < 0.01
        if row["substitute"] == "last 1 of the rows" and row["readout"] == "signed sum":
            assert row["error"] > 0.5


def test_signs_are_the_blocks_and_the_balanced_ones_cancel_what_rows_share() -> None:
    found = {readout.name: readout for readout in readouts(16, 4, block=1)}
    other = {readout.name: readout for readout in readouts(16, 4, block=2)}
    balanced, signed = found["balanced sum"].weights, found["signed sum"].weights
    assert balanced is not None
    assert signed is not None
    assert balanced.sum() == 0
    assert signed.abs().eq(1).all()
    changed = other["signed sum"].weights
    assert changed is not None
    assert not torch.equal(signed, changed)


def test_missing_rows_are_those_that_a_candidate_leaves_out() -> None:
    readout = next(each for each in readouts(6, 2) if each.name == "mean")
    inputs = torch.eye(6)[None]
    (last_two_missing,) = missing_rows(readout, Candidate("", Plan((0, 1), 4), first=True), inputs)
    torch.testing.assert_close(last_two_missing, torch.tensor([[0.0, 0, 0, 0, 1, 1]]) / 6)
    (first_two_missing,) = missing_rows(readout, Candidate("", Plan((0, 1), 4)), inputs)
    torch.testing.assert_close(first_two_missing, torch.tensor([[1.0, 1, 0, 0, 0, 0]]) / 6)
    assert missing_rows(readout, Candidate("", Plan((0, 1), 6)), inputs) == ()
