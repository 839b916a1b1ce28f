"""Rounding inside kernels, the same in Triton's interpreter as on a GPU."""

import triton
import triton.language as tl

__all__ = ["round_to"]


@triton.jit
def round_to(x: tl.tensor, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr) -> tl.tensor:
    """Round fp32 to a dtype, to nearest even.

    Args:
        x: fp32.
        DTYPE: bf16, fp16 or fp32.
        INTERPRETED: whether this runs in the interpreter, which cuts the low half off where it should round
            to bf16.
    """
    if INTERPRETED and tl.bfloat16 == DTYPE:
        bits = x.to(tl.uint32, bitcast=True)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        # NaN has to stay NaN: its fraction would carry over into the sign.
        rounded = tl.where(x != x, (bits >> 16) | 0x40, nearest).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        rounded = x.to(DTYPE)
    return rounded
