"""Tiny models of the families that networks serve, with random weights.

Each is made by transformers from a configuration of its own, so that transformers is its oracle.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from tolerances import ENGINE_TOLERANCES
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

from hallmark.poc.offline.model import language_model_class
from hallmark.server.models.small import VOCABULARY_SIZE, build_small_model

WINDOW: Final = 16
"""Of sliding attention: far shorter than a nonce."""

STEP_LAYERS: Final = 4

_TOKENS: Final[Mapping[str, Any]] = {
    "vocab_size": VOCABULARY_SIZE,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
_DENSE: Final[Mapping[str, Any]] = {
    **_TOKENS,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
_GROUPED: Final[Mapping[str, Any]] = {**_DENSE, "head_dim": 64}
_LATENT: Final[Mapping[str, Any]] = {
    **_DENSE,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    # Those of vLLM's kernels.
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "moe_intermediate_size": 128,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
}


_STATES: Final[Mapping[str, Any]] = {**_TOKENS, "hidden_size": 256, "num_hidden_layers": 4}
_DELTA: Final[Mapping[str, Any]] = {
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "linear_attention"],
}


_EXPERTS: Final = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True, slots=True)
class Family:
    """A tiny model of a family.

    Attributes:
        kind: The `model_type` of its configuration.
        settings: What its configuration says beside the defaults of its kind.
        arguments: What vLLM is started with beside the model.
        architecture: What vLLM takes it for, where that is something else than its kind's.
        dtype: What it runs in.
        needs_gpu: Whether vLLM has no kernel for it on CPUs.
        stops: How many of its layers keep a cache or a state, where that is not each one.
    """

    kind: str
    settings: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    architecture: str | None = None
    dtype: str = "float32"
    stops: int | None = None
    needs_gpu: bool = False

    @property
    def layers(self) -> int:
        """How many layers it has that keep a cache or a state."""
        if self.stops is not None:
            return self.stops
        settings = self.settings.get("text_config", self.settings)
        count = settings.get("num_hidden_layers", settings.get("n_layer"))
        assert isinstance(count, int)
        return count

    @property
    def has_experts(self) -> bool:
        """Whether rows are dealt out to experts."""
        return any("expert" in name for name in self.settings)

    @property
    def experts(self) -> tuple[int, int]:
        """To how many experts a row goes, and of how many; no row to any where there are none."""
        counts = [self.settings[name] for name in _EXPERTS if name in self.settings]
        return (self.settings["num_experts_per_tok"], *counts) if counts else (0, 0)

    @property
    def picks_experts(self) -> bool:
        """Whether a row goes to some experts only, and to others where it is rounded otherwise."""
        chosen, count = self.experts
        return chosen < count

    def tolerance(self, dtype: str) -> float:
        """How far numbers of vLLM and of transformers may be apart in a dtype, in units of s."""
        if dtype == "bfloat16" and self.picks_experts:
            return ENGINE_TOLERANCES[dtype, "experts"]
        return ENGINE_TOLERANCES[dtype, "linear attention" if self.has_linear_attention else "transformers"]

    @property
    def has_linear_attention(self) -> bool:
        """Whether layers keep the state of a gated delta rule."""
        return "linear_num_key_heads" in self.settings

    @property
    def has_states(self) -> bool:
        """Whether some of its layers keep a state of each sequence, and no keys and values."""
        return (
            self.kind.startswith("mamba")
            or any(name.startswith(("mamba", "conv_L")) for name in self.settings)
            or self.has_linear_attention
        )

    def config(self) -> PreTrainedConfig:
        """Its configuration, with the class that loads it."""
        found: PreTrainedConfig = AutoConfig.for_model(self.kind, **self.settings)
        names = {**MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES, **MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}
        found.architectures = [self.architecture or names[self.kind]]
        return found


# vLLM's rotary operator for CPUs computes another rotation where q and k are strided or have three
# dimensions, as these do.
_PLAIN_ROTATION: Final = {"compilation_config": {"custom_ops": ["all", "-rotary_embedding"]}}

# Where a prompt is longer than a block, vLLM 0.32 for CPUs fails: its scan keeps no state of a prefix.
_NO_PREFIXES: Final = {"enable_prefix_caching": False}

# To look at images vLLM would need a processor's configuration.
_NO_IMAGES: Final = {"limit_mm_per_prompt": {"image": 0, "video": 0}}

FAMILIES: Final[Mapping[str, Family]] = {
    "Llama": Family("llama", _GROUPED),
    "Mistral, sliding": Family("mistral", {**_GROUPED, "sliding_window": WINDOW}),
    "Phi-3": Family("phi3", _DENSE),
    "Granite": Family(
        "granite",
        {
            **_DENSE,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.7,
            "attention_multiplier": 0.2,
            "logits_scaling": 4.0,
        },
    ),
    "OLMo-2": Family("olmo2", _DENSE),
    "GPT-2": Family("gpt2", {**_TOKENS, "n_embd": 256, "n_layer": 4, "n_head": 4, "n_positions": 2048}),
    "Gemma 2": Family(
        "gemma2",
        {**_GROUPED, "tie_word_embeddings": True, "sliding_window": WINDOW, "query_pre_attn_scalar": 64},
    ),
    "Gemma 3": Family(
        "gemma3_text",
        # Every sixth layer looks at all rows.
        {**_GROUPED, "num_hidden_layers": 6, "sliding_window": WINDOW, "query_pre_attn_scalar": 64},
    ),
    "gpt-oss": Family(
        "gpt_oss",
        {
            **_GROUPED,
            "intermediate_size": 256,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": WINDOW,
        },
    ),
    "Qwen3-MoE": Family(
        "qwen3_moe",
        {
            **_GROUPED,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 128,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
        },
    ),
    "Mixtral": Family("mixtral", {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "GLM-4-MoE": Family(
        "glm4_moe",
        {
            **_GROUPED,
            "moe_intermediate_size": 128,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "partial_rotary_factor": 0.5,
        },
    ),
    "DeepSeek-V2": Family(
        "deepseek_v2",
        {**_LATENT, "q_lora_rank": None, "n_group": 1, "topk_group": 1},
        _PLAIN_ROTATION,
    ),
    "DeepSeek-V3": Family(
        "deepseek_v3",
        {
            **_LATENT,
            "q_lora_rank": 128,
            "n_group": 2,
            "topk_group": 1,
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
        },
        _PLAIN_ROTATION,
    ),
    # vLLM's Qwen2-VL and what is made of it need torchvision.
    "PaddleOCR-VL": Family(
        "paddleocr_vl",
        {
            "text_config": {
                **_GROUPED,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
            },
            "vision_config": {
                "hidden_size": 64,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 4,
            },
            "tie_word_embeddings": False,
        },
        _NO_IMAGES,
    ),
    # A Qwen2 whose final norm is no part of its forward.
    "MiMo": Family("qwen2", _DENSE, architecture="MiMoForCausalLM"),
    "Mamba": Family("mamba", {**_STATES, "state_size": 16}, needs_gpu=True),
    "Mamba 2": Family(
        "mamba2",
        # With more groups transformers norms all of them as one, which vLLM and the authors' code do not.
        {**_STATES, "state_size": 32, "num_heads": 8, "head_dim": 64, "n_groups": 1, "chunk_size": 16},
        _NO_PREFIXES,
    ),
    "Jamba": Family(
        "jamba",
        {
            **_DENSE,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "mamba_d_state": 16,
        },
        needs_gpu=True,
    ),
    "Falcon-H1": Family(
        "falcon_h1",
        {
            **_GROUPED,
            "mamba_d_ssm": 256,
            "mamba_n_heads": 8,
            "mamba_d_head": 32,
            "mamba_d_state": 32,
            "mamba_n_groups": 2,
            "mamba_chunk_size": 16,
            "embedding_multiplier": 3.0,
            "attention_in_multiplier": 0.8,
            "attention_out_multiplier": 0.7,
            "key_multiplier": 0.6,
            "ssm_in_multiplier": 0.9,
            "ssm_out_multiplier": 0.5,
            "ssm_multipliers": [0.9, 0.8, 1.1, 1.2, 0.7],
            "mlp_multipliers": [0.9, 0.6],
            "lm_head_multiplier": 0.5,
        },
        _NO_PREFIXES,
        stops=8,  # attention and a state-space layer beside each other
    ),
    "Nemotron-H": Family(
        "nemotron_h",
        {
            **_GROUPED,
            "num_hidden_layers": 6,
            "hybrid_override_pattern": "M-M*M-",
            "mamba_num_heads": 8,
            "mamba_head_dim": 32,
            "ssm_state_size": 32,
            "n_groups": 2,
            "chunk_size": 16,
        },
        _NO_PREFIXES,
        stops=4,  # MLPs are layers of their own
    ),
    "Granite 4": Family(
        "granitemoehybrid",
        {
            **_DENSE,
            "layer_types": ["mamba", "attention", "mamba", "mamba"],
            "mamba_n_heads": 8,
            "mamba_d_head": 64,
            "mamba_d_state": 32,
            "mamba_n_groups": 1,
            "mamba_chunk_size": 16,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 256,
            "position_embedding_type": "nope",
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.7,
            "attention_multiplier": 0.2,
            "logits_scaling": 4.0,
        },
        _NO_PREFIXES,
    ),
    "LFM2": Family(
        "lfm2",
        {
            **_DENSE,
            "layer_types": ["conv", "full_attention", "conv", "conv"],
            "conv_L_cache": 3,
            "conv_dim": 256,
            "block_dim": 256,
        },
        _PLAIN_ROTATION,
    ),
    "Qwen3-Next": Family(
        "qwen3_next",
        {
            **_GROUPED,
            **_DELTA,
            # All of them: bf16 would send a row to another one than transformers does, which moves it far.
            "num_experts": 4,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 128,
            "shared_expert_intermediate_size": 128,
        },
        dtype="bfloat16",  # in which alone vLLM for CPUs has its linear attention
    ),
}

REFUSED: Final[Mapping[str, tuple[Family, str]]] = {
    "DeepSeek-V3.2": (
        Family("deepseek_v32", {**_LATENT, "q_lora_rank": 128, "index_topk": 64}),
        "sparse attention by an index",
    ),
    "Llama 4": (Family("llama4_text", {**_GROUPED, "attention_chunk_size": WINDOW}), "attention in chunks"),
    "Gemma 3n": (Family("gemma3n_text", _GROUPED), "per-layer inputs"),
}
"""Families whose configuration is refused, and words of the sentence that says so."""


def write_configuration(family: Family, directory: Path) -> Path:
    """Write a model's configuration, without its weights, and the small model's tokenizer."""
    build_small_model(directory)
    (directory / "model.safetensors").unlink()
    family.config().save_pretrained(directory)
    return directory


def build_family(name: str, directory: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a model of a family and the small model's tokenizer into a directory."""
    family = FAMILIES[name]
    build_small_model(directory)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = family.config()
        model = language_model_class(config).from_config(config)
        _draw_weights(model)
    model.to(dtype).save_pretrained(directory)
    model.config.architectures = family.config().architectures
    model.config.save_pretrained(directory)
    return directory


