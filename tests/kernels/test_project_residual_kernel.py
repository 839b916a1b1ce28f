"""The projection's kernel, interpreted and compiled: exact products, one rounding, every edge."""

import pytest
import torch
from tolerances import MIN_HALF_STEP, ROUNDOFF, SUM_TOLERANCES

from hallmark.kernels.draw_matrix import draw_matrix_reference
from hallmark.kernels.draw_normals import draw_normals_reference
from hallmark.kernels.normal_table import signed_table
from hallmark.kernels.project_residual import (
    launch_project_residual,
    project_residual,
    project_residual_reference,
)
from hallmark.kernels.tiles import PROJECT_RESIDUAL_TILES, Architecture, Shape

STREAM = torch.tensor([1, 2, 3, 4])
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def operands(rows: int, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    x = draw_normals_reference(STREAM.view(1, 4), rows * width, signed_table(1.0, dtype))
    return x.view(rows, width), draw_matrix_reference(STREAM + 1, width, width, 0.05)


def projected_by_kernel(
    device: torch.device,
    x: torch.Tensor,
    p: torch.Tensor,
    out_dtype: torch.dtype,
    architecture: Architecture | None = None,
) -> torch.Tensor:
    """What the kernel writes over a poisoned output; what lies behind it must stay."""
    rows, width = x.shape
    poisoned = torch.full(((rows + 1) * width,), float("nan"), dtype=out_dtype, device=device)
    poisoned[rows * width :] = 7.0
    out = poisoned[: rows * width].view(rows, width)
    launch_project_residual(out, x.to(device), p.to(device), architecture).run()
    assert bool((poisoned[rows * width :] == 7.0).all()), "the kernel wrote past its output"
    return out.cpu()


def assert_projected(
    found: torch.Tensor, x: torch.Tensor, p: torch.Tensor, out_dtype: torch.dtype, where: str
) -> None:
    """Compare with float64, within the error of fp32 sums and of one rounding."""
    exact = x.double() + x.double() @ p.double()
    terms = x.double().abs() + x.double().abs() @ p.double().abs()
    bound = SUM_TOLERANCES[x.dtype, where] * (x.shape[1] + 1) * terms
    if out_dtype is not torch.float32:
        bound = bound + ROUNDOFF[out_dtype] * (exact.abs() + bound) + MIN_HALF_STEP[out_dtype]
    assert bool(((found.double() - exact).abs() <= bound).all())


@pytest.mark.parametrize(
    ("rows", "width"), [(1, 16), (5, 48), (123, 272), (128, 128), (129, 144), (300, 64), (7, 1040)]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_is_the_residual_form(kernel_device: torch.device, dtype: torch.dtype, rows: int, width: int) -> None:
    x, p = operands(rows, width, dtype)
    for out_dtype in {dtype, torch.float32}:
        found = projected_by_kernel(kernel_device, x, p, out_dtype)
        assert_projected(found, x, p, out_dtype, kernel_device.type)


# For each size of tile an entry that has it; a narrow one where there is one.
SIZES = {(tile[:3], key[1]): key for key, tile in reversed(PROJECT_RESIDUAL_TILES.items())}


@pytest.mark.parametrize("key", SIZES.values())
def test_every_tile_of_the_table_is_right(
    interpreter: torch.device, key: tuple[Architecture, torch.dtype, Shape]
) -> None:
    """In the interpreter, whatever the chip; a GPU's own tiles are in test_gpu.py."""
    architecture, dtype, shape = key
    tile, width = PROJECT_RESIDUAL_TILES[key], {"narrow": 528, "wide": 2064}[shape]
    assert width % tile.n, "the last block of columns must be a part of one"
    assert width % tile.k or tile.k == 16, "and so must the last step, where steps are longer than 16"
    x, p = operands(3, width, dtype)
    found = projected_by_kernel(interpreter, x, p, torch.float32, architecture)
    assert_projected(found, x, p, torch.float32, "cpu")


def test_the_residual_is_added_before_the_rounding(kernel_device: torch.device) -> None:
    """A product rounded by itself would lose the 2^-17 that lifts the sum over a tie."""
    x = torch.zeros(1, 16, dtype=torch.bfloat16)
    x[0, :2] = 1.0
    p = torch.zeros(16, 16, dtype=torch.bfloat16)
    p[0, 0], p[1, 0] = 2.0**-8, 2.0**-17
    expected = [1.0 + 2.0**-7, 1.0] + [0.0] * 14
    assert projected_by_kernel(kernel_device, x, p, torch.bfloat16).tolist() == [expected]


def test_float16_is_multiplied_whole(kernel_device: torch.device) -> None:
    """All 11 bits of an fp16 number reach the product, and P is not rounded to fp16."""
    x = torch.zeros(1, 16, dtype=torch.float16)
    x[0, 0] = 1.0 + 2.0**-10
    p = torch.zeros(16, 16, dtype=torch.bfloat16)
    p[0, 1], p[0, 2] = 1.0, 3 * 2.0**-25  # the latter is half of fp16's smallest number, and a half more
    found = projected_by_kernel(kernel_device, x, p, torch.float32).tolist()[0]
    assert found[:3] == [1.0 + 2.0**-10, 1.0 + 2.0**-10, 3 * 2.0**-25 * (1.0 + 2.0**-10)]


def test_float32_is_not_rounded_to_tf32(kernel_device: torch.device) -> None:
    x = torch.zeros(1, 16)
    x[0, 0] = 1.0 + 2.0**-20
    p = torch.zeros(16, 16, dtype=torch.bfloat16)
    p[0, 1] = 1.0
    assert projected_by_kernel(kernel_device, x, p, torch.float32)[0, 1] == 1.0 + 2.0**-20


def test_what_is_not_finite_stays_in_its_row(kernel_device: torch.device) -> None:
    x, p = operands(5, 64, torch.bfloat16)
    clean = projected_by_kernel(kernel_device, x, p, torch.bfloat16)
    x[2, 7] = float("nan")
    found = projected_by_kernel(kernel_device, x, p, torch.bfloat16)
    assert bool(found[2].isnan().all())
    others = [0, 1, 3, 4]
    assert torch.equal(found[others], clean[others])


def test_the_kernel_refuses_a_ragged_width() -> None:
    x = torch.empty(3, 40, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="width: 40"):
        launch_project_residual(x, x, torch.empty(40, 40, dtype=torch.bfloat16))


@pytest.mark.parametrize("shape", [(2, 3, 64), (5, 123), (4, 48)])
def test_the_op_takes_any_shape(kernel_device: torch.device, shape: tuple[int, ...]) -> None:
    """Widths that the kernel does not take are the reference's."""
    x, p = operands(shape[0] * (shape[1] if len(shape) == 3 else 1), shape[-1], torch.bfloat16)
    x, p = x.view(shape).to(kernel_device), p.to(kernel_device)
    found = project_residual(x, p, torch.float32)
    expected = project_residual_reference(x, p, torch.float32)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.library.opcheck(project_residual, (x, p, torch.float32))
