"""How far results may be apart, in one table, each with its reason. Everything not here is exact."""

import torch

DISTANCE_TOLERANCES: dict[tuple[torch.dtype, str], float] = {
    # Same model, same CPU instructions: the sums of d itself, in float64 on either side.
    (torch.bfloat16, "same hidden state"): 1e-12,
    # float32 sums of H·P in another order than float64 ones: under 2^-24·D relative, far under 1e-4 s.
    (torch.bfloat16, "post projection in float64"): 1e-6,
    # The demo model of width 256 (s = 0.0442): 0.15 s. bench/numerics.py finds up to 0.07 s between its
    # bf16, fp16 and fp32 arithmetic and up to 0.03 s between instruction sets of one CPU.
    (torch.bfloat16, "published vectors"): 0.15 * 0.044194173824159216,
}
"""(dtype of the model, what differs) → largest difference of two distances."""

ENGINE_TOLERANCES: dict[tuple[str, str], float] = {
    # Each of these changes where bf16 is rounded inside the model, and no more. For the demo model that
    # moves a distance by up to 0.07 s (bench/results/numerics-*.json: fp16 and fp32 against bf16); twice
    # that is allowed, which is less than half of a round's default tolerance, 0.35 s.
    ("bfloat16", "transformers"): 0.15,  # another implementation of norms, attention and rotary embedding
    ("bfloat16", "two ranks"): 0.15,  # sums of two halves, each rounded before the all-reduce
    ("bfloat16", "other custom ops"): 0.15,  # a server that compiles picks other kernels for the same layers
}
"""(dtype of the model, what differs) → largest difference of two distances, in units of s."""
