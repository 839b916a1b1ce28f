"""What can be known of the kernels on an H200 without one: a prediction, no measurement.

Kernels are compiled ahead of time for sm_90; registers, shared memory and instructions come from the
machine code, bytes and floating-point operations from the definition. A time is the largest of these: bytes
over the memory's bandwidth; operations over the tensor cores' rate; and, for kernels that draw, instructions
over the rate at which they are issued and table lookups over that of the shared memory's banks. All but the
bytes are those of the multiprocessor that has the most programs. `project` draws behind its loop, so that its
lookups are all of them, and its instructions the fewest that there can be: those of the loop once. Nothing is
added for what does not overlap, nor for the launch itself, so real times are longer.

A forward is taken by its operations alone, at the full rate of the tensor cores.
"""

import math
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

from _compiled import compile_for, count, round_launches
from _models import SHAPES
from _report import print_table, write_results

from hallmark.poc.protocol.round_spec import FIRST_ROW

NONCES, SEQ_LEN, NUMBERS = 32, 256, 16
READ = SEQ_LEN - FIRST_ROW
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
DRAWING = ("draw_matrix", "draw_embeddings", "project", "project of last rows")
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
    read, sums = NONCES * READ * width, NONCES * NUMBERS * width
    product = (2.0 * (2 * elements + width**2), 2.0 * rows * width**2)
    return {
        "draw_matrix": (2.0 * width**2, 0.0),
        "draw_embeddings": (2.0 * elements, 0.0),
        "project_residual": product,
        "embed_project": product,
        "embed_project of a shard": product,
        "norm_sums": (2.0 * (2 * read + sums), 0.0),
        "sums": (2.0 * (read + sums), 0.0),
        "project": (2.0 * (sums + width**2), 2.0 * NONCES * NUMBERS * width**2),
        "numbers": (8.0 * NONCES * NUMBERS, 0.0),
        "project of last rows": (2.0 * (NONCES * width + width**2), 2.0 * NONCES * width**2),
    }


def replaced(width: int) -> dict[str, float]:
    """Least microseconds of what a round does without: the lookup of all tokens, and the norm of all rows.

    The lookup reads and writes each row. The norm reads hidden states and the residual, and writes both.
    """
    pass_us = 2.0 * NONCES * SEQ_LEN * width / H200["bytes_per_second"] * 1e6
    return {"lookup_us": 2 * pass_us, "norm_us": 4 * pass_us}


def kernel_rows(width: int) -> list[dict[str, Any]]:
    """Return what each launch needs, and how long it takes at least."""
    rows = []
    launches = round_launches(torch.bfloat16, width, "sm_90", nonces=NONCES, seq_len=SEQ_LEN, numbers=NUMBERS)
    for name, launch in launches.items():
        compiled = compile_for("sm_90", launch)
        programs = math.prod(launch.grid)
        resident = int(
            min(
                H200["registers"] // (compiled.registers * 32 * compiled.num_warps),
                H200["shared_bytes"] // (compiled.shared_bytes + _RESERVED_SHARED_BYTES),
                H200["warps"] // compiled.num_warps,
            )
        )
        bytes_moved, flops = work(width)[name]
        busiest = math.ceil(programs / H200["multiprocessors"])
        of_all = busiest * H200["multiprocessors"] / programs
        times = {
            "memory": bytes_moved / H200["bytes_per_second"],
            "tensor cores": flops / H200["flops_per_second"] * of_all,
        }
        if name in DRAWING:
            warps = busiest * compiled.num_warps
            issued = len(compiled.instructions) * warps
            times["instructions"] = issued / (H200["clock_hz"] * H200["warp_instructions_per_clock"])
            # The table has 16-bit entries, and nothing else is loaded in so few bits.
            lookups = count(compiled.instructions, "LDS.U16") * warps
            times["lookups"] = lookups * lookup_cycles() / H200["clock_hz"]
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


def share_row(model: str, launches: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a batch of tokens adds to a model's forward, and what that is without what it replaces."""
    shape = SHAPES[model]
    us = {row["launch"]: row["predicted_us"] for row in launches}
    forward = shape.forward_flops(NONCES, SEQ_LEN) / H200["flops_per_second"] * 1e6
    lookup, norm = replaced(shape.hidden_size).values()
    inputs, sums, numbers = us["embed_project"], us["norm_sums"], us["project"] + us["numbers"]
    readout, whole = sums + numbers, inputs + sums + numbers
    return {
        "model": model,
        "forward_us": round(forward, 1),
        "inputs_us": round(inputs, 1),
        "lookup_us": round(lookup, 1),
        "sums_us": round(sums, 1),
        "norm_us": round(norm, 1),
        "numbers_us": round(numbers, 1),
        "round_us": round(whole, 1),
        "share_percent": round(whole / forward * 100, 3),
        "net_percent": round((whole - lookup - norm) / forward * 100, 3),
        "readout_percent": round(readout / forward * 100, 4),
        "readout_net_percent": round((readout - norm) / forward * 100, 4),
        "pair_us": round(2 * us["draw_matrix"], 1),
    }


def main() -> None:
    rows, shares = [], []
    for model in ("0.6B", "8B", "32B"):
        launches = kernel_rows(SHAPES[model].hidden_size)
        rows += launches
        shares.append(share_row(model, launches))
    print_table(rows)
    print()
    print_table(shares)
    write_results(
        "prediction",
        "h200",
        about=(
            f"A prediction for an H200, no measurement: {NONCES} nonces of {SEQ_LEN} tokens in bf16, "
            f"{NUMBERS} numbers each, kernels compiled for sm_90; the time of a launch is the largest of "
            "bytes, operations and, where it draws, instructions and lookups over the assumed rates. "
            "Forwards by their operations alone. Shares: a batch's inputs, sums and numbers, of which the "
            "last two are the readout; net of the lookup and the norm that they replace."
        ),
        rows=rows,
        packages=("hallmark-poc", "torch", "triton"),
        assumed=H200,
        shares=shares,
    )


if __name__ == "__main__":
    main()
