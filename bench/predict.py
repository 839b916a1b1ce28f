"""What can be known of the kernels on an H200 without one: a prediction, no measurement.

Kernels are compiled ahead of time for sm_90; registers, shared memory and instructions come from the
machine code, bytes and floating-point operations from the definition. A time is the largest of these: bytes
over the memory's bandwidth, operations over the tensor cores' rate, and, for the drawing kernel, which has
no loop, instructions over the rate at which they are issued and table lookups over that of the shared
memory's banks. Nothing is added for what does not overlap, nor for the launch itself, so real times are
longer.
"""

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

from _compiled import compile_for, count, round_launches
from _models import SHAPES
from _report import print_table, write_results

NONCES, SEQ_LEN = 32, 256
# NVIDIA H200 Tensor Core GPU datasheet (SXM): 4.8 TB/s, 989 TFLOP/s dense bf16. H100 Tensor Core GPU
# Architecture whitepaper: 132 multiprocessors, each 4,096 dense bf16 operations and 4 warp instructions a
# clock, 65,536 registers, 228 KiB of shared memory, 64 warps. These make the clock of the 989 TFLOP/s.
H200: dict[str, float] = {
    "bytes_per_second": 4.8e12,
    "flops_per_second": 989e12,
    "multiprocessors": 132,
    "warp_instructions_per_clock": 4,
    "clock_hz": 989e12 / (132 * 4096),
    "registers": 65_536,
    "shared_bytes": 228 * 1024,
    "warps": 64,
}
# A warp's 32 lookups go one after the other where they fall on the same bank, unless on the same four bytes.
BANKS, TABLE_WORDS = 32, 1024
# A program's own shared memory comes with a kibibyte of the system's.
_RESERVED_SHARED_BYTES = 1024


def lookup_cycles() -> float:
    """Clocks that a warp's 32 lookups in the table of 2,048 16-bit entries take on average, by trying it."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(0, TABLE_WORDS, (20_000, 32), generator=generator).sort(dim=1).values
    distinct = torch.ones_like(words)
    distinct[:, 1:] = (words[:, 1:] != words[:, :-1]).long()
    loads = torch.zeros(len(words), BANKS, dtype=torch.int64).scatter_add_(1, words % BANKS, distinct)
    return float(loads.max(dim=1).values.double().mean())


def work(width: int) -> dict[str, tuple[float, float]]:
    """Least bytes and floating-point operations of each launch of a bf16 batch and of a projection's draw."""
    rows, elements = NONCES * SEQ_LEN, NONCES * SEQ_LEN * width
    return {
        "draw_matrix": (2.0 * width**2, 0.0),
        "draw_embeddings": (2.0 * elements, 0.0),
        "project_residual": (2.0 * (2 * elements + width**2), 2.0 * rows * width**2),
        "norm": (2.0 * 3 * NONCES * width, 0.0),
        "project": (2.0 * (NONCES * width + width**2), 2.0 * NONCES * width**2),
        "distance": (0.0, 0.0),
    }


def kernel_rows(width: int) -> list[dict[str, Any]]:
    """What each launch needs, and how long it takes at least."""
    rows = []
    for name, launch in round_launches(
        torch.bfloat16, width, "sm_90", nonces=NONCES, seq_len=SEQ_LEN
    ).items():
        compiled = compile_for("sm_90", launch)
        programs = 1
        for extent in launch.grid:
            programs *= extent
        resident = int(
            min(
                H200["registers"] // (compiled.registers * 32 * compiled.num_warps),
                H200["shared_bytes"] // (compiled.shared_bytes + _RESERVED_SHARED_BYTES),
                H200["warps"] // compiled.num_warps,
            )
        )
        bytes_moved, flops = work(width)[name]
        times = {
            "memory": bytes_moved / H200["bytes_per_second"],
            "tensor cores": flops / H200["flops_per_second"],
        }
        if name.startswith("draw"):
            clocks = H200["multiprocessors"] * H200["clock_hz"]
            warps = programs * compiled.num_warps
            issued = len(compiled.instructions) * warps
            times["instructions"] = issued / (clocks * H200["warp_instructions_per_clock"])
            lookups = count(compiled.instructions, "LDS") * warps
            times["lookups"] = lookups * lookup_cycles() / clocks
        bound = max(times, key=lambda kind: times[kind])
        rows.append(
            {
                "width": width,
                "launch": name,
                "programs": programs,
                "registers": compiled.registers,
                "spill_bytes": compiled.spill_bytes,
                "shared_bytes": compiled.shared_bytes,
                "programs_per_multiprocessor": resident,
                "occupancy": round(resident * compiled.num_warps / H200["warps"], 2),
                "instructions": len(compiled.instructions),
                "megabytes": round(bytes_moved / 1e6, 2),
                "gflop": round(flops / 1e9, 2),
                "predicted_us": round(times[bound] * 1e6, 2),
                "bound_by": bound,
            }
        )
    return rows


def main() -> None:
    rows, shares = [], []
    for model in ("0.6B", "8B", "32B"):
        shape = SHAPES[model]
        launches = kernel_rows(shape.hidden_size)
        rows += launches
        batch = sum(row["predicted_us"] for row in launches if row["launch"] != "draw_matrix")
        forward = shape.forward_flops(NONCES, SEQ_LEN) / H200["flops_per_second"] * 1e6
        shares.append(
            {
                "model": model,
                "forward_us": round(forward, 1),
                "round_us": round(batch, 1),
                "share_percent": round(batch / forward * 100, 2),
                "pair_us": round(2 * launches[0]["predicted_us"], 1),
            }
        )
    print_table(rows)
    print()
    print_table(shares)
    write_results(
        "prediction",
        "h200",
        about=(
            f"A prediction for an H200, no measurement: {NONCES} nonces of {SEQ_LEN} tokens in bf16, "
            "kernels compiled for sm_90; the time of a launch is the largest of bytes, operations and, "
            "for draws, instructions and lookups over the assumed rates. Forwards by their operations "
            "alone."
        ),
        rows=rows,
        packages=("hallmark-poc", "torch", "triton"),
        assumed=H200,
        shares=shares,
    )


if __name__ == "__main__":
    main()
