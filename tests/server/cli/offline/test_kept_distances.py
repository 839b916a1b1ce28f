"""Distances of hallmark/1 that `hallmark verify` of an older Hallmark has kept."""

from pathlib import Path

from command_line import Cli
from offline_proofs import SHORT, Prover, write
from older_files import written_by_734b105

from hallmark.server.models.small import build_small_model


def test_they_are_refused_in_a_sentence_and_left_as_they_are(cli: Cli, tmp_path: Path) -> None:
    state = written_by_734b105("proofs.json.verified.jsonl", tmp_path)
    kept = state.read_bytes()
    model = tmp_path / "model"
    build_small_model(model)
    proofs = write(tmp_path / "p.json", Prover(model).prove(range(2)).as_dict())
    result = cli("verify", proofs, "--model", model, *SHORT, "--state", state)
    assert result.code == 2
    assert (
        "this one has distances of the protocol hallmark/1, which is no longer computed: delete it"
        in " ".join(result.err.split())
    )
    assert state.read_bytes() == kept
