"""What an engine must be able to hold and be made of: the limits of a batch, the layers of attention."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from vllm.config import VllmConfig
from vllm.model_executor.layers.attention import Attention, MLAAttention
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.v1.attention.backend import AttentionType

from hallmark.poc.core.errors import UnsupportedError
from hallmark.poc.settings.engine_limits import EngineLimits

AttentionLayer: TypeAlias = Attention | MLAAttention
"""What a private forward can stand in for."""


def check_limits(config: VllmConfig, limits: EngineLimits) -> None:
    """Refuse settings whose batch is more than the engine was sized for.

    Raises:
        UnsupportedError: with both numbers.
    """
    tokens = limits.max_batch_size * limits.seq_len
    scheduler = config.scheduler_config
    if tokens > scheduler.max_num_batched_tokens:
        raise UnsupportedError(
            f"a PoC batch of max_batch_size {limits.max_batch_size} x seq_len {limits.seq_len} is {tokens} "
            f"tokens, more than vLLM's --max-num-batched-tokens of {scheduler.max_num_batched_tokens}: raise "
            f"that flag to {tokens}, or lower max_batch_size or seq_len in the hallmark settings"
        )
    if limits.max_batch_size > scheduler.max_num_seqs:
        raise UnsupportedError(
            f"max_batch_size {limits.max_batch_size} is more than vLLM's --max-num-seqs of "
            f"{scheduler.max_num_seqs}: raise that flag, or lower max_batch_size in the hallmark settings"
        )
    if limits.seq_len > config.model_config.max_model_len:
        raise UnsupportedError(
            f"seq_len {limits.seq_len} is more than vLLM's --max-model-len of "
            f"{config.model_config.max_model_len}: raise that flag, or lower seq_len in the hallmark settings"
        )


def attention_layers(config: VllmConfig, layers: Mapping[str, Any]) -> dict[str, AttentionLayer]:
    """Pick the attention layers that a private forward can stand in for, by exact type.

    Subclasses are refused too: they exist because they treat their cache differently.

    Args:
        config: the engine's configuration.
        layers: vLLM's `static_forward_context`, every layer that looks itself up by name.

    Raises:
        UnsupportedError: some layer keeps a cache or state and is neither plain decoder `Attention` nor MLA
            without an index of its own.
    """
    found: dict[str, AttentionLayer] = {}
    for name, layer in layers.items():
        if _is_supported(layer):
            found[name] = layer
        elif isinstance(layer, Attention | MLAAttention) or (
            isinstance(layer, AttentionLayerBase) and layer.get_kv_cache_spec(config) is not None
        ):
            raise UnsupportedError(
                f"PoC does not work with the layer {name!r} of type {type(layer).__name__} yet: it keeps a "
                "cache or a state of its own, and only plain decoder attention and dense MLA are supported"
            )
    if not found:
        raise UnsupportedError("PoC needs a model with decoder attention layers; this one has none")
    return found


def _is_supported(layer: Any) -> bool:
    if type(layer) is Attention:
        return bool(layer.attn_type == AttentionType.DECODER)
    # Where attention is no opaque op, MLA reaches its cache without the forward context.
    return type(layer) is MLAAttention and not layer.use_sparse and not layer.use_direct_call
