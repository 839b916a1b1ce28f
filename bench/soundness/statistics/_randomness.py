"""Tests of randomness with p-values: of halves, of numbers drawn from the table, of names of streams."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from hallmark.kernels.normal_table import normal_table

LAGS = (*range(1, 33), 64, 128, 256, 512, 1024, 2048)
"""Neighbours within a call and across it, and rows of common widths."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a test says.

    Attributes:
        name: Of the test.
        observed: The statistic.
        freedom: Degrees of freedom of a chi-squared statistic; None for a standard normal deviate; the count
            expected of one that has Poisson's law.
        p_value: Two-sided.
    """

    name: str
    observed: float
    freedom: float | None
    p_value: float

    def row(self) -> dict[str, Any]:
        """For a table."""
        freedom = "" if self.freedom is None else round(self.freedom, 2)
        return {
            "test": self.name,
            "statistic": round(self.observed, 4),
            "freedom": freedom,
            "p_value": self.p_value,
        }


def deviate(name: str, value: float) -> Outcome:
    """Return the outcome of a standard normal deviate."""
    return Outcome(name, value, None, float(2 * stats.norm.sf(abs(value))))


def chi_squared(name: str, value: float, freedom: int) -> Outcome:
    """Return the outcome of a chi-squared statistic.

    One that is too small is as suspicious as one too large.
    """
    below, above = stats.chi2.cdf(value, freedom), stats.chi2.sf(value, freedom)
    return Outcome(name, value, freedom, float(2 * min(below, above)))


def poisson(name: str, found: int, expected: float) -> Outcome:
    """Return the outcome of a count of rare events."""
    below, above = stats.poisson.cdf(found, expected), stats.poisson.sf(found - 1, expected)
    return Outcome(name, found, expected, float(min(1.0, 2 * min(below, above))))


def uniform_cells(name: str, cells: Tensor, number: int) -> Outcome:
    """Test whether integers from 0 to number − 1 are all equally frequent."""
    counts = torch.bincount(cells.flatten(), minlength=number).double()
    expected = cells.numel() / number
    return chi_squared(name, float(((counts - expected) ** 2 / expected).sum()), number - 1)


def fair_bits(name: str, words: Tensor, bits: int) -> Outcome:
    """Test whether each of the lowest bits of words, any shape, is set in half of them."""
    half = words.numel() / 2
    counts = [float(((words >> bit) & 1).sum()) for bit in range(bits)]
    return chi_squared(name, sum((count - half) ** 2 for count in counts) / (half / 2), bits)


def of_halves(halves: Tensor) -> Iterator[Outcome]:
    """Tests of the 16-bit halves of streams, int32 [streams, elements], in the order they are drawn."""
    yield uniform_cells("all 65,536 halves", halves, 2**16)
    yield uniform_cells(
        "entries of the table with their signs", ((halves >> 4) & 0x800) | (halves & 0x7FF), 4096
    )
    yield fair_bits("each of the 16 bits", halves, 16)
    signs = (halves >> 15).view(len(halves), -1, 8).double().mean(dim=(0, 1)) - 0.5
    calls = halves.numel() / 8
    yield chi_squared("signs by place in a call", float((signs.square() * 4 * calls).sum()), 8)
    yield deviate("runs of bits", _runs(halves))
    pairs = (halves[:, ::2] & 0xFF) | ((halves[:, 1::2] & 0xFF) << 8)
    yield uniform_cells("pairs of low bytes of neighbours", pairs, 2**16)
    words = (halves[:, ::2] | (halves[:, 1::2].long() << 16)).flatten()
    repeated = torch.unique(words, return_counts=True)[1].double()
    found = int((repeated * (repeated - 1) / 2).sum())
    yield poisson("equal pairs of 32-bit words", found, len(words) * (len(words) - 1) / 2**33)
    yield fair_bits("bits in which neighbouring streams differ", halves[1:] ^ halves[:-1], 16)


def _runs(halves: Tensor) -> float:
    """Return how many bits differ from the one before, as a deviate; bits of a half from the lowest up."""
    values = halves.numpy().astype(np.uint16)
    within = np.bitwise_count((values ^ (values >> 1)) & 0x7FFF).sum(dtype=np.int64)
    between = ((values[:, :-1] >> 15) ^ (values[:, 1:] & 1)).sum(dtype=np.int64)
    places = values.size * 15 + values[:, 1:].size
    return float((int(within + between) - places / 2) / math.sqrt(places / 4))


def of_values(values: Tensor) -> Iterator[Outcome]:
    """Tests of numbers drawn from the table, float32 [streams, elements]."""
    entries = normal_table().double()
    moment = {k: float(entries.pow(k).mean()) for k in (2, 4, 6, 8)}
    sums = {k: float(values.pow(k).sum(dtype=torch.float64)) for k in (1, 2, 3, 4)}
    n = values.numel()
    yield deviate("mean", sums[1] / math.sqrt(n * moment[2]))
    spread2 = moment[4] - moment[2] ** 2
    yield deviate("variance", (sums[2] - n * moment[2]) / math.sqrt(n * spread2))
    yield deviate("third moment", sums[3] / math.sqrt(n * moment[6]))
    yield deviate("kurtosis", (sums[4] - n * moment[4]) / math.sqrt(n * (moment[8] - moment[4] ** 2)))
    yield deviate("signs", float(values.sign().sum(dtype=torch.float64)) / math.sqrt(n))

    squares = values.square() - moment[2]
    for title, each, variance in (("", values, moment[2]), (" of squares", squares, spread2)):
        deviates = []
        for lag in LAGS:
            product = each[:, lag:] * each[:, :-lag]
            deviates.append(float(product.sum(dtype=torch.float64)) / math.sqrt(product.numel()) / variance)
        total = sum(z * z for z in deviates)
        yield chi_squared(f"correlation{title} at {len(LAGS)} lags", total, len(LAGS))
        elements = each.shape[1]
        gram = (each.double() @ each.double().T) / math.sqrt(elements) / variance
        z = gram[torch.triu_indices(len(each), len(each), 1).unbind()]
        yield chi_squared(f"correlation{title} between streams", float(z.square().sum()), len(z))
        largest = float(z.abs().max())
        above = -math.expm1(len(z) * math.log1p(-2 * float(stats.norm.sf(largest))))
        p_value = 2 * min(above, 1 - above)
        yield Outcome(f"largest correlation{title} between streams", largest, None, p_value)
    at_places = values.sum(dim=0).double() / math.sqrt(len(values) * moment[2])
    yield chi_squared("sums at a place across streams", float(at_places.square().sum()), len(at_places))


def of_names(names: Tensor) -> Iterator[Outcome]:
    """Tests of the four 32-bit words [n, 4] that name streams of n neighbouring nonces."""
    bits = torch.stack([(names >> bit) & 1 for bit in range(32)], dim=2).flatten(1).float()
    n, width = bits.shape
    signs = 2 * bits - 1
    totals = signs.sum(dim=0).double() / math.sqrt(n)
    yield chi_squared("each of the 128 bits", float(totals.square().sum()), width)
    z = (signs.T @ signs).double()[torch.triu_indices(width, width, 1).unbind()] / math.sqrt(n)
    yield chi_squared("correlation of two bits of a name", float(z.square().sum()), len(z))
    differ = (bits[1:] != bits[:-1]).double()
    flips = (2 * differ.mean(dim=0) - 1) * math.sqrt(n - 1)
    yield chi_squared("each bit's change to the next nonce", float(flips.square().sum()), width)
    distances = differ.sum(dim=1)
    # Two distances to neighbours share a name and are independent all the same, for fair bits.
    spread = float((distances - width / 2).square().mean() / (width / 4))
    fourth = 3 - 2 / width
    yield deviate("spread of changed bits", (spread - 1) / math.sqrt((fourth - 1) / (n - 1)))
