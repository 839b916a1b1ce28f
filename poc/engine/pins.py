"""The parts of vLLM that Hallmark uses, and whether a version of vLLM has them.

They are read from vLLM's Python files and nothing of vLLM is imported, so that a version can be checked that
is not installed, and an installed one before it starts.
"""

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, TypeAlias

__all__ = [
    "PINS",
    "Call",
    "Definition",
    "Pin",
    "ReadFile",
    "check",
    "definitions",
    "missing_pins",
    "vllm_files",
]

ReadFile: TypeAlias = Callable[[str], str]
"""Returns the text of a file of vLLM by its path below `vllm/`; raises FileNotFoundError if it is missing."""


@dataclass(frozen=True)
class Call:
    """A method, and the names of the arguments that Hallmark calls it with."""

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Pin:
    """A symbol in a file of vLLM, what Hallmark uses of it, and who needs it.

    Attributes:
        file: Path below `vllm/`.
        symbol: A class or a function of the file, or a name that the file imports.
        members: Of a class: fields, methods, properties or attributes set on self. A `Call` is a method that
            is called.
        arguments: The arguments that a function is called with, or an instance of a dataclass made; None
            where nothing is called.
        needed_by: The module and the name in `poc/engine/`.
    """

    file: str
    symbol: str
    members: tuple[str | Call, ...] = ()
    arguments: tuple[str, ...] | None = None
    needed_by: str = ""

    @property
    def key(self) -> str:
        """A name for the pin: file and symbol."""
        return f"{self.file}:{self.symbol}"


@dataclass(frozen=True)
class Definition:
    """What a version of vLLM has in the place of a pin.

    Attributes:
        signature: Parameters of a function, or fields of a dataclass, as Python has them between the
            parentheses of a definition; None where no arguments are pinned.
        members: The pinned members that are there: a method's parameters in parentheses, a field's
            annotation, "property" or "attribute".
    """

    signature: str | None
    members: Mapping[str, str]


