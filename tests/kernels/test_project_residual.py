"""The projection with its residual: rounded once, and out of reach of process-wide precision switches."""

from collections.abc import Iterator

import pytest
import torch

from hallmark.kernels.draw_matrix import draw_matrix_reference
from hallmark.kernels.draw_normals import draw_normals_reference
from hallmark.kernels.normal_table import signed_table
from hallmark.kernels.project_residual import project_residual_reference

SHAPES = [(1, 1), (5, 123), (32, 64), (7, 256)]


def operands(rows: int, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    stream = torch.tensor([1, 2, 3, 4])
    x = draw_normals_reference(stream.view(1, 4), rows * width, signed_table(1.0, dtype))
    return x.view(rows, width), draw_matrix_reference(stream + 1, width, width, 0.05)


@pytest.fixture
def lowest_precision() -> Iterator[None]:
    """PyTorch told to be as careless with float32 products as it can be."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(("rows", "width"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_is_the_residual_form(rows: int, width: int, dtype: torch.dtype) -> None:
    x, p = operands(rows, width, dtype)
    exact = x.double() + x.double() @ p.double()
    kept = project_residual_reference(x, p, torch.float32)
    assert kept.dtype == torch.float32
    # Accumulating `width` products in float32 loses less than width · 2^-24 of their absolute sum.
    bound = width * 2.0**-24 * (x.double().abs() + x.double().abs() @ p.double().abs())
    assert bool(((kept.double() - exact).abs() <= bound).all())
    assert torch.equal(project_residual_reference(x, p, dtype), kept.to(dtype))


def test_the_residual_is_added_before_the_rounding() -> None:
    """A product rounded by itself would lose the 2^-17 that lifts the sum over a tie."""
    x = torch.tensor([[1.0, 1.0]], dtype=torch.bfloat16)
    p = torch.tensor([[2.0**-8, 0.0], [2.0**-17, 0.0]], dtype=torch.bfloat16)
    assert (x @ p + x).tolist() == [[1.0, 1.0]]  # rounded twice
    assert project_residual_reference(x, p, torch.bfloat16).tolist() == [[1.0 + 2.0**-7, 1.0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_no_precision_switch_reaches_it(dtype: torch.dtype, request: pytest.FixtureRequest) -> None:
    x, p = operands(32, 256, dtype)
    careful = project_residual_reference(x, p, torch.float32)
    request.getfixturevalue("lowest_precision")
    careless = project_residual_reference(x, p, torch.float32)
    if dtype is torch.bfloat16:
        # Products of bf16 numbers are exact in any mode; only the order of float32 additions may change.
        torch.testing.assert_close(careless, careful, rtol=0, atol=256 * 2.0**-24 * 8)
    else:
        assert torch.equal(careless, careful)


def test_leading_dimensions_are_kept() -> None:
    x, p = operands(24, 64, torch.bfloat16)
    batched = project_residual_reference(x.view(2, 3, 4, 64), p, torch.bfloat16)
    assert torch.equal(batched, project_residual_reference(x, p, torch.bfloat16).view(2, 3, 4, 64))


def test_does_not_change_its_input() -> None:
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        x, p = operands(4, 16, torch.float32)
        before = x.to(dtype).clone()
        given = before.clone()
        project_residual_reference(given, p, torch.float32)
        assert torch.equal(given, before)
