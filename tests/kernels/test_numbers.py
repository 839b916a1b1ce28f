"""The numbers of nonces: cosines in units of their standard deviation, and what makes a nonce fail."""

import math

import independent_verifier
import pytest
import torch
from torch import Tensor

from hallmark.kernels.draw_embeddings import draw_embeddings_reference
from hallmark.kernels.draw_matrix import draw_matrix_reference
from hallmark.kernels.normal_table import signed_table
from hallmark.kernels.numbers import numbers_reference
from hallmark.poc.protocol.law import distance_of

STREAMS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]])
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def drawn(numbers: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    hidden = draw_embeddings_reference(STREAMS, numbers, width, signed_table(2.0, dtype))
    return hidden, draw_embeddings_reference(STREAMS + 20, numbers, width, signed_table(1.0))


@pytest.mark.parametrize(("numbers", "width"), [(1, 2), (1, 256), (3, 123), (16, 64)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_number_is_the_scaled_cosine(numbers: int, width: int, dtype: torch.dtype) -> None:
    hidden, targets = drawn(numbers, width, dtype)
    found = numbers_reference(hidden, targets, None)
    assert found.dtype == torch.float64
    assert found.shape == (3, numbers)
    for nonce in range(3):
        for j in range(numbers):
            exact = independent_verifier.number(hidden[nonce, j].tolist(), targets[nonce, j].tolist())
            assert float(found[nonce, j]) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_projects_first_where_the_projection_is_on(dtype: torch.dtype) -> None:
    hidden, targets = drawn(2, 64, dtype)
    p = draw_matrix_reference(STREAMS[0], 64, 64, 0.1)
    found = numbers_reference(hidden, targets, p)
    for nonce in range(3):
        for j in range(2):
            row = independent_verifier.projected(hidden[nonce, j].tolist(), p.tolist())
            exact = independent_verifier.number(row, targets[nonce, j].tolist())
            # float32 sums of 64 products.
            assert float(found[nonce, j]) == pytest.approx(exact, abs=1e-5)
    assert not torch.equal(found, numbers_reference(hidden, targets, None))


def test_the_first_number_is_the_distance() -> None:
    hidden, targets = drawn(1, 256, torch.bfloat16)
    for nonce, number in enumerate(numbers_reference(hidden, targets, None)[:, 0].tolist()):
        distance = math.dist(unit(hidden[nonce, 0].tolist()), unit(targets[nonce, 0].tolist()))
        assert distance_of(number, 256) == pytest.approx(distance, abs=1e-12)
    assert math.isnan(distance_of(math.nan, 256))


def test_does_not_depend_on_lengths() -> None:
    hidden, targets = drawn(2, 256, torch.float32)
    assert torch.equal(
        numbers_reference(hidden * 2.0**60, targets, None), numbers_reference(hidden, targets, None)
    )


@pytest.mark.parametrize("width", [2, 64, 1000])
def test_ends_of_the_range(width: int) -> None:
    hidden, _ = drawn(2, width, torch.float32)
    largest = math.sqrt(width)
    for sign in (1, -1):
        found = numbers_reference(hidden, sign * hidden, None)
        assert bool((found.abs() <= largest).all())
        assert torch.allclose(found, torch.full_like(found, sign * largest), rtol=1e-12)
    assert distance_of(largest, width) == 0.0
    assert distance_of(-largest, width) == pytest.approx(2.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("projected", [False, True])
def test_one_number_that_is_not_finite_fails_its_nonce_as_a_whole(bad: float, projected: bool) -> None:
    hidden, targets = drawn(4, 64, torch.bfloat16)
    p = draw_matrix_reference(STREAMS[0], 64, 64, 0.1) if projected else None
    whole = numbers_reference(hidden, targets, p)
    hidden[1, 2, 17] = bad
    found = numbers_reference(hidden, targets, p)
    assert bool(found[1].isnan().all())
    assert torch.equal(found[[0, 2]], whole[[0, 2]])


def test_one_sum_of_zeros_fails_its_nonce_as_a_whole() -> None:
    hidden, targets = drawn(4, 64, torch.bfloat16)
    hidden[0, 3] = 0
    found = numbers_reference(hidden, targets, None)
    assert found.isnan().all(dim=1).tolist() == [True, False, False]
    assert found.isnan().any(dim=1).tolist() == [True, False, False]


def unit(vector: list[float]) -> list[float]:
    norm = math.hypot(*vector)
    return [value / norm for value in vector]
