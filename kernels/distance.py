"""The distance of a nonce: from the final hidden state to its target, both on the unit sphere.

``H' = H + H·P_post``, ``y·t = ⟨H', z⟩ / (‖H'‖·‖z‖)``, ``d = sqrt(max(0, 2 − 2·y·t))``.
"""

import torch
from torch import Tensor

from hallmark.kernels.project_residual import project_residual_reference

__all__ = ["distance_reference"]


def distance_reference(hidden: Tensor, target: Tensor, p_post: Tensor | None) -> Tensor:
    """Distances in plain PyTorch.

    Args:
        hidden: [n, D], what the model's final norm returns at the last position.
        target: [n, D], z of each nonce's target stream; not normalised.
        p_post: [D, D]; None where the projection is off.

    Returns:
        float64 [n], from 0 to 2; NaN where the hidden state is not finite or is zero: the nonce failed.
    """
    projected = hidden if p_post is None else project_residual_reference(hidden, p_post, torch.float32)
    y, t = projected.double(), target.double()
    norms: Tensor = torch.linalg.vector_norm(y, dim=1) * torch.linalg.vector_norm(t, dim=1)
    cosine = (y * t).sum(dim=1) / norms
    # Rounding may take the cosine a little past ±1; NaN stays NaN.
    return (2 - 2 * cosine.clamp(-1, 1)).sqrt()
