"""From signed sums to numbers in kernels, interpreted and compiled, against float64."""

import math

import pytest
import torch
from tolerances import KERNEL_NUMBER_TOLERANCES
from torch import Tensor

from hallmark.kernels.draw_embeddings import draw_embeddings_reference
from hallmark.kernels.draw_matrix import draw_matrix_reference
from hallmark.kernels.draw_normals import draw_normals_reference
from hallmark.kernels.final_norm import FinalNorm, NormRounding
from hallmark.kernels.norm_project import (
    launch_project_numbers,
    norm_project,
    norm_project_reference,
    project_numbers,
)
from hallmark.kernels.norm_sums import sum_dtype
from hallmark.kernels.normal_table import signed_table
from hallmark.kernels.numbers import numbers_reference
from hallmark.kernels.tiles import NORM_PROJECT_TILES, Architecture, Height, Shape

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
TARGETS = signed_table(1.0)


class Case:
    """Signed sums of n nonces, and what numbers are made of them with, on the CPU.

    Args:
        dtype: The model's.
    """

    def __init__(self, n: int, numbers: int, width: int, dtype: torch.dtype, *, projected: bool = True):
        generator = torch.Generator().manual_seed(n * width)
        self.streams = torch.randint(0, 2**32, (n, 4), generator=generator)
        table = signed_table(1.0, sum_dtype(dtype))
        sums = draw_normals_reference(self.streams + 1, numbers * width, table)
        self.sums = sums.view(n, numbers, width)
        self.p = draw_matrix_reference(self.streams[0] + 3, width, width, 0.02) if projected else None
        self.tolerance = KERNEL_NUMBER_TOLERANCES[dtype, "signed sums"]

    def by_kernels(self, device: torch.device, architecture: Architecture | None = None) -> Tensor:
        """The numbers that the kernels write over a poisoned output; what lies behind it must stay."""
        n, numbers, _ = self.sums.shape
        poisoned = torch.full((n + 1, numbers), -7.0, dtype=torch.float64, device=device)
        launches = launch_project_numbers(
            poisoned[:n],
            self.sums.to(device),
            None if self.p is None else self.p.to(device),
            self.streams.to(device),
            TARGETS.to(device),
            architecture,
        )
        for launch in launches:
            launch.run()
        assert bool((poisoned[n] == -7.0).all()), "a kernel wrote past its output"
        return poisoned[:n].cpu()

    @property
    def targets(self) -> Tensor:
        _, numbers, width = self.sums.shape
        return draw_embeddings_reference(self.streams, numbers, width, TARGETS)

    def exactly(self) -> Tensor:
        """In float64 throughout."""
        y, z = self.sums.double(), self.targets.double()
        if self.p is not None:
            y = y + y @ self.p.double()
        return math.sqrt(y.shape[2]) * torch.nn.functional.cosine_similarity(y, z, dim=2, eps=0.0)


