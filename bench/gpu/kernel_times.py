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

from hallmark.kernels import FinalNorm, draw_matrix, signed_table, tiles
from hallmark.kernels.draw_normals import launch_draw_normals
from hallmark.kernels.norm_project import launch_norm_project
from hallmark.kernels.project_residual import launch_project_residual
from hallmark.kernels.tiles import Tile

DEVICE = device()
DTYPE = torch.bfloat16
NONCES, SEQ_LEN, WIDTHS = (2, 8, (64,)) if is_small() else (32, 256, (1024, 4096, 5120))
SCALE = 0.01
ABOUT = (
    f"Microseconds of the device for {NONCES} nonces of {SEQ_LEN} tokens in bf16, by replayed graphs over "
    "operands beyond the caches; floor: bytes and operations over the ceilings measured in this run; cuBLAS "
    "for comparison; where other tiles were tried, whether their results are the same bits."
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
DISTANCE_TILES = (
    Tile(32, 32, 128, 4, 4),
    Tile(32, 32, 128, 4, 6),
    Tile(32, 32, 256, 4, 4),
    Tile(32, 64, 128, 4, 4),
    Tile(32, 64, 128, 4, 6),
)


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
        self.table = signed_table(2.0**-5, DTYPE, DEVICE)
        self.targets = signed_table(1.0, DTYPE, DEVICE)
        sets = copies_beyond_caches(int(self.bytes))
        matrices = max(sets, copies_beyond_caches(2 * width**2))
        self.drawn = [torch.empty((NONCES, SEQ_LEN * width), dtype=DTYPE, device=DEVICE) for _ in range(sets)]
        self.x = [drawn.view(self.rows, width) for drawn in self.drawn]
        self.out = [torch.empty((self.rows, width), dtype=DTYPE, device=DEVICE) for _ in range(sets)]
        self.p = [
            draw_matrix(torch.tensor([1, 2, 3, i]), width, width, SCALE, DEVICE) for i in range(matrices)
        ]
        # Every product below is one of random numbers: of zeros it would be faster.
        for drawn in self.drawn:
            launch_draw_normals(drawn, self.streams, self.table).run()

    def lines(self, with_tiles: bool) -> Iterator[Measured]:
        """Yield what is measured, our own tile before others."""
        width, rows = self.width, self.rows
        yield Measured(
            "draw_embeddings",
            [launch_draw_normals(drawn, self.streams, self.table).run for drawn in self.drawn],
            self.bytes,
            0.0,
        )
        spare = [torch.empty_like(p) for p in self.p]
        yield Measured(
            "draw_matrix",
            [launch_draw_normals(p.view(1, -1), self.streams[:1], self.targets).run for p in spare],
            2.0 * width**2,
            0.0,
        )
        moved, product = 2 * self.bytes + 2.0 * width**2, 2.0 * rows * width**2
        operands = list(zip(self.x, self.p, self.out, strict=False))
        yield Measured("cuBLAS mm", [partial(torch.mm, x, p, out=o) for x, p, o in operands], moved, product)
        yield Measured(
            "cuBLAS addmm", [partial(torch.addmm, x, x, p, out=o) for x, p, o in operands], moved, product
        )
        for tile in _tiles(tiles.PROJECT_RESIDUAL_TILES, width, PRODUCT_TILES if with_tiles else ()):
            runs = [launch_project_residual(o, x, p).run for x, p, o in operands]
            yield Measured("project_residual", runs, moved, product, tile, self.out[0])
        norm = FinalNorm(torch.ones(width, dtype=DTYPE, device=DEVICE), 1e-6, self.out[0])
        distances = torch.empty(NONCES, dtype=torch.float64, device=DEVICE)
        least = 2.0 * width**2 + 4.0 * NONCES * width
        for tile in _tiles(tiles.NORM_PROJECT_TILES, width, DISTANCE_TILES if with_tiles else ()):
            launches = [
                launch_norm_project(distances, self.x[0], norm, p, self.streams, self.targets) for p in self.p
            ]
            runs = [partial(_run_all, each) for each in launches]
            yield Measured("norm_project", runs, least, 2.0 * NONCES * width**2, tile, distances)


def _run_all(launches: Sequence[Any]) -> None:
    for launch in launches:
        launch.run()


def _tiles(table: dict[Any, Tile], width: int, others: Sequence[Tile]) -> Iterator[Tile]:
    """Yield our own tile for this device, then others, each in its place in the table while it is used."""
    key = (tiles.architecture_of(DEVICE), DTYPE, tiles.shape_of(width))
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
