"""Private attention: copies of the layers on scratch, and metadata builders that inference never sees.

Inference's own builders keep persistent buffers that its next step overwrites; ours are made once, at start,
from copies of vLLM's attention groups. The copied layers are found by name through the forward context of a
PoC batch.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.attention import MLAAttention
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.worker.utils import AttentionGroup

from hallmark.poc.core.errors import UnsupportedError
from hallmark.poc.engine.scratch import allocate_scratch, block_tables, scratch_bytes, used_blocks
from hallmark.poc.engine.support import AttentionLayer
from hallmark.poc.protocol.transfer import to_device

# What an attention implementation derives from its layer or its cache on first use (FlashInfer, Triton); a
# copy derives its own.
_DERIVED_STATE = ("bmm1_scale", "bmm2_scale", "o_sf_scale", "_k_scale_cache", "_v_scale_cache")


class UsedCache(NamedTuple):
    """What a batch uses of a layer's cache.

    Attributes:
        blocks: The blocks that its slot mapping names.
        kv_bytes: What its keys and values take in them.
    """

    blocks: slice
    kv_bytes: int


@dataclass(frozen=True, slots=True)
class _PrivateGroup:
    """Layers that share one metadata builder, and what vLLM says of their cache.

    Attributes:
        builder: The builder, ours alone.
        layer_names: The layers.
        block_size: Tokens of a block of their cache.
        token_bytes: What the keys and values of one token take in it.
    """

    builder: Any
    layer_names: tuple[str, ...]
    block_size: int
    token_bytes: int


class PrivateAttention:
    """Everything that attention needs for PoC batches of up to `batch_size * seq_len` tokens.

    Args:
        config: the engine's configuration.
        device: the worker's device.
        groups: the model runner's `attn_groups`, flattened.
        layers: the attention layers of the model, by name.
        named_layers: vLLM's `static_forward_context`, which also holds MoE and other layers, or copies of
            them with a PoC batch's operators.
        num_blocks: blocks of inference's cache; dimension 0 of each layer's cache counts them or parts of
            them.
        batch_size: the largest number of sequences in a batch.
        seq_len: the sequence length that `batch_size` sequences may have at most.
        checkpoint: called before each layer's attention, in the thread that runs the forward.

    Attributes:
        scratch: each layer's private cache, by name; layers of one form share a tensor.
        sharing_targets: for each layer that reads another one's cache, that layer's name.
        layers: what a PoC batch finds in its context, by name.
        observer: called with a layer's name after its attention, where it is set.

    Raises:
        UnsupportedError: a layer belongs to no attention group, or its cache has a form that is not
            supported.
    """

    def __init__(
        self,
        config: VllmConfig,
        device: torch.device,
        groups: list[AttentionGroup],
        layers: Mapping[str, AttentionLayer],
        named_layers: Mapping[str, Any],
        num_blocks: int,
        batch_size: int,
        seq_len: int,
        checkpoint: Callable[[], None],
    ) -> None:
        self._device = device
        self._groups = [_private_group(config, device, group) for group in groups]
        blocks: dict[str, int] = {}
        for group in self._groups:
            # Fewer, longer sequences of as many tokens need at most one block more each.
            needed = batch_size * (-(-seq_len // group.block_size) + 1)
            blocks.update(dict.fromkeys(group.layer_names, needed))
        homeless = sorted(set(layers) - set(blocks))
        if homeless:
            raise UnsupportedError(
                f"PoC does not work with attention layers outside vLLM's KV cache groups: {homeless}"
            )
        for name, layer in layers.items():
            if isinstance(layer.kv_cache, Tensor) and layer.kv_cache.shape[0] < num_blocks:
                raise UnsupportedError(
                    f"PoC does not work with the cache of layer {name!r}: its shape "
                    f"{tuple(layer.kv_cache.shape)} does not begin with the {num_blocks} blocks"
                )
        self.sharing_targets: dict[str, str] = {
            name: target
            for name, layer in layers.items()
            if (target := getattr(layer, "kv_sharing_target_layer_name", None)) is not None
        }
        self.scratch = allocate_scratch(
            {name: layer.kv_cache for name, layer in layers.items()}, self.sharing_targets, blocks
        )
        self.layers: dict[str, Any] = dict(named_layers)
        self.observer: Callable[[str], None] | None = None
        for name in layers:
            after = partial(self._after_attention, name)
            self.layers[name] = _private_layer(named_layers[name], self.scratch[name], checkpoint, after)

    @property
    def memory_bytes(self) -> int:
        """Bytes of scratch held on this rank."""
        return scratch_bytes(self.scratch)

    def used_caches(self, batch_size: int, seq_len: int) -> dict[str, UsedCache]:
        """Return for each layer what a batch of full prefills uses of its cache."""
        return {
            name: UsedCache(
                blocks=used_blocks(batch_size, seq_len, group.block_size),
                kv_bytes=batch_size * seq_len * group.token_bytes,
            )
            for group in self._groups
            for name in group.layer_names
        }

    def metadata(self, batch_size: int, seq_len: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Build attention metadata for one batch of full prefills; never kept from one batch to the next.

        Returns:
            For each layer name its backend's metadata, and its slot mapping, int64 `[batch_size * seq_len]`.
        """
        attention_metadata: dict[str, Any] = {}
        slot_mapping: dict[str, Tensor] = {}
        for group in self._groups:
            common = prefill_metadata(batch_size, seq_len, group.block_size, self._device)
            metadata = group.builder.build(common_prefix_len=0, common_attn_metadata=common)
            for name in group.layer_names:
                attention_metadata[name] = metadata
                slot_mapping[name] = common.slot_mapping
        return attention_metadata, slot_mapping

    def _after_attention(self, layer: str) -> None:
        if self.observer is not None:
            self.observer(layer)


