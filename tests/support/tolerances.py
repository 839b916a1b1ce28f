"""How far results may be apart, in one table, each with its reason. Everything not here is exact."""

import torch

DISTANCE_TOLERANCES: dict[tuple[torch.dtype, str], float] = {
    # Same model, same CPU instructions: the sums of d itself, in float64 on either side.
    (torch.bfloat16, "same hidden state"): 1e-12,
    # float32 sums of H·P in another order than float64 ones: under 2^-24·D relative, far under 1e-4 s.
    (torch.bfloat16, "post projection in float64"): 1e-6,
}
"""(dtype of the model, what differs) → largest difference of two distances."""
