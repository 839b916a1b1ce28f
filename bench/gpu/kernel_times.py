"""Each kernel of a round by itself: its time on the device, against its floor and against cuBLAS.

The floor is the least time that its bytes and operations take at the rates of a large copy and a large
product, measured in the same run. With `--tiles` other tiles as well, to choose `kernels/tiles.py` by.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _results import is_small, keep  # isort: skip  # before Triton is imported

import torch
from _ceilings import measured_ceilings
from _graphs import copies_beyond_caches, seconds_of
from _report import device
from torch import Tensor
from torch.nn import functional

from hallmark.kernels import FinalNorm, NormRounding, draw_matrix, signed_table, tiles
from hallmark.kernels.draw_normals import launch_draw_normals
from hallmark.kernels.launch import Launch
from hallmark.kernels.norm_project import launch_project_numbers
from hallmark.kernels.norm_sums import launch_norm_sums
from hallmark.kernels.project_residual import launch_project_residual
from hallmark.kernels.tiles import Tile
from hallmark.poc.protocol.round_spec import FIRST_ROW

DEVICE = device()
DTYPE = torch.bfloat16
NONCES, SEQ_LEN, WIDTHS = (2, 16, (64,)) if is_small() else (32, 256, (1024, 4096, 5120))
NUMBERS = 4 if is_small() else 16
TABLE_ROWS = 64 if is_small() else 131_072
SCALE, EPSILON = 0.01, 1e-6
ABOUT = (
    f"Microseconds of the device for {NONCES} nonces of {SEQ_LEN} tokens in bf16, by replayed graphs over "
    f"operands beyond the caches; tokens are random rows of an embedding table of {TABLE_ROWS:,}, and each "
    f"nonce has {NUMBERS} numbers, or one; floor: bytes and operations over the ceilings measured in this "
    "run. For comparison cuBLAS, and what a round replaces, in PyTorch: the lookup of all tokens, and the "
    "norm of all rows after adding the residual. Where other tiles were tried, whether their results are the "
    "same bits."
)
PRODUCT_TILES = (
    Tile(128, 128, 64, 4, 3),
    Tile(128, 128, 64, 8, 3),
    Tile(128, 128, 64, 8, 4),
    Tile(128, 256, 64, 8, 3),
    Tile(128, 256, 64, 8, 4),
    Tile(128, 256, 128, 8, 2),
    Tile(256, 128, 64, 8, 3),
    Tile(256, 128, 64, 8, 4),
)
FEW_TILES = (
    Tile(32, 32, 128, 4, 4),
    Tile(32, 32, 128, 4, 6),
    Tile(32, 32, 256, 4, 4),
    Tile(32, 64, 128, 4, 4),
    Tile(32, 64, 128, 4, 6),
)
"""For the numbers of a few dozen rows."""
MANY_TILES = (
    Tile(64, 32, 64, 4, 4),
    Tile(64, 64, 64, 4, 4),
    Tile(64, 64, 128, 4, 3),
    Tile(128, 32, 64, 4, 4),
    Tile(128, 64, 64, 8, 3),
    Tile(128, 64, 64, 8, 4),
    Tile(128, 64, 128, 8, 3),
)
"""For those of hundreds."""


@dataclass(frozen=True)
class Measured:
    """One line of the results.

    Attributes:
        op: What ran.
        calls: The same work on sets of operands.
        bytes_moved: The least bytes that a call must move.
        flops: Its operations.
        tile: How it was cut, where that is ours to choose.
        result: What it wrote on the first set, to compare other tiles' with.
    """

    op: str
    calls: Sequence[Callable[[], object]]
    bytes_moved: float
    flops: float
    tile: Tile | None = None
    result: Tensor | None = None


class Operands:
    """The operands of one width, in as many sets as leave the caches behind."""

    def __init__(self, width: int) -> None:
        self.width, self.rows = width, NONCES * SEQ_LEN
        self.bytes = 2.0 * self.rows * width
        generator = torch.Generator().manual_seed(0)
        self.streams = torch.randint(0, 2**32, (NONCES, 4), generator=generator).to(DEVICE)
        self.entries = signed_table(2.0**-5, DTYPE, DEVICE)
        self.targets = signed_table(1.0, DTYPE, DEVICE)
        self.sets = copies_beyond_caches(int(self.bytes))
        matrices = max(self.sets, copies_beyond_caches(2 * width**2))
        # Every product below is one of random numbers: of zeros it would be faster.
        self.x = [self.draw(self.rows, i) for i in range(self.sets)]
        self.residuals = [self.draw(self.rows, self.sets + i) for i in range(self.sets)]
        self.embedding = self.draw(TABLE_ROWS, 2 * self.sets)
        self.tokens = [
            torch.randint(0, TABLE_ROWS, (self.rows,), generator=generator).to(DEVICE)
            for _ in range(self.sets)
        ]
        self.out = [torch.empty_like(x) for x in self.x]
        self.p = [
            draw_matrix(torch.tensor([1, 2, 3, i]), width, width, SCALE, DEVICE) for i in range(matrices)
        ]

    def draw(self, rows: int, stream: int) -> Tensor:
        """Draw random rows: [rows, width]; `rows` is a multiple of NONCES."""
        drawn = torch.empty((rows, self.width), dtype=DTYPE, device=DEVICE)
        launch_draw_normals(drawn.view(NONCES, -1), self.streams + stream, self.entries).run()
        return drawn

    def lines(self, with_tiles: bool) -> Iterator[Measured]:
        """Yield what is measured, our own tile before others."""
        yield from self._draws()
        yield from self._inputs(with_tiles)
        yield from self._sums()
        for numbers, others in ((NUMBERS, MANY_TILES), (1, FEW_TILES)):
            yield from self._numbers(numbers, others if with_tiles else ())

    def _draws(self) -> Iterator[Measured]:
        runs = [launch_draw_normals(o.view(NONCES, -1), self.streams, self.entries).run for o in self.out]
        yield Measured("draw_embeddings", runs, self.bytes, 0.0)
        spare = [torch.empty_like(p) for p in self.p]
        runs = [launch_draw_normals(p.view(1, -1), self.streams[:1], self.targets).run for p in spare]
        yield Measured("draw_matrix", runs, 2.0 * self.width**2, 0.0)

    def _inputs(self, with_tiles: bool) -> Iterator[Measured]:
        moved, product = 2 * self.bytes + 2.0 * self.width**2, 2.0 * self.rows * self.width**2
        operands = list(zip(self.x, self.p, self.out, strict=False))
        yield Measured("cuBLAS mm", [partial(torch.mm, x, p, out=o) for x, p, o in operands], moved, product)
        yield Measured(
            "cuBLAS addmm", [partial(torch.addmm, x, x, p, out=o) for x, p, o in operands], moved, product
        )
        key = (tiles.architecture_of(DEVICE), DTYPE, tiles.shape_of(self.width))
        for tile in _tiles(tiles.PROJECT_RESIDUAL_TILES, key, PRODUCT_TILES if with_tiles else ()):
            runs = [launch_project_residual(o, x, p).run for x, p, o in operands]
            yield Measured("project_residual", runs, moved, product, tile, self.out[0])
        gathers = list(zip(self.tokens, self.p, self.out, strict=False))
        yield Measured(
            "embedding",
            [partial(torch.index_select, self.embedding, 0, tokens, out=o) for tokens, _, o in gathers],
            2 * self.bytes,
            0.0,
        )
        runs = [launch_project_residual(o, self.embedding, p, gather=tokens).run for tokens, p, o in gathers]
        tile = tiles.PROJECT_RESIDUAL_TILES[key]
        yield Measured("embed_project", runs, moved, product, tile, self.out[0])

    def _sums(self) -> Iterator[Measured]:
        width, read = self.width, SEQ_LEN - FIRST_ROW
        weight = torch.ones(width, dtype=DTYPE, device=DEVICE)
        operands = list(zip(self.x, self.residuals, strict=True))
        yield Measured(
            "rms_norm",
            [partial(_add_and_norm, x, residual, weight) for x, residual in operands],
            3 * self.bytes,  # the sum may stay in registers
            0.0,
        )
        generator = torch.Generator().manual_seed(1)
        order = torch.stack([torch.randperm(read, generator=generator) + FIRST_ROW for _ in range(NONCES)])
        order = order.int().to(DEVICE)
        sums = torch.empty((NONCES, NUMBERS, width), dtype=DTYPE, device=DEVICE)
        norms = [
            FinalNorm(weight, EPSILON, each, False, NormRounding(True, False)) for each in self.residuals
        ]
        runs = [
            launch_norm_sums(sums, x, norm, order, NUMBERS).run for x, norm in zip(self.x, norms, strict=True)
        ]
        least = 2.0 * width * NONCES * (2 * read + NUMBERS)
        yield Measured("norm_sums", runs, least, 0.0, None, sums)

    def _numbers(self, numbers: int, others: Sequence[Tile]) -> Iterator[Measured]:
        width, rows = self.width, NONCES * numbers
        sums = self.x[0][:rows].view(NONCES, numbers, width)
        found = torch.empty((NONCES, numbers), dtype=torch.float64, device=DEVICE)
        shape, height = tiles.shape_of(width), tiles.height_of(rows)
        key = (tiles.architecture_of(DEVICE), DTYPE, shape, height)
        least = 2.0 * width * (width + rows)
        for tile in _tiles(tiles.NORM_PROJECT_TILES, key, others):
            launches = [launch_project_numbers(found, sums, p, self.streams, self.targets) for p in self.p]
            runs = [partial(_run_all, each) for each in launches]
            op = f"project_numbers, {rows} rows"
            yield Measured(op, runs, least, 2.0 * rows * width**2, tile, found)


def _add_and_norm(hidden: Tensor, residual: Tensor, weight: Tensor) -> Tensor:
    return functional.rms_norm(hidden + residual, weight.shape, weight, EPSILON)


def _run_all(launches: Sequence[Launch]) -> None:
    for launch in launches:
        launch.run()


def _tiles(table: dict[Any, Tile], key: object, others: Sequence[Tile]) -> Iterator[Tile]:
    """Yield our own tile, then others, each in its place in the table while it is used."""
    own = table[key]
    try:
        for tile in (own, *(tile for tile in others if tile != own)):
            table[key] = tile
            yield tile
    finally:
        table[key] = own


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiles", action="store_true", help="time other tiles as well")
    arguments = parser.parse_args()
    ceilings = measured_ceilings(DEVICE, DTYPE)
    rows: list[dict[str, Any]] = []
    for width in WIDTHS:
        first: dict[str, Tensor] = {}
        for line in Operands(width).lines(arguments.tiles):
            seconds = seconds_of(line.calls)
            memory = line.bytes_moved / ceilings["bytes_per_second"]
            floor = max(memory, line.flops / ceilings["flops_per_second"])
            row: dict[str, Any] = {
                "op": line.op,
                "width": width,
                "us": round(seconds * 1e6, 2),
                "floor_us": round(floor * 1e6, 2),
                "times_floor": round(seconds / floor, 2),
                "tb_s": round(line.bytes_moved / seconds / 1e12, 3),
                "tflop_s": round(line.flops / seconds / 1e12, 1),
                "tile": "" if line.tile is None else "x".join(map(str, line.tile)),
            }
            if line.result is not None and line.op in first:
                row["bits"] = "same" if torch.equal(first[line.op], line.result) else "differ"
            elif line.result is not None:
                first[line.op] = line.result.clone()
                row["bits"] = "own"
            assert line.result is None or bool(line.result.isfinite().all()), f"{line.op} gave no numbers"
            rows.append(row)
            keep("kernels", ABOUT, rows, ceilings={name: float(f"{v:.4g}") for name, v in ceilings.items()})
    assert all(math.isfinite(row["us"]) for row in rows)


if __name__ == "__main__":
    main()
