"""Philox4x32-10, the counter-based generator behind every stream.

J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["philox4x32", "random_words"]

_MULTIPLIER_0 = tl.constexpr(0xD2511F53)
_MULTIPLIER_1 = tl.constexpr(0xCD9E8D57)
_WEYL_0 = tl.constexpr(0x9E3779B9)
_WEYL_1 = tl.constexpr(0xBB67AE85)
_ROUNDS = tl.constexpr(10)
_WORD = 0xFFFFFFFF


@triton.jit
def random_words(
    c0: tl.tensor, c1: tl.tensor, c2: tl.tensor, c3: tl.tensor, k0: tl.tensor, k1: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Return four random words for each counter and key, inside a kernel.

    Triton's own `tl.philox` gives the same words by a multiplication for each half of a product; here the
    64-bit product is one instruction (IMAD.WIDE), which leaves 11 instructions an element instead of 13
    (sm_90, Triton 3.9).

    Args:
        c0: uint32, as are all others, which have its shape.
        c1: The counter's second word.
        c2: Its third.
        c3: Its last.
        k0: The key's first word.
        k1: Its second.
    """
    for _ in tl.static_range(_ROUNDS):
        product0 = c0.to(tl.uint64) * _MULTIPLIER_0
        product1 = c2.to(tl.uint64) * _MULTIPLIER_1
        c0 = (product1 >> 32).to(tl.uint32) ^ c1 ^ k0
        c1 = product1.to(tl.uint32)
        c2 = (product0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c3 = product0.to(tl.uint32)
        k0 += _WEYL_0
        k1 += _WEYL_1
    return c0, c1, c2, c3


def philox4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return four random words for each counter and key, in plain PyTorch.

    Args:
        counter: Four int64 tensors of values below 2**32, of shapes that broadcast to one.
        key: Two of the same kind, whose shapes broadcast to the counter's.

    Returns:
        Four int64 tensors of values below 2**32 in the counter's shape.
    """
    # PyTorch leaves this function untyped.
    shape = torch.broadcast_shapes(*(word.shape for word in counter))  # type: ignore[no-untyped-call]
    c0, c1, c2, c3 = (word.expand(shape).clone(memory_format=torch.contiguous_format) for word in counter)
    product0, product1 = torch.empty_like(c0), torch.empty_like(c0)
    k0, k1 = key
    # In place, because the time goes into memory traffic. c1 and c3 are whole products here: their upper
    # halves, like the sign that the shift brings in, are masked off where they are used.
    for _ in range(_ROUNDS.value):
        torch.mul(c0, _MULTIPLIER_0.value, out=product0)
        torch.mul(c2, _MULTIPLIER_1.value, out=product1)
        torch.bitwise_right_shift(product1, 32, out=c0)
        c0.bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(_WORD)
        torch.bitwise_right_shift(product0, 32, out=c2)
        c2.bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(_WORD)
        c1, c3, product0, product1 = product1, product0, c1, c3
        k0 = (k0 + _WEYL_0.value) & _WORD
        k1 = (k1 + _WEYL_1.value) & _WORD
    return c0, c1.bitwise_and_(_WORD), c2, c3.bitwise_and_(_WORD)
