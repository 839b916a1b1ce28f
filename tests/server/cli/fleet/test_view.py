"""How a fleet is shown: on a small terminal what matters is seen, and nothing of it is cut."""

import io

import pytest
from rich.console import Console

from hallmark.server.cli.client import UnreachableError
from hallmark.server.cli.fleet.answers import Answer
from hallmark.server.cli.fleet.inventory import FleetNode
from hallmark.server.cli.fleet.view import NodesFailedError, check, line, live_view
from hallmark.server.http.examples import STATUS

COUNT = 41


def node(number: int) -> FleetNode:
    name = f"node-{number}.example.com:8000"
    return FleetNode(number, COUNT, name, f"http://{name}", None, 0, None)


def answered(number: int) -> Answer:
    config = {**STATUS["config"], **node(number).share}
    return Answer.read(node(number), {**STATUS, "config": config})


FAILED = Answer(
    node(40), error=UnreachableError("no answer from http://node-40.example.com:8000 within 10 s")
)
ANSWERS = [*map(answered, range(40)), FAILED]


def live(width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height)
    with console.capture() as captured:
        console.print(live_view(ANSWERS, console))
    return [row.rstrip() for row in captured.get().splitlines()]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 50)])
def test_a_screen_holds_the_whole_first_and_those_that_failed(width: int, height: int) -> None:
    rows = live(width, height)
    assert len(rows) < height
    assert max(map(len, rows)) <= width
    assert rows[0] == "nodes       41: 40 GENERATING, 1 failed"
    first = rows.index("") + 2
    assert rows[first].startswith("40  node-40.example.com:8000  NO ANSWER")
    assert rows[first + 1].startswith(" 0  node-0.example.com:8000   GENERATING")
    assert "within 10 s" in " ".join(rows)


def test_how_many_nodes_are_not_seen_is_said() -> None:
    rows = live(80, 24)
    seen = [row for row in rows if ".example.com:8000  " in row or ".example.com:8000   " in row]
    assert f"and {COUNT - len(seen)} nodes that the screen has no room for" in rows
    assert not any("no room" in row for row in live(160, 80))


def test_a_line_has_the_whole_fleet() -> None:
    assert line(ANSWERS) == (
        f"GENERATING 40  checked {40 * STATUS['total_checked']:,} nonces  "
        f"{40 * STATUS['rate_per_second']:,.1f} nonces/s  judged 0 honest, 0 fraud  callbacks 0 waiting  "
        "failed: node-40.example.com:8000"
    )


def test_a_node_that_was_not_asked_yet_has_not_failed() -> None:
    check([Answer(node(0)), answered(1)])
    with pytest.raises(NodesFailedError, match=r"^1 of 2 nodes failed: node-40\.example\.com:8000$"):
        check([FAILED, answered(1)])


def test_a_round_that_has_failed_and_an_engine_that_is_stuck_are_remarked() -> None:
    broken = {**STATUS, "config": None, "has_failed": True, "reason": "the engine is gone"}
    stuck = {**STATUS, "config": None, "is_stuck": True, "seconds_since_progress": 125.0}
    assert Answer.read(node(0), broken).remarks == ("the round has failed: the engine is gone",)
    assert Answer.read(node(0), stuck).remarks == ("the engine has not answered for 2 min 5 s",)


def test_a_group_of_the_round_that_is_not_the_inventorys_is_remarked() -> None:
    other = {**STATUS, "config": {**STATUS["config"], **node(0).share, "group_id": 1, "n_groups": 2}}
    [remark] = Answer.read(node(0), other).remarks
    assert remark.startswith("its round is that of node 0 of 41, group 1 of 2, and in the inventory")
