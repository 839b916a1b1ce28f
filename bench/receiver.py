"""Batches a second that `hallmark receiver` takes: on SQLite, and one, two and four of it on PostgreSQL.

Real receivers and a real PostgreSQL, which flush each commit to the disk, and processes that deliver to them,
all on this machine: what senders take of its cores is missing to the others. So rates are compared with those
of one receiver on SQLite in the same run, and beside them stands how long processors were at work for a
batch, for all receivers and for the database. All are up all the time, and take batches by turns.

Run by `python -P bench/receiver.py`; it takes four minutes on two cores.
"""

import argparse
import itertools
import re
import sqlite3
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Self

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out
sys.path.insert(1, str(Path(__file__).parents[1] / "tests" / "support"))
sys.path.insert(2, str(Path(__file__).parents[1] / "tools"))

import httpx
import psutil
import psycopg
from _deliveries import CONNECTIONS, SENDERS, Load, senders, start
from _report import print_table, target, write_results
from postgresql_server import PostgresServer, running

from hallmark.server.processes.child import ChildProcess, free_port

LOADS: Final = tuple(Load(nonces, share) for share in (0.0, 0.1) for nonces in (32, 1_000))
POSTGRESQL: Final = (1, 2, 4)
"""Numbers of receivers."""

_START_SECONDS: Final = 60.0
_WARM_SECONDS: Final = 0.4


@dataclass(frozen=True, slots=True)
class Way:
    """How batches are kept.

    Attributes:
        database: `SQLite` or `PostgreSQL`.
        receivers: How many take them.
    """

    database: str
    receivers: int


WAYS: Final = (Way("SQLite", 1), *(Way("PostgreSQL", count) for count in POSTGRESQL))


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of a load in one pass.

    Attributes:
        batches: Acknowledged.
        seconds: In this time.
        receivers: Seconds of a core that the receivers took.
        database: Seconds of a core that PostgreSQL took; SQLite is in the receiver.
    """

    batches: int
    seconds: float
    receivers: float
    database: float


@dataclass(frozen=True, slots=True)
class Receivers:
    """Running receivers on one database.

    Attributes:
        urls: Where each takes batches.
        processes: Of each.
        database: PostgreSQL's; None for SQLite.
    """

    urls: tuple[str, ...]
    processes: tuple[psutil.Process, ...]
    database: psutil.Process | None

    @classmethod
    def start(cls, way: Way, folder: Path, server: PostgresServer, stack: ExitStack) -> Self:
        """Start them on a new database; they end with the stack."""
        is_sqlite = way.database == "SQLite"
        database = str(folder / "receiver.db") if is_sqlite else server.new_database()
        urls, processes = [], []
        for number in range(way.receivers):
            port = free_port()
            command = [
                *(sys.executable, "-P", "-m", "hallmark.server", "receiver", "--no-page"),
                *("--port", str(port), "--database", database),
            ]
            log = folder / f"{way.database}-{way.receivers}-{number}.log"
            process = stack.enter_context(ChildProcess("hallmark receiver", command, log=log))
            url = f"http://127.0.0.1:{port}"
            process.wait_until(partial(_is_up, url), seconds=_START_SECONDS)
            urls.append(url)
            processes.append(psutil.Process(process.pid))
        return cls(tuple(urls), tuple(processes), None if is_sqlite else _postmaster(server))

    def busy(self) -> tuple[float, float]:
        """Return seconds of a core that the receivers, and the database, have taken."""
        database = 0.0 if self.database is None else _busy(self.database)
        return sum(map(_busy, self.processes)), database

    def taken(self) -> int:
        """Return batches that they have taken since their start, by their metrics."""
        return sum(map(_taken, self.urls))


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).is_success
    except httpx.TransportError:
        return False


def measured(pool: Pool, load: Load, receivers: Receivers, seconds: float) -> Measured:
    """Measure a load for so many seconds.

    Args:
        pool: Processes that deliver.
        load: What they deliver.
        receivers: To whom.
        seconds: For how long.
    """
    before_all = receivers.taken()
    begin = time.time() + _WARM_SECONDS
    delivering = start(pool, load, receivers.urls, begin, begin + seconds)
    time.sleep(max(0.0, begin - time.time()))
    before = receivers.busy()
    time.sleep(max(0.0, begin + seconds - time.time()))
    after = receivers.busy()
    batches = sum(delivering.get())
    # Those before and after it was counted are taken too.
    taken = receivers.taken() - before_all
    assert taken >= batches, f"{batches} batches were acknowledged, {taken} taken"
    return Measured(
        batches=batches, seconds=seconds, receivers=after[0] - before[0], database=after[1] - before[1]
    )


def _busy(process: psutil.Process) -> float:
    """Return seconds of a core that a process and its children have taken, those that have ended included."""
    found = 0.0
    # The process itself at last: it has the times of those that end meanwhile.
    for each in (*process.children(recursive=True), process):
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            found += times.user + times.system + times.children_user + times.children_system
    return found


def _postmaster(server: PostgresServer) -> psutil.Process:
    first = (server.folder / "data" / "postmaster.pid").read_text(encoding="ascii").splitlines()[0]
    return psutil.Process(int(first))


def _taken(url: str) -> int:
    """Return batches that a receiver has taken since its start, by its metrics."""
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    return sum(
        int(float(count))
        for count in re.findall(r"^hallmark_receiver_batches_total\{.*\} (\S+)$", text, re.M)
    )


def rows_of(passes: Sequence[Mapping[tuple[Way, Load], Measured]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a results file, all passes together."""
    for load, way in itertools.product(LOADS, WAYS):
        ours = [one[way, load] for one in passes]
        rates = [one.batches / one.seconds for one in ours]
        batches = sum(one.batches for one in ours)
        rate, base = statistics.median(rates), _median_rate(passes, WAYS[0], load)
        yield {
            "load": str(load),
            "nonces": load.nonces,
            "validated": load.validated,
            "database": way.database,
            "receivers": way.receivers,
            "batches": batches,
            "batches/s": round(rate, 1),
            "nonces/s": round(rate * load.nonces),
            "to SQLite": round(rate / base, 3),
            "of passes": [round(extreme(rates) / base, 3) for extreme in (min, max)],
            "receivers' core seconds a batch": sum(one.receivers for one in ours) / batches,
            "database's core seconds a batch": (
                None if way.database == "SQLite" else sum(one.database for one in ours) / batches
            ),
        }


