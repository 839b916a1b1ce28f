"""Whether a round's batches are over long before a worker that is at one would be taken for stuck."""

import math

from hallmark.poc.core.errors import UnsupportedError

__all__ = ["check_batch_time"]

# The warm-up measures one batch of an idle machine. In a round others work there too, a device gets warm, and
# longer sequences cost more than the same number of tokens in short ones.
_REFUSED_WITHIN = 1.5
_WARNED_WITHIN = 4.0


def check_batch_time(batch_seconds: float, slice_seconds: float, engine_timeout: float) -> str | None:
    """Refuse to start where a batch would end the server: a worker that is at it for too long is ended.

    A call of a round computes one whole batch at least, on an engine that serves no inference.

    Args:
        batch_seconds: What a batch of the largest shape takes, nothing of it compiled meanwhile.
        slice_seconds: What the longest of its slices of one layer takes.
        engine_timeout: The setting.

    Returns:
        A warning where it fits barely.

    Raises:
        UnsupportedError: It does not fit.
    """
    enough = math.ceil(_WARNED_WITHIN * batch_seconds)
    measured = (
        f"a PoC batch of the largest shape takes {_seconds(batch_seconds)} s here, its longest slice "
        f"{_seconds(slice_seconds)} s, and hallmark.engine_timeout ends a worker that is at one for "
        f"{engine_timeout:g} s: "
    )
    remedy = f"set it to {enough}, or lower max_batch_size or seq_len in the hallmark settings"
    if _REFUSED_WITHIN * batch_seconds > engine_timeout:
        raise UnsupportedError(f"{measured}{remedy}")
    if _WARNED_WITHIN * batch_seconds > engine_timeout:
        return f"{measured}on a busier machine that may end the server; {remedy}"
    return None


def _seconds(number: float) -> str:
    return f"{number:.3g}" if number < 100 else f"{number:.0f}"
