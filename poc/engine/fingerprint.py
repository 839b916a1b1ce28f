"""The numerics fingerprint: everything that may change the last bits of a hidden state."""

from collections.abc import Mapping
from typing import Any

import torch
import vllm
from vllm.config import VllmConfig

from hallmark.kernels.path import kernel_path
from hallmark.poc.engine.eager_operators import EagerOperators
from hallmark.poc.engine.support import AttentionLayer, PrivateLayer, StateLayer, cache_of, is_state_layer
from hallmark.poc.protocol.model_facts import device_name


def numerics(
    config: VllmConfig,
    layers: Mapping[str, PrivateLayer],
    device: torch.device,
    model_runner: object,
    operators: EagerOperators,
    *,
    is_compiled: bool,
    takes_rows: bool | None,
    final_norm: str | None,
    independent_nonces: bool,
) -> dict[str, str | int | bool]:
    """Name what determines the numerics of a PoC forward in this worker.

    Two nodes with equal fingerprints are expected to agree to the bit at equal batch shapes, others within
    the tolerance. On GPUs layers with states are the exception: Triton's tuner picks tiles of their kernels
    by the clock, and its cache keeps the choice. It is information: it never chooses a tolerance.

    Args:
        config: the engine's configuration.
        layers: the model's layers that keep a cache or a state.
        device: the worker's device.
        model_runner: vLLM's.
        operators: those of a forward that is not compiled.
        is_compiled: whether PoC's forward runs the graph that vLLM compiled.
        takes_rows: whether PoC takes embeddings from the model's table and not from its own function; None
            behind the first stage.
        final_norm: who does the final norm, and how it rounds; None before the last stage.
        independent_nonces: whether a nonce has the same numbers, to the bit, whatever else is in its batch.
    """
    compilation = config.compilation_config
    dtype = str(config.model_config.dtype).removeprefix("torch.")
    with_states = [layer for layer in layers.values() if is_state_layer(layer)]
    with_caches: list[Any] = [layer for layer in layers.values() if not is_state_layer(layer)]
    attention = sorted({type(layer.impl).__name__ for layer in with_caches})
    versions = sorted(
        {str(getattr(layer.impl, "vllm_flash_attn_version", "")) for layer in with_caches} - {"", "None"}
    )
    found: dict[str, str | int | bool | None] = {
        "vllm": vllm.__version__,
        "torch": str(torch.__version__),
        "device": device_name(device),
        "dtype": dtype,
        "quantization": config.model_config.quantization or "none",
        # A model that keeps no keys and values has none that are quantised.
        "kv_cache_dtype": " ".join(sorted({_cache_dtype(layer) for layer in with_caches})) or dtype,
        "attention": " ".join(attention + versions) or "none",
        "states": " ".join(sorted({_states(layer, device) for layer in with_states})) or "none",
        "forward": "compiled" if is_compiled else "eager",
        "operators": " ".join(sorted(compilation.custom_ops)) if is_compiled else operators.describe(),
        "model_runner": type(model_runner).__module__,
        "tensor_parallel_size": config.parallel_config.tensor_parallel_size,
        "pipeline_parallel_size": config.parallel_config.pipeline_parallel_size,
        "custom_all_reduce": not config.parallel_config.disable_custom_all_reduce,
        "kernels": kernel_path(device, config.model_config.get_hidden_size()).value,
        "embedding": None if takes_rows is None else "PoC's" if takes_rows else "the model's own",
        "final_norm": final_norm,
        "independent_nonces": independent_nonces,
    }
    return {name: value for name, value in found.items() if value is not None}


def _cache_dtype(layer: AttentionLayer) -> str:
    """Name what a layer keeps keys and values in: a dtype of PyTorch, or vLLM's name of a quantised cache."""
    dtype: torch.dtype = layer.kv_cache.dtype
    if dtype.itemsize > 1:
        return str(dtype).removeprefix("torch.")
    # In bytes, which do not tell what they stand for.
    stated = str(layer.kv_cache_dtype)
    return "fp8_e4m3" if stated == "fp8" else stated


def _states(layer: StateLayer, device: torch.device) -> str:
    """Name a layer that keeps states, what it keeps them in, and whose kernels it runs."""
    kept = [str(part.dtype).removeprefix("torch.") for part in cache_of(layer)]
    kernels = None if device.type == "cpu" else getattr(layer, "gdn_prefill_backend", None)
    return ":".join([type(layer).__name__, *kept, *([str(kernels)] if kernels else [])])
