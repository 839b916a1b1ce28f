"""`hallmark fleet`, against the real routes on real servers: 50 that work, and three that do not."""

import asyncio
import json
import re
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from command_line import Cli, Result
from fastapi import FastAPI
from fleets import Fleet, hanging, serving_many
from pydantic import SecretStr
from runtime import POC, QUICK, CallbackReceiver, eventually, running_receiver, serving

from hallmark.poc.protocol.config import PoCState
from hallmark.server.cli.fleet import watch
from hallmark.server.processes.child import free_port

ROUND = ("--block-hash", "0x8d3f2a", "--block-height", 7, "--public-key", "02a1b2c3")
SHORT = ("--batch-size", 8, "--seq-len", 8)
KEY = "a-token-that-is-shown-nowhere"
GUARDED = QUICK.model_copy(update={"api_key": SecretStr(KEY)})


def lines(result: Result) -> list[Any]:
    """The objects that --json prints: of each node, and of the fleet."""
    return [json.loads(line) for line in result.out.splitlines()]


async def test_fifty_nodes_start_though_three_others_fail(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRONG", f"{KEY} of another server")
    closed = f"http://127.0.0.1:{free_port()}"
    async with serving_many(50) as members, serving_many(1, GUARDED) as [guarded]:
        good = [member.url for member in members]
        async with hanging() as silent:
            fleet.write(
                *(*good[:25], silent, *good[25:], closed, guarded.url),
                node_0={"group": "eu"},
                node_1={"group": "us"},
                node_2={"group": "us"},
                node_25={"name": "silent"},
                node_51={"name": "closed"},
                node_52={"name": "guarded", "token_env": "WRONG"},
            )
            started = await fleet("start", *ROUND, *SHORT, "--timeout", 15)
        assert started.code == 2
        failed, hint = started.err.splitlines()
        assert failed == "hallmark: 3 of 53 nodes failed: silent, closed, guarded"
        assert hint == "hint: the inventory names tokens by token_env or token_file, for all nodes or for one"
        rows = {row.split()[0]: row for row in started.out.partition("\n\n")[0].splitlines()[1:]}
        assert [*rows] == [str(number) for number in range(53)]
        assert f"NO ANSWER   no answer from {silent} within 15 s" in re.sub(" {3,}", "   ", rows["25"])
        assert f"NO ANSWER   no answer from {closed}: " in re.sub(" {3,}", "   ", rows["51"])
        assert "ERROR 401   POST /api/v1/pow/init/generate: 401: the bearer token is wrong" in re.sub(
            " {3,}", "   ", rows["52"]
        )
        together = dict(
            re.split(" {2,}", line, maxsplit=1) for line in started.out.partition("\n\n")[2].splitlines()
        )
        assert together["nodes"] == "53: 50 GENERATING, 3 failed"
        assert together["block"] == "7, 0x8d3f2a"
        assert together["group us"] == "2 nodes, 0 nonces, 0.0 nonces/s"
        assert together["no group"] == "50 nodes, 3 failed, 0 nonces, 0.0 nonces/s"

        assert all(member.manager.state is PoCState.GENERATING for member in members)
        assert guarded.manager.active is None
        rounds = [member.manager.active for member in members]
        configs = [each.round.config for each in rounds if each is not None]
        assert [each.node_id for each in configs] == [*range(25), *range(26, 51)]
        assert {(each.node_count, each.group_id, each.n_groups) for each in configs} == {(53, 0, 1)}

        # The node that comes back is started by the very same command, and the others go on.
        monkeypatch.setenv("WRONG", KEY)
        again = await fleet("start", *ROUND, *SHORT, "--timeout", 15)
        assert again.err == "hallmark: 2 of 53 nodes failed: silent, closed\n"
        assert [member.manager.active for member in members] == rounds
        assert guarded.manager.state is PoCState.GENERATING

        shown = await fleet("status", "--timeout", 15, "--json")
        assert shown.code == 2
        *nodes, summary = lines(shown)
        assert [node["node"] for node in nodes] == [*range(53)]
        assert [node["name"] for node in nodes if node["error"] is not None] == ["silent", "closed"]
        assert {node["status"]["state"] for node in nodes if node["status"] is not None} == {"GENERATING"}
        assert summary["fleet"]["failed"] == ["silent", "closed"]
        assert summary["fleet"]["states"] == {"GENERATING": 51}
        assert [(each["group"], each["nodes"]) for each in summary["groups"]] == [
            ("eu", 1),
            ("us", 2),
            (None, 50),
        ]

        for member in (*members, guarded):
            member.engine.release()
        stopped = await fleet("stop", "--timeout", 15)
        assert stopped.code == 2
        assert "51 STOPPED, 2 failed" in stopped.out
        assert all(member.manager.state is PoCState.STOPPED for member in (*members, guarded))
        for result in (started, again, shown, stopped):
            assert KEY not in result.out + result.err


async def test_a_node_that_hangs_is_waited_for_once_and_not_for_ever(fleet: Fleet) -> None:
    """So many that hang would take as many times as long, one after the other."""
    async with hanging() as silent:
        fleet.write(*(f"{silent}/{number}" for number in range(100)))
        result = await asyncio.wait_for(fleet("status", "--timeout", 3), 150)
    assert result.code == 2
    assert result.err.startswith("hallmark: 100 of 100 nodes failed: 127.0.0.1:")
    assert result.out.count("within 3 s") == 100


async def test_what_nodes_find_is_added_up_and_no_nonce_found_twice(fleet: Fleet) -> None:
    async with serving_many(3) as members, running_receiver() as receiver:
        fleet.write(*(member.url for member in members), node_1={"group": "eu"}, node_2={"group": "eu"})
        started = await fleet("start", *ROUND, *SHORT, "--callback-url", receiver.url)
        assert (started.code, started.err) == (0, "")
        for member in members:
            member.engine.release()
        await eventually(lambda: {body["node_id"] for body in receiver.bodies("generated")} == {0, 1, 2})
        assert (await fleet("stop")).code == 0
        await check_sums(fleet, receiver)
        judged = await fleet("start", *ROUND, *SHORT, "--callback-url", receiver.url, "--phase", "validate")
        assert "3 VALIDATING" in judged.out
        proof = {**receiver.bodies("generated")[0], "public_key": "02a1b2c3"}
        async with httpx.AsyncClient() as http:
            for url, changes in (
                (members[0].url, {}),
                (members[2].url, {"dist": [0.5] * len(proof["dist"])}),
            ):
                body = {name: proof[name] for name in ("public_key", "block_hash", "block_height", "node_id")}
                body |= {"nonces": proof["nonces"], "dist": proof["dist"], **changes}
                (await http.post(f"{url}{POC}/validate", json=body, timeout=60)).raise_for_status()
        *nodes, summary = lines(await fleet("status", "--json"))
        assert [node["status"]["validation"]["fraud_verdicts"] for node in nodes] == [0, 0, 1]
        assert (summary["fleet"]["honest_verdicts"], summary["fleet"]["fraud_verdicts"]) == (1, 1)
        assert "1 batch honest, 1 fraud" in (await fleet("status")).out


async def check_sums(fleet: Fleet, receiver: CallbackReceiver) -> None:
    """The fleet's figures are the sums of its nodes', and of its groups'."""
    *nodes, summary = lines(await fleet("status", "--json"))
    assert summary["fleet"]["total_checked"] == sum(node["status"]["total_checked"] for node in nodes) > 0
    assert [each["total_checked"] for each in summary["groups"]] == [
        nodes[0]["status"]["total_checked"],
        nodes[1]["status"]["total_checked"] + nodes[2]["status"]["total_checked"],
    ]
    assert summary["fleet"]["rate_per_second"] == 0.0, "nothing runs"
    found = [(body["node_id"], nonce) for body in receiver.bodies("generated") for nonce in body["nonces"]]
    assert {nonce % 3 - node for node, nonce in found} == {0}
    assert len({nonce for _, nonce in found}) == len(found)


async def test_what_all_refuse_is_said_once(fleet: Fleet) -> None:
    async with serving_many(5) as members:
        fleet.write(*(member.url for member in members))
        result = await fleet("start", *ROUND, "--valid-rate", 2)
        assert result.code == 2
        assert result.out.count("ERROR 400") == 5
        assert all(member.manager.active is None for member in members)
    refused = await fleet("start", *ROUND, "--valid-rate", "inf")
    assert refused.err == "hallmark: valid_rate: inf is not allowed; allowed: a finite number above 0\n"


async def test_what_servers_remark_is_told_with_their_names(fleet: Fleet) -> None:
    async with serving_many(2) as members, httpx.AsyncClient() as http:
        fleet.write(*(member.url for member in members), node_0={"name": "one"}, node_1={"name": "two"})
        nowhere = f"http://127.0.0.1:{free_port()}"
        started = await fleet(
            "start", *ROUND, "--seq-len", 8, "--batch-size", 1024, "--callback-url", nowhere
        )
        assert started.code == 0
        assert "one, two: batch_size 1024 was lowered to 128\n" in started.out
        assert "one, two: the receiver of callbacks does not answer the server: ConnectError: " in started.out
        assert "lowered" not in (await fleet("status")).out
        for member in members:
            member.engine.release()
        other = {"block_hash": "b", "block_height": 8, "public_key": "k", "node_id": 1, "node_count": 3}
        (await http.post(f"{members[0].url}{POC}/init/generate", json=other)).raise_for_status()
        shown = (await fleet("status")).out
        assert (
            "one: its round is that of node 1 of 3, and in the inventory it is node 0 of 2: others may walk "
            "the same nonces\n"
        ) in shown
        assert "block       8, b\n" in shown
        assert "block       7, 0x8d3f2a\n" in shown


async def test_a_server_of_another_kind_is_one_that_failed(fleet: Fleet) -> None:
    app = FastAPI()
    app.add_api_route(f"{POC}/status", lambda: {"status": "OK"})
    async with serving(app) as url:
        fleet.write(url, node_0={"name": "other"})
        result = await fleet("status")
        assert (result.code, result.err) == (2, "hallmark: 1 of 1 node failed: other\n")
        assert f"{url} answers with no status of proof of compute: KeyError: 'validation'" in result.out


async def test_watching_off_a_terminal_prints_a_line_a_look_until_all_have_ended(fleet: Fleet) -> None:
    async with serving_many(2) as members:
        fleet.write(*(member.url for member in members))
        assert (await fleet("start", *ROUND, *SHORT)).code == 0
        for member in members:
            member.engine.release()
        watching = asyncio.create_task(fleet("watch", "--interval", 0.2))
        await eventually(lambda: all(member.engine.keys for member in members))
        await asyncio.sleep(1)
        await members[0].manager.stop()
        await asyncio.sleep(1)
        await members[1].manager.stop()
        result = await asyncio.wait_for(watching, 60)
    assert (result.code, result.err) == (0, "")
    looks = result.out.splitlines()
    assert any(look.startswith("GENERATING 2  checked ") for look in looks)
    assert any(look.startswith("GENERATING 1  STOPPED 1  checked ") for look in looks)
    assert looks[-1].startswith("STOPPED 2  checked ")
    assert looks[-1].endswith("  0.0 nonces/s  judged 0 honest, 0 fraud  callbacks 0 waiting")


async def test_a_look_is_not_held_up_by_a_node_that_hangs(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for at the end, for as long as it may be silent."""
    monkeypatch.setattr(watch, "_PATIENCE_SECONDS", 2.0)
    async with serving_many(1) as [member], hanging() as silent:
        fleet.write(member.url, silent, node_1={"name": "silent"})
        assert (await fleet("start", *ROUND, *SHORT, "--timeout", 10)).code == 2
        watching = asyncio.create_task(fleet("watch", "--interval", 0.2, "--timeout", 5, "--json"))
        await asyncio.sleep(3)
        member.engine.release()
        await member.manager.stop()
        result = await asyncio.wait_for(watching, 60)
    assert (result.code, result.err) == (2, "hallmark: 1 of 2 nodes failed: silent\n")
    told = lines(result)
    looks = list(zip(told[0::3], told[1::3], told[2::3], strict=True))
    before = [summary["fleet"]["states"] for _, node, summary in looks if node["error"] is None]
    assert before.count({"ASKED": 1, "GENERATING": 1}) > 3
    assert looks[-1][0]["status"]["state"] == "STOPPED"
    assert looks[-1][1]["error"] == f"no answer from {silent} within 5 s"


async def test_a_node_that_refuses_is_not_waited_for(fleet: Fleet) -> None:
    async with serving_many(1, GUARDED) as [member]:
        fleet.write(member.url, node_0={"name": "guarded"})
        result = await asyncio.wait_for(fleet("watch", "--interval", 0.2), 25)
        assert (result.code, result.out.splitlines()[-1].endswith("failed: guarded")) == (2, True)


async def test_ctrl_c_leaves_the_rounds_running(fleet: Fleet) -> None:
    async with serving_many(2) as members:
        fleet.write(*(member.url for member in members))
        assert (await fleet("start", *ROUND, *SHORT)).code == 0
        command = [sys.executable, "-P", "-m", "hallmark.server", "fleet", "watch", str(fleet.file)]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        assert (await process.stdout.readline()).startswith(b"GENERATING 2")
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 130
        said = f"the rounds go on; end them with hallmark fleet stop {fleet.file}"
        assert err.decode().splitlines()[0] == said
        assert {member.manager.state for member in members} == {PoCState.GENERATING}


def test_an_inventory_that_is_wrong_asks_nobody(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text('[[nodes]]\nurl = "http://127.0.0.1:9"\ntoken = "secret"\n')
    for command in (("start", file, *ROUND), ("status", file), ("watch", file), ("stop", file)):
        result = cli("fleet", *command)
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith(f"hallmark: {file}: nodes[0]: token: '(not shown)' is not allowed")
    missing = cli("fleet", "status", tmp_path / "none.toml")
    assert missing.err.startswith("hallmark: FILE: ")
    assert missing.code == 2