PINS: Final = (
    Pin(
        "v1/worker/worker_base.py",
        "WorkerBase",
        ("vllm_config", "rank", "device", "model_runner"),
        needed_by="plugin.register",
    ),
    Pin("forward_context.py", "ForwardContext", ("no_compile_layers",), needed_by="forward.ModelForward"),
    Pin(
        "forward_context.py",
        "create_forward_context",
        arguments=("attn_metadata", "vllm_config", "slot_mapping", "skip_compiled"),
        needed_by="forward.ModelForward",
    ),
    Pin(
        "forward_context.py",
        "override_forward_context",
        arguments=("forward_context",),
        needed_by="forward.ModelForward",
    ),
    Pin(
        "distributed/kv_transfer/kv_transfer_state.py",
        "has_kv_transfer_group",
        arguments=(),
        needed_by="kv_connector.check_connector_rests",
    ),
    Pin(
        "distributed/kv_transfer/kv_transfer_state.py",
        "get_kv_transfer_group",
        arguments=(),
        needed_by="kv_connector.check_connector_rests",
    ),
    Pin(
        "distributed/kv_transfer/kv_connector/v1/base.py",
        "KVConnectorBase_V1",
        (Call("has_connector_metadata", ()),),
        needed_by="kv_connector.check_connector_rests: bound for a step only",
    ),
    Pin(
        "model_executor/layers/attention/attention.py",
        "Attention",
        ("impl", "kv_cache", "kv_cache_dtype", "attn_type", "kv_sharing_target_layer_name"),
        needed_by="private_layers.PrivateLayers, fingerprint.numerics",
    ),
    Pin("model_executor/layers/attention/__init__.py", "Attention", needed_by="support.layers_with_caches"),
    Pin(
        "model_executor/layers/attention/__init__.py",
        "MLAAttention",
        needed_by="support.layers_with_caches",
    ),
    Pin(
        "model_executor/layers/attention/mla_attention.py",
        "MLAAttention",
        ("impl", "kv_cache", "kv_cache_dtype", "use_sparse", "use_direct_call", "forward_impl"),
        needed_by="layer_copies.private_attention: latent attention stops at forward_impl",
    ),
    Pin(
        "model_executor/layers/attention/attention.py",
        "get_attention_context",
        arguments=("layer_name",),
        needed_by="private_layers.PrivateLayers: layers are found by name in the forward context",
    ),
    Pin(
        "model_executor/layers/attention_layer_base.py",
        "AttentionLayerBase",
        (Call("get_kv_cache_spec", ("vllm_config",)),),
        needed_by="support.layers_with_caches",
    ),
    Pin(
        "model_executor/layers/mamba/abstract.py",
        "MambaBase",
        ("kv_cache",),
        needed_by="support.cache_of: the states of a layer",
    ),
    *(
        pin
        for file, layer, operator in (
            ("mamba_mixer.py", "MambaMixer", "mamba_mixer"),
            ("mamba_mixer2.py", "MambaMixer2", "mamba_mixer2"),
            ("short_conv.py", "ShortConv", "short_conv"),
            ("gdn/qwen_gdn_linear_attn.py", "QwenGatedDeltaNetAttention", "qwen_gdn_attention_core"),
        )
        for pin in (
            Pin(f"model_executor/layers/mamba/{file}", layer, needed_by="support.layers_with_caches"),
            Pin(
                f"model_executor/layers/mamba/{file}",
                operator,
                needed_by="private_layers.PrivateLayers: a layer begins where its operator looks it up",
            ),
        )
    ),
    Pin(
        "model_executor/layers/mamba/ops/cpu/gdn_attention.py",
        "cpu_gdn_attention_core",
        needed_by="private_layers.PrivateLayers: the same on CPUs",
    ),
    Pin(
        "model_executor/layers/mamba/gdn/qwen_gdn_linear_attn.py",
        "ChunkGatedDeltaRule",
        ("_forward_method",),
        needed_by="eager_operators.EagerOperators: it chooses its method itself",
    ),
    Pin(
        "model_executor/layers/mamba/gdn/base.py",
        "GatedDeltaNetAttention",
        ("cache_config",),
        needed_by="layer_copies.private_state_layer",
    ),
    Pin("v1/attention/backend.py", "AttentionType", ("DECODER",), needed_by="support.layers_with_caches"),
    Pin(
        "v1/attention/backend.py",
        "CommonAttentionMetadata",
        arguments=(
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
        needed_by="private_layers.prefill_metadata",
    ),
    Pin(
        "v1/attention/backend.py",
        "AttentionMetadataBuilder",
        ("kv_cache_spec", Call("build", ("common_prefix_len", "common_attn_metadata"))),
        needed_by="private_layers._private_group",
    ),
    Pin(
        "v1/kv_cache_interface.py",
        "KVCacheSpec",
        ("block_size",),
        needed_by="private_layers._private_group, live_cache.LiveCacheGuard",
    ),
    Pin(
        "v1/kv_cache_interface.py",
        "MambaSpec",
        needed_by="private_layers._private_group: a block is the state of a sequence",
    ),
    Pin(
        "v1/kv_cache_interface.py",
        "AttentionSpec",
        ("real_page_size_bytes",),
        needed_by="live_cache.LiveCacheGuard",
    ),
    Pin(
        "v1/worker/utils.py",
        "AttentionGroup",
        (
            "layer_names",
            "metadata_builders",
            Call("create_metadata_builders", ("vllm_config", "device", "kernel_block_size")),
            Call("get_metadata_builder", ()),
        ),
        needed_by="private_layers._private_group",
    ),
    Pin(
        "v1/attention/backends/triton_attn.py",
        "TritonAttentionImpl",
        ("_k_scale_cache", "_v_scale_cache"),
        needed_by="layer_copies.private_attention: views of the live cache that a copy must not inherit",
    ),
    Pin(
        "v1/attention/backends/flashinfer.py",
        "FlashInferImpl",
        ("bmm1_scale", "bmm2_scale", "o_sf_scale"),
        needed_by="layer_copies.private_attention: what a copy derives anew",
    ),
    Pin(
        "v1/attention/backends/flashinfer.py",
        "FlashInferMetadataBuilder",
        (Call("set_workspace_buffer", ("workspace_buffer",)), Call("_get_workspace_buffer", ())),
        needed_by="private_layers._private_group",
    ),
    Pin(
        "v1/worker/gpu_model_runner.py",
        "GPUModelRunner",
        ("attn_groups", "kv_cache_config", Call("get_model", ())),
        needed_by="worker.PoCWorker (V1 runner)",
    ),
    Pin(
        "v1/worker/gpu/model_runner.py",
        "GPUModelRunner",
        ("attn_groups", "kv_cache_config", Call("get_model", ())),
        needed_by="worker.PoCWorker (V2 runner)",
    ),
    Pin(
        "v1/worker/gpu_worker.py",
        "Worker",
        ("model_runner", "peak_activation_memory"),
        needed_by="worker.PoCWorker, memory.step_memory",
    ),
    Pin(
        "distributed/parallel_state.py",
        "GroupCoordinator",
        (
            "cpu_group",
            "rank_in_group",
            "world_size",
            "device",
            Call("all_gather", ("input_", "dim")),
            Call("all_reduce", ("input_",)),
            Call("recv_tensor_dict", ("all_gather_group",)),
            Call("send_tensor_dict", ("tensor_dict", "all_gather_group")),
        ),
        needed_by="worker.PoCWorker, input_share.InputShare, embedding_table.EmbeddingTable, "
        "pipeline.Pipeline",
    ),
    Pin("distributed/parallel_state.py", "get_pp_group", arguments=(), needed_by="pipeline.Pipeline"),
    Pin("distributed/parallel_state.py", "get_world_group", arguments=(), needed_by="pipeline.Pipeline"),
    Pin(
        "sequence.py",
        "IntermediateTensors",
        ("tensors",),
        needed_by="pipeline.Pipeline, forward.ModelForward: what a stage goes on from",
    ),
    Pin("distributed/parallel_state.py", "get_tp_group", arguments=(), needed_by="worker.PoCWorker"),
    Pin(
        "model_executor/layers/vocab_parallel_embedding.py",
        "VocabParallelEmbedding",
        ("embedding_dim", "org_vocab_size", "shard_indices", "tp_size"),
        needed_by="embedding_table.EmbeddingTable",
    ),
    Pin(
        "model_executor/layers/vocab_parallel_embedding.py",
        "VocabParallelEmbeddingShardIndices",
        ("org_vocab_start_index", "org_vocab_end_index"),
        needed_by="embedding_table.EmbeddingTable: which tokens this rank has the rows of",
    ),
    Pin(
        "model_executor/layers/vocab_parallel_embedding.py",
        "ParallelLMHead",
        needed_by="embedding_table.EmbeddingTable",
    ),
    Pin(
        "model_executor/models/interfaces_base.py",
        "VllmModel",
        (Call("embed_input_ids", ("input_ids",)),),
        needed_by="forward.ModelForward: a token's row of the embedding table",
    ),
    Pin(
        "model_executor/models/interfaces_base.py",
        "VllmModelForTextGeneration",
        (Call("compute_logits", ("hidden_states",)),),
        needed_by="forward.ModelForward: whether a norm that its forward leaves out is the final one",
    ),
    Pin(
        "model_executor/models/interfaces.py",
        "SupportsMultiModal",
        (Call("get_language_model", ()),),
        needed_by="forward.ModelForward: whose embedding function it is",
    ),
    Pin(
        "model_executor/models/interfaces.py",
        "supports_multimodal",
        arguments=("model",),
        needed_by="forward.ModelForward",
    ),
    Pin(
        "model_executor/models/interfaces.py",
        "requires_raw_input_tokens",
        arguments=("model",),
        needed_by="forward.ModelForward: which models read tokens beside their embeddings",
    ),
    Pin(
        "engine/protocol.py",
        "EngineClient",
        ("vllm_config", "renderer", Call("collective_rpc", ("method", "args"))),
        needed_by="client.connect",
    ),
    Pin(
        "renderers/base.py",
        "BaseRenderer",
        (Call("get_tokenizer", ()),),
        needed_by="client.VllmEngine: the token that real prompts begin with",
    ),
    Pin(
        "v1/engine/async_llm.py",
        "AsyncLLM",
        ("vllm_config", Call("collective_rpc", ("method", "args")), "output_processor"),
        needed_by="client.VllmEngine",
    ),
    Pin(
        "v1/engine/output_processor.py",
        "OutputProcessor",
        (Call("has_unfinished_requests", ()),),
        needed_by="client.VllmEngine.is_idle",
    ),
    Pin(
        "model_executor/layers/layernorm.py",
        "RMSNorm",
        ("has_weight", "variance_epsilon", "variance_size_override", "weight"),
        needed_by="deferred_norm.defer_final_norm",
    ),
    Pin(
        "model_executor/layers/layernorm.py",
        "GemmaRMSNorm",
        ("variance_epsilon", "weight"),
        needed_by="deferred_norm.defer_final_norm",
    ),
    Pin(
        "config/parallel.py",
        "ParallelConfig",
        (
            "pipeline_parallel_size",
            "tensor_parallel_size",
            "data_parallel_size",
            "decode_context_parallel_size",
            "distributed_executor_backend",
            "prefill_context_parallel_size",
            "_api_process_count",
            "enable_dbo",
            "ubatch_size",
            "enable_eplb",
            "disable_custom_all_reduce",
        ),
        needed_by="unsupported.check_config",
    ),
    Pin(
        "config/model.py",
        "ModelConfig",
        (
            "dtype",
            "enable_prompt_embeds",
            "enable_sleep_mode",
            "get_hidden_size",
            Call("get_head_size", ()),
            Call("get_num_kv_heads", ("parallel_config",)),
            Call("get_num_layers", ("parallel_config",)),
            Call("get_vocab_size", ()),
            "architecture",
            "attention_chunk_size",
            "hf_config",
            "hf_text_config",
            "is_attention_free",
            "is_encoder_decoder",
            "is_hybrid",
            "max_model_len",
            "model",
            "quantization",
            "registry",
            "skip_tokenizer_init",
            "uses_mrope",
        ),
        needed_by="unsupported.check_config, worker.PoCWorker.describe, memory.step_memory, "
        "in_process.VllmLoader",
    ),
    # Classes have a method for the dtypes beside it, which the protocol does not name.
    Pin(
        "model_executor/models/interfaces.py",
        "IsHybrid",
        (Call("get_mamba_state_shape_from_config", ("vllm_config",)),),
        needed_by="in_process.VllmLoader: how much cache states take",
    ),
    Pin(
        "model_executor/models/registry.py",
        "_ModelRegistry",
        (Call("resolve_model_cls", ("architectures", "model_config")),),
        needed_by="in_process.VllmLoader",
    ),
    Pin(
        "config/offload.py",
        "OffloadConfig",
        ("offload_backend", "prefetch", "uva"),
        needed_by="unsupported.check_config",
    ),
    Pin(
        "config/offload.py",
        "PrefetchOffloadConfig",
        ("offload_group_size",),
        needed_by="unsupported.check_config",
    ),
    Pin("config/offload.py", "UVAOffloadConfig", ("cpu_offload_gb",), needed_by="unsupported.check_config"),
    Pin(
        "config/compilation.py",
        "DynamicShapesConfig",
        ("evaluate_guards",),
        needed_by="forward.compiles_embeddings",
    ),
    Pin(
        "config/cache.py",
        "CacheConfig",
        ("cache_dtype", "kv_sharing_fast_prefill", "kv_cache_memory_bytes", "mamba_cache_mode"),
        needed_by="unsupported.check_config, in_process.VllmLoader, private_layers._without_prefixes",
    ),
    Pin(
        "config/observability.py",
        "ObservabilityConfig",
        ("jit_monitor_mode",),
        needed_by="unsupported.check_config",
    ),
    Pin(
        "config/scheduler.py",
        "SchedulerConfig",
        ("max_num_batched_tokens", "max_num_seqs"),
        needed_by="support.check_limits, memory.step_memory",
    ),
    Pin(
        "config/compilation.py",
        "CompilationMode",
        ("NONE",),
        needed_by="forward.compiles_embeddings, eager_operators.EagerOperators",
    ),
    Pin(
        "config/compilation.py",
        "CompilationConfig",
        (
            "custom_ops",
            "disabled_custom_ops",
            "ir_enable_torch_wrap",
            "mode",
            "static_forward_context",
            "use_inductor_graph_partition",
        ),
        needed_by="worker.PoCWorker, eager_operators.EagerOperators",
    ),
    Pin(
        "config/kernel.py",
        "IrOpPriorityConfig",
        (Call("set_priority", ()),),
        needed_by="eager_operators.EagerOperators",
    ),
    Pin("config/kernel.py", "KernelConfig", ("ir_op_priority",), needed_by="eager_operators.EagerOperators"),
    Pin(
        "platforms/interface.py",
        "Platform",
        (Call("get_default_ir_op_priority", ("vllm_config",)),),
        needed_by="eager_operators.EagerOperators",
    ),
    Pin("ir/op.py", "enable_torch_wrap", arguments=("enable",), needed_by="eager_operators.EagerOperators"),
    # It is made when it is first asked for; vLLM's own import of it shows that it can be.
    Pin("model_executor/custom_op.py", "current_platform", needed_by="eager_operators.EagerOperators"),
    Pin(
        "model_executor/custom_op.py",
        "CustomOp",
        (
            "_enforce_enable",
            "_forward_method",
            Call("enabled", ()),
            Call("dispatch_forward", ("compile_native",)),
        ),
        needed_by="eager_operators.EagerOperators",
    ),
    Pin(
        "config/vllm.py",
        "VllmConfig",
        (
            "additional_config",
            "compilation_config",
            "kernel_config",
            "lora_config",
            "observability_config",
            "offload_config",
        ),
        needed_by="unsupported.check_config, worker.PoCWorker",
    ),
    Pin(
        "config/vllm.py",
        "set_current_vllm_config",
        arguments=("vllm_config",),
        needed_by="private_layers._private_group, eager_operators.EagerOperators",
    ),
    Pin(
        "plugins/endpoint_plugins/interface.py",
        "EndpointPlugin",
        ("name", "required_tasks", "attach_router", "init_state"),
        needed_by="server.plugin",
    ),
    Pin("entrypoints/cli/serve.py", "cmd_init", arguments=(), needed_by="launch.main"),
    Pin(
        "entrypoints/cli/serve.py",
        "ServeSubcommand",
        (
            "name",
            Call("cmd", ("args",)),
            Call("validate", ("args",)),
            Call("subparser_init", ("subparsers",)),
        ),
        needed_by="launch.main",
    ),
    Pin(
        "utils/argparse_utils.py",
        "FlexibleArgumentParser",
        (Call("parse_args", ()),),
        needed_by="launch.main",
    ),
    Pin("engine/arg_utils.py", "AsyncEngineArgs", needed_by="launch.main"),
    Pin(
        "engine/arg_utils.py",
        "EngineArgs",
        (
            Call("from_cli_args", ("args",)),
            Call("create_engine_config", ("headless",)),
            Call("add_cli_args", ("parser",)),
            "gpu_memory_utilization",
            "use_tqdm_on_load",
        ),
        needed_by="launch.main, in_process.VllmLoader",
    ),
    Pin(
        "v1/engine/llm_engine.py",
        "LLMEngine",
        (
            Call("from_vllm_config", ("vllm_config", "disable_log_stats")),
            Call("collective_rpc", ("method", "args")),
            "vllm_config",
            "output_processor",
            "renderer",
            "engine_core",
        ),
        needed_by="in_process.VllmLoader",
    ),
    Pin(
        "v1/engine/core_client.py",
        "EngineCoreClient",
        (Call("shutdown", ()),),
        needed_by="in_process.VllmLoader",
    ),
)
"""Every part of vLLM that `poc/engine/` reaches for."""


def vllm_files() -> ReadFile:
    """Return a reader of the installed vLLM's files.

    Raises:
        ModuleNotFoundError: No vLLM is installed.
    """
    spec = find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("vLLM is not installed", name="vllm")
    folder = Path(next(iter(spec.submodule_search_locations)))
    return lambda file: (folder / file).read_text(encoding="utf-8")


def missing_pins(read: ReadFile) -> list[str]:
    """Return what a version of vLLM lacks of `PINS`, a sentence each; empty where every pin holds.

    Args:
        read: A reader of that version's files.
    """
    return [problem for pin, definition in definitions(read) for problem in check(pin, definition)]


def definitions(read: ReadFile) -> Iterator[tuple[Pin, Definition | None]]:
    """Yield each pin with what a version of vLLM has in its place, None where it has nothing.

    Args:
        read: A reader of that version's files.
    """
    trees: dict[str, ast.Module | None] = {}
    for pin in PINS:
        if pin.file not in trees:
            try:
                trees[pin.file] = ast.parse(read(pin.file))
            except FileNotFoundError:
                trees[pin.file] = None
        tree = trees[pin.file]
        yield pin, None if tree is None else _definition(tree, pin)


def _definition(tree: ast.Module, pin: Pin) -> Definition | None:
    node = _find(tree, pin.symbol)
    if node is None:
        return None
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return Definition(ast.unparse(node.args), {})
    if not isinstance(node, ast.ClassDef):
        return Definition(None, {})
    found = _members(node)
    names = [member if isinstance(member, str) else member.name for member in pin.members]
    signature = None if pin.arguments is None else _fields(node)
    return Definition(signature, {name: found[name] for name in names if name in found})


def check(pin: Pin, definition: Definition | None) -> list[str]:
    """Return what a definition lacks of its pin, a sentence each; empty where the pin holds."""
    where = f"{pin.symbol} in vllm/{pin.file}"
    if definition is None:
        return [f"{pin.needed_by} needs {where}, which is not there"]
    problems = []
    if pin.arguments is not None and definition.signature is not None:
        wrong = _does_not_take(definition.signature, pin.arguments)
        if wrong:
            problems.append(f"{pin.needed_by} calls {where}, which {wrong}")
    for member in pin.members:
        name = member if isinstance(member, str) else member.name
        found = definition.members.get(name)
        if found is None:
            problems.append(f"{pin.needed_by} needs {name} of {where}, which has none")
        elif isinstance(member, Call):
            wrong = _does_not_take(found[1:-1], member.arguments) if found.startswith("(") else "is no method"
            if wrong:
                problems.append(f"{pin.needed_by} calls {name} of {where}, which {wrong}")
    return problems


def _does_not_take(parameters: str, arguments: tuple[str, ...]) -> str:
    """Say why a function with these parameters cannot be called with the arguments; empty where it can."""
    definition = ast.parse(f"def f({parameters}): ...")
    [declared] = [node.args for node in definition.body if isinstance(node, ast.FunctionDef)]
    positional = [*declared.posonlyargs, *declared.args]
    names = [parameter.arg for parameter in positional if parameter.arg not in ("self", "cls")]
    keywords = [parameter.arg for parameter in declared.kwonlyargs]
    unknown = [name for name in arguments if name not in (*names, *keywords)]
    if unknown and declared.kwarg is None:
        return f"takes no {', '.join(unknown)}"
    required = names[: len(names) - len(declared.defaults)] + [
        name for name, default in zip(keywords, declared.kw_defaults, strict=True) if default is None
    ]
    more = [name for name in required if name not in arguments]
    return f"now wants {', '.join(more)} too" if more else ""


def _find(tree: ast.Module, symbol: str) -> ast.AST | None:
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


def _members(node: ast.ClassDef) -> dict[str, str]:
    """Return methods, fields and attributes set on self, each with how it is declared."""
    found: dict[str, str] = {}
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = [ast.unparse(decorator) for decorator in child.decorator_list]
            is_property = any(decorator.endswith("property") for decorator in decorators)
            found.setdefault(child.name, "property" if is_property else f"({ast.unparse(child.args)})")
    for inner in ast.walk(node):
        if isinstance(inner, ast.Assign | ast.AnnAssign):
            targets = inner.targets if isinstance(inner, ast.Assign) else [inner.target]
            declared = ast.unparse(inner.annotation) if isinstance(inner, ast.AnnAssign) else "attribute"
            for target in (part for whole in targets for part in ast.walk(whole)):
                # A name is a field in the class's own body, a local variable elsewhere.
                if isinstance(target, ast.Name) and inner in node.body:
                    found.setdefault(target.id, declared)
                elif isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                    found.setdefault(target.attr, declared)
    return found


def _fields(node: ast.ClassDef) -> str:
    """Return a dataclass's fields as the parameters that make an instance."""
    fields = [
        (child.target.id, child.value is not None)
        for child in node.body
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name)
    ]
    return ", ".join(["*", *(f"{name}=..." if has_default else name for name, has_default in fields)])
