"""How far the demo model's distances move when only the arithmetic changes: what tolerances have to cover.

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
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

from _report import print_table, write_results

from hallmark.poc.offline.model import last_hidden
from hallmark.poc.protocol.law import distance_std
from hallmark.poc.protocol.round_spec import RoundSpec, round_digest, round_settings
from hallmark.poc.protocol.round_tensors import RoundTensors
from hallmark.server.demo.model import HIDDEN_SIZE, build_demo_model

NONCES = 256
SPEC = RoundSpec(
    digest=round_digest(
        round_settings(
            hidden_size=HIDDEN_SIZE,
            seq_len=64,
            input_scale=0.125,
            projection=True,
            projection_scale=0.01,
            model="",
        )
    ),
    block_hash="numerics",
    hidden_size=HIDDEN_SIZE,
    seq_len=64,
    batch_size=8,
    input_scale=0.125,
    projection=True,
    projection_scale=0.01,
)
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
# What changes: dtype, threads (0: as many as there are), environment.
VARIANTS: dict[str, tuple[str, int, dict[str, str]]] = {
    "bf16, again": ("bfloat16", 0, {}),
    "bf16, one thread": ("bfloat16", 1, {}),
    "bf16, AVX2 only": ("bfloat16", 0, AVX2),
    "fp16": ("float16", 0, {}),
    "fp32": ("float32", 0, {}),
}


def distances(directory: Path, dtype: torch.dtype) -> list[float]:
    """Distances of the first nonces, in batches of the round's shape."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation="eager").eval()
    tensors = RoundTensors(SPEC, dtype, "cpu")
    found: list[float] = []
    for start in range(0, NONCES, SPEC.batch_size):
        keys = [("key", start + place) for place in range(SPEC.batch_size)]
        found += tensors.distances(last_hidden(model, tensors.inputs(keys)), keys).tolist()
    return found


def in_a_process(directory: Path, dtype: str, threads: int, environment: dict[str, str]) -> np.ndarray:
    """`distances`, computed by a fresh interpreter under an environment of its own."""
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
        build_demo_model(Path(directory))
        base = in_a_process(Path(directory), "bfloat16", 0, {})
        for variant, (dtype, threads, environment) in VARIANTS.items():
            moved = in_a_process(Path(directory), dtype, threads, environment) - base
            units = np.abs(moved) / distance_std(HIDDEN_SIZE)
            rms = float(np.sqrt(np.mean(units**2)))
            rows.append({"variant": variant, "rms_s": round(rms, 4), "max_s": round(float(units.max()), 4)})
    print_table(rows)
    about = (
        f"Distances of {NONCES} nonces on the demo model (width {HIDDEN_SIZE}, 4 layers, {SPEC.batch_size} x "
        f"{SPEC.seq_len} tokens a batch, transformers, eager, CPU) against the same in bf16 by default: "
        "RMS and largest difference in units of s = 1/sqrt(2*width)."
    )
    write_results(
        "numerics", "cpu", about=about, rows=rows, packages=("hallmark-poc", "torch", "transformers")
    )


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
    print(json.dumps(distances(arguments.model, getattr(torch, arguments.dtype))))


if __name__ == "__main__":
    main()
