"""The round that benches run."""

from hallmark.poc.protocol.round_spec import RoundSpec

__all__ = ["bench_round"]


def bench_round(hidden_size: int, *, seq_len: int, batch_size: int, block_hash: str = "bench") -> RoundSpec:
    """Return a round with projections, of a shape."""
    return RoundSpec(
        digest="0" * 64,
        block_hash=block_hash,
        hidden_size=hidden_size,
        seq_len=seq_len,
        batch_size=batch_size,
        input_scale=2.0**-5,
        projection=True,
        projection_scale=0.01,
    )
