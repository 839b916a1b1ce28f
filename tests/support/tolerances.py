"""How far results may be apart, in one table, each with its reason. Everything not here is exact."""

import torch

DISTANCE_TOLERANCES: dict[tuple[torch.dtype, str], float] = {
    # Same model, same CPU instructions: the sums of d itself, in float64 on either side.
    (torch.bfloat16, "same hidden state"): 1e-12,
    (torch.float32, "same hidden state"): 1e-12,
    # float32 sums of H·P in another order than float64 ones: under 2^-24·D relative, far under 1e-4 s.
    (torch.bfloat16, "post projection in float64"): 1e-6,
    (torch.float32, "post projection in float64"): 1e-6,
}
"""(dtype of the model, what differs) → largest difference of two distances."""

NUMBER_TOLERANCES: dict[tuple[torch.dtype, str], float] = {
    # protocol.md: implementations compute c from H within 1e-4. A float32 sum of bf16 rows is nearly always
    # exact, so that hardly an element is rounded to bf16 the other way; of wider rows it loses a few 2^-24.
    (torch.bfloat16, "sums in another order"): 1e-4,
    # bench/numerics.py finds up to 0.093 between bf16, fp16 and fp32 arithmetic of the small model and up to
    # 0.045 between instruction sets of one CPU.
    (torch.bfloat16, "published vectors"): 0.2,
    (torch.float16, "sums in another order"): 1e-5,
    (torch.float32, "sums in another order"): 1e-5,
}
"""(dtype of the model, what differs) → largest difference of two numbers."""

ENGINE_TOLERANCES: dict[tuple[str, str], float] = {
    # Each of these changes where bf16 is rounded inside the model, and no more. For the small model that
    # moves a distance by up to 0.07 s (bench/results/numerics-*.json: fp16 and fp32 against bf16); twice
    # that is allowed, which is less than half of a round's default tolerance, 0.35 s.
    ("bfloat16", "transformers"): 0.15,  # another implementation of norms, attention and rotary embedding
    ("bfloat16", "two ranks"): 0.15,  # sums of two halves, each rounded before the all-reduce
    ("bfloat16", "other custom ops"): 0.15,  # a server that compiles picks other kernels for the same layers
    # vLLM's delta rule for CPUs rounds products of its chunks to bf16, and some processors' states too, which
    # transformers keeps in float32: 0.13.
    ("bfloat16", "linear attention"): 0.3,
    # A row that is rounded otherwise may go to other experts: 1.1 (bench/results/family_noise-*.json). Of 64
    # forged numbers the furthest is off by 3 and more.
    ("bfloat16", "experts"): 2.0,
    # Transformers rounds no activations to 8 bits, which moves numbers by 0.07; and where a processor has no
    # VNNI, oneDNN's products of 8 bits saturate in 16: 0.24. Forged numbers are off by 1.4, some by 3.
    ("bfloat16", "INT8"): 1.2,
    # vLLM makes bf16 weights of 4 bits, as transformers is given them: 0.06. But where a processor has no
    # AVX512_BF16, it cuts them off to bf16 instead of rounding them: 0.12. Numbers of the weights before they
    # were quantised are off by 1.3, those of zero points in another order by 3.
    ("bfloat16", "4 bits"): 0.3,
    # float32 keeps 16 bits more, which would leave 1e-6 s; but each kernel, on each instruction set, has its
    # own way to approximate exponentials and roots.
    ("float32", "transformers"): 1e-3,
    ("float32", "two ranks"): 1e-3,
    ("float32", "other custom ops"): 1e-3,
}
"""(dtype of the model, what differs) → largest difference of two distances, in units of s."""

ROUNDOFF: dict[torch.dtype, float] = {
    torch.bfloat16: 2.0**-8,  # 8 significant bits, to nearest: half of the last one's place
    torch.float16: 2.0**-11,  # 11 bits
    torch.float32: 2.0**-24,  # 24 bits
}
"""dtype → largest relative error of one rounding to it."""

MIN_HALF_STEP: dict[torch.dtype, float] = {
    torch.bfloat16: 2.0**-134,  # subnormal numbers are 2^-133 apart
    torch.float16: 2.0**-25,  # 2^-24
    torch.float32: 2.0**-150,  # 2^-149
}
"""dtype → largest error of rounding a number that is too small for the relative one to hold."""

SUM_TOLERANCES: dict[tuple[torch.dtype, str], float] = {
    # A float32 sum loses at most 2^-24 of the terms' absolute sum for each addition.
    (torch.bfloat16, "cpu"): 2.0**-24,
    (torch.float16, "cpu"): 2.0**-24,
    (torch.float32, "cpu"): 2.0**-24,
    # Tensor cores add what they have aligned to the largest term, cut off instead of rounded, and an fp16
    # number counts twice, as two bf16 ones.
    (torch.bfloat16, "cuda"): 2.0**-22,
    (torch.float16, "cuda"): 2.0**-21,
    (torch.float32, "cuda"): 2.0**-24,  # fused multiply-adds, no tensor cores
}
"""(dtype of X, where) → error of X + X·P for each product and unit of the terms' absolute sum."""

KERNEL_NUMBER_TOLERANCES: dict[tuple[torch.dtype, str], float] = {
    # protocol.md: implementations compute c from H within 1e-4.
    (torch.bfloat16, "signed sums"): 1e-4,
    (torch.float16, "signed sums"): 1e-4,
    (torch.float32, "signed sums"): 1e-4,
    # A sum next to a tie may be rounded to its other neighbour, and a reciprocal square root that differs in
    # its last bit moves some elements of H over one, each by its last place, 2^-7 or 2^-10: where all of them
    # move at random, 2^-8 or 2^-11; twice that, and a little more for the narrowest rows, on which single
    # elements weigh more.
    (torch.bfloat16, "norm"): 0.01,
    (torch.float16, "norm"): 0.002,
    (torch.float32, "norm"): 1e-4,
}
"""(dtype of the model, what the kernel starts from) → largest difference of two numbers."""