def prefill_metadata(
    batch_size: int, seq_len: int, block_size: int, device: torch.device
) -> CommonAttentionMetadata:
    """Describe a batch of full prefills in scratch to any builder.

    Built on the CPU and copied up in the stream's order: reading a device tensor back, or an ordinary copy,
    would wait for inference's step in flight. What builders would read back is given on the CPU too.
    """
    starts = torch.arange(0, (batch_size + 1) * seq_len, seq_len, dtype=torch.int32)
    lengths = torch.full((batch_size,), seq_len, dtype=torch.int32)
    table, slots = block_tables(batch_size, seq_len, block_size)
    metadata = CommonAttentionMetadata(
        query_start_loc=to_device(starts, device),
        query_start_loc_cpu=starts,
        seq_lens=to_device(lengths, device),
        num_reqs=batch_size,
        num_actual_tokens=batch_size * seq_len,
        max_query_len=seq_len,
        max_seq_len=seq_len,
        block_table_tensor=to_device(table, device),
        slot_mapping=to_device(slots, device),
        causal=True,
        positions=torch.arange(seq_len, dtype=torch.int64, device=device).repeat(batch_size),
        is_prefilling=torch.ones(batch_size, dtype=torch.bool),
        seq_lens_cpu_upper_bound=lengths,
    )
    # vLLM 0.26: FlashInfer's builder asks for it, and later ones for the bound above.
    if hasattr(metadata, "_seq_lens_cpu"):
        metadata._seq_lens_cpu = lengths
    return metadata


def _private_group(config: VllmConfig, device: torch.device, group: AttentionGroup) -> _PrivateGroup:
    live_builder = group.get_metadata_builder()
    # The size of the blocks that the layers' cache tensors count in dimension 0.
    spec = live_builder.kv_cache_spec
    block_size: int = spec.block_size
    private = copy.copy(group)
    private.metadata_builders = []
    with set_current_vllm_config(config):
        private.create_metadata_builders(config, device, block_size)
    builder = private.get_metadata_builder()
    if hasattr(builder, "set_workspace_buffer"):
        # FlashInfer's workspace is large and used within one call only: both builders may use the same one.
        builder.set_workspace_buffer(live_builder._get_workspace_buffer())
    return _PrivateGroup(
        builder, tuple(group.layer_names), block_size, token_bytes=spec.real_page_size_bytes // block_size
    )


def _private_layer(
    layer: AttentionLayer, scratch: Tensor, before: Callable[[], None], after: Callable[[], None]
) -> AttentionLayer:
    """Copy a layer on a cache of its own, and call `before` and `after` around its attention."""
    variants = getattr(layer.impl, "get_impl_variants", lambda: (layer.impl,))()
    if tuple(variants) != (layer.impl,):
        raise UnsupportedError(
            f"PoC does not work with {type(layer.impl).__name__} yet: it is made of several implementations"
        )
    private = copy.copy(layer)
    private.impl = copy.copy(layer.impl)
    for name in _DERIVED_STATE:
        if hasattr(private.impl, name):
            setattr(private.impl, name, None)
    live = layer.kv_cache.untyped_storage().data_ptr()
    for name, value in vars(private.impl).items():
        if isinstance(value, Tensor) and value.untyped_storage().data_ptr() == live:
            raise UnsupportedError(
                f"PoC does not work with {type(layer.impl).__name__} yet: its attribute {name!r} is a view "
                "of inference's KV cache, which a PoC batch would write"
            )
    private.kv_cache = scratch
    # What vLLM's custom op of attention calls on the layer that it finds in the context.
    stopping, name = (
        (private, "forward_impl") if isinstance(private, MLAAttention) else (private.impl, "forward")
    )
    attend = getattr(stopping, name)

    # Here a forward holds the residual, queries, keys and values, none of which is in a buffer that vLLM's
    # layers share.
    def stop_and_attend(*arguments: Any, **named: Any) -> Any:
        before()
        attended = attend(*arguments, **named)
        after()
        return attended

    setattr(stopping, name, stop_and_attend)
    return private
