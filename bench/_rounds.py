"""The round that benches run."""

from hallmark.poc.protocol.round_spec import FIRST_ROW, NO_FIRST, RoundSpec, default_projection_scale

__all__ = ["bench_round"]


def bench_round(hidden_size: int, *, seq_len: int, batch_size: int, block_hash: str = "bench") -> RoundSpec:
    """Return a round of a shape: tokens below 4,096, all rows read, everything else as by default."""
    return RoundSpec(
        digest="0" * 64,
        block_hash=block_hash,
        hidden_size=hidden_size,
        seq_len=seq_len,
        batch_size=batch_size,
        inputs="tokens",
        vocabulary=4096,
        first=NO_FIRST,
        input_scale=1.0,
        projection=True,
        projection_scale=default_projection_scale(hidden_size),
        readout="rows",
        numbers=max(1, min(16, (seq_len - FIRST_ROW) // 4)),
    )
