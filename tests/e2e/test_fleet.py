"""Three real servers of one fleet: started by one command, seen, one lost, and the others stopped."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node import HALLMARK, Node, Receiver, round_request, running_node

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

KEY = "key of the third"
WRONG = "key of another server"
REQUEST = round_request(fraud_threshold=1e-7)
ROUND = [
    part
    for name in ("block_hash", "block_height", "public_key", "batch_size", "seq_len", "fraud_threshold")
    for part in (f"--{name.replace('_', '-')}", str(REQUEST[name]))
]


@pytest.fixture
def guarded(small_model: Path, tmp_path: Path) -> Iterator[Node]:
    """A server of this test's own, which asks for a token, and is lost in the end."""
    log = tmp_path / "server.log"
    with running_node(small_model, log, "--enforce-eager", HALLMARK_API_KEY=KEY) as node:
        node.http.headers["Authorization"] = f"Bearer {KEY}"
        yield node


@pytest.fixture
def inventory(node: Node, guarded: Node, pair: Node, tmp_path: Path) -> Path:
    """An inventory of three servers, of which the second has a token of its own, in a file."""
    file = tmp_path / "fleet.toml"
    file.write_text(
        f"""
        token_env = "KEY_OF_MOST"

        [[nodes]]
        url = "{node.url}"
        name = "first"
        group = "eu"

        [[nodes]]
        url = "{guarded.url}"
        name = "second"
        token_file = "second.key"
        group = "us"

        [[nodes]]
        url = "{pair.url}"
        name = "third"
        group = "us"
        """
    )
    return file


def fleet(command: str, inventory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as a person would, off a terminal."""
    ran = subprocess.run(
        [*HALLMARK, "fleet", command, str(inventory), *arguments],
        env={**os.environ, "KEY_OF_MOST": WRONG},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not [key for key in (KEY, WRONG) if key in ran.stdout + ran.stderr]
    return ran


def lines(ran: "subprocess.CompletedProcess[str]") -> list[Any]:
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_three_servers_share_a_round_and_one_is_lost(
    node: Node, guarded: Node, pair: Node, inventory: Path, receiver: Receiver
) -> None:
    nodes = (node, guarded, pair)
    (inventory.parent / "second.key").write_text(f"{WRONG}\n")
    refused = fleet("start", inventory, *ROUND, "--callback-url", receiver.url)
    assert refused.returncode == 2
    assert refused.stderr.startswith("hallmark: 1 of 3 nodes failed: second\n")
    assert "3: 2 GENERATING, 1 failed" in refused.stdout
    assert guarded.status()["config"] is None

    (inventory.parent / "second.key").write_text(f"{KEY}\n")
    started = fleet("start", inventory, *ROUND, "--callback-url", receiver.url)
    assert (started.returncode, started.stderr) == (0, "")
    assert "3 GENERATING" in started.stdout
    bodies = receiver.wait_for("generated", lambda found: {each["node_id"] for each in found} == {0, 1, 2})
    for body in bodies:
        assert {nonce % 3 for nonce in body["nonces"]} == {body["node_id"]}
    seen = receiver.http.get("/poc/moment").json()
    assert [each["node_id"] for each in seen["nodes"]] == ["0", "1", "2"]
    assert seen["fleet"]["nodes_lately"] == 3
    assert seen["fleet"]["rate"] > 0

    # The very same again is harmless: the walks go on.
    before = [each.status()["total_checked"] for each in nodes]
    assert fleet("start", inventory, *ROUND, "--callback-url", receiver.url).returncode == 0
    assert all(each.status()["total_checked"] >= count for each, count in zip(nodes, before, strict=True))
    *shown, summary = lines(fleet("status", inventory, "--json"))
    assert [each["status"]["state"] for each in shown] == ["GENERATING"] * 3
    assert summary["fleet"]["total_checked"] == sum(each["status"]["total_checked"] for each in shown)
    assert summary["fleet"]["rate_per_second"] > 0
    assert [(each["group"], each["nodes"]) for each in summary["groups"]] == [("eu", 1), ("us", 2)]

    guarded.process.send_signal(signal.SIGKILL)
    assert guarded.process.wait(60) is not None
    status = fleet("status", inventory)
    assert status.returncode == 2
    assert status.stderr == "hallmark: 1 of 3 nodes failed: second\n"
    assert "3: 2 GENERATING, 1 failed" in status.stdout
    assert fleet("start", inventory, *ROUND, "--callback-url", receiver.url).returncode == 2

    stopped = fleet("stop", inventory)
    assert stopped.returncode == 2
    assert "3: 2 STOPPED, 1 failed" in stopped.stdout
    for left in (node, pair):
        assert left.status()["state"] == "STOPPED"
        assert left.chat().status_code == 200
    watched = fleet("watch", inventory, "--interval", "0.5", "--json")
    assert watched.returncode == 2
    assert lines(watched)[-1]["fleet"]["failed"] == ["second"]
