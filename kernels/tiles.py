"""How the matrix kernels are cut into tiles: one constant table, nothing chosen by a timing at run time.

A tile's depth decides in which order products are added, and so the last bits of a sum.
"""

from typing import Literal, NamedTuple

import torch

__all__ = [
    "ARCHITECTURES",
    "KERNEL_DTYPES",
    "NORM_PROJECT_TILES",
    "PROJECT_RESIDUAL_TILES",
    "Architecture",
    "Height",
    "Shape",
    "Tile",
    "architecture_of",
    "height_of",
    "shape_of",
]

Architecture = Literal["sm_80", "sm_90", "sm_100", "sm_120", "gfx942"]
"""The chips that tiles are chosen for; others use those of the nearest (`architecture_of`)."""

ARCHITECTURES: tuple[Architecture, ...] = ("sm_80", "sm_90", "sm_100", "sm_120", "gfx942")

Shape = Literal["narrow", "wide"]
Height = Literal["few", "many"]

_MAX_NARROW_WIDTH = 2048
_MAX_FEW_ROWS = 64


class Tile(NamedTuple):
    """A program's part of the output, and how its warps work on it.

    Attributes:
        m: Rows.
        n: Columns.
        k: Products added in one step.
        num_warps: Warps of a program.
        num_stages: Steps whose operands are in flight.
    """

    m: int
    n: int
    k: int
    num_warps: int
    num_stages: int


KERNEL_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
"""The dtypes of models that there are kernels for."""

_BF16, _FP16, _FP32 = KERNEL_DTYPES

# No entry spills registers, and each fits the shared memory: 163 KiB on sm_80, 227 on sm_90 and sm_100, 99
# on sm_120, 64 on gfx942 (tests/kernels/test_ahead_of_time.py). fp16 multiplies twice in a step, by the high
# and the low part of X; fp32 has no tensor cores to use, and needs more registers for a product.
PROJECT_RESIDUAL_TILES: dict[tuple[Architecture, torch.dtype, Shape], Tile] = {
    ("sm_80", _BF16, "narrow"): Tile(128, 128, 32, 4, 4),
    ("sm_80", _BF16, "wide"): Tile(128, 256, 32, 8, 3),
    ("sm_80", _FP16, "narrow"): Tile(128, 128, 32, 8, 3),
    ("sm_80", _FP16, "wide"): Tile(128, 128, 32, 8, 3),
    ("sm_80", _FP32, "narrow"): Tile(64, 32, 16, 4, 2),
    ("sm_80", _FP32, "wide"): Tile(64, 32, 16, 4, 2),
    # The fastest of those tried on an H100 at widths 1024, 4096 and 5120 (bench/gpu/kernel_times.py --tiles).
    ("sm_90", _BF16, "narrow"): Tile(128, 256, 64, 8, 3),
    ("sm_90", _BF16, "wide"): Tile(128, 256, 64, 8, 3),
    ("sm_90", _FP16, "narrow"): Tile(128, 128, 64, 8, 3),
    ("sm_90", _FP16, "wide"): Tile(128, 128, 64, 8, 3),
    ("sm_90", _FP32, "narrow"): Tile(64, 32, 16, 4, 2),
    ("sm_90", _FP32, "wide"): Tile(64, 32, 16, 4, 2),
    # 128 x 256 spills here: the residual is added to an accumulator that comes back from tensor memory whole.
    ("sm_100", _BF16, "narrow"): Tile(128, 128, 64, 8, 4),
    ("sm_100", _BF16, "wide"): Tile(128, 128, 64, 8, 4),
    ("sm_100", _FP16, "narrow"): Tile(128, 128, 64, 8, 3),
    ("sm_100", _FP16, "wide"): Tile(128, 128, 64, 8, 3),
    ("sm_100", _FP32, "narrow"): Tile(64, 32, 16, 4, 2),
    ("sm_100", _FP32, "wide"): Tile(64, 32, 16, 4, 2),
    ("sm_120", _BF16, "narrow"): Tile(128, 128, 32, 8, 3),
    ("sm_120", _BF16, "wide"): Tile(128, 128, 32, 8, 3),
    ("sm_120", _FP16, "narrow"): Tile(128, 128, 32, 8, 2),
    ("sm_120", _FP16, "wide"): Tile(128, 128, 32, 8, 2),
    ("sm_120", _FP32, "narrow"): Tile(64, 32, 16, 4, 2),
    ("sm_120", _FP32, "wide"): Tile(64, 32, 16, 4, 2),
    ("gfx942", _BF16, "narrow"): Tile(128, 128, 64, 4, 2),
    ("gfx942", _BF16, "wide"): Tile(128, 128, 64, 4, 2),
    ("gfx942", _FP16, "narrow"): Tile(128, 128, 32, 4, 2),
    ("gfx942", _FP16, "wide"): Tile(128, 128, 32, 4, 2),
    ("gfx942", _FP32, "narrow"): Tile(64, 64, 16, 4, 2),
    ("gfx942", _FP32, "wide"): Tile(64, 64, 16, 4, 2),
}

