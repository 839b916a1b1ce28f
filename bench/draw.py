"""Time per drawn element on the CPU: our streams against the usual way of making seeded normals in PyTorch.

The usual way hashes the index of each element, as every portable generator written in tensor operations
does, and turns pairs of hashes into normal numbers by the Box-Muller transform. `torch.randn` stands beside
them for scale; its numbers are PyTorch's own and differ between devices.
"""

import math
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

from _report import print_table, seconds_side_by_side, write_results

from hallmark.kernels.draw_embeddings import draw_embeddings_reference

# Nonces, rows, columns: batches of small and middling models, then projections.
SHAPES = [(32, 64, 256), (32, 256, 256), (8, 256, 1024), (32, 256, 1024), (1, 1024, 1024), (1, 4096, 4096)]
REPEATS = 15
WORD = 0xFFFFFFFF


def murmur3(index: Tensor, seed: Tensor) -> Tensor:
    """MurmurHash3_x86_32 of a four-byte index under a seed, 32 bits in int64."""
    block = (index * 0xCC9E2D51) & WORD
    block = ((block << 15) | (block >> 17)) & WORD
    block = (block * 0x1B873593) & WORD
    mixed = seed ^ block
    mixed = ((mixed << 13) | (mixed >> 19)) & WORD
    mixed = (mixed * 5 + 0xE6546B64) & WORD
    mixed = mixed ^ 4
    mixed = ((mixed ^ (mixed >> 16)) * 0x85EBCA6B) & WORD
    mixed = ((mixed ^ (mixed >> 13)) * 0xC2B2AE35) & WORD
    return mixed ^ (mixed >> 16)


def draw_by_hash(seeds: Tensor, rows: int, columns: int) -> Tensor:
    """Standard normal bf16 [n, rows, columns]; each hash is used once, both results of a pair are."""
    bits = murmur3(torch.arange(rows * columns), seeds.view(-1, 1))
    uniform = (bits.float() + 0.5) * 2.0**-32
    radius = torch.sqrt(-2 * torch.log(uniform[:, 0::2]))
    angle = 2 * math.pi * uniform[:, 1::2]
    pairs = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)
    return pairs.to(torch.bfloat16).view(-1, rows, columns)


def check_normal(drawn: Tensor) -> None:
    """A baseline that drew something else would be no baseline."""
    values = drawn.double()
    assert abs(float(values.mean())) < 0.01
    assert abs(float(values.std()) - 1) < 0.01
    assert abs(float(values.pow(4).mean()) - 3) < 0.1


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for nonces, height, width in SHAPES:
        streams = torch.randint(0, 2**32, (nonces, 4), generator=generator)
        check_normal(draw_by_hash(streams[:, 0], height, width))
        check_normal(draw_embeddings_reference(streams, height, width, 1.0, torch.bfloat16))
        seconds = seconds_side_by_side(
            {
                "ours": lambda s=streams, h=height, w=width: draw_embeddings_reference(
                    s, h, w, 1.0, torch.bfloat16
                ),
                "hash": lambda s=streams, h=height, w=width: draw_by_hash(s[:, 0], h, w),
                "randn": lambda n=nonces, h=height, w=width: torch.randn(n, h, w, generator=generator).to(
                    torch.bfloat16
                ),
            },
            repeats=REPEATS,
        )
        nanoseconds = {name: min(runs) / (nonces * height * width) * 1e9 for name, runs in seconds.items()}
        rows.append(
            {
                "shape": f"{nonces}x{height}x{width}",
                "ours_ns": round(nanoseconds["ours"], 3),
                "hash_box_muller_ns": round(nanoseconds["hash"], 3),
                "torch_randn_ns": round(nanoseconds["randn"], 3),
                "hash_to_ours": round(nanoseconds["hash"] / nanoseconds["ours"], 2),
            }
        )
    print_table(rows)
    about = (
        "Nanoseconds per element of a bf16 draw on the CPU, the fastest of runs taken in turns: our streams, "
        "the index hashed in int64 (MurmurHash3) with Box-Muller, and torch.randn cast to bf16."
    )
    path = write_results("draw", "cpu", about=about, rows=rows, packages=("hallmark-poc", "torch", "numpy"))
    print(f"\nwritten to {path.relative_to(Path(__file__).parent.parent)}")


if __name__ == "__main__":
    main()