def _median_rate(passes: Sequence[Mapping[tuple[Way, Load], Measured]], way: Way, load: Load) -> float:
    return statistics.median(one[way, load].batches / one[way, load].seconds for one in passes)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load in each pass")
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--no-results", action="store_true", help="write no file")
    arguments = parser.parse_args()
    passes = []
    with ExitStack() as stack:
        server = stack.enter_context(running(durable=True))
        folder = Path(stack.enter_context(TemporaryDirectory()))
        ways = {way: Receivers.start(way, folder, server, stack) for way in WAYS}
        pool = stack.enter_context(senders(LOADS))
        for number in range(arguments.passes):
            first = number % len(WAYS)
            turns = itertools.product(LOADS, WAYS[first:] + WAYS[:first])
            passes.append(
                {(way, load): measured(pool, load, ways[way], arguments.seconds) for load, way in turns}
            )
        with psycopg.connect(server.url("postgres")) as connection:
            version = ".".join(map(str, divmod(connection.info.server_version, 10_000)))
    rows = [*rows_of(passes)]
    print_table(rows)
    if arguments.no_results:
        return
    write_results(
        "receiver",
        target(),
        about=(
            f"Batches a second that receivers take from {SENDERS} processes of {CONNECTIONS} connections "
            "each, which share the cores with receivers and database, as the median of passes; its ratio to "
            "that of one receiver on SQLite in the same run, and those of the slowest and the fastest pass; "
            "seconds of a core that all receivers, and the database's processes, are at work for a batch. "
            "Each commit is flushed to the disk."
        ),
        rows=rows,
        packages=("torch", "numpy", "fastapi", "uvicorn", "httpx", "psycopg", "hallmark-poc"),
        postgresql=version,
        sqlite=sqlite3.sqlite_version,
        seconds=arguments.seconds * arguments.passes,
    )


if __name__ == "__main__":
    main()
