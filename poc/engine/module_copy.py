"""Copies of a model's modules that share everything with it but some of their children."""

from collections.abc import Mapping
from types import MethodType

from torch import nn

__all__ = ["copy_with"]


def copy_with(module: nn.Module, children: Mapping[str, nn.Module]) -> nn.Module:
    """Copy a module shallowly, with other children.

    Args:
        module: Nothing of it is changed; new weights of its own reach the copy.
        children: By name, in the place of the module's.

    Returns:
        The copy. Methods of the module that it keeps as attributes are the copy's there.
    """
    copied: nn.Module = object.__new__(type(module))
    copied.__dict__ = {**module.__dict__, "_modules": {**module._modules, **children}}
    for name, value in module.__dict__.items():
        if isinstance(value, MethodType) and value.__self__ is module:
            copied.__dict__[name] = MethodType(value.__func__, copied)
    return copied
