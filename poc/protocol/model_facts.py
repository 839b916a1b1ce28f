"""Facts about a deployed model that a round depends on, or that a fingerprint names."""

import torch
from torch import Tensor

__all__ = ["device_name", "root_mean_square", "sum_of_squares"]

_ROWS_AT_ONCE = 4096


def device_name(device: torch.device) -> str:
    """A GPU's name; of a CPU the instructions that PyTorch uses, which decide its last bits."""
    if device.type == "cpu":
        return f"cpu {torch.backends.cpu.get_cpu_capability()}"
    return str(torch.cuda.get_device_name(device))


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
