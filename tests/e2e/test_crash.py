"""Servers that are killed in the middle of a round; bench/crash.py does the same by the hundred."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from _crash import Kill, Moment, Target, Victim
from _drain import drain
from _outages import Outages, Receiver

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(600)]

# Of each node the kills, one start after the other: what, when, and whether the API server is killed as well
# while it ends for want of its engine.
PLANS: list[list[tuple[Target, Moment, bool]]] = [
    [("API server", "commit", False), ("engine", "later", False)],
    [("engine", "delivery", True)],
]


def carry_out(victim: Victim, plan: list[tuple[Target, Moment, bool]]) -> list[Kill]:
    chance = random.Random(victim.request["node_id"])  # noqa: S311
    kills = []
    for target, moment, twice in plan:
        kills += victim.run_until_killed(target, moment, chance, twice=twice)
    return kills


def test_what_was_shown_arrives_once_and_true_over_crashes_and_outages(
    small_model: Path, tmp_path: Path
) -> None:
    """Two nodes at the same time, killed twice each; each one's walk is computed again by the other."""
    with Receiver(tmp_path) as receiver:
        victims = [
            Victim(
                small_model,
                tmp_path,
                receiver.url,
                Path(f"{receiver.database}-wal"),
                node_id=node,
                node_count=len(PLANS),
                valid_rate=(1.0, 0.5)[node],
            )
            for node in range(len(PLANS))
        ]
        # It only stands still: a start of it would take longer than the test should.
        with (
            Outages(receiver, random.Random(0), down=(1.0, 3.0), killed=0.0),  # noqa: S311
            ThreadPoolExecutor() as pool,
        ):
            kills = [kill for made in pool.map(carry_out, victims, PLANS) for kill in made]
        rows = drain(victims, receiver.database)
    assert Counter(kill.target for kill in kills) == {"API server": 2, "engine": 2}
    assert all(kill.was_ready for kill in kills)
    # A killed API server is a failure to whoever started it.
    assert {kill.exit_code for kill in kills if kill.target == "API server"} == {128 + 9}
    assert {kill.exit_code for kill in kills if kill.target == "engine"} == {None, 1}
    for row in rows:
        assert row["shown"] > 0
        assert row["proofs"] >= row["shown"]
        assert (row["lost"], row["differing"], row["problems"]) == (0, 0, 0), row
