"""The scale of an embedding table, which is where a round's `input_scale` comes from by default."""

import torch
from torch import Tensor

__all__ = ["root_mean_square", "sum_of_squares"]

_ROWS_AT_ONCE = 4096


def sum_of_squares(table: Tensor) -> float:
    """Squares in float32, their sum in float64, so that whoever sums the same table has the same number.

    Args:
        table: [rows, columns] of any floating-point dtype. It is summed in slices: a large one in float32
            would not fit beside a KV cache.
    """
    slices = torch.split(table, _ROWS_AT_ONCE)
    return sum(float(rows.float().square().sum(dtype=torch.float64)) for rows in slices)


def root_mean_square(table: Tensor) -> float:
    """The root of `sum_of_squares` over the number of elements."""
    return float((sum_of_squares(table) / table.numel()) ** 0.5)
