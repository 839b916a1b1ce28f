"""Small models of other families, with random weights."""

from pathlib import Path

import torch
from transformers import (
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from hallmark.server.models.small import build_small_model


def _write(directory: Path, kind: type[PreTrainedModel], config: PreTrainedConfig) -> Path:
    """A small model with random weights, and the small model's tokenizer."""
    build_small_model(directory)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config).to(torch.bfloat16)
        # Gemma's norm multiplies by 1 + weight: a weight of zero would not tell one from the other.
        model.model.norm.weight.data.uniform_(-0.5, 0.5)
    model.save_pretrained(directory)
    return directory


def build_deepseek(directory: Path) -> Path:
    """A DeepSeek-V2: one dense layer and two with experts, the latent sizes those of vLLM's kernels."""
    config = DeepseekV2Config(
        hidden_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=None,
        kv_lora_rank=512,
        qk_rope_head_dim=64,
        qk_nope_head_dim=32,
        v_head_dim=32,
        intermediate_size=512,
        moe_intermediate_size=128,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        vocab_size=1024,
        max_position_embeddings=2048,
        initializer_range=0.1,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    return _write(directory, DeepseekV2ForCausalLM, config)


def build_opt(directory: Path) -> Path:
    """An OPT that projects its embeddings to its hidden size, as OPT-350m does."""
    build_small_model(directory)
    config = OPTConfig(
        hidden_size=256,
        word_embed_proj_dim=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=512,
        vocab_size=4096,
        max_position_embeddings=2048,
        do_layer_norm_before=False,
    )
    OPTForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    return directory
