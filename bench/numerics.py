"""How far the small model's numbers move when only the arithmetic changes: what tolerances have to cover.

The same nonces are computed in bf16 as this machine does it by default, and then with other instruction
sets, another number of threads and other dtypes, each in a process of its own. Everything outside of the
model is exact, so that all differences are the model's.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

from _report import print_table, write_results

from hallmark.poc.offline.model import OfflineModel
from hallmark.poc.protocol.config import PoCConfig
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.round_tensors import RoundTensors
from hallmark.server.models.small import HIDDEN_SIZE, build_small_model

NONCES = 256
CONFIG = PoCConfig(block_hash="numerics", block_height=0, public_key="key", batch_size=8, seq_len=64)
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
# What changes: dtype, threads (0: as many as there are), environment.
VARIANTS: dict[str, tuple[str, int, dict[str, str]]] = {
    "bf16, again": ("bfloat16", 0, {}),
    "bf16, one thread": ("bfloat16", 1, {}),
    "bf16, AVX2 only": ("bfloat16", 0, AVX2),
    "fp16": ("float16", 0, {}),
    "fp32": ("float32", 0, {}),
}


def numbers(directory: Path, dtype: str) -> list[list[float]]:
    """Return numbers of the first nonces, in batches of the round's shape."""
    model = OfflineModel.load(directory, device="cpu", dtype=dtype)
    spec = Round.resolve(CONFIG, model.deployed("", CONFIG.batch_size * CONFIG.seq_len)).spec()
    tensors = RoundTensors(spec, model.torch_dtype, "cpu")
    found: list[list[float]] = []
    for start in range(0, NONCES, spec.batch_size):
        found += model.numbers(tensors, [("key", start + place) for place in range(spec.batch_size)])
    return found


def in_a_process(directory: Path, dtype: str, threads: int, environment: dict[str, str]) -> np.ndarray:
    """`numbers`, computed by a fresh interpreter under an environment of its own."""
    command = [sys.executable, "-P", __file__, "--model", str(directory), "--dtype", dtype]
    answer = subprocess.run(
        [*command, "--threads", str(threads)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return np.array(json.loads(answer.stdout))


def compare() -> None:
    """Run every variant against the default and write what they differ by."""
    rows = []
    with TemporaryDirectory() as directory:
        build_small_model(Path(directory))
        base = in_a_process(Path(directory), "bfloat16", 0, {})
        for variant, (dtype, threads, environment) in VARIANTS.items():
            moved = in_a_process(Path(directory), dtype, threads, environment) - base
            rows.append(
                {
                    "variant": variant,
                    "rms_s": round(float(np.sqrt(np.mean(moved**2))), 4),
                    "max_s": round(float(np.abs(moved).max()), 4),
                    "kurtosis": _kurtosis(moved),
                }
            )
    print_table(rows)
    about = (
        f"Numbers of {NONCES} nonces on the small model (width {HIDDEN_SIZE}, 4 layers, "
        f"{CONFIG.batch_size} x {CONFIG.seq_len} tokens a batch, transformers, eager, CPU) against the same "
        "in bf16 by default: RMS, largest difference and kurtosis. A number's standard deviation by the law "
        "is 1, so that these are in units of s."
    )
    write_results(
        "numerics", "cpu", about=about, rows=rows, packages=("hallmark-poc", "torch", "transformers")
    )


def _kurtosis(moved: np.ndarray) -> float | None:
    square = float(np.mean(moved**2))
    return round(float(np.mean(moved**4)) / square**2, 2) if square else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="compute one variant of this model and print it as JSON")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.model is None:
        compare()
        return
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(json.dumps(numbers(arguments.model, arguments.dtype)))


if __name__ == "__main__":
    main()
