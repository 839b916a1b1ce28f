"""Distances that `hallmark verify` of an older Hallmark has kept."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli
from offline_proofs import SHORT
from older_files import written_by_734b105

from hallmark.poc.offline import recompute
from hallmark.poc.offline.model import OfflineModel
from hallmark.server.demo.model import build_demo_model

# What the machine has, not the code; the fingerprint of the model's files has transformers' version in it.
OF_THE_MACHINE = ("engine", "torch", "device", "dtype")


def test_they_are_used_where_the_machine_and_the_model_are_the_same(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No nonce is computed again: but for this machine and this release, the present arithmetic is theirs."""
    proofs = written_by_734b105("proofs.json", tmp_path)
    state = written_by_734b105("proofs.json.verified.jsonl", tmp_path)
    kept = state.read_bytes()
    stated: dict[str, Any] = json.loads(kept.splitlines()[1])["arithmetic"]
    numerics = vars(OfflineModel)["numerics"].fget

    def on_that_machine(model: OfflineModel) -> dict[str, Any]:
        return {**numerics(model), **{name: stated[name] for name in OF_THE_MACHINE}}

    def compute(*_: object) -> Sequence[float]:
        raise AssertionError("a distance that was kept is computed again")

    monkeypatch.setattr(OfflineModel, "numerics", property(on_that_machine))
    monkeypatch.setattr(OfflineModel, "distances", compute)
    monkeypatch.setattr(recompute, "model_fingerprint", lambda _: stated["model"])
    monkeypatch.setattr(recompute, "version", lambda _: stated["hallmark"])
    model = tmp_path / "model"
    build_demo_model(model)
    result = cli("verify", proofs, "--model", model, *SHORT, "--dtype", stated["dtype"], "--json")
    assert result.code == 0, result.err
    assert f"12 distances are taken from {state}" in result.err
    verdict = json.loads(result.out.splitlines()[0])
    assert verdict["computed_distances"] == json.loads(proofs.read_text())["dist"]
    assert verdict["verdict"] == "honest"
    assert state.read_bytes() == kept
