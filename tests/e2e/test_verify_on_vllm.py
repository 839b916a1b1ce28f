"""Recomputing by vLLM with what transformers on one device has not: ranks, quantised weights; calibrating."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cores import cores_for
from node import HALLMARK
from offline_proofs import SHORT, Prover, claiming, write
from quantised_checkpoints import quantise_to_int8
from tolerances import ENGINE_TOLERANCES

from hallmark.poc.protocol.proof import ProofBatch
from hallmark.server.models.small import build_small_model, fast_dtype

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(600)]


def run(*words: object, **environment: str) -> list[dict[str, Any]]:
    """The lines of JSON of a command."""
    done = subprocess.run(
        [*HALLMARK, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TRITON_INTERPRET": "0", **environment},
    )
    assert done.returncode in (0, 1), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def verify(proofs: Path, model: Path, *flags: str, **environment: str) -> list[dict[str, Any]]:
    """The verdict of each batch, and the summary."""
    words = ("verify", proofs, "--model", model, *SHORT, "--no-state", "--json", "--engine", "vllm")
    return run(*words, "--", *flags, **environment)


@pytest.mark.parametrize("way", ["tensor", "pipeline"])
def test_on_two_ranks(small_model: Path, tmp_path: Path, way: str) -> None:
    honest = Prover(small_model).prove(range(24))
    proofs = write(tmp_path / "p.json", honest.as_dict(), {**honest.as_dict(), "public_key": "a thief"})
    flags = (f"--{way}-parallel-size", "2")
    *verdicts, last = verify(proofs, small_model, *flags, VLLM_CPU_OMP_THREADS_BIND=cores_for(2))
    assert [verdict["verdict"] for verdict in verdicts] == ["honest", "fraud"]
    assert last["summary"]["numerics"][f"{way}_parallel_size"] == 2


def test_weights_in_int8(small_model: Path, tmp_path: Path) -> None:
    """A node that serves a quantised checkpoint is judged by that checkpoint, and no other passes for it."""
    quantised, altered = tmp_path / "int8", tmp_path / "altered"
    quantise_to_int8(small_model, quantised, tmp_path / "meant")
    build_small_model(tmp_path / "other", altered_layer=2)
    quantise_to_int8(tmp_path / "other", altered, tmp_path / "other meant")
    asked = claiming(Prover(small_model).prove(range(24)), [1.0] * 24).as_dict()
    proofs = write(tmp_path / "asked.json", {**asked, "numerics": None})
    found, last = verify(proofs, quantised, "--dtype", fast_dtype())
    assert last["summary"]["numerics"]["quantization"] == "compressed-tensors"

    claimed = ProofBatch.parse(
        {**asked, "dist": found["computed_distances"], "numerics": last["summary"]["numerics"]}
    )
    proofs = write(tmp_path / "claimed.json", claimed.as_dict())
    for model, verdict in ((quantised, "honest"), (altered, "fraud")):
        again, _ = verify(proofs, model, "--dtype", fast_dtype())
        assert again["verdict"] == verdict
        assert (again["computed_distances"] == list(claimed.dist)) == (verdict == "honest")


@pytest.mark.parametrize("where", [("--engine", "vllm"), ("--ray", "--device", "cpu")], ids=" ".join)
def test_calibrating(small_model: Path, tmp_path: Path, where: tuple[str, ...]) -> None:
    """Against transformers in one process."""
    proofs = write(tmp_path / "p.json", Prover(small_model).prove(range(64)).as_dict())
    [found] = run("calibrate", proofs, "--model", small_model, *SHORT, "--no-state", "--json", *where)
    tolerance = ENGINE_TOLERANCES[fast_dtype(), "transformers"]
    assert (found["n"], found["sigma"] <= tolerance) == (64, True)
    first, second = found["platforms"]
    assert first["engine"].startswith("transformers ")
    assert ("vllm" in second) == ("vllm" in where)
