"""Norm and signed sums in one kernel, interpreted and compiled, against float64 and the reference."""

import math

import pytest
import torch
from tolerances import MIN_HALF_STEP, ROUNDOFF
from torch import Tensor

from hallmark.kernels.draw_normals import draw_normals_reference
from hallmark.kernels.final_norm import FinalNorm, NormRounding
from hallmark.kernels.norm_sums import (
    _norm_sums,
    launch_norm_sums,
    norm_sums,
    norm_sums_reference,
    sign_matrix,
    sum_dtype,
)
from hallmark.kernels.normal_table import signed_table

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
EPSILON = 1e-6
ROUNDINGS = [NormRounding(a, b) for a in (True, False) for b in (True, False)]


class Case:
    """Hidden states of n nonces, their order and a norm, on the CPU."""

    def __init__(
        self,
        n: int,
        rows: int,
        width: int,
        dtype: torch.dtype,
        *,
        read: int,
        numbers: int,
        norm: str = "with residual",
        adds_one: bool = False,
        rounding: NormRounding = ROUNDINGS[0],
    ):
        generator = torch.Generator().manual_seed(n * width + rows)
        streams = torch.randint(0, 2**32, (n, 4), generator=generator)
        table = signed_table(1.0, dtype)
        self.n, self.rows, self.width, self.numbers = n, rows, width, numbers
        self.hidden = draw_normals_reference(streams + 1, rows * width, table).view(n * rows, width)
        residual = draw_normals_reference(streams + 2, rows * width, table).view(n * rows, width)
        weight = (1 + 0.1 * torch.randn(width, generator=generator)).to(dtype)
        self.norm = {
            "none": None,
            "plain": FinalNorm(weight, EPSILON, None, adds_one, rounding),
            "with residual": FinalNorm(weight, EPSILON, residual, adds_one, rounding),
        }[norm]
        picked = [torch.randperm(rows, generator=generator)[:read] for _ in range(n)]
        self.order = torch.stack(picked).int()

    def by_kernel(self, device: torch.device) -> Tensor:
        """The sums that the kernel writes over a poisoned output; what lies behind it must stay."""
        size, dtype = self.n * self.numbers * self.width, sum_dtype(self.hidden.dtype)
        poisoned = torch.full((size + self.width,), math.nan, dtype=dtype, device=device)
        poisoned[size:] = 7.0
        out = poisoned[:size].view(self.n, self.numbers, self.width)
        launch_norm_sums(
            out, self.hidden.to(device), self.norm_on(device), self.order.to(device), self.numbers
        ).run()
        assert bool((poisoned[size:] == 7.0).all()), "the kernel wrote past its output"
        return out.cpu()

    def by_reference(self) -> Tensor:
        return norm_sums_reference(self.hidden, self.norm, self.order, self.numbers)

    def read_rows(self, tensor: Tensor) -> Tensor:
        """float64 [n, read, width]."""
        return tensor.view(self.n, self.rows, -1)[
            torch.arange(self.n).unsqueeze(1), self.order.long()
        ].double()

    def exactly(self) -> tuple[Tensor, Tensor]:
        """The sums in float64 without any rounding, and the sums of their terms' absolute values."""
        h = self.read_rows(self.hidden)
        if self.norm is not None:
            if self.norm.residual is not None:
                h = h + self.read_rows(self.norm.residual)
            h = h / (h.square().mean(dim=2, keepdim=True) + EPSILON).sqrt()
            h = h * (self.norm.weight.double() + float(self.norm.adds_one))
        signs = sign_matrix(self.order.shape[1], self.numbers)
        return signs @ h, signs.abs() @ h.abs()

    def norm_on(self, device: torch.device) -> FinalNorm | None:
        if self.norm is None:
            return None
        residual = None if self.norm.residual is None else self.norm.residual.to(device)
        return self.norm._replace(weight=self.norm.weight.to(device), residual=residual)


# All widths of one tile's rows, of several, of trained models; each with pairs whole and broken.
SHAPES = [(1, 1, 16, 1, 1), (2, 9, 48, 6, 2), (3, 12, 272, 10, 3), (2, 20, 576, 12, 2), (1, 5, 640, 5, 2)]


