"""Private layers: copies of a model's layers on scratch, and metadata builders that inference never sees.

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
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.kv_cache_interface import MambaSpec
from vllm.v1.worker.utils import AttentionGroup

from hallmark.poc.core.errors import UnsupportedError
from hallmark.poc.engine.layer_copies import private_attention, private_state_layer
from hallmark.poc.engine.memory import check_scratch
from hallmark.poc.engine.scratch import (
    FIRST_BLOCK,
    allocate_scratch,
    block_tables,
    scratch_bytes,
    used_blocks,
)
from hallmark.poc.engine.support import PrivateLayer, cache_of, is_state_layer
from hallmark.poc.protocol.transfer import to_device


class UsedCache(NamedTuple):
    """What a batch uses of a layer's cache, or of its states.

    Attributes:
        blocks: The blocks that its slot mapping names.
        kv_bytes: What its keys and values take in them; None where a block is the state of a sequence.
    """

    blocks: slice
    kv_bytes: int | None


@dataclass(frozen=True, slots=True)
class _PrivateGroup:
    """Layers that share one metadata builder, and what vLLM says of their cache.

    Attributes:
        builder: The builder, ours alone.
        layer_names: The layers.
        block_size: Tokens of a block of their cache; None where a block is the state of a sequence.
        token_bytes: What the keys and values of one token take in it; 0 where there are none.
    """

    builder: Any
    layer_names: tuple[str, ...]
    block_size: int | None
    token_bytes: int

    def tokens_of_a_block(self, seq_len: int) -> int:
        """Return how many tokens of a sequence have a block between them."""
        return seq_len if self.block_size is None else self.block_size

    def used_cache(self, batch_size: int, seq_len: int) -> UsedCache:
        """Return what a batch of full prefills uses of each layer's cache."""
        return UsedCache(
            blocks=used_blocks(batch_size, seq_len, self.tokens_of_a_block(seq_len)),
            kv_bytes=None if self.block_size is None else batch_size * seq_len * self.token_bytes,
        )

    def blocks_for(self, batch_size: int, seq_len: int) -> int:
        """Return how many blocks batches of up to `batch_size * seq_len` tokens need."""
        if self.block_size is None:
            return batch_size
        # Fewer, longer sequences of as many tokens need at most one block more each.
        return batch_size * (-(-seq_len // self.block_size) + 1)


class _NamedLayers(dict[str, Any]):
    """Layers as vLLM's operators find them, of which some begin where they are found.

    What a layer does with its states is one operator, which looks the layer up once, and then calls functions
    that differ with the device.
    """

    def __init__(self, layers: Mapping[str, Any], begin: Mapping[str, Callable[[], None]]) -> None:
        super().__init__(layers)
        self._begin = begin

    def __getitem__(self, name: str) -> Any:
        if name in self._begin:
            self._begin[name]()
        return super().__getitem__(name)


class PrivateLayers:
    """Everything that the layers with caches and states need for PoC batches.

    Args:
        config: the engine's configuration.
        device: the worker's device.
        groups: the model runner's `attn_groups`, flattened.
        layers: the model's layers that keep a cache or a state, by name.
        named_layers: vLLM's `static_forward_context`, which also holds MoE and other layers, or copies of
            them with a PoC batch's operators.
        num_blocks: blocks of inference's cache; dimension 0 of each layer's cache counts them or parts of
            them.
        batch_size: the largest number of sequences in a batch.
        seq_len: the sequence length that `batch_size` sequences may have at most.
        checkpoint: called before what each of the layers does, in the thread that runs the forward.

    Attributes:
        scratch: each layer's private cache, or its states, by name; layers of one form share them.
        sharing_targets: for each layer that reads another one's cache, that layer's name.
        by_name: what a PoC batch finds in its context.
        observer: called with a layer's name when it has written its cache or state, where it is set.

    Raises:
        UnsupportedError: a layer belongs to no attention group, its cache has a form that is not supported,
            or there is no memory for the scratch.
    """

    def __init__(
        self,
        config: VllmConfig,
        device: torch.device,
        groups: list[AttentionGroup],
        layers: Mapping[str, PrivateLayer],
        named_layers: Mapping[str, Any],
        num_blocks: int,
        batch_size: int,
        seq_len: int,
        checkpoint: Callable[[], None],
    ) -> None:
        config = _without_prefixes(config)
        self._device = device
        self._groups = [_private_group(config, device, group) for group in groups]
        blocks: dict[str, int] = {}
        for group in self._groups:
            blocks.update(dict.fromkeys(group.layer_names, group.blocks_for(batch_size, seq_len)))
        homeless = sorted(set(layers) - set(blocks))
        if homeless:
            raise UnsupportedError(
                f"PoC does not work with layers outside vLLM's KV cache groups: {homeless}"
            )
        caches = {name: cache_of(layer) for name, layer in layers.items()}
        for name, cache in caches.items():
            if any(part.shape[0] < num_blocks for part in cache):
                raise UnsupportedError(
                    f"PoC does not work with the cache of layer {name!r}: its shape "
                    f"{[tuple(part.shape) for part in cache]} does not begin with the {num_blocks} blocks"
                )
        self.sharing_targets: dict[str, str] = {
            name: target
            for name, layer in layers.items()
            if (target := getattr(layer, "kv_sharing_target_layer_name", None)) is not None
        }
        self._with_states = frozenset(name for name, layer in layers.items() if is_state_layer(layer))
        planned = allocate_scratch(caches, self.sharing_targets, blocks, torch.device("meta"))
        check_scratch(device, scratch_bytes(planned.values()), batch_size)
        self.scratch = allocate_scratch(caches, self.sharing_targets, blocks)
        self.observer: Callable[[str], None] | None = None
        self._checkpoint = checkpoint
        self._begun: str | None = None
        private = {
            name: private_state_layer(named_layers[name], self.scratch[name], config)
            if name in self._with_states
            else private_attention(
                named_layers[name],
                self.scratch[name][0],
                self._begin_attention,
                partial(self._after_attention, name),
            )
            for name in layers
        }
        begin = {name: partial(self._begin_state, name) for name in self._with_states}
        self.by_name: dict[str, Any] = _NamedLayers({**named_layers, **private}, begin)

    @property
    def scratch_bytes(self) -> int:
        """Bytes of private caches and states held on this rank."""
        return scratch_bytes(self.scratch.values())

    @property
    def state_bytes(self) -> int:
        """Bytes of private states among them."""
        return scratch_bytes(self.scratch[name] for name in self._with_states)

    def used_caches(self, batch_size: int, seq_len: int) -> dict[str, UsedCache]:
        """Return for each layer what a batch of full prefills uses of its cache."""
        return {
            name: group.used_cache(batch_size, seq_len)
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
            block_size = group.tokens_of_a_block(seq_len)
            common = prefill_metadata(batch_size, seq_len, block_size, self._device)
            metadata = group.builder.build(common_prefix_len=0, common_attn_metadata=common)
            for name in group.layer_names:
                attention_metadata[name] = metadata
                slot_mapping[name] = common.slot_mapping
        return attention_metadata, slot_mapping

    def finish_state(self) -> None:
        """Tell the observer of the layer with a state that was the last to begin; it has ended by now."""
        name, self._begun = self._begun, None
        if name is not None and self.observer is not None:
            self.observer(name)

    def _begin_state(self, layer: str) -> None:
        self.finish_state()
        self._checkpoint()
        self._begun = layer
        if self.observer is None:  # which looks for what the layer writes, not for what it makes of nothing
            for states in self.scratch[layer]:
                # Another layer left them, and vLLM 0.26's delta rule would go on there with a single row.
                states[FIRST_BLOCK:-1].zero_()

    def _begin_attention(self) -> None:
        self.finish_state()
        self._checkpoint()

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


def _without_prefixes(config: VllmConfig) -> VllmConfig:
    """Copy a configuration so that a sequence has one state, wherever inference keeps those of prefixes.

    A state that is kept in the middle of a prompt also ends a chunk of the scan there, which moves last bits.
    """
    private = copy.copy(config)
    private.cache_config = copy.copy(config.cache_config)
    private.cache_config.mamba_cache_mode = "none"
    return private


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
    names = tuple(group.layer_names)
    if isinstance(spec, MambaSpec):
        return _PrivateGroup(builder, names, None, token_bytes=0)
    if hasattr(builder, "set_workspace_buffer"):
        # FlashInfer's workspace is large and used within one call only: both builders may use the same one.
        builder.set_workspace_buffer(live_builder._get_workspace_buffer())
    return _PrivateGroup(builder, names, block_size, token_bytes=spec.real_page_size_bytes // block_size)
