"""What the original Go client sends."""

from typing import Any, Final

TOY_MODEL: Final[dict[str, Any]] = {
    "dim": 1792,
    "n_layers": 64,
    "n_heads": 64,
    "n_kv_heads": 64,
    "vocab_size": 8196,
    "ffn_dim_multiplier": 10.0,
    "multiple_of": 8192,
    "norm_eps": 1e-5,
    "rope_theta": 10000,
    "use_scaled_rope": False,
    "seq_len": 256,
}
"""Its `params`, of a model that no server of ours has."""
