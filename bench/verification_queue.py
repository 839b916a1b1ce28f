"""The queue of verification under kills: every batch has one verdict, and none is lost; and its throughput.

Senders deliver batches to two receivers, which are killed again and again, and two workers, which are killed
while they have jobs, verify them by orders; PostgreSQL crashes in between. All that has ended is started
again at once. In the end the database is held against what was acknowledged.

Then one worker and two do the same jobs, by turns.

Run by `python -P bench/verification_queue.py`. It ends with exit code 1, and says why, where a batch is lost,
has two verdicts or none, or a prover's record is not what its verdicts say.
"""

import argparse
import math
import os
import random
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out
sys.path.insert(1, str(Path(__file__).parents[1] / "tests" / "support"))
sys.path.insert(2, str(Path(__file__).parents[1] / "tools"))

import psycopg
import torch
from _queue_batches import deliveries
from _queue_kills import LEASE, PROCESSES, run
from _queue_senders import DRAWN
from _queue_throughput import BATCH_SIZE, SEQ_LEN, throughput
from _report import print_table, target, write_results
from offline_proofs import Prover
from postgresql_server import running

from hallmark.server.models.small import build_small_model, fast_dtype


def main() -> int:
    """Run, print and write; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60, help="of receivers and workers together")
    parser.add_argument("--batches", type=int, default=1250)
    parser.add_argument("--crashes", type=int, default=3, help="of PostgreSQL")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=300, help="for the throughput; 0: it is not measured")
    parser.add_argument("--passes", type=int, default=3, help="of the throughput")
    parser.add_argument("--no-results", action="store_true", help="write no results file")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    torch.set_num_threads(1)
    blocks = max(1, math.isqrt(arguments.batches // 2))
    with running(durable=True) as server, TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model"
        build_small_model(model)
        prover = Prover(model)
        chance = random.Random(arguments.seed)  # noqa: S311
        batches = deliveries(prover, blocks, -(-arguments.batches // blocks), chance)
        row, problems = run(
            server, folder, model, batches, arguments.kills, arguments.crashes, arguments.seed
        )
        for key, value in row.items():
            print(f"{key:>32}: {value}")
        for problem in problems:
            print(f"problem: {problem}", file=sys.stderr)
        if problems:
            print(f"logs are in {keep_logs(folder)}", file=sys.stderr)
            return 1
        rows = [row]
        if arguments.jobs:
            rows += throughput(server, folder, model, prover, arguments.jobs, arguments.passes)
            print_table(rows[1:])
        with psycopg.connect(server.url("postgres")) as connection:
            version = ".".join(map(str, divmod(connection.info.server_version, 10_000)))
    if not arguments.no_results:
        write_results(
            "verification_queue",
            target(),
            about=(
                f"Kills: batches of 8 nonces of the small model, delivered to {PROCESSES} receivers on one "
                f"PostgreSQL, {DRAWN} nonces of each recomputed by {PROCESSES} workers with leases of "
                f"{LEASE:g} s, each killed with SIGKILL at random moments and started again; `in a post` and "
                "`in a job` are kills while one was under way, `answers lost` are batches that were stored "
                "and whose sender was not told, `lost` are acknowledged batches that are not there as they "
                "were sent or have neither a verdict nor a reason, `doubled` are verdicts beyond the first "
                f"of a batch. Throughput: jobs a second of {BATCH_SIZE} nonces of {SEQ_LEN} rows, from when "
                "each worker has done its first to when one has done its last, as the median of passes; its "
                "ratio to that of one worker in the same run, and those of the slowest and the fastest pass; "
                "the share of its time that a worker is not in its engine. Each worker has one thread."
            ),
            rows=rows,
            packages=("hallmark-poc", "torch", "transformers", "numpy", "fastapi", "uvicorn", "psycopg"),
            dtype=fast_dtype(),
            postgresql=version,
            seed=arguments.seed,
        )
    return 0


def keep_logs(folder: Path) -> Path:
    """Move what receivers and workers wrote to where it stays."""
    kept = Path(f"{folder}-logs")
    kept.mkdir()
    for log in folder.glob("*.log"):
        os.replace(log, kept / log.name)
    return kept


if __name__ == "__main__":
    sys.exit(main())
