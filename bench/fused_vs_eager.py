"""Each op against the same in eager PyTorch, in `torch.addmm` and under `torch.compile`.

The eager code is the specification's: `torch.randn` under a generator for each nonce, `x + x @ p`, and the
model's norm over every row. Our side is the references, and the sizes are small: this is a bench for CPUs.
What the kernels take on a GPU is told by `bench/gpu/kernel_times.py`.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

from _ceilings import measured_ceilings
from _report import median_seconds, print_table, write_results

from hallmark.kernels import (
    FinalNorm,
    draw_embeddings,
    draw_embeddings_reference,
    draw_matrix,
    draw_matrix_reference,
    draw_normals,
    embed_project,
    embed_project_reference,
    norm_project,
    norm_project_reference,
    project_residual,
    project_residual_reference,
    signed_table,
)
from hallmark.server.demo.model import demo_dtype

DEVICE = torch.device("cpu")
DTYPE: torch.dtype = getattr(torch, demo_dtype())
EPSILON = 1e-6
Contenders = dict[str, Callable[[], object]]


def sizes() -> Iterator[tuple[int, int, int]]:
    """Nonces, tokens of each, width."""
    for width in (256, 512):
        yield 2, 256, width


def eager_draw(seeds: list[int], rows: int, width: int) -> Tensor:
    """The specification's inputs: a seeded generator for each nonce."""
    drawn = []
    for seed in seeds:
        generator = torch.Generator(DEVICE).manual_seed(seed)
        drawn.append(torch.randn(rows, width, generator=generator, dtype=DTYPE, device=DEVICE))
    return torch.stack(drawn)


def eager_matrix(seed: int, width: int) -> Tensor:
    """The specification's projection."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    return torch.randn(width, width, generator=generator, dtype=DTYPE, device=DEVICE) * 0.01


def eager_project(x: Tensor, p: Tensor) -> Tensor:
    """The specification's `pre`, whose product is rounded before the residual is added."""
    return x + x @ p


def eager_distances(hidden: Tensor, residual: Tensor, weight: Tensor, p: Tensor, target: Tensor) -> Tensor:
    """Norm of every row, then projection and distance of the last rows."""
    x = (hidden + residual).float()
    x = (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON)).to(DTYPE) * weight
    last = x.view(len(target), -1, x.shape[1])[:, -1]
    y = eager_project(last, p).float()
    y, z = y / y.norm(dim=1, keepdim=True), target / target.norm(dim=1, keepdim=True)
    distances: Tensor = (y - z).norm(dim=1)
    return distances


def eager_targets(seeds: list[int], width: int) -> Tensor:
    """A target for each nonce."""
    return eager_draw(seeds, 1, width).squeeze(1).float()


