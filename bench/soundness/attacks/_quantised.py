"""Weights and activations of fewer bits. Weights are [outputs, inputs], given back in their own dtype."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch
from _altered import with_forward
from torch import Tensor, nn

FLOAT8_MOST: Final = 448.0
"""The largest number of e4m3."""
SCALE_BITS: Final = 16
_GPTQ_BLOCK: Final = 64


def bits_a_weight(bits: int, group: int | None, *, scales: int = 1) -> float:
    """Bits of a weight with the 16-bit scales of its group; those of whole rows are not counted."""
    return bits if group is None else bits + scales * SCALE_BITS / group


def by_groups(weight: Tensor, group: int | None, quantise: Callable[[Tensor], Tensor]) -> Tensor:
    """Quantise each row, or groups of so many of its inputs; the last group of a row may be shorter."""
    parts = [weight] if group is None else torch.split(weight, group, dim=1)
    return torch.cat([quantise(part) for part in parts], dim=1)


def scales_of(part: Tensor, most: float) -> Tensor:
    """Return the scale of each row with which its largest entry becomes `most`, [rows, 1]."""
    return part.abs().amax(-1, keepdim=True).clamp_min(1e-12) / most


def integers(weight: Tensor, bits: int, group: int | None = None) -> Tensor:
    """Round to the nearest of 2^bits − 1 symmetric levels."""
    most = 2 ** (bits - 1) - 1

    def quantise(part: Tensor) -> Tensor:
        scale = scales_of(part, most)
        return (part / scale).round() * scale

    return by_groups(weight, group, quantise)


def offset_integers(weight: Tensor, bits: int, group: int) -> Tensor:
    """Round to the nearest of 2^bits levels from a group's least to its largest entry, as in GGUF's Q4_1."""

    def quantise(part: Tensor) -> Tensor:
        least = part.amin(-1, keepdim=True)
        scale = (part.amax(-1, keepdim=True) - least).clamp_min(1e-12).div(2**bits - 1)
        return ((part - least) / scale).round() * scale + least

    return by_groups(weight, group, quantise)


def float8(weight: Tensor) -> Tensor:
    """Round to e4m3, a scale for each row."""
    scale = scales_of(weight, FLOAT8_MOST)
    return (weight / scale).to(torch.float8_e4m3fn).to(weight.dtype) * scale


def gptq(weight: Tensor, moments: Tensor, bits: int, group: int | None) -> Tensor:
    """Quantise input by input, and let those still to come make up for each error (GPTQ, arXiv:2210.17323).

    Args:
        weight: [outputs, inputs].
        moments: Σ xxᵀ of the inputs that it is calibrated on, [inputs, inputs].
        bits: Symmetric levels, as for `integers`.
        group: Inputs that share a scale; None is the whole row.
    """
    most = 2 ** (bits - 1) - 1
    columns = weight.shape[1]
    damped = moments + 0.01 * moments.diagonal().mean() * torch.eye(columns)
    # Row i of this factor says how the error of input i is spread over those after it.
    spread = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    left, found = weight.clone(), torch.empty_like(weight)
    scale = scales_of(weight, most)
    for start in range(0, columns, _GPTQ_BLOCK):
        end = min(start + _GPTQ_BLOCK, columns)
        errors = torch.empty(len(weight), end - start)
        for i in range(start, end):
            if group is not None and i % group == 0:
                scale = scales_of(left[:, i : i + group], most)
            column = left[:, i : i + 1]
            quantised = (column / scale).round().clamp(-most, most) * scale
            error = (column - quantised) / spread[i, i]
            left[:, i:end] -= error * spread[i, i:end]
            errors[:, i - start : i - start + 1] = error
            found[:, i : i + 1] = quantised
        left[:, end:] -= errors @ spread[start:end, end:]
    return found


def awq(weight: Tensor, moments: Tensor, bits: int, group: int | None) -> Tensor:
    """Quantise after scaling inputs up that are large (AWQ, arXiv:2306.00978), the best of several exponents.

    Each matrix has scales of its own, where AWQ shares them between matrices that read the same input: the
    attacker is allowed more than AWQ.

    Args:
        weight: [outputs, inputs].
        moments: Σ xxᵀ of the inputs that it is calibrated on, [inputs, inputs].
        bits: Symmetric levels, as for `integers`.
        group: Inputs that share a scale; None is the whole row.
    """
    size = moments.diagonal().clamp_min(1e-12).sqrt()
    size = size / size.log().mean().exp()

    def candidate(exponent: float) -> Tensor:
        return integers(weight * size**exponent, bits, group) / size**exponent

    def error(quantised: Tensor) -> float:
        off = quantised - weight
        return float(((off @ moments) * off).sum())

    return min((candidate(exponent) for exponent in (0.0, 0.25, 0.5, 0.75, 1.0)), key=error)


@contextmanager
def with_inputs_rounded(modules: Iterable[nn.Linear], rounded: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Round what linear maps are given, token by token: `integers` and `float8` do on [tokens, inputs]."""

    def make(own: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x: own(rounded(x.flatten(0, -2)).view_as(x))

    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(with_forward(module, make))
        yield
