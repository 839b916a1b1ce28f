"""What the machine can do, measured in the same run as whatever is compared with it."""

import torch
from _report import median_seconds

# Large enough to leave every cache behind, small enough for a CPU to finish.
_COPY_BYTES = {"cuda": 2**32, "cpu": 2**28}
_PRODUCT_SIZE = {"cuda": 8192, "cpu": 1024}


def measured_ceilings(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Return bytes a second of a copy, read and written, and FLOP a second of a matrix product."""
    source = torch.empty(_COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    source.random_()
    copy = torch.empty_like(source)
    size = _PRODUCT_SIZE[device.type]
    # Random numbers: zeros make a product faster than any real one.
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    seconds = median_seconds({"copy": lambda: copy.copy_(source), "product": lambda: torch.mm(a, b)})
    return {
        "bytes_per_second": 2 * source.numel() / seconds["copy"],
        "flops_per_second": 2.0 * size**3 / seconds["product"],
    }
