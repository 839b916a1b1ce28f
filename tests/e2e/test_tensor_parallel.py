"""Two tensor-parallel ranks: the same round, the same verdicts, nothing of inference touched on either."""

from typing import Any

import pytest
from node import BATCH_SIZE, Node, proof, round_request
from tolerances import ENGINE_TOLERANCES

from hallmark.poc.protocol.law import distance_std

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]


# At the default threshold chance may convict an honest batch once in some hundreds.
FOR_TWO = round_request(block_hash="for two", valid_rate=0.5, fraud_threshold=1e-7)


@pytest.mark.both_dtypes
def test_two_ranks_find_and_validate_and_agree_with_one(node: Node, pair: Node, dtype: str) -> None:
    round_ = round_request()
    nonces = list(range(2 * BATCH_SIZE))
    claims = proof(round_, nonces, [1.0] * len(nonces))
    node.poc("/init/validate", round_)
    pair.poc("/init/validate", round_)
    one, two = (server.poc("/validate", claims)["computed_distances"] for server in (node, pair))
    assert two == pair.poc("/validate", claims)["computed_distances"], "to the bit, on the same server"
    tolerance = ENGINE_TOLERANCES[dtype, "two ranks"] * distance_std(256)
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < tolerance

    found = pair.find_valid(FOR_TWO)
    assert pair.status()["numerics"]["tensor_parallel_size"] == 2
    verdict = pair.poc("/validate", found)
    assert (verdict["fraud_detected"], verdict["computed_distances"]) == (False, found["dist"])
    # Another number of ranks is another set of last bits, within the tolerance: still honest.
    node.poc("/init/validate", FOR_TWO)
    assert node.poc("/validate", found)["fraud_detected"] is False
    pair.poc("/stop")


@pytest.mark.both_dtypes
def test_ranks_share_the_work_of_a_batchs_inputs(pair: Node, dtype: str) -> None:
    """All have the same bits, but for rounding those of a rank alone; each projects its part of the rows."""
    keys = [("key", nonce) for nonce in range(BATCH_SIZE)]
    for inputs in ("tokens", "normal"):
        round_ = round_request(inputs=inputs)
        pair.poc("/init/validate", round_)
        found = pair.probe("batch_inputs", keys)
        assert sum(rank["rows"] for rank in found) == BATCH_SIZE * round_["seq_len"]
        assert all(rank["rows"] >= BATCH_SIZE * round_["seq_len"] // 3 for rank in found)
        assert found[0]["shape"] == found[1]["shape"] == [BATCH_SIZE, round_["seq_len"], 256]
        assert found[0]["sha256"] == found[1]["sha256"]
        # The same sums in another order, and one rounding of them.
        step = {"bfloat16": 2.0**-7, "float32": 2.0**-16}[dtype]
        assert all(rank["difference"] <= step * rank["largest"] for rank in found)

    round_ = round_request(use_random_projection=False)
    pair.poc("/init/validate", round_)
    found = pair.probe("batch_inputs", keys)
    whole = BATCH_SIZE * round_["seq_len"]
    assert [rank["rows"] for rank in found] == [whole] * 2, "drawing is faster than gathering"
    assert [rank["difference"] for rank in found] == [0.0, 0.0]
    pair.poc("/stop")


@pytest.mark.both_dtypes
def test_no_rank_touches_inference(pair: Node) -> None:
    before = pair.complete("The proof of the pudding")
    pair.probe("fill_guards")
    cache = pair.probe("cache_checksum")
    assert [result["rank"] for result in cache] == [0, 1]
    round_ = round_request(seq_len=256)
    pair.poc("/init/validate", round_)
    pair.poc("/validate", proof(round_, list(range(BATCH_SIZE)), [1.0] * BATCH_SIZE))
    assert pair.probe("cache_checksum") == cache
    assert pair.probe("guards_hold") == [{"hold": True, "used": True}] * 2
    assert pair.complete("The proof of the pudding") == before


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (["forget_round"], "failed on 2 of 2 ranks: rank 0: no PoC round is open"),
        (["forget_round_on", 1], "rank 0: preparing a PoC batch succeeded on 1 of 2 ranks; rank 1: no PoC"),
    ],
)
def test_a_failure_before_the_first_collective_ends_the_round_and_inference_goes_on(
    pair: Node, failure: list[Any], reason: str
) -> None:
    pair.poc("/init/validate", round_request())
    pair.probe(*failure)
    pair.poc("/phase/generate")
    status = pair.wait_for(lambda status: status["state"] == "STOPPED")
    assert reason in status["reason"]
    assert pair.chat().status_code == 200
    pair.poc("/init/generate", round_request())
    pair.wait_for(lambda status: status["total_checked"] > 0)
    pair.poc("/stop")


def test_a_failure_on_one_rank_between_collectives_stops_the_server(pair: Node) -> None:
    """Unpaired collectives cannot be repaired: the server ends, loudly, and does not go on half alive.

    The last test of this fixture, since it takes the server away.
    """
    pair.poc("/init/validate", round_request())
    pair.probe("break_a_layer", "fail", 1)
    pair.poc("/phase/generate")
    # The exit code is vLLM's, which takes a dead engine for a reason to shut down in order.
    assert pair.process.wait(120) is not None, "the server must end"
    assert pair.process.log is not None
    log = pair.process.log.read_text(errors="replace")
    # The other rank waits in a collective of the forward, or stands at a checkpoint and votes.
    reasons = (
        "a rank did not come to the vote after the forward of a PoC batch",
        "the forward of a PoC batch succeeded on 1 of 2 ranks",
        "a slice of a PoC batch succeeded on 1 of 2 ranks",
    )
    stops = [line for line in log.splitlines() if "PoC stops this engine: " in line]
    assert any(reason in line for line in stops for reason in reasons), stops
