"""What a device is called in a numerics fingerprint."""

import torch

__all__ = ["device_name"]


def device_name(device: torch.device) -> str:
    """A GPU's name; of a CPU the instructions that PyTorch uses, which decide its last bits."""
    if device.type == "cpu":
        return f"cpu {torch.backends.cpu.get_cpu_capability()}"
    return str(torch.cuda.get_device_name(device))
