"""What a cheater does to a model to have less work with it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch
from torch import Tensor

__all__ = ["fp8", "int8", "last_row_only", "layer_count", "rounded_weights", "without_layer"]

_MAX_INT8: Final = 127.0
_MAX_FP8: Final = 448.0
_TINY: Final = 1e-12


def layer_count(model: Any) -> int:
    """Return how many decoder layers a causal language model of transformers has."""
    return len(model.base_model.layers)


def int8(weight: Tensor) -> Tensor:
    """Round a weight [out, in] to 255 evenly spaced values a row, symmetric about zero."""
    scale = weight.abs().amax(dim=-1, keepdim=True).clamp_min(_TINY) / _MAX_INT8
    return (weight / scale).round() * scale


def fp8(weight: Tensor) -> Tensor:
    """Round a weight [out, in] to FP8 (E4M3), scaled by row to the whole range."""
    scale = weight.abs().amax(dim=-1, keepdim=True).clamp_min(_TINY) / _MAX_FP8
    return (weight / scale).to(torch.float8_e4m3fn).to(weight.dtype) * scale


@contextmanager
def rounded_weights(model: Any, rounding: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Run with the weights of all layers rounded; embeddings, norms and activations as they are.

    Args:
        model: A causal language model of transformers.
        rounding: From a weight in fp32, [out, in], to what is left of it.
    """
    kept = {
        module: module.weight.data
        for module in model.base_model.layers.modules()
        if isinstance(module, torch.nn.Linear)
    }
    try:
        for module, weight in kept.items():
            module.weight.data = rounding(weight.float()).to(weight.dtype)
        yield
    finally:
        for module, weight in kept.items():
            module.weight.data = weight


@contextmanager
def without_layer(model: Any, index: int) -> Iterator[None]:
    """Run without one decoder layer: what comes in goes out."""

    def hook(_: Any, arguments: tuple[Tensor, ...], __: Tensor) -> Tensor:
        return arguments[0]

    with _hooked(model.base_model.layers[index], hook):
        yield


@contextmanager
def last_row_only(model: Any, layers: int) -> Iterator[None]:
    """Run so many last layers for the last row alone; the others leave the model where they stand."""

    def hook(_: Any, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return torch.cat([arguments[0][:, :-1], output[:, -1:]], dim=1)

    with ExitStack() as stack:
        for layer in model.base_model.layers[-layers:]:
            stack.enter_context(_hooked(layer, hook))
        yield


@contextmanager
def _hooked(layer: Any, hook: Callable[..., Tensor]) -> Iterator[None]:
    """Replace what a layer returns by what a hook makes of its inputs and its output."""
    handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
