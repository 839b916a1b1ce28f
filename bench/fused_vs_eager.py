"""Each op against the same in eager PyTorch, in `torch.addmm` and under `torch.compile`.

The eager code is the specification's: `torch.randn` under a generator for each nonce, a lookup and then
`x + x @ p`, and the model's norm over every row before those that are read are picked and summed. Our side is
the references, and the sizes are small: this is a bench for CPUs. What the kernels take on a GPU is told by
`bench/gpu/kernel_times.py`.
"""

import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

from _ceilings import measured_ceilings
from _report import median_seconds, print_table, write_results

from hallmark.kernels import (
    FinalNorm,
    NormRounding,
    draw_embeddings,
    draw_matrix,
    draw_normals,
    embed_project,
    norm_project,
    norm_sums,
    project_residual,
    signed_table,
)
from hallmark.poc.protocol.round_spec import FIRST_ROW
from hallmark.poc.protocol.row_groups import row_order
from hallmark.server.models.small import fast_dtype

DEVICE = torch.device("cpu")
DTYPE: torch.dtype = getattr(torch, fast_dtype())
EPSILON = 1e-6
TABLE_ROWS, NUMBERS = 4096, 16
Contenders = dict[str, Callable[[], object]]


def sizes() -> Iterator[tuple[int, int, int]]:
    """Nonces, tokens of each, width."""
    for width in (256, 512):
        yield 2, 256, width


def eager_matrix(seed: int, width: int) -> Tensor:
    """Return the specification's projection."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    return torch.randn(width, width, generator=generator, dtype=DTYPE, device=DEVICE) * 0.01


def eager_project(x: Tensor, p: Tensor) -> Tensor:
    """Return the specification's `pre`, whose product is rounded before the residual is added."""
    return x + x @ p


def eager_embed(table: Tensor, tokens: Tensor, p: Tensor) -> Tensor:
    """Return the specification's inputs: looked up, then projected."""
    return eager_project(functional.embedding(tokens, table), p)


