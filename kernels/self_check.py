"""Try the ops on a device before anything depends on them.

A kernel is right in the interpreter and in the tests of one machine; what it computes here depends on this
chip, its driver and Triton's code for it. Proofs that are wrong by a compiler's fault look like fraud.
"""

from itertools import product

import torch
from torch import Tensor

from hallmark.kernels.draw_embeddings import draw_embeddings, draw_embeddings_reference
from hallmark.kernels.draw_matrix import draw_matrix
from hallmark.kernels.embed_project import embed_project
from hallmark.kernels.final_norm import FinalNorm, NormRounding
from hallmark.kernels.norm_project import norm_project, norm_project_reference
from hallmark.kernels.norm_sums import norm_sums, norm_sums_reference
from hallmark.kernels.normal_table import signed_table
from hallmark.kernels.path import KernelPath, kernel_path
from hallmark.kernels.project_residual import project_residual

__all__ = ["check_ops"]

_SEQUENCES = 33
_ROWS = 5
_COLUMNS = 256
_NUMBERS = 2
# Largest relative error of one rounding, and largest difference of two numbers: the sums of kernel and
# reference are in different order, and the norm may round some elements the other way.
_TOLERANCES = {
    torch.bfloat16: (2.0**-8, 0.01),
    torch.float16: (2.0**-11, 0.002),
    torch.float32: (2.0**-24, 0.001),
}
# Of a sum of 16,384 products that tensor cores cut off where they should round: 1,024 steps of up to 2^-23. A
# step that is left out moves a sum by 2^-5.
_SUM_ERROR = 2.0**-12


def check_ops(dtype: torch.dtype, width: int, device: torch.device) -> None:
    """Compare every op with its reference or with float64.

    A projection is drawn for it, which the reference copies in float32, for float16 and float32 models in
    float64.

    Args:
        dtype: The model's: bfloat16, float16 or float32; of another nothing is known, and nothing is tried.
        width: Of the hidden state.
        device: Where the ops are to run.

    Raises:
        RuntimeError: Some op's result is not what it should be.
    """
    if dtype not in _TOLERANCES:
        return
    roundoff, number_tolerance = _TOLERANCES[dtype]
    streams = torch.arange(4 * _SEQUENCES, device=device).view(-1, 4) * 0x9E3779B1 % 2**32
    table, targets = signed_table(1.0, dtype, device), signed_table(1.0, torch.bfloat16, device)

    drawn = draw_embeddings(streams, _ROWS, width, table)
    if not torch.equal(drawn, draw_embeddings_reference(streams, _ROWS, width, table)):
        raise RuntimeError(_said("draw_embeddings", device, "bits differ"))

    p = draw_matrix(streams[0].cpu(), width, width, 0.01, device)
    x = drawn.view(-1, width)
    _check_projections(x, p)

    # Rows 4, 2, 1 and 3: two groups of a pair each, and a row that is not read.
    order = torch.tensor([4, 2, 1, 3], dtype=torch.int32, device=device).expand(_SEQUENCES, -1)
    weight = torch.linspace(0.5, 1.5, width, device=device).to(dtype)
    norm = FinalNorm(weight, 1e-6, x.roll(1, 0), False, NormRounding(True, False))
    sums = norm_sums(x, None, order, _NUMBERS)
    if not torch.allclose(sums, norm_sums_reference(x, None, order, _NUMBERS), rtol=2 * roundoff, atol=0):
        raise RuntimeError(_said("norm_sums", device, "a sum is another one"))
    # Few rows and many, with a projection and without: each is a kernel of its own, and compiled here.
    for numbers, post in product((1, _NUMBERS), (p, None)):
        arguments = (x, norm, order, numbers, post, streams, targets)
        moved = (norm_project(*arguments) - norm_project_reference(*arguments)).abs().max()
        if not float(moved) <= number_tolerance:
            raise RuntimeError(_said("norm_project", device, f"a number moved by {float(moved):.3g}"))


def _check_projections(x: Tensor, p: Tensor) -> None:
    """Compare the products of rows with P with those in float64."""
    roundoff, _ = _TOLERANCES[x.dtype]
    width = x.shape[1]
    columns = slice(max(0, width - _COLUMNS), width)
    wide = x.double()
    exact = wide[:, columns] + wide @ p[:, columns].double()
    projected = project_residual(x, p, x.dtype)
    rows = torch.arange(len(x), device=x.device).flip(0)
    embedded = (embed_project(x, rows, p, rows, len(x)), embed_project(x, rows, p).flip(0))
    for op, found in (("project_residual", projected), *(("embed_project", each) for each in embedded)):
        error = (found[:, columns].double() - exact).abs()
        if not bool((error <= roundoff * exact.abs() + _SUM_ERROR).all()):
            raise RuntimeError(_said(op, x.device, f"an error of {float(error.max()):.3g}"))
    # A kernel adds a row's products in one order, wherever the row stands. Libraries for CPUs need not.
    by_kernel = kernel_path(x.device, width) is KernelPath.TRITON
    if by_kernel and not all(torch.equal(each, projected) for each in embedded):
        raise RuntimeError(_said("embed_project", x.device, "bits differ from those of project_residual"))


def _said(op: str, device: torch.device, what: str) -> str:
    return (
        f"{op} does not compute on {device} what its reference does ({what}): "
        "proofs from here would look like fraud"
    )