@pytest.mark.parametrize(("n", "rows", "width", "read", "numbers"), SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_are_those_of_float64_rounded_once(
    kernel_device: torch.device, dtype: torch.dtype, n: int, rows: int, width: int, read: int, numbers: int
) -> None:
    case = Case(n, rows, width, dtype, read=read, numbers=numbers, norm="none")
    found, (exact, terms) = case.by_kernel(kernel_device), case.exactly()
    kept = sum_dtype(dtype)
    bound = ROUNDOFF[kept] * exact.abs() + read * 2.0**-24 * terms * 1.01 + MIN_HALF_STEP[kept]
    assert bool(((found.double() - exact).abs() <= bound).all())


@pytest.mark.parametrize("norm", ["plain", "with residual"])
@pytest.mark.parametrize("adds_one", [False, True])
@pytest.mark.parametrize(("n", "rows", "width", "read", "numbers"), SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_normed(
    kernel_device: torch.device,
    dtype: torch.dtype,
    n: int,
    rows: int,
    width: int,
    read: int,
    numbers: int,
    adds_one: bool,
    norm: str,
) -> None:
    """Next to float64, within a rounding at each place where a norm may round, a root and the sum's own."""
    case = Case(n, rows, width, dtype, read=read, numbers=numbers, norm=norm, adds_one=adds_one)
    found, (exact, terms) = case.by_kernel(kernel_device), case.exactly()
    # Rounded sums of hidden state and residual may be off by their own half step, however small they are.
    of_sums = 8.0 * ROUNDOFF[dtype] * read
    assert bool(
        ((found.double() - exact).abs() <= 5 * ROUNDOFF[dtype] * (exact.abs() + terms) + of_sums).all()
    )


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("adds_one", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_rounds_where_it_is_told(
    kernel_device: torch.device, dtype: torch.dtype, adds_one: bool, rounding: NormRounding
) -> None:
    """On the elements that lie so far from every tie that no root and no sum takes them over it."""
    case = Case(6, 1, 1024, dtype, read=1, numbers=1, adds_one=adds_one, rounding=rounding)
    found = case.by_kernel(kernel_device)[:, 0].to(dtype)
    expected, safe = rounded_by_hand(case, rounding)
    assert torch.equal(found[safe], expected[safe])
    for other in ROUNDINGS:
        if other != rounding:
            elsewhere, safe_there = rounded_by_hand(case, other)
            both = safe & safe_there
            assert not torch.equal(elsewhere[both], expected[both]), "the case tells roundings apart"


def rounded_by_hand(case: Case, rounding: NormRounding) -> tuple[Tensor, Tensor]:
    """Normed rows, in float64 but where they are rounded, and where they are far from ties."""
    dtype, norm = case.hidden.dtype, case.norm
    assert norm is not None
    assert norm.residual is not None
    x = case.hidden.double() + norm.residual.double()
    safe = torch.ones_like(x, dtype=torch.bool)

    def rounded(value: Tensor) -> Tensor:
        nonlocal safe
        low, high = (value * (1 + shift) for shift in (-(2.0**-18), 2.0**-18))
        safe &= low.to(dtype) == high.to(dtype)
        return value.to(dtype).double()

    if rounding.sum:
        x = x.to(dtype).double()  # exact in float32, so that ties are no matter
    x = x / (x.square().mean(dim=1, keepdim=True) + EPSILON).sqrt()
    if rounding.scaled:
        x = rounded(x)
    return rounded(x * (norm.weight.double() + float(norm.adds_one))).to(dtype), safe


@pytest.mark.parametrize("width", range(16, 1025, 16))
def test_every_width_of_whole_sixteens(kernel_device: torch.device, width: int) -> None:
    case = Case(1, 2, width, torch.float32, read=2, numbers=1)
    torch.testing.assert_close(case.by_kernel(kernel_device), case.by_reference(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [2064, 4112, 8208])
def test_wide_rows(kernel_device: torch.device, width: int) -> None:
    """With more warps, and a row at a time."""
    case = Case(1, 4, width, torch.float32, read=4, numbers=2)
    torch.testing.assert_close(case.by_kernel(kernel_device), case.by_reference(), rtol=1e-4, atol=1e-5)


# NumPy, which runs the interpreter's arithmetic, tells of every NaN that it makes.
MAKES_NAN = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")


@pytest.mark.parametrize("norm", ["none", "plain", "with residual"])
def test_rows_out_of_the_order_are_not_read(kernel_device: torch.device, norm: str) -> None:
    case = Case(3, 12, 64, torch.bfloat16, read=4, numbers=2, norm=norm)
    before = case.by_kernel(kernel_device)
    unread = torch.ones(3, 12, dtype=torch.bool)
    unread[torch.arange(3).unsqueeze(1), case.order.long()] = False
    case.hidden.view(3, 12, 64)[unread] = math.nan
    if case.norm is not None and case.norm.residual is not None:
        case.norm.residual.view(3, 12, 64)[unread] = math.inf
    assert torch.equal(case.by_kernel(kernel_device), before)


@MAKES_NAN
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("norm", ["none", "plain"])
def test_a_row_that_is_not_finite_spoils_its_group_alone(
    kernel_device: torch.device, norm: str, bad: float
) -> None:
    case = Case(2, 8, 64, torch.bfloat16, read=8, numbers=2, norm=norm)
    before = case.by_kernel(kernel_device)
    case.hidden[8 + int(case.order[1, 2]), 5] = bad  # rank 2 is in group 1
    found = case.by_kernel(kernel_device)
    assert found.isfinite().all(dim=2).tolist() == [[True, True], [True, False]]
    assert torch.equal(found[0], before[0])
    assert torch.equal(found[1, 0], before[1, 0])


def test_float16_sums_do_not_overflow(kernel_device: torch.device) -> None:
    case = Case(1, 4, 16, torch.float16, read=4, numbers=1, norm="none")
    case.hidden[:] = 60_000.0
    case.hidden[case.order[0, 1::2].long()] = -60_000.0
    assert torch.equal(
        case.by_kernel(kernel_device), torch.full((1, 1, 16), 4 * float(torch.tensor(60_000.0).half()))
    )


def test_the_kernel_refuses_a_ragged_width() -> None:
    case = Case(1, 2, 40, torch.bfloat16, read=2, numbers=1)
    with pytest.raises(ValueError, match="width: 40"):
        case.by_kernel(torch.device("cpu"))


@pytest.mark.parametrize("width", [48, 40])
@pytest.mark.parametrize("norm", ["none", "plain", "with residual"])
def test_the_op_takes_any_width(kernel_device: torch.device, width: int, norm: str) -> None:
    """Widths that the kernel does not take are the reference's."""
    case = Case(3, 6, width, torch.float32, read=4, numbers=2, norm=norm)
    hidden, on_device, order = (
        case.hidden.to(kernel_device),
        case.norm_on(kernel_device),
        case.order.to(kernel_device),
    )
    found = norm_sums(hidden, on_device, order, 2)
    torch.testing.assert_close(found.cpu(), case.by_reference(), rtol=1e-4, atol=1e-5)
    weight, epsilon, residual, adds_one, rounding = on_device or (None, 0.0, None, False, (False, False))
    torch.library.opcheck(_norm_sums, (hidden, weight, epsilon, residual, adds_one, *rounding, order, 2))