def eager_sums(hidden: Tensor, residual: Tensor, weight: Tensor, order: Tensor) -> Tensor:
    """Return the model's norm of every row, then the signed sums of those that are read: [n, NUMBERS, D]."""
    x = (hidden + residual).float()
    x = (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON)).to(DTYPE) * weight
    nonces, read = order.shape
    rows = x.view(nonces, -1, x.shape[1])
    picked = rows.gather(1, order.long().unsqueeze(2).expand(-1, -1, x.shape[1])).float()
    rank = torch.arange(read)
    signed = picked * (1 - 2 * (rank % 2)).unsqueeze(1)
    sums = torch.zeros(nonces, NUMBERS, x.shape[1]).index_add_(1, rank // 2 % NUMBERS, signed)
    return sums.to(DTYPE)


def eager_numbers(sums: Tensor, p: Tensor, targets: Tensor) -> Tensor:
    """Projection of sums and their cosines with targets, times √D: [n, NUMBERS]."""
    y = eager_project(sums, p).float()
    numbers: Tensor = (y * targets).sum(-1) / (y.norm(dim=-1) * targets.norm(dim=-1)) * math.sqrt(y.shape[-1])
    return numbers


def eager_targets(seeds: list[int], width: int) -> Tensor:
    """Return the specification's targets: a seeded generator for each nonce."""
    drawn = []
    for seed in seeds:
        generator = torch.Generator(DEVICE).manual_seed(seed)
        drawn.append(torch.randn(NUMBERS, width, generator=generator, device=DEVICE))
    return torch.stack(drawn)


class Case:
    """The operands of one size, and each op's contenders on them."""

    def __init__(self, nonces: int, rows: int, width: int) -> None:
        self.nonces, self.rows, self.width = nonces, rows, width
        generator = torch.Generator().manual_seed(0)
        self.streams = torch.randint(0, 2**32, (nonces, 4), generator=generator)
        self.targets = signed_table(1.0, torch.bfloat16, DEVICE)
        self.p = draw_matrix(self.streams[0], width, width, 0.01, DEVICE)
        drawn = signed_table(2.0**-5, DTYPE, DEVICE)
        self.x = draw_embeddings(self.streams, rows, width, drawn).view(-1, width)
        self.residual = draw_embeddings(self.streams + 1, rows, width, drawn).view(-1, width)
        self.table = draw_embeddings(self.streams[:1] + 2, TABLE_ROWS, width, drawn).view(-1, width)
        self.tokens = torch.randint(0, TABLE_ROWS, (nonces * rows,), generator=generator)
        self.order = row_order(self.streams, rows).int()
        self.weight = torch.ones(width, dtype=DTYPE, device=DEVICE)
        self.norm = FinalNorm(self.weight, EPSILON, self.residual, False, NormRounding(True, True))

    def check(self) -> None:
        """What is timed must be right first: the eager code computes the same but for its rounding."""
        same = self.p.to(DTYPE)
        assert_close = partial(torch.testing.assert_close, rtol=2.0**-6)
        ours = embed_project(self.table, self.tokens, self.p)
        assert_close(ours, eager_embed(self.table, self.tokens, same), atol=2.0**-10)
        ours = project_residual(self.x, self.p, DTYPE)
        assert_close(ours, eager_project(self.x, same), atol=2.0**-10)
        sums = norm_sums(self.x, self.norm, self.order, NUMBERS)
        expected = eager_sums(self.x, self.residual, self.weight, self.order)
        assert_close(sums, expected, atol=2.0**-4)
        numbers = norm_project(self.x, self.norm, self.order, NUMBERS, self.p, self.streams, self.targets)
        targets = draw_embeddings(self.streams, NUMBERS, self.width, self.targets).float()
        assert float((numbers - eager_numbers(expected, same, targets)).abs().max()) < 0.1

    def contenders(self) -> Iterator[tuple[str, Contenders, float, float]]:
        """Op, contenders (ours first), least bytes moved, floating-point operations."""
        nonces, rows, width, x, p = self.nonces, self.rows, self.width, self.x, self.p
        seeds = list(range(nonces))
        # PyTorch multiplies operands of one dtype only.
        same = p.to(DTYPE)
        elements, product = nonces * rows * width, 2.0 * nonces * rows * width**2
        read, sums = nonces * (rows - FIRST_ROW) * width, nonces * NUMBERS * width
        size, matrix = float(DTYPE.itemsize), 2.0 * width**2
        compiled_project, compiled_embed, compiled_sums, compiled_numbers = (
            torch.compile(eager, dynamic=False)
            for eager in (eager_project, eager_embed, eager_sums, eager_numbers)
        )

        yield (
            "draw_matrix",
            {
                "ours": partial(draw_normals, self.streams[:1], width**2, self.targets),
                "eager": partial(eager_matrix, 0, width),
            },
            matrix,
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
            size * 2 * elements + matrix,
            product,
        )

        def embed_addmm() -> Tensor:
            embedded = functional.embedding(self.tokens, self.table)
            return torch.addmm(embedded, embedded, same)

        yield (
            "embed_project",
            {
                "ours": partial(embed_project, self.table, self.tokens, p),
                "eager": partial(eager_embed, self.table, self.tokens, same),
                "addmm": embed_addmm,
                "compiled": partial(compiled_embed, self.table, self.tokens, same),
            },
            size * 2 * elements + matrix,
            product,
        )
        arguments = (x, self.residual, self.weight, self.order)
        yield (
            "norm_sums",
            {
                "ours": partial(norm_sums, x, self.norm, self.order, NUMBERS),
                "eager": partial(eager_sums, *arguments),
                "compiled": partial(compiled_sums, *arguments),
            },
            size * (2 * read + sums),
            0.0,
        )
        yield (
            "norm_project",
            {
                "ours": partial(
                    norm_project, x, self.norm, self.order, NUMBERS, p, self.streams, self.targets
                ),
                "eager": lambda: eager_numbers(eager_sums(*arguments), same, eager_targets(seeds, width)),
                "compiled": lambda: compiled_numbers(
                    compiled_sums(*arguments), same, eager_targets(seeds, width)
                ),
            },
            size * 2 * read + matrix,
            2.0 * sums * width,
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
            f"Median microseconds of each op in {fast_dtype()}: ours, the specification's eager PyTorch, "
            "the same with torch.addmm and under torch.compile; ours in TB/s of the least bytes it must "
            "move and TFLOP/s, and the larger of the two as a share of the ceilings measured in this run."
        ),
        rows=rows,
        packages=("hallmark-poc", "torch", "triton"),
        dtype=fast_dtype(),
        ceilings={name: float(f"{value:.4g}") for name, value in ceilings.items()},
    )


if __name__ == "__main__":
    main()
