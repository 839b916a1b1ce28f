"""From final hidden states to distances in kernels, interpreted and compiled, against float64."""

import math

import pytest
import torch
from tolerances import KERNEL_DISTANCE_TOLERANCES

from hallmark.kernels.draw_embeddings import draw_embeddings_reference
from hallmark.kernels.draw_matrix import draw_matrix_reference
from hallmark.kernels.draw_normals import draw_normals_reference
from hallmark.kernels.final_norm import FinalNorm
from hallmark.kernels.norm_project import (
    _norm_project,
    launch_norm_project,
    norm_project,
    norm_project_reference,
)
from hallmark.kernels.normal_table import signed_table
from hallmark.kernels.tiles import NORM_PROJECT_TILES, Architecture, Shape

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
EPSILON = 1e-6
TARGETS = signed_table(1.0)


class Case:
    """Hidden states of n sequences, and everything around them, on the CPU."""

    def __init__(self, n: int, rows: int, width: int, dtype: torch.dtype, *, norm: str, projected: bool):
        generator = torch.Generator().manual_seed(n * width)
        self.streams = torch.randint(0, 2**32, (n, 4), generator=generator)
        table = signed_table(1.0, dtype)
        self.hidden = draw_normals_reference(self.streams + 1, rows * width, table).view(n * rows, width)
        residual = draw_normals_reference(self.streams + 2, rows * width, table).view(n * rows, width)
        weight = (1 + 0.1 * torch.randn(width, generator=generator)).to(dtype)
        self.norm = {
            "none": None,
            "plain": FinalNorm(weight, EPSILON, None),
            "with residual": FinalNorm(weight, EPSILON, residual),
        }[norm]
        self.p = draw_matrix_reference(self.streams[0] + 3, width, width, 0.02) if projected else None

    def by_kernels(self, device: torch.device, architecture: Architecture | None = None) -> torch.Tensor:
        """The distances that the kernels write over a poisoned output."""
        out = torch.full((len(self.streams),), -7.0, dtype=torch.float64, device=device)
        launches = launch_norm_project(
            out,
            self.hidden.to(device),
            self.norm_on(device),
            None if self.p is None else self.p.to(device),
            self.streams.to(device),
            TARGETS.to(device),
            architecture,
        )
        for launch in launches:
            launch.run()
        return out.cpu()

    def by_reference(self) -> torch.Tensor:
        return norm_project_reference(self.hidden, self.norm, self.p, self.streams, TARGETS)

    def exactly(self) -> torch.Tensor:
        """In float64 throughout, no rounding in the norm."""
        rows = len(self.hidden) // len(self.streams)
        h = self.hidden[rows - 1 :: rows].double()
        if self.norm is not None:
            if self.norm.residual is not None:
                h = h + self.norm.residual[rows - 1 :: rows].double()
            h = h / (h.square().mean(dim=1, keepdim=True) + EPSILON).sqrt() * self.norm.weight.double()
        if self.p is not None:
            h = h + h @ self.p.double()
        z = draw_embeddings_reference(self.streams, 1, h.shape[1], TARGETS).squeeze(1).double()
        cosine = torch.nn.functional.cosine_similarity(h, z, dim=1, eps=0.0)
        return (2 - 2 * cosine).sqrt()

    def norm_on(self, device: torch.device) -> FinalNorm | None:
        if self.norm is None:
            return None
        weight, epsilon, residual = self.norm
        return FinalNorm(weight.to(device), epsilon, None if residual is None else residual.to(device))


def tolerance(dtype: torch.dtype, width: int, start: str) -> float:
    return KERNEL_DISTANCE_TOLERANCES[dtype, start] / math.sqrt(2 * width)


