"""The distance on the unit sphere, and what makes a nonce fail."""

import math

import pytest
import torch

from hallmark.kernels.distance import distance_reference
from hallmark.kernels.draw_embeddings import draw_embeddings_reference
from hallmark.kernels.draw_matrix import draw_matrix_reference
from hallmark.kernels.normal_table import signed_table

STREAMS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]])


def hidden_and_target(width: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    hidden = draw_embeddings_reference(STREAMS, 1, width, signed_table(2.0, dtype)).squeeze(1)
    target = draw_embeddings_reference(STREAMS + 20, 1, width, signed_table(1.0, torch.float32)).squeeze(1)
    return hidden, target


@pytest.mark.parametrize("width", [2, 123, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_is_the_distance_of_the_unit_vectors(width: int, dtype: torch.dtype) -> None:
    hidden, target = hidden_and_target(width, dtype)
    distances = distance_reference(hidden, target, None)
    assert distances.dtype == torch.float64
    for h, z, d in zip(hidden.tolist(), target.tolist(), distances.tolist(), strict=True):
        assert d == pytest.approx(math.dist(unit(h), unit(z)), abs=1e-12)


def test_projects_first_where_the_projection_is_on() -> None:
    hidden, target = hidden_and_target(64, torch.bfloat16)
    p = draw_matrix_reference(STREAMS[0], 64, 64, 0.1)
    projected = hidden.double() + hidden.double() @ p.double()
    distances = distance_reference(hidden, target, p).tolist()
    for h, z, d in zip(projected.tolist(), target.tolist(), distances, strict=True):
        # float32 sums of 64 products against float64 ones.
        assert d == pytest.approx(math.dist(unit(h), unit(z)), abs=1e-5)
    assert distances != distance_reference(hidden, target, None).tolist()


def test_does_not_depend_on_lengths() -> None:
    hidden, target = hidden_and_target(256, torch.float32)
    assert torch.equal(
        distance_reference(hidden * 2.0**60, target, None), distance_reference(hidden, target, None)
    )


@pytest.mark.parametrize("width", [2, 64, 1000])
def test_ends_of_the_range(width: int) -> None:
    hidden, _ = hidden_and_target(width, torch.float32)
    same = distance_reference(hidden, hidden, None)
    opposite = distance_reference(hidden, -hidden, None)
    assert bool(((same >= 0) & (same < 1e-7)).all())
    assert bool(((opposite <= 2) & (opposite > 2 - 1e-7)).all())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("projected", [False, True])
def test_a_hidden_state_that_is_not_finite_fails_alone(bad: float, projected: bool) -> None:
    hidden, target = hidden_and_target(64, torch.bfloat16)
    p = draw_matrix_reference(STREAMS[0], 64, 64, 0.1) if projected else None
    whole = distance_reference(hidden, target, p)
    hidden[1, 17] = bad
    distances = distance_reference(hidden, target, p)
    assert math.isnan(float(distances[1]))
    assert torch.equal(distances[[0, 2]], whole[[0, 2]])


def test_a_hidden_state_of_zeros_fails() -> None:
    _, target = hidden_and_target(64, torch.bfloat16)
    assert bool(distance_reference(torch.zeros(3, 64), target, None).isnan().all())


def unit(vector: list[float]) -> list[float]:
    norm = math.hypot(*vector)
    return [value / norm for value in vector]
