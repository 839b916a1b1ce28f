"""What the demo reads from its receiver."""

from pathlib import Path

from builders import make_body

from hallmark.poc.protocol.vectors import encode, encoding_of
from hallmark.server.demo.node import running_receiver

NUMBER = 0.25


def test_a_proof_is_joined_from_more_batches_than_a_page_holds(tmp_path: Path) -> None:
    batch = make_body([0], node_id=3, vectors=list(encode([[NUMBER]])), encoding=encoding_of(1), round="0f")
    with running_receiver(tmp_path) as receiver:
        for nonce in range(103):
            receiver.http.post("/generated", json={**batch, "nonces": [nonce]}).raise_for_status()
        assert receiver.count("a key", "a block") == 103
        proof = receiver.proof("a key", "a block")
    assert proof.nonces == tuple(range(103))
    assert proof.vectors == encode([[NUMBER]]) * 103
    assert (proof.node_id, proof.round_digest) == (3, "0f")