@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize(
    ("n", "numbers", "width"),
    [
        (1, 1, 16),
        (5, 1, 272),
        (35, 1, 144),
        (3, 1, 528),
        (3, 2, 48),
        (5, 16, 144),
        (9, 14, 80),
        (1, 3, 576),
        (2, 40, 48),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_are_those_of_float64(
    kernel_device: torch.device, dtype: torch.dtype, n: int, numbers: int, width: int, projected: bool
) -> None:
    case = Case(n, numbers, width, dtype, projected=projected)
    assert (case.by_kernels(kernel_device) - case.exactly()).abs().max() <= case.tolerance


# For each size of tile an entry that has it; a narrow one where there is one.
SIZES = {(tile[:3], key[3]): key for key, tile in reversed(NORM_PROJECT_TILES.items())}


@pytest.mark.parametrize("key", SIZES.values())
def test_every_tile_of_the_table_is_right(
    interpreter: torch.device, key: tuple[Architecture, torch.dtype, Shape, Height]
) -> None:
    """In the interpreter, whatever the chip; a GPU's own tiles are in test_gpu.py."""
    architecture, dtype, shape, height = key
    width, n, numbers = {"narrow": 272, "wide": 2064}[shape], {"few": 1, "many": 13}[height], 5
    assert width % NORM_PROJECT_TILES[key].n, "the last block of columns must be a part of one"
    assert n * numbers % NORM_PROJECT_TILES[key].m, "and so must the last block of rows"
    case = Case(n, numbers, width, dtype)
    assert (case.by_kernels(interpreter, architecture) - case.exactly()).abs().max() <= case.tolerance


@pytest.mark.parametrize("width", range(16, 657, 16))
def test_every_width_of_whole_sixteens(kernel_device: torch.device, width: int) -> None:
    case = Case(2, 3, width, torch.bfloat16)
    assert (case.by_kernels(kernel_device) - case.exactly()).abs().max() <= case.tolerance


# NumPy, which runs the interpreter's arithmetic, tells of every NaN that it makes.
MAKES_NAN = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")


@MAKES_NAN
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("numbers", [1, 3, 20])
def test_a_sum_that_is_not_finite_fails_its_nonce_as_a_whole(
    kernel_device: torch.device, numbers: int, bad: float, projected: bool
) -> None:
    case = Case(3, numbers, 64, torch.bfloat16, projected=projected)
    whole = case.by_kernels(kernel_device)
    case.sums[1, -1, 5] = bad
    found = case.by_kernels(kernel_device)
    assert found.isnan().all(dim=1).tolist() == [False, True, False]
    assert torch.equal(found[[0, 2]], whole[[0, 2]])
    assert torch.equal(numbers_reference(case.sums, case.targets, case.p).isnan(), found.isnan())


@MAKES_NAN
def test_a_sum_of_zeros_fails_its_nonce_as_a_whole(kernel_device: torch.device) -> None:
    case = Case(2, 3, 64, torch.bfloat16)
    case.sums[0, 1] = 0.0
    assert case.by_kernels(kernel_device).isnan().tolist() == [[True] * 3, [False] * 3]


def test_large_sums_do_not_overflow(kernel_device: torch.device) -> None:
    """The squares of 2^80 are out of fp32's reach; a number does not depend on the length."""
    case = Case(3, 2, 64, torch.bfloat16)
    before = case.by_kernels(kernel_device)
    case.sums *= 2.0**80
    assert torch.equal(case.by_kernels(kernel_device), before)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_sum_on_its_target_s_axis_keeps_within_the_sphere(kernel_device: torch.device, sign: float) -> None:
    case = Case(3, 2, 272, torch.bfloat16, projected=False)
    case.sums = sign * case.targets
    found, largest = case.by_kernels(kernel_device), math.sqrt(272)
    assert bool((found.abs() <= largest).all())
    assert found.flatten().tolist() == pytest.approx([sign * largest] * 6, rel=1e-12)


def test_each_number_has_a_target_of_its_own(kernel_device: torch.device) -> None:
    """And each nonce: the same sum gives other numbers."""
    case = Case(4, 3, 64, torch.bfloat16)
    case.sums[:] = case.sums[0, 0].clone()
    assert len(set(case.by_kernels(kernel_device).flatten().tolist())) == 12


def test_the_kernel_refuses_a_ragged_width() -> None:
    with pytest.raises(ValueError, match="width: 40"):
        Case(2, 2, 40, torch.bfloat16).by_kernels(torch.device("cpu"))


@pytest.mark.parametrize("width", [48, 40])
@pytest.mark.parametrize("norm", [True, False])
def test_the_op_takes_any_width(kernel_device: torch.device, width: int, norm: bool) -> None:
    """From the hidden states on; widths that the kernels do not take are the reference's."""
    case = Case(3, 2, width, torch.float32)
    hidden, residual = (
        draw_normals_reference(case.streams + shift, 10 * width, signed_table(1.0, torch.float32))
        .view(30, width)
        .to(kernel_device)
        for shift in (5, 6)
    )
    weight = torch.linspace(0.5, 1.5, width, device=kernel_device)
    final = FinalNorm(weight, 1e-6, residual, False, NormRounding(True, False)) if norm else None
    order = torch.tensor([9, 2, 5, 4], dtype=torch.int32, device=kernel_device).expand(3, -1)
    assert case.p is not None
    rest = (case.p.to(kernel_device), case.streams.to(kernel_device), TARGETS.to(kernel_device))
    found = norm_project(hidden, final, order, 2, *rest)
    expected = norm_project_reference(hidden, final, order, 2, *rest)
    assert float((found - expected).abs().max()) <= KERNEL_NUMBER_TOLERANCES[torch.float32, "norm"]
    torch.library.opcheck(project_numbers, (case.sums.to(kernel_device), *rest))