def write_step(directory: Path) -> Path:
    """Write the configuration of a tiny Step-3.5, which transformers does not know, and no weights."""
    build_small_model(directory)
    (directory / "model.safetensors").unlink()
    config = {
        **_GROUPED,
        "model_type": "step3p5",
        "architectures": ["Step3p5ForCausalLM"],
        "num_hidden_layers": STEP_LAYERS,
        "num_attention_groups": 2,
        "moe_num_experts": 4,
        "moe_top_k": 2,
        "moe_intermediate_size": 128,
        "moe_router_activation": "softmax",  # vLLM's router for CPUs has no sigmoid without groups
        "share_expert_dim": 128,
        "layer_types": ["full_attention", "sliding_attention"] * (STEP_LAYERS // 2),
        "sliding_window": WINDOW,
    }
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


@torch.no_grad()
def _draw_weights(model: PreTrainedModel) -> None:
    """Draw weights with which each layer adds about as much as it finds, and no two norms are the same."""
    for name, parameter in model.named_parameters():
        if "conv" in name and parameter.dim() > 1:
            parameter.normal_(0, 0.5)  # a filter sums a few rows only
        elif parameter.dim() > 1:
            parameter.normal_(0, 0.08)
        elif "norm" in name or "ln_" in name:
            # Added: Gemma's norms multiply by 1 + weight, others by the weight.
            parameter.add_(torch.empty_like(parameter).uniform_(-0.3, 0.3))
        else:
            parameter.uniform_(-0.3, 0.3)
