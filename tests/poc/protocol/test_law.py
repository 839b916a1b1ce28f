"""The law of the distance against published numbers and against simulation."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, kstest

from hallmark.kernels.draw_embeddings import draw_embeddings_reference
from hallmark.kernels.draw_normals import streams_tensor
from hallmark.kernels.normal_table import signed_table
from hallmark.kernels.numbers import numbers_reference
from hallmark.poc.core.errors import FieldError
from hallmark.poc.protocol.law import distance_cdf, distance_of, distance_std, r_target_for, valid_rate
from hallmark.poc.protocol.streams import target_stream

# r_target by width and rate, computed with scipy for the existing APIs' wire contract.
PUBLISHED = {
    (128, 0.001): 1.208597,
    (128, 0.01): 1.261235,
    (128, 0.05): 1.307313,
    (128, 0.10): 1.331485,
    (1024, 0.001): 1.344310,
    (1024, 0.01): 1.361870,
    (1024, 0.05): 1.377385,
    (1024, 0.10): 1.385596,
    (2048, 0.001): 1.365115,
    (2048, 0.01): 1.377396,
    (2048, 0.05): 1.388274,
    (2048, 0.10): 1.394042,
    (8192, 0.001): 1.389866,
    (8192, 0.01): 1.395922,
    (8192, 0.05): 1.401304,
    (8192, 0.10): 1.404165,
}


@pytest.mark.parametrize(("width", "rate"), PUBLISHED)
def test_r_target_is_the_published_one(width: int, rate: float) -> None:
    assert r_target_for(rate, width) == pytest.approx(PUBLISHED[width, rate], abs=5.1e-7)


@pytest.mark.parametrize(
    ("r_target", "percent"), [(1.4013564660458173, 5.06), (1.3971164020989417, 1.48), (1.398077, 2.00)]
)
def test_valid_rate_of_the_defaults_that_clients_send(r_target: float, percent: float) -> None:
    assert 100 * valid_rate(r_target, 8196) == pytest.approx(percent, abs=0.0051)


@pytest.mark.parametrize("width", [2, 64, 1024, 16384])
@pytest.mark.parametrize("rate", [1e-6, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_each_gives_the_other(width: int, rate: float) -> None:
    assert valid_rate(r_target_for(rate, width), width) == pytest.approx(rate, rel=1e-9)


def test_ends() -> None:
    assert r_target_for(1.0, 1024) == 2.0
    assert valid_rate(2.0, 1024) == valid_rate(10.0, 1024) == 1.0
    assert valid_rate(0.0, 1024) == valid_rate(-1.0, 1024) == 0.0
    assert r_target_for(0.5, 1024) == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.0001, math.nan, math.inf, "0.1", True])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(FieldError, match="valid_rate"):
        r_target_for(rate, 1024)


@pytest.mark.parametrize("width", [64, 256, 4096])
def test_distance_std_is_the_law_s_to_within_a_percent(width: int) -> None:
    points = np.linspace(0, 2, 400_001)
    density = np.diff(distance_cdf(points, width))
    middles = (points[1:] + points[:-1]) / 2
    mean = float((density * middles).sum())
    exact = math.sqrt(float((density * (middles - mean) ** 2).sum()))
    assert distance_std(width) == 1 / math.sqrt(2 * width)
    assert distance_std(width) < exact < 1.01 * distance_std(width)


@pytest.mark.parametrize("y_kind", ["one-hot", "random", "skewed"])
@pytest.mark.parametrize("width", [64, 256, 1024])
def test_simulated_targets_follow_the_law(width: int, y_kind: str) -> None:
    """The table's targets, and a y fixed as badly as can be: one coordinate only."""
    count = 20_000
    streams = streams_tensor(target_stream("law", "block", "key", nonce) for nonce in range(count))
    targets = draw_embeddings_reference(streams, 1, width, signed_table(1.0)).squeeze(1)
    generator = torch.Generator().manual_seed(5)
    y = {
        "one-hot": torch.nn.functional.one_hot(torch.tensor(width // 3), width).double(),
        "random": torch.randn(width, generator=generator, dtype=torch.float64),
        "skewed": torch.randn(width, generator=generator, dtype=torch.float64).exp().pow(2),
    }[y_kind]
    numbers = numbers_reference(y.expand(count, 1, -1), targets.unsqueeze(1), None)
    distances = np.array([distance_of(number, width) for number in numbers[:, 0].tolist()])
    assert kstest(distances, lambda d: distance_cdf(d, width)).pvalue > 1e-3
    for rate in (0.01, 0.1, 0.5):
        low, high = binom.interval(0.999, count, rate)
        assert low <= (distances < r_target_for(rate, width)).sum() <= high
