"""The model without its final norm, which is applied where the rows are summed, and to no other row.

Nothing of the model is changed: the modules on the way from its top to the norm are copied shallowly, and
only the copies know the stand-in. Where a norm rounds on its way depends on vLLM's version and on the
operator that it has chosen; it is found out by trying.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.layernorm import GemmaRMSNorm, RMSNorm

from hallmark.kernels.final_norm import FinalNorm, NormRounding, final_norm_reference
from hallmark.poc.engine.module_copy import copy_with

__all__ = ["DeferredNorm", "LeftOut", "defer_final_norm", "find_rounding"]

_ROUNDINGS = [NormRounding(sum=first, scaled=second) for first in (True, False) for second in (False, True)]
# What a root that differs in its last bit leaves of elements rounded the other way is far below this, and
# what rounding at another place does is far above.
_MOST_DIFFERENT = 0.01
_LAST_BITS = 2.0**-20


class LeftOut(NamedTuple):
    """What is still to be done to the output of a model without its norm.

    Attributes:
        is_called: whether the model has called its norm, and not left it out by itself.
        residual: what the norm was to add first; None where nothing is.
    """

    is_called: bool
    residual: Tensor | None


class DeferredNorm(nn.Module):
    """Stands in the final norm's place, and passes on what it is given.

    Args:
        norm: The norm, which stays the model's own: new weights reach it.
    """

    def __init__(self, norm: RMSNorm | GemmaRMSNorm) -> None:
        super().__init__()
        # Inside a tuple PyTorch does not take it for a part of this module.
        self._norm = (norm,)
        self._given: list[tuple[Tensor, Tensor | None]] = []

    @property
    def norm(self) -> RMSNorm | GemmaRMSNorm:
        """The norm itself."""
        return self._norm[0]

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Note the arguments; return them as the norm returns its results."""
        self._given.append((x, residual))
        return x if residual is None else (x, residual)

    def forget(self) -> None:
        """Forget what a forward that did not come to its end has given."""
        self._given.clear()

    def take(self, output: Tensor) -> LeftOut | None:
        """Say what is still to be done to the model's output, and forget what was given.

        Returns:
            None where the output is anything but what passed through here, once and untouched.
        """
        given, self._given = self._given, []
        if not given:
            return LeftOut(is_called=False, residual=None)
        if len(given) > 1 or given[0][0] is not output:
            return None
        return LeftOut(is_called=True, residual=given[0][1])

    def pending(self, residual: Tensor | None, rounding: NormRounding) -> FinalNorm:
        """Describe the norm as it is to be applied."""
        norm = self.norm
        return FinalNorm(
            norm.weight.data, norm.variance_epsilon, residual, isinstance(norm, GemmaRMSNorm), rounding
        )


def defer_final_norm(model: nn.Module, width: int) -> tuple[nn.Module, DeferredNorm] | None:
    """Copy a model so that its final norm is left out.

    Args:
        model: As vLLM loaded it.
        width: Of its hidden state.

    Returns:
        The copy, which shares everything but the norm, and the stand-in; None where not just one module
        outside the layers is of the very class `RMSNorm` or `GemmaRMSNorm`, or that is not over the width.
    """
    norms: list[tuple[str, RMSNorm | GemmaRMSNorm]] = [
        (name, module)
        for name, module in model.named_modules()
        # Layers are numbered: `model.layers.3.input_layernorm`.
        if type(module) in (RMSNorm, GemmaRMSNorm) and not any(part.isdigit() for part in name.split("."))
    ]
    if len(norms) != 1:
        return None
    name, norm = norms[0]
    if norm.weight.shape != (width,):
        return None
    if isinstance(norm, RMSNorm) and (not norm.has_weight or norm.variance_size_override is not None):
        return None
    deferred = DeferredNorm(norm)
    return _copy_along(model, name.split("."), deferred), deferred


def find_rounding(
    deferred: DeferredNorm, hidden: Tensor, residual: Tensor | None, expected: Tensor
) -> NormRounding | None:
    """Find out where a model's own norm rounds.

    Args:
        deferred: Its stand-in.
        hidden: [rows, D], what it is given.
        residual: The same; None where it is given none.
        expected: [rows, D], what the model makes of it.

    Returns:
        None where that is something else, wherever the norm rounds.
    """
    shares = {}
    for rounding in _ROUNDINGS:
        found = final_norm_reference(hidden, residual, deferred.pending(residual, rounding))
        equal = torch.isclose(found.double(), expected.double(), rtol=_LAST_BITS, atol=0.0, equal_nan=True)
        shares[rounding] = 1.0 - float(equal.double().mean())
    best = min(shares, key=lambda rounding: shares[rounding])
    return best if shares[best] <= _MOST_DIFFERENT else None


def _copy_along(module: nn.Module, path: list[str], replacement: nn.Module) -> nn.Module:
    """Copy the modules along a path, with another one at its end."""
    child, *rest = path
    inner = _copy_along(module.get_submodule(child), rest, replacement) if rest else replacement
    return copy_with(module, {child: inner})
