"""Facts about a deployed model that a round depends on, or that a fingerprint names."""

from typing import Any

import torch

__all__ = ["device_name", "first_token"]


def device_name(device: torch.device) -> str:
    """Return a GPU's name; of a CPU the instructions that PyTorch uses, which decide its last bits."""
    if device.type == "cpu":
        return f"cpu {torch.backends.cpu.get_cpu_capability()}"
    return str(torch.cuda.get_device_name(device))


def first_token(tokenizer: Any) -> int | None:
    """Return the token that real prompts begin with, where the tokenizer puts one in front of every text.

    A configuration's `bos_token_id` is not asked: some name a token there with which row 0 is noisier than
    with any other.

    Args:
        tokenizer: Of transformers, or what has its `encode`.
    """
    bare = list(tokenizer.encode("a", add_special_tokens=False))
    whole = list(tokenizer.encode("a"))
    return int(whole[0]) if whole and whole[:1] != bare[:1] else None
