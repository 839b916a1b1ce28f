"""`hallmark verify` comes to the verdicts of a real server, on honest and on forged batches."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forgeries import forgeries
from node import HALLMARK, Node, Receiver, proof, round_request
from tolerances import ENGINE_TOLERANCES

from hallmark.poc.protocol.law import distance_std
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.server.models.small import HIDDEN_SIZE, build_small_model

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

RATE = 0.5
THRESHOLD = 1e-7
NONCES = 64
S = distance_std(HIDDEN_SIZE)


def offline(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command that looks at no server."""
    return subprocess.run(
        [*HALLMARK, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TRITON_INTERPRET": "0"},
    )


def generate(node: Node, receiver: Receiver, round_: dict[str, Any]) -> dict[str, Any]:
    """The first valid nonces of a round as the receiver has them, the merged bodies of callbacks as one."""
    node.poc("/init/generate", {**round_, "callback_url": receiver.url})
    node.wait_for(lambda status: status["total_valid"] >= NONCES)
    node.poc("/stop")
    total = node.status()["total_valid"]

    def of_this_round(bodies: list[Any]) -> list[Any]:
        return [body for body in bodies if body["block_hash"] == round_["block_hash"]]

    bodies = of_this_round(
        receiver.wait_for(
            "generated", lambda found: sum(len(body["nonces"]) for body in of_this_round(found)) >= total
        )
    )
    merged = {
        name: [value for body in bodies for value in body[name]] for name in ("nonces", "dist", "vectors")
    }
    covered = [bodies[0]["covered"][0], bodies[-1]["covered"][1]]
    return {**bodies[0], **merged, "covered": covered}


def transcribed(
    model: Path, dtype: str, tmp_path: Path, request: dict[str, Any], nonces: list[int]
) -> ProofBatch:
    """What a prover with another model claims; computed offline, as any other claim about it."""
    path = tmp_path / "asked.json"
    path.write_text(json.dumps(proof(request, nonces, [1.0] * len(nonces))))
    asked = offline(*("verify", path, "--model", model, *options(), "--dtype", dtype, "--json", "--no-state"))
    computed = json.loads(asked.stdout.splitlines()[0])["computed_distances"]
    return ProofBatch.parse(proof(request, nonces, computed))


def options() -> Iterator[object]:
    request = round_request()
    yield from ("--batch-size", request["batch_size"], "--seq-len", request["seq_len"])


@pytest.mark.both_dtypes
def test_verdicts_and_distances_are_those_of_the_server(
    node: Node, dtype: str, receiver: Receiver, small_model: Path, tmp_path: Path
) -> None:
    # At the default threshold the density test may convict an honest batch once in some hundreds.
    request = round_request(valid_rate=RATE, fraud_threshold=THRESHOLD)
    delivered = generate(node, receiver, request)
    earlier = generate(node, receiver, round_request(valid_rate=RATE, block_hash="an earlier block"))
    altered = tmp_path / "altered"
    build_small_model(altered, altered_layer=2)
    honest = ProofBatch.parse(delivered)
    other = transcribed(altered, dtype, tmp_path, request, list(honest.nonces[:NONCES]))
    bare = ProofBatch.parse({**delivered, "covered": None})
    claims = list(forgeries(bare, ProofBatch.parse({**earlier, "covered": None}), other, valid_rate=RATE))

    batches = [honest, *claims]
    node.poc("/init/validate", request)
    judged = [node.poc("/validate", batch.as_dict()) for batch in batches]
    numerics = node.status()["numerics"]
    node.poc("/stop")
    assert [verdict["verdict"] for verdict in judged] == ["honest", *["fraud"] * len(claims)]

    # The honest batch as its callback had it: with the r_target it was found under.
    bodies = [delivered, *(batch.as_dict() for batch in batches[1:])]
    path = tmp_path / "proofs.jsonl"
    path.write_text("\n".join(map(json.dumps, bodies)))
    result = offline(
        *("verify", path, "--model", small_model, *options(), "--node-count", 1),
        *("--dtype", dtype, "--valid-rate", RATE, "--fraud-threshold", THRESHOLD, "--json"),
    )
    assert result.returncode == 1, result.stderr
    *verdicts, summary = [json.loads(line) for line in result.stdout.splitlines()]
    assert summary["summary"]["fraud"] == len(claims)
    singly = [verdict for verdict in verdicts if not verdict["joined"]]
    apart = ENGINE_TOLERANCES[dtype, "transformers"] * S
    for batch, theirs, ours in zip(batches, judged, singly, strict=True):
        # Every p-value is many decades from the threshold.
        assert (ours["verdict"], ours["spoke"]) == (theirs["verdict"], theirs["spoke"])
        assert ours["nonces"] == theirs["nonces"] == list(batch.nonces)
        assert ours["n_judged"] == theirs["n_judged"]
        assert ours["computed_distances"] == pytest.approx(theirs["computed_distances"], abs=apart, rel=0)
        assert ours["tests"].keys() == theirs["tests"].keys()
        if batch.vectors is not None:
            continue
        # What two implementations are apart may lie across the edge of the tolerance.
        on_the_edge = {
            nonce
            for nonce, claimed, computed in zip(
                batch.nonces, batch.dist, theirs["computed_distances"], strict=True
            )
            if abs(abs(claimed - computed) - theirs["tolerance"]) <= apart
        }
        assert set(ours["invalid_nonces"]) ^ set(theirs["invalid_nonces"]) <= on_the_edge

    # vLLM computes in the command's process what it computes in the server's, to the last bit.
    result = offline(
        *("verify", path, "--model", small_model, *options(), "--node-count", 1, "--engine", "vllm"),
        *("--dtype", dtype, "--valid-rate", RATE, "--fraud-threshold", THRESHOLD, "--json"),
        *("--", "--max-model-len", 2048),
    )
    assert result.returncode == 1, result.stderr
    *verdicts, summary = [json.loads(line) for line in result.stdout.splitlines()]
    same = ("verdict", "tests", "computed_distances", "invalid_nonces", "numerics_differ")
    singly = [verdict for verdict in verdicts if not verdict["joined"]]
    for theirs, ours in zip(judged, singly, strict=True):
        assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}
    assert summary["summary"]["numerics"] == {
        name: value for name, value in numerics.items() if name not in ("batch_size", "seq_len")
    }