@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize(("n", "rows", "width"), [(1, 1, 16), (5, 3, 272), (35, 2, 144), (3, 2, 528)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_distances_are_those_of_float64(
    kernel_device: torch.device, dtype: torch.dtype, n: int, rows: int, width: int, projected: bool
) -> None:
    case = Case(n, rows, width, dtype, norm="none", projected=projected)
    error = (case.by_kernels(kernel_device) - case.exactly()).abs().max()
    assert error <= tolerance(dtype, width, "final hidden state")


@pytest.mark.parametrize("norm", ["plain", "with residual"])
@pytest.mark.parametrize(("n", "rows", "width"), [(1, 1, 16), (5, 3, 272), (33, 2, 144), (2, 1, 528)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_norm_rounds_where_the_model_does(
    kernel_device: torch.device, dtype: torch.dtype, n: int, rows: int, width: int, norm: str
) -> None:
    case = Case(n, rows, width, dtype, norm=norm, projected=True)
    found = case.by_kernels(kernel_device)
    assert (found - case.by_reference()).abs().max() <= tolerance(dtype, width, "norm")
    assert (found - case.exactly()).abs().max() <= 0.1 / math.sqrt(2 * width), "rounding moves little"


# For each size of tile an entry that has it; a narrow one where there is one.
SIZES = {(tile[:3], key[1]): key for key, tile in reversed(NORM_PROJECT_TILES.items())}


@pytest.mark.parametrize("key", SIZES.values())
def test_every_tile_of_the_table_is_right(
    interpreter: torch.device, key: tuple[Architecture, torch.dtype, Shape]
) -> None:
    """In the interpreter, whatever the chip; a GPU's own tiles are in test_gpu.py."""
    architecture, dtype, shape = key
    width = {"narrow": 272, "wide": 2064}[shape]
    assert width % NORM_PROJECT_TILES[key].n, "the last block of columns must be a part of one"
    case = Case(1, 1, width, dtype, norm="none", projected=True)
    error = (case.by_kernels(interpreter, architecture) - case.exactly()).abs().max()
    assert error <= tolerance(dtype, width, "final hidden state")


def test_only_the_last_rows_count(kernel_device: torch.device) -> None:
    case = Case(4, 3, 64, torch.bfloat16, norm="with residual", projected=True)
    before = case.by_kernels(kernel_device)
    assert case.norm is not None
    assert case.norm.residual is not None
    for tensor in (case.hidden, case.norm.residual):
        tensor.view(4, 3, 64)[:, :2] = float("nan")
    assert torch.equal(case.by_kernels(kernel_device), before)


# NumPy, which runs the interpreter's arithmetic, tells of every NaN that it makes.
MAKES_NAN = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")


@MAKES_NAN
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("norm", ["none", "plain"])
def test_a_row_that_is_not_finite_fails_alone(
    kernel_device: torch.device, bad: float, projected: bool, norm: str
) -> None:
    case = Case(3, 1, 64, torch.bfloat16, norm=norm, projected=projected)
    whole = case.by_kernels(kernel_device)
    case.hidden[1, 5] = bad
    distances = case.by_kernels(kernel_device)
    assert distances.isnan().tolist() == [False, True, False]
    assert torch.equal(distances[[0, 2]], whole[[0, 2]])
    assert torch.equal(case.by_reference().isnan(), distances.isnan())


@MAKES_NAN
def test_a_zero_row_fails(kernel_device: torch.device) -> None:
    case = Case(2, 1, 64, torch.bfloat16, norm="none", projected=True)
    case.hidden[0] = 0.0
    assert case.by_kernels(kernel_device).isnan().tolist() == [True, False]


def test_large_hidden_states_do_not_overflow(kernel_device: torch.device) -> None:
    """The squares of 2^80 are out of fp32's reach; a distance does not depend on the length."""
    case = Case(3, 1, 64, torch.bfloat16, norm="none", projected=True)
    before = case.by_kernels(kernel_device)
    case.hidden *= 2.0**80
    assert torch.equal(case.by_kernels(kernel_device), before)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_hidden_state_on_its_target_s_axis_keeps_within_the_sphere(
    kernel_device: torch.device, sign: float
) -> None:
    case = Case(3, 1, 272, torch.bfloat16, norm="none", projected=False)
    case.hidden = sign * draw_embeddings_reference(case.streams, 1, 272, TARGETS).squeeze(1)
    distances = case.by_kernels(kernel_device)
    assert bool((distances >= 0).all())
    assert bool((distances <= 2).all())
    assert distances.tolist() == pytest.approx([0.0 if sign > 0 else 2.0] * 3, abs=1e-7)


def test_the_kernel_refuses_a_ragged_width() -> None:
    case = Case(2, 1, 40, torch.bfloat16, norm="none", projected=True)
    with pytest.raises(ValueError, match="width: 40"):
        case.by_kernels(torch.device("cpu"))


@pytest.mark.parametrize("width", [48, 40])
@pytest.mark.parametrize("norm", ["none", "plain", "with residual"])
def test_the_op_takes_any_width(kernel_device: torch.device, width: int, norm: str) -> None:
    """Widths that the kernel does not take are the reference's."""
    case = Case(3, 2, width, torch.bfloat16, norm=norm, projected=True)
    assert case.p is not None
    hidden, on_device = case.hidden.to(kernel_device), case.norm_on(kernel_device)
    rest = (case.p.to(kernel_device), case.streams.to(kernel_device), TARGETS.to(kernel_device))
    found = norm_project(hidden, on_device, *rest)
    assert (found.cpu() - case.by_reference()).abs().max() <= tolerance(torch.bfloat16, width, "norm")
    torch.library.opcheck(_norm_project, (hidden, *(on_device or (None, 0.0, None)), *rest))
