"""The model without its final norm, for a forward that norms the last rows only.

Nothing of the model is changed: the modules on the way from its top to the norm are copied shallowly, and
only the copies know the stand-in.
"""

from torch import Tensor, nn
from vllm.model_executor.layers.layernorm import RMSNorm

from hallmark.kernels.final_norm import FinalNorm
from hallmark.poc.engine.module_copy import copy_with

__all__ = ["DeferredNorm", "defer_final_norm", "one_final_norm"]


class DeferredNorm(nn.Module):
    """Stands in the final norm's place, and passes on what it is given.

    Args:
        norm: The norm, which stays the model's own: new weights reach it.
    """

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        # Inside a tuple PyTorch does not take it for a part of this module.
        self._norm = (norm,)
        self._given: list[tuple[Tensor, Tensor | None]] = []

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Note the arguments; return them as the norm returns its results."""
        self._given.append((x, residual))
        return x if residual is None else (x, residual)

    def take(self, output: Tensor) -> FinalNorm | None:
        """What is still to be done to the model's output, and forget what was given.

        Returns:
            None where the output is anything but what passed through here, once and untouched, or where
            the norm's weight has another dtype, which it would round by.
        """
        given, self._given = self._given, []
        (norm,) = self._norm
        if len(given) != 1 or given[0][0] is not output or norm.weight.dtype != output.dtype:
            return None
        return FinalNorm(norm.weight.data, norm.variance_epsilon, given[0][1])


def defer_final_norm(model: nn.Module) -> tuple[nn.Module, DeferredNorm] | None:
    """Copy a model so that its final norm is left out.

    Args:
        model: As vLLM loaded it.

    Returns:
        The copy, which shares everything but the norm, and the stand-in; None where no one norm outside the
        layers is exactly an `RMSNorm` over the whole width.
    """
    norms = _final_norms(model)
    if len(norms) != 1:
        return None
    name, norm = norms[0]
    if not norm.has_weight or norm.variance_size_override is not None:
        return None
    deferred = DeferredNorm(norm)
    return _copy_along(model, name.split("."), deferred), deferred


def one_final_norm(model: nn.Module) -> RMSNorm | None:
    """Return the one norm outside the layers; None where there is none, or several."""
    norms = _final_norms(model)
    return norms[0][1] if len(norms) == 1 else None


def _final_norms(model: nn.Module) -> list[tuple[str, RMSNorm]]:
    return [
        (name, module)
        for name, module in model.named_modules()
        # Layers are numbered: `model.layers.3.input_layernorm`.
        if type(module) is RMSNorm and not any(part.isdigit() for part in name.split("."))
    ]


def _copy_along(module: nn.Module, path: list[str], replacement: nn.Module) -> nn.Module:
    """Copy the modules along a path, with another one at its end."""
    child, *rest = path
    inner = _copy_along(module.get_submodule(child), rest, replacement) if rest else replacement
    return copy_with(module, {child: inner})
