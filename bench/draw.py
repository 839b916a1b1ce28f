"""Time per drawn element on the CPU: our streams against hashing and Box-Muller in PyTorch.

The straightforward way to make a tensor of seeded normal numbers whose elements can be drawn in any order is
to hash two integers for each element and to turn them into a normal number by the Box-Muller transform. The
frugal variant uses each hash once and both numbers of each transform. `torch.randn` stands beside them for
scale; its numbers are PyTorch's own and differ between devices.
"""

import math
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

from _report import print_table, seconds_side_by_side, write_results

from hallmark.kernels.draw_embeddings import draw_embeddings_reference
from hallmark.kernels.normal_table import signed_table

# Nonces, rows, columns: batches of the default length for small and middling models, then projections.
SHAPES = [(32, 256, 256), (8, 256, 1024), (32, 256, 1024), (4, 256, 4096), (1, 1024, 1024), (1, 4096, 4096)]
REPEATS = 7
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


def uniform(bits: Tensor) -> Tensor:
    """32 bits to fp32 between 0 and 1, never 0."""
    return (bits.float() + 0.5) * 2.0**-32


def draw_by_two_hashes(seeds: Tensor, rows: int, columns: int) -> Tensor:
    """Standard normal bf16 [n, rows, columns], each element from two hashes of its own."""
    index = 2 * torch.arange(rows * columns)
    seeds = seeds.view(-1, 1)
    radius = torch.sqrt(-2 * torch.log(uniform(murmur3(index, seeds))))
    angle = 2 * math.pi * uniform(murmur3(index + 1, seeds))
    return (radius * torch.cos(angle)).to(torch.bfloat16).view(-1, rows, columns)


def draw_by_pairs(seeds: Tensor, rows: int, columns: int) -> Tensor:
    """Standard normal bf16 [n, rows, columns], two elements from two hashes."""
    uniforms = uniform(murmur3(torch.arange(rows * columns), seeds.view(-1, 1)))
    radius = torch.sqrt(-2 * torch.log(uniforms[:, 0::2]))
    angle = 2 * math.pi * uniforms[:, 1::2]
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
    for shape in SHAPES:
        nonces, height, width = shape
        streams = torch.randint(0, 2**32, (nonces, 4), generator=generator)
        contenders = {
            "ours": partial(draw_embeddings_reference, streams, height, width, signed_table(1.0)),
            "two_hashes": partial(draw_by_two_hashes, streams[:, 0], height, width),
            "pairs": partial(draw_by_pairs, streams[:, 0], height, width),
            "randn": partial(torch.randn, shape, generator=generator, dtype=torch.bfloat16),
        }
        for draw in contenders.values():
            check_normal(draw())
        seconds = seconds_side_by_side(contenders, repeats=REPEATS)
        elements = nonces * height * width
        nanoseconds = {name: min(runs) / elements * 1e9 for name, runs in seconds.items()}
        rows.append(
            {
                "shape": f"{nonces}x{height}x{width}",
                **{f"{name}_ns": round(cost, 3) for name, cost in nanoseconds.items()},
                "two_hashes_to_ours": round(nanoseconds["two_hashes"] / nanoseconds["ours"], 2),
            }
        )
    print_table(rows)
    about = (
        "Nanoseconds per element of a bf16 draw on the CPU, the fastest of runs taken in turns: our streams, "
        "MurmurHash3 of the index in int64 with Box-Muller (two hashes an element; two a pair), torch.randn."
    )
    write_results("draw", "cpu", about=about, rows=rows, packages=("hallmark-poc", "torch", "numpy"))


if __name__ == "__main__":
    main()
