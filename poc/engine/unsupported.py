"""The features of vLLM that PoC does not work with: one table, read by flags and by configurations.

A feature is refused when it reaches past the private forward (state kept outside attention, ranks that would
have to agree on more than tensor parallelism does), takes another way in than the HTTP server whose routes
carry the inference gate, or was never tried. Nothing of vLLM is imported: flags are read before vLLM starts.
"""

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from hallmark.poc.core.errors import UnsupportedError

if TYPE_CHECKING:
    from vllm.config import VllmConfig

__all__ = [
    "FEATURES",
    "Feature",
    "check_arguments",
    "check_config",
    "check_developer_mode",
    "check_flags",
]

FlagTest: TypeAlias = Callable[[object], bool]


def _is_on(value: object) -> bool:
    return value is True


def _is_given(value: object) -> bool:
    return value is not None and value is not False


def _is_above_zero(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _is_above_one(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 1


def _is_error(value: object) -> bool:
    return value == "error"


def _is_not_one(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value != 1


def _has_deepstack(configuration: Mapping[str, Any]) -> bool:
    """Return whether a model's configuration, or one inside of it, says what is added to which layer."""
    return any(
        (str(name).startswith("deepstack") and bool(value))
        or (isinstance(value, Mapping) and _has_deepstack(value))
        for name, value in configuration.items()
    )


@dataclass(frozen=True)
class Feature:
    """A feature of vLLM that is refused.

    Attributes:
        name: What a refusal calls it.
        flags: For each flag of `vllm serve` that asks for it, without dashes in front, whether a value does.
            Values are numbers, True for a switch that is on, texts, and None where the flag is not given.
        is_configured: Whether vLLM's configuration has it.
        unless: Flags with which it is part of something else, that works.
    """

    name: str
    flags: Mapping[str, FlagTest] = field(default_factory=dict)
    is_configured: Callable[[Any], bool] = lambda config: False
    unless: Mapping[str, FlagTest] = field(default_factory=dict)

    def is_asked_for(self, value_of: Callable[[str], object]) -> bool:
        """Return whether flags ask for it, by what returns a flag's value."""

        def says(tests: Mapping[str, FlagTest]) -> bool:
            return any(says_so(value_of(flag)) for flag, says_so in tests.items())

        return says(self.flags) and not says(self.unless)


# Attributes that not every supported version has are read with a default.
FEATURES: Final = (
    Feature(
        # Steps of a pipeline run in a thread of Ray's compiled graph, beside calls of the worker.
        "stages by Ray (--pipeline-parallel-size > 1 with --distributed-executor-backend ray)",
        is_configured=lambda config: (
            config.parallel_config.pipeline_parallel_size > 1
            and config.parallel_config.distributed_executor_backend == "ray"
        ),
    ),
    Feature(
        "data parallelism (--data-parallel-size > 1, --data-parallel-rank and the load balancers)",
        {
            "data-parallel-size": _is_not_one,
            "data-parallel-size-local": _is_not_one,
            "data-parallel-rank": _is_given,
            "data-parallel-start-rank": _is_given,
            "data-parallel-external-lb": _is_on,
            "data-parallel-hybrid-lb": _is_on,
            "data-parallel-multi-port-external-lb": _is_on,
        },
        lambda config: config.parallel_config.data_parallel_size > 1,
    ),
    Feature(
        "prefill context parallelism (--prefill-context-parallel-size > 1)",
        {"prefill-context-parallel-size": _is_not_one},
        lambda config: getattr(config.parallel_config, "prefill_context_parallel_size", 1) > 1,
    ),
    Feature(
        "decode context parallelism (--decode-context-parallel-size > 1)",
        {"decode-context-parallel-size": _is_not_one},
        lambda config: config.parallel_config.decode_context_parallel_size > 1,
    ),
    Feature(
        "engines without an API server (--headless without --nnodes > 1)",
        {"headless": _is_on},
        unless={"nnodes": _is_above_one},
    ),
    Feature(
        "an API server on another node than the first (--node-rank > 0 without --headless)",
        {"node-rank": _is_above_zero},
        unless={"headless": _is_on},
    ),
    Feature(
        "several API server processes, or none (--api-server-count)",
        {"api-server-count": _is_not_one},
        lambda config: config.parallel_config._api_process_count > 1,
    ),
    Feature("vLLM's gRPC front end (--grpc, --grpc-port)", {"grpc": _is_on, "grpc-port": _is_given}),
    Feature(
        "dual batch overlap and micro-batches (--enable-dbo, --ubatch-size > 1)",
        {"enable-dbo": _is_on, "ubatch-size": _is_above_one},
        lambda config: (
            bool(getattr(config.parallel_config, "enable_dbo", False))
            or getattr(config.parallel_config, "ubatch_size", 0) > 1
        ),
    ),
    Feature(
        "expert load balancing (--enable-eplb)",
        {"enable-eplb": _is_on},
        lambda config: bool(config.parallel_config.enable_eplb),
    ),
    Feature(
        # Its buffers hold the weights of the layers that come next, which differ where a batch stands still.
        "weight offloading (--offload-group-size, --cpu-offload-gb)",
        {"offload-group-size": _is_above_zero, "cpu-offload-gb": _is_above_zero},
        lambda config: (
            config.offload_config.offload_backend == "prefetch"
            or config.offload_config.prefetch.offload_group_size > 0
            or config.offload_config.uva.cpu_offload_gb > 0
        ),
    ),
    Feature("LoRA (--enable-lora)", {"enable-lora": _is_on}, lambda config: config.lora_config is not None),
    Feature(
        "sleep mode (--enable-sleep-mode)",
        {"enable-sleep-mode": _is_on},
        lambda config: bool(config.model_config.enable_sleep_mode),
    ),
    Feature(
        "computed KV scales (--calculate-kv-scales)",
        {"calculate-kv-scales": _is_on},
        lambda config: bool(getattr(config.cache_config, "calculate_kv_scales", False)),
    ),
    Feature(
        "a fast prefill of layers that share a cache (--kv-sharing-fast-prefill)",
        {"kv-sharing-fast-prefill": _is_on},
        lambda config: bool(getattr(config.cache_config, "kv_sharing_fast_prefill", False)),
    ),
    Feature(
        # Batches of another shape than the largest come after the warm-up: a kernel that a layer compiles for
        # them would fail in the middle of the model.
        "errors at late compilation (--jit-monitor-mode error)",
        {"jit-monitor-mode": _is_error},
        lambda config: _is_error(config.observability_config.jit_monitor_mode),
    ),
    Feature(
        # A prefill resets the cursors of its rings, which a batch would do to live requests.
        "states that are replayed (--use-replayssm)",
        {"use-replayssm": _is_on},
        lambda config: bool(getattr(config.cache_config, "use_replayssm", False)),
    ),
    Feature(
        "sparse attention by an index (as in DeepSeek-V3.2)",
        is_configured=lambda config: bool(getattr(config.model_config.hf_text_config, "index_topk", None)),
    ),
    Feature(
        "attention in chunks (as in Llama 4)",
        is_configured=lambda config: config.model_config.attention_chunk_size is not None,
    ),
    Feature(
        "positions of more kinds than M-RoPE's (XD-RoPE, as in HunYuan-VL)",
        is_configured=lambda config: bool(getattr(config.model_config, "uses_xdrope_dim", 0)),
    ),
    Feature(
        # The images of a step lie in buffers that a batch would read when it goes on.
        "images added to the first layers' states (deepstack, as in Qwen3-VL)",
        is_configured=lambda config: _has_deepstack(config.model_config.hf_config.to_dict()),
    ),
    Feature(
        "audio in every input (as in Voxtral Realtime)",
        is_configured=lambda config: (
            "VoxtralRealtimeGeneration" in (config.model_config.hf_config.architectures or ())
        ),
    ),
    Feature(
        "per-layer inputs (as in Gemma 3n)",
        is_configured=lambda config: bool(
            getattr(config.model_config.hf_text_config, "hidden_size_per_layer_input", 0)
        ),
    ),
    Feature(
        "encoder-decoder models", is_configured=lambda config: bool(config.model_config.is_encoder_decoder)
    ),
)
"""Every feature that is refused by what flags or the configuration say."""


def check_flags(value_of: Callable[[str], object], environment: Mapping[str, str]) -> None:
    """Refuse the features that flags or the environment ask for.

    Args:
        value_of: Returns a flag's value by its name without dashes in front, None where it is not given.
        environment: The server's environment.

    Raises:
        UnsupportedError: With a sentence for each such feature.
    """
    refused = [feature.name for feature in FEATURES if feature.is_asked_for(value_of)]
    if environment.get("VLLM_USE_RUST_FRONTEND", "0").strip().lower() not in ("", "0", "false"):
        refused.append("vLLM's Rust front end (VLLM_USE_RUST_FRONTEND)")
    _refuse(refused)


def check_arguments(args: Namespace, environment: Mapping[str, str]) -> None:
    """Refuse the features that a server's parsed arguments or the environment ask for.

    Raises:
        UnsupportedError: With a sentence for each such feature.
    """
    check_flags(lambda flag: getattr(args, flag.replace("-", "_"), None), environment)


def check_config(config: "VllmConfig") -> None:
    """Refuse the features that vLLM's configuration has.

    Raises:
        UnsupportedError: With a sentence for each such feature.
    """
    _refuse([feature.name for feature in FEATURES if feature.is_configured(config)])


def check_developer_mode(environment: Mapping[str, str], *, is_allowed: bool) -> None:
    """Refuse vLLM's developer mode, whose routes reach PoC's workers past the token of the control routes.

    Args:
        environment: The server's environment.
        is_allowed: The setting `allow_developer_mode`.

    Raises:
        UnsupportedError: It is on, as vLLM reads the variable, and not allowed.
    """
    stated = environment.get("VLLM_SERVER_DEV_MODE", "0")
    try:
        is_on = bool(int(stated))
    except ValueError:
        return  # vLLM itself ends at what is no number
    if is_on and not is_allowed:
        raise UnsupportedError(
            "vLLM's developer mode is on (VLLM_SERVER_DEV_MODE): whoever reaches the server could call PoC's "
            "workers without a token, by /collective_rpc, and replace the model's weights; unset the "
            "variable, or set hallmark.allow_developer_mode where nobody else reaches the server"
        )


def _refuse(features: list[str]) -> None:
    if features:
        raise UnsupportedError(" ".join(f"PoC does not work with {feature} yet." for feature in features))
