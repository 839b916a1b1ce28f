"""The numbers of a nonce, from what is read of its final hidden states and from its targets.

``H' = H + H·P_post``, ``c = √D · ⟨H', z⟩ / (‖H'‖·‖z‖)``: of standard deviation 1 for every model.
"""

import math

import torch
from torch import Tensor

from hallmark.kernels.project_residual import project_residual_reference

__all__ = ["numbers_reference"]


def numbers_reference(hidden: Tensor, targets: Tensor, p_post: Tensor | None) -> Tensor:
    """Compute the k numbers of each nonce in float64, in plain PyTorch.

    Args:
        hidden: [n, k, D], what is read of the final hidden states.
        targets: [n, k, D], z of each nonce's target stream; not normalised.
        p_post: bfloat16 [D, D]; None where the projection is off.

    Returns:
        float64 [n, k], from −√D to √D; NaN in the whole row where one of its numbers is not finite or one of
        its H' is zero: the nonce failed.
    """
    projected = hidden if p_post is None else project_residual_reference(hidden, p_post, torch.float32)
    y, z = projected.double(), targets.double()
    norms = torch.linalg.vector_norm(y, dim=2) * torch.linalg.vector_norm(z, dim=2)
    # Rounding may take a cosine a little past ±1; 0/0 is NaN, and NaN stays NaN.
    numbers = math.sqrt(hidden.shape[2]) * ((y * z).sum(dim=2) / norms).clamp(-1, 1)
    failed = ~numbers.isfinite().all(dim=1, keepdim=True)
    found: Tensor = numbers.masked_fill(failed, math.nan)
    return found
