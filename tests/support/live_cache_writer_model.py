"""The model of `live_cache_writer`, in a file of its own: only vLLM's processes import it."""

import torch
from vllm.config import VllmConfig
from vllm.forward_context import get_forward_context
from vllm.model_executor.models.qwen3 import Qwen3Attention, Qwen3ForCausalLM


class WritingAttention(Qwen3Attention):
    """Attention that has written its keys and values before vLLM's layer is called."""

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        qkv, _ = self.qkv_proj(hidden_states)
        q, k, v = qkv.split([self.q_size, self.kv_size, self.kv_size], dim=-1)
        q = self.q_norm(q.view(-1, self.num_heads, self.head_dim)).view(q.shape)
        k = self.k_norm(k.view(-1, self.num_kv_heads, self.head_dim)).view(k.shape)
        q, k = self.rotary_emb(positions, q, k)
        slots = get_forward_context().slot_mapping
        if isinstance(slots, dict) and self.attn.layer_name in slots and self.attn.kv_cache.numel():
            k, v = (each.view(-1, self.num_kv_heads, self.head_dim) for each in (k, v))
            self.attn.impl.do_kv_cache_update(
                self.attn, k, v, self.attn.kv_cache, slots[self.attn.layer_name]
            )
        output: torch.Tensor
        output, _ = self.o_proj(self.attn(q, None, None))
        return output


class LiveCacheWriterForCausalLM(Qwen3ForCausalLM):
    """A Qwen3 with such attention in every layer."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        for layer in self.model.layers:
            layer.self_attn.__class__ = WritingAttention
