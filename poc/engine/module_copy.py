"""Copies of a model's modules, and of what they keep, that share everything but what is replaced."""

from collections.abc import Mapping
from types import MethodType
from typing import TypeVar

from torch import nn

__all__ = ["copy_with"]

_Kept = TypeVar("_Kept")


def copy_with(original: _Kept, replacements: Mapping[str, object]) -> _Kept:
    """Copy a module, or a plain object, shallowly, with other parts.

    Args:
        original: Nothing of it is changed; new weights of a module reach the copy.
        replacements: By name, in the place of a module's children and of an object's attributes.

    Returns:
        The copy. Methods of the original that it keeps as attributes are the copy's there.
    """
    copied = object.__new__(type(original))
    state = {**vars(original)}
    parts = state
    if isinstance(original, nn.Module):
        parts = state["_modules"] = {**original._modules}
    for name, replacement in replacements.items():
        (parts if name in parts else state)[name] = replacement
    for name, value in state.items():
        if isinstance(value, MethodType) and value.__self__ is original:
            state[name] = MethodType(value.__func__, copied)
    copied.__dict__ = state
    return copied