class Case:
    """The operands of one size, and each op's contenders on them."""

    def __init__(self, nonces: int, rows: int, width: int) -> None:
        self.nonces, self.rows, self.width = nonces, rows, width
        generator = torch.Generator().manual_seed(0)
        self.streams = torch.randint(0, 2**32, (nonces, 4), generator=generator).to(DEVICE)
        self.table = signed_table(2.0**-5, DTYPE, DEVICE)
        self.targets = signed_table(1.0, torch.bfloat16, DEVICE)
        self.p = draw_matrix(self.streams[0].cpu(), width, width, 0.01, DEVICE)
        self.x = draw_embeddings(self.streams, rows, width, self.table).view(-1, width)
        residual = draw_embeddings(self.streams + 1, rows, width, self.table).view(-1, width)
        weight = torch.ones(width, dtype=DTYPE, device=DEVICE)
        self.norm = FinalNorm(weight, EPSILON, residual)

    def check(self) -> None:
        """What is timed must be right first."""
        streams, rows, width = self.streams, self.rows, self.width
        drawn = draw_embeddings(streams, rows, width, self.table)
        assert torch.equal(drawn, draw_embeddings_reference(streams, rows, width, self.table))
        stream = streams[0].cpu()
        matrix = draw_matrix(stream, width, width, 0.01, DEVICE)
        assert torch.equal(matrix, draw_matrix_reference(stream, width, width, 0.01, DEVICE))
        ours = project_residual(self.x, self.p, torch.float32)
        torch.testing.assert_close(
            ours, project_residual_reference(self.x, self.p, torch.float32), rtol=1e-4, atol=1e-5
        )
        rounded = embed_project(streams, rows, width, self.table, self.p)
        expected = embed_project_reference(streams, rows, width, self.table, self.p)
        torch.testing.assert_close(rounded, expected, rtol=2.0**-7, atol=1e-5)
        distances = norm_project(self.x, self.norm, self.p, streams, self.targets)
        reference = norm_project_reference(self.x, self.norm, self.p, streams, self.targets)
        assert float((distances - reference).abs().max()) < 0.01 / (2 * width) ** 0.5

    def contenders(self) -> Iterator[tuple[str, Contenders, float, float]]:
        """Op, contenders (ours first), least bytes moved, floating-point operations."""
        nonces, rows, width, x, p = self.nonces, self.rows, self.width, self.x, self.p
        seeds = list(range(nonces))
        # PyTorch multiplies operands of one dtype only.
        same = p.to(DTYPE)
        elements, product = nonces * rows * width, 2.0 * nonces * rows * width**2
        size = float(DTYPE.itemsize)
        compiled_project = torch.compile(eager_project, dynamic=False)
        compiled_distances = torch.compile(eager_distances, dynamic=False)

        yield (
            "draw_embeddings",
            {
                "ours": partial(draw_embeddings, self.streams, rows, width, self.table),
                "eager": partial(eager_draw, seeds, rows, width),
            },
            size * elements,
            0.0,
        )
        yield (
            "draw_matrix",
            {
                "ours": partial(draw_normals, self.streams[:1], width**2, self.targets),
                "eager": partial(eager_matrix, 0, width),
            },
            2.0 * width**2,
            0.0,
        )
        yield (
            "project_residual",
            {
                "ours": partial(project_residual, x, p, DTYPE),
                "eager": partial(eager_project, x, same),
                "addmm": partial(torch.addmm, x, x, same),
                "compiled": partial(compiled_project, x, same),
            },
            size * 2 * elements + 2.0 * width**2,
            product,
        )

        def eager_embed(project: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
            return project(eager_draw(seeds, rows, width).view(-1, width), same)

        yield (
            "embed_project",
            {
                "ours": partial(embed_project, self.streams, rows, width, self.table, p),
                "eager": partial(eager_embed, eager_project),
                "addmm": partial(eager_embed, lambda drawn, p: torch.addmm(drawn, drawn, p)),
                "compiled": partial(eager_embed, compiled_project),
            },
            # The drawn inputs are written, read for the product, and written once more.
            size * 3 * elements + 2.0 * width**2,
            product,
        )
        assert self.norm.residual is not None
        arguments = (x, self.norm.residual, self.norm.weight, same)
        yield (
            "norm_project",
            {
                "ours": partial(norm_project, x, self.norm, p, self.streams, self.targets),
                "eager": lambda: eager_distances(*arguments, eager_targets(seeds, width)),
                "compiled": lambda: compiled_distances(*arguments, eager_targets(seeds, width)),
            },
            size * 2 * nonces * width + 2.0 * width**2,
            2.0 * nonces * width**2,
        )


def main() -> None:
    if torch.cuda.is_available():
        sys.exit("this bench is for machines without a GPU; make gpu measures one with it")
    ceilings = measured_ceilings(DEVICE, DTYPE)
    rows = []
    for nonces, tokens, width in sizes():
        case = Case(nonces, tokens, width)
        case.check()
        for op, contenders, least_bytes, flops in case.contenders():
            seconds = median_seconds(contenders)
            ours = seconds["ours"]
            row: dict[str, str | int | float] = {
                "op": op,
                "width": width,
                "rows": nonces * tokens,
                **{f"{name}_us": round(time * 1e6, 2) for name, time in seconds.items()},
                "tb_s": round(least_bytes / ours / 1e12, 4),
                "tflop_s": round(flops / ours / 1e12, 3),
                "eager_to_ours": round(seconds["eager"] / ours, 2),
                "of_ceiling": round(
                    max(
                        least_bytes / ours / ceilings["bytes_per_second"],
                        flops / ours / ceilings["flops_per_second"],
                    ),
                    3,
                ),
            }
            rows.append(row)
    print_table(rows)
    write_results(
        "fused_vs_eager",
        "cpu",
        about=(
            f"Median microseconds of each op in {demo_dtype()}: ours, the specification's eager PyTorch, "
            "the same with torch.addmm and under torch.compile; ours in TB/s of the least bytes it must "
            "move and TFLOP/s, and the larger of the two as a share of the ceilings measured in this run."
        ),
        rows=rows,
        packages=("hallmark-poc", "torch", "triton"),
        dtype=demo_dtype(),
        ceilings={name: float(f"{value:.4g}") for name, value in ceilings.items()},
    )


if __name__ == "__main__":
    main()