# A few dozen rows, one number a nonce: the time goes into reading P once, so a program has few columns, and
# enough steps are in flight for the memory's bandwidth: 32, 64 and 80 programs at widths 1024, 4096 and 5120.
# Hundreds, several numbers a nonce: P is read once for each block of rows, from the L2 cache, so a wide one
# takes 128 of them; a narrow one takes fewer, for a program on each multiprocessor. The epilogue, targets in
# float64 included, has to fit into the registers besides. AMD's local memory is smaller.
_NORM_PROJECT: dict[tuple[torch.dtype, Shape, Height], Tile] = {
    (_BF16, "narrow", "few"): Tile(32, 32, 128, 4, 4),
    (_BF16, "wide", "few"): Tile(32, 64, 128, 4, 4),
    (_BF16, "narrow", "many"): Tile(64, 64, 64, 4, 4),
    (_BF16, "wide", "many"): Tile(128, 64, 64, 8, 4),
    (_FP32, "narrow", "few"): Tile(32, 32, 32, 4, 2),
    (_FP32, "wide", "few"): Tile(32, 32, 32, 4, 2),
    (_FP32, "narrow", "many"): Tile(64, 64, 16, 4, 2),
    (_FP32, "wide", "many"): Tile(64, 64, 16, 4, 2),
}
NORM_PROJECT_TILES: dict[tuple[Architecture, torch.dtype, Shape, Height], Tile] = {
    (architecture, *key): tile._replace(num_stages=2) if architecture == "gfx942" else tile
    for architecture in ARCHITECTURES
    for key, tile in _NORM_PROJECT.items()
}
"""By the dtype of sums, which are float32 where the model's is float16."""

# With 64 columns registers spill here where the last block is a part of one.
NORM_PROJECT_TILES["sm_120", _BF16, "wide", "few"] = Tile(32, 32, 128, 4, 4)


def shape_of(width: int) -> Shape:
    """Return the class of a hidden state's width."""
    return "narrow" if width <= _MAX_NARROW_WIDTH else "wide"


def height_of(rows: int) -> Height:
    """Return the class of a number of rows."""
    return "few" if rows <= _MAX_FEW_ROWS else "many"


def architecture_of(device: torch.device) -> Architecture:
    """Return the chip whose tiles a device uses.

    Of NVIDIA's chips those with less shared memory than their generation's largest (sm_86, sm_89) use the
    tiles of sm_120; of AMD's, all use those of gfx942. A CPU, on which only the interpreter runs kernels,
    uses those of sm_90.
    """
    if device.type == "cpu":
        return "sm_90"
    if torch.version.hip is not None:
        return "gfx942"
    major, minor = torch.cuda.get_device_capability(device)
    if major == 9:
        return "sm_90"
    if major in (10, 11):
        return "sm_100"
    return "sm_80" if (major, minor) in ((8, 0), (8, 7)) else "sm_120"
