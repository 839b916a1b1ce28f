"""What vLLM set-ups PoC runs on, and a plain refusal of every other.

A set-up is refused when one of its features reaches past the private forward (state kept outside attention,
ranks that would have to agree on more than tensor parallelism does) or was never tried with it.
"""

import re
from argparse import Namespace
from collections.abc import Mapping
from typing import Any, TypeAlias

from vllm.config import VllmConfig
from vllm.model_executor.layers.attention import Attention, MLAAttention
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.v1.attention.backend import AttentionType

from hallmark.poc.errors import UnsupportedError
from hallmark.poc.settings import Settings

AttentionLayer: TypeAlias = Attention | MLAAttention
"""What a private forward can stand in for."""

FIRST_VERSION = (0, 26)
LAST_VERSION = (0, 32)


def check_version(version: str, allow_unsupported: bool) -> None:
    """Refuse a vLLM outside the tested range.

    Args:
        version: `vllm.__version__`.
        allow_unsupported: the setting `allow_unsupported_vllm`.

    Raises:
        UnsupportedError: the version is outside the range and the setting does not insist.
    """
    match = re.match(r"(\d+)\.(\d+)", version)
    inside = match is not None and FIRST_VERSION <= (int(match[1]), int(match[2])) <= LAST_VERSION
    if not inside and not allow_unsupported:
        supported = ", ".join(
            f"{FIRST_VERSION[0]}.{minor}" for minor in range(FIRST_VERSION[1], LAST_VERSION[1] + 1)
        )
        raise UnsupportedError(
            f"vLLM {version} is not supported: Hallmark supports {supported}. "
            "The setting allow_unsupported_vllm starts it all the same."
        )


def check_config(config: VllmConfig) -> None:
    """Refuse the features of vLLM that PoC does not work with.

    Raises:
        UnsupportedError: with one sentence for each such feature that is on.
    """
    parallel, model, cache = config.parallel_config, config.model_config, config.cache_config
    offload = config.offload_config
    text_config = model.hf_text_config
    # Attributes that not every supported version has are read with a default.
    refusals = {
        "pipeline parallelism (--pipeline-parallel-size > 1)": parallel.pipeline_parallel_size > 1,
        "data parallelism (--data-parallel-size > 1)": parallel.data_parallel_size > 1,
        "prefill context parallelism": getattr(parallel, "prefill_context_parallel_size", 1) > 1,
        "decode context parallelism": parallel.decode_context_parallel_size > 1,
        "several API server processes (--api-server-count > 1)": parallel._api_process_count > 1,
        "sequence-parallel MoE": bool(getattr(parallel, "use_sequence_parallel_moe", False)),
        "dual batch overlap (--enable-dbo)": bool(getattr(parallel, "enable_dbo", False)),
        "expert load balancing (--enable-eplb)": bool(parallel.enable_eplb),
        # Its buffers hold the weights of the layers that come next, which differ where a batch stands still.
        "weight offloading (--offload-group-size, --cpu-offload-gb)": offload.offload_backend == "prefetch"
        or offload.prefetch.offload_group_size > 0
        or offload.uva.cpu_offload_gb > 0,
        "LoRA (--enable-lora)": config.lora_config is not None,
        "sleep mode (--enable-sleep-mode)": bool(model.enable_sleep_mode),
        "KV connectors (--kv-transfer-config)": config.kv_transfer_config is not None,
        "--calculate-kv-scales": bool(getattr(cache, "calculate_kv_scales", False)),
        "--kv-sharing-fast-prefill": bool(getattr(cache, "kv_sharing_fast_prefill", False)),
        "multimodal position schemes (M-RoPE)": bool(model.uses_mrope)
        or bool(getattr(model, "uses_xdrope_dim", 0)),
        "per-layer inputs (as in Gemma 3n)": bool(getattr(text_config, "hidden_size_per_layer_input", 0)),
        "encoder-decoder models": bool(model.is_encoder_decoder),
    }
    refused = [f"PoC does not work with {feature} yet." for feature, is_on in refusals.items() if is_on]
    if refused:
        raise UnsupportedError(" ".join(refused))


def check_front_end(args: Namespace, environment: Mapping[str, str]) -> None:
    """Refuse front ends that do not go through the HTTP server whose routes carry the inference gate.

    Args:
        args: the server's arguments.
        environment: the process's environment.

    Raises:
        UnsupportedError: the gRPC or the Rust front end was asked for.
    """
    if getattr(args, "grpc", False) or getattr(args, "grpc_port", None) is not None:
        raise UnsupportedError("PoC does not work with vLLM's gRPC front end (--grpc, --grpc-port) yet.")
    if environment.get("VLLM_USE_RUST_FRONTEND", "0").strip().lower() not in ("", "0", "false"):
        raise UnsupportedError("PoC does not work with vLLM's Rust front end (VLLM_USE_RUST_FRONTEND) yet.")


def check_limits(config: VllmConfig, settings: Settings) -> None:
    """Refuse settings whose batch is more than the engine was sized for.

    Raises:
        UnsupportedError: with both numbers.
    """
    tokens = settings.batch_size * settings.seq_len
    scheduler = config.scheduler_config
    if tokens > scheduler.max_num_batched_tokens:
        raise UnsupportedError(
            f"a PoC batch of batch_size {settings.batch_size} x seq_len {settings.seq_len} is {tokens} "
            f"tokens, more than vLLM's --max-num-batched-tokens of {scheduler.max_num_batched_tokens}: raise "
            f"that flag to {tokens}, or lower batch_size or seq_len in the hallmark settings"
        )
    if settings.batch_size > scheduler.max_num_seqs:
        raise UnsupportedError(
            f"batch_size {settings.batch_size} is more than vLLM's --max-num-seqs of "
            f"{scheduler.max_num_seqs}: raise that flag, or lower batch_size in the hallmark settings"
        )
    if settings.seq_len > config.model_config.max_model_len:
        raise UnsupportedError(
            f"seq_len {settings.seq_len} is more than vLLM's --max-model-len of "
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
