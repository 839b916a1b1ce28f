"""The families that networks serve: whole and sliced batches, chat between the slices, and transformers."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from cores import cores_for
from families import FAMILIES, STEP_LAYERS, Family, build_family, write_step
from quantised_checkpoints import (
    quantise_to_awq,
    quantise_to_gptq,
    quantise_to_int4,
    quantise_to_int8,
    quantise_to_nvfp4,
)
from tolerances import ENGINE_TOLERANCES
from transformers_engine import numbers_with
from zygote import Zygote

pytestmark = pytest.mark.timeout(400)

BATCH_SIZE = 4
SEQ_LEN = 72
REQUEST: dict[str, Any] = {
    "block_hash": "the block",
    "block_height": 1,
    "public_key": "a prover",
    "batch_size": BATCH_SIZE,
    "seq_len": SEQ_LEN,
}
ARGUMENTS: dict[str, Any] = {
    "enforce_eager": True,
    "max_model_len": 512,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 512,
    "disable_log_stats": False,  # which count what is found in the cache
    "additional_config": {"hallmark": {"max_batch_size": BATCH_SIZE, "seq_len": SEQ_LEN}},
}


WITH_STATES = [name for name, family in FAMILIES.items() if family.has_states]


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    running = Zygote(tmp_path_factory.mktemp("zygote"))
    yield running
    running.close()


def case_of(name: str, directory: Path) -> tuple[Family, Path, dict[str, Any]]:
    """A family, its model in its dtype, and what vLLM is started with beside that."""
    family = FAMILIES[name]
    model = build_family(name, directory / "model", getattr(torch, family.dtype))
    return family, model, {**ARGUMENTS, **family.arguments, "dtype": family.dtype}


def check_numbers(found: Mapping[str, Any], *, layers: int) -> None:
    """That a batch has the same numbers however it is run."""
    assert found["layers"] == layers
    assert found["slices"] == (layers - 1) * len(found["sliced"]), "it stood still at every layer"
    assert found["sliced"] == [found["whole"]] * len(found["sliced"])
    assert found["again"] == found["whole"]
    numbers = torch.tensor(found["whole"])
    assert numbers.shape == (BATCH_SIZE, 16)
    assert 0.5 < float(numbers.std()) < 1.6


def check_itself(found: Mapping[str, Any], *, layers: int) -> None:
    """That a batch has the same numbers however it is run, and inference the same tokens."""
    check_numbers(found, layers=layers)
    said = found["completions"]
    assert said["beside"] == said["before"]
    assert said["cancelled"] == [said["before"]] * (layers - 1)
    assert said["after"] == said["before"]
    assert len({tuple(tokens) for tokens in said["before"].values()}) > 1


def check_independence(found: Mapping[str, Any]) -> None:
    """That a nonce has the same numbers whatever else is in its batch, and that the fingerprint says so.

    How many rows an expert has depends on the others, and on some processors the last bits on how many.
    """
    assert found["short"] == found["whole"][: len(found["short"])]
    assert found["beside others"] == found["whole"][0]
    assert found["numerics"]["independent_nonces"] is True


def check_with_transformers(
    found: Mapping[str, Any],
    model: Path,
    dtype: str,
    tolerance: float,
    request: Mapping[str, Any] = REQUEST,
) -> None:
    """That transformers has the same numbers, in a round that both have decided on alike."""
    round_, expected = numbers_with(model, dtype, request)
    assert found["round"] == round_.digest
    assert found["readout"] == request.get("readout", "rows")
    errors = torch.tensor(found["whole"]) - torch.tensor(expected)
    assert float(errors.abs().max()) < tolerance
    assert float(errors.square().mean().sqrt()) < 0.4, (
        "a third of that of forged numbers, whatever the tolerance"
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.gpu] if family.needs_gpu else [])
        for name, family in FAMILIES.items()
    ],
)
def test_a_family(zygote: Zygote, name: str, tmp_path: Path) -> None:
    family, model, arguments = case_of(name, tmp_path)
    found = zygote.run(model, arguments, REQUEST)
    check_itself(found, layers=family.layers)
    if not family.has_experts:
        check_independence(found)
    if name.startswith("Gemma"):
        assert found["numerics"]["embedding"] == "the model's own", "which multiplies the table's rows"
    if name.startswith("Gemma") or family.has_states:
        assert found["numerics"]["final_norm"].startswith("PoC's, rounding ")
    # vLLM keeps no prefixes of latent attention on CPUs, and few where layers keep states.
    if "MLA" not in found["numerics"]["attention"] and not family.has_states:
        assert found["cached"], "inference reads what was there before"
    assert (found["numerics"]["states"] != "none") is family.has_states
    assert found["numerics"]["kv_cache_dtype"] == family.dtype, "or a validator with transformers refuses it"
    check_with_transformers(found, model, family.dtype, family.tolerance(family.dtype))


@pytest.mark.parametrize("name", [name for name in WITH_STATES if not FAMILIES[name].needs_gpu])
def test_states_on_two_ranks(zygote: Zygote, name: str, tmp_path: Path) -> None:
    family, model, arguments = case_of(name, tmp_path)
    arguments["tensor_parallel_size"] = 2
    found = zygote.run(model, arguments, REQUEST, VLLM_CPU_OMP_THREADS_BIND=cores_for(2))
    check_itself(found, layers=family.layers)
    assert found["numerics"]["tensor_parallel_size"] == 2
    check_with_transformers(found, model, family.dtype, family.tolerance(family.dtype))


# Without compilation vLLM for CPUs has no buffer for what its second stage is given.
STAGES: dict[str, Any] = {"pipeline_parallel_size": 2, "enforce_eager": False}


@pytest.mark.parametrize("name", ["Llama", "Qwen3-MoE", "Falcon-H1"])
def test_two_stages_have_the_numbers_of_one(zygote: Zygote, name: str, tmp_path: Path) -> None:
    family, model, arguments = case_of(name, tmp_path)
    one = zygote.run(model, arguments, REQUEST)
    found = zygote.run(model, {**arguments, **STAGES}, REQUEST, VLLM_CPU_OMP_THREADS_BIND=cores_for(2))
    check_itself(found, layers=family.layers)
    assert found["whole"] == one["whole"]
    differing = {key for key, value in found["numerics"].items() if one["numerics"].get(key) != value}
    assert differing == {"pipeline_parallel_size"}


def test_three_stages_and_a_failure_in_each(zygote: Zygote, tmp_path: Path) -> None:
    """Whatever other batches of the call are on their way; the next call has the numbers of the first."""
    model = build_family("Llama", tmp_path / "model")
    arguments = {**ARGUMENTS, "dtype": "float32", "worker_extension_cls": "probe.Probe"}
    one = zygote.run(model, arguments, REQUEST)
    failures = [(rank, batch) for rank in range(3) for batch in range(3)]
    stages = {**arguments, **STAGES, "pipeline_parallel_size": 3}
    found = zygote.run(model, stages, REQUEST, failures=failures, VLLM_CPU_OMP_THREADS_BIND=cores_for(3))
    check_itself(found, layers=4)
    assert found["whole"] == one["whole"]
    for (rank, _), failure in zip(failures, found["failures"], strict=True):
        assert f"rank {rank}: ValueError: the third layer is broken" in failure["said"]
        assert failure["said"].startswith("poc_start failed on 3 of 3 ranks")
        assert failure["after"] == one["whole"]


def test_two_stages_of_the_compiled_graph(zygote: Zygote, tmp_path: Path) -> None:
    model = build_family("Llama", tmp_path / "model")
    arguments = {**ARGUMENTS, **STAGES, "dtype": "float32", "enable_prompt_embeds": True}
    found = zygote.run(model, arguments, REQUEST, VLLM_CPU_OMP_THREADS_BIND=cores_for(2))
    check_itself(found, layers=4)
    assert found["numerics"]["forward"] == "compiled"
    check_with_transformers(found, model, "float32", ENGINE_TOLERANCES["float32", "transformers"])


def test_two_stages_of_two_ranks(zygote: Zygote, tmp_path: Path) -> None:
    model = build_family("Llama", tmp_path / "model")
    arguments = {**ARGUMENTS, "dtype": "float32", "tensor_parallel_size": 2}
    one = zygote.run(model, arguments, REQUEST, VLLM_CPU_OMP_THREADS_BIND=cores_for(2))
    found = zygote.run(model, {**arguments, **STAGES}, REQUEST, VLLM_CPU_OMP_THREADS_BIND=cores_for(4))
    check_itself(found, layers=4)
    assert found["whole"] == one["whole"]
    check_with_transformers(found, model, "float32", ENGINE_TOLERANCES["float32", "two ranks"])


@pytest.mark.parametrize("name", ["Falcon-H1", "LFM2", "Qwen3-Next"])
def test_states_on_a_server_that_compiles(zygote: Zygote, name: str, tmp_path: Path) -> None:
    """One model of each kind of layer; with embeddings in prompts a batch runs the compiled graph."""
    family, model, arguments = case_of(name, tmp_path)
    eager = zygote.run(model, arguments, REQUEST)
    for compiled in ({}, {"enable_prompt_embeds": True}):
        found = zygote.run(model, {**arguments, **compiled, "enforce_eager": False}, REQUEST)
        check_itself(found, layers=family.layers)
        assert found["numerics"]["forward"] == ("compiled" if compiled else "eager")
        if not compiled:
            assert found["whole"] == eager["whole"], "the operators of an eager server"
        check_with_transformers(found, model, family.dtype, family.tolerance(family.dtype))


@pytest.mark.parametrize("name", ["Falcon-H1", "LFM2", "Qwen3-Next"])
def test_rows_that_are_fewer_than_a_convolution_reads(zygote: Zygote, name: str, tmp_path: Path) -> None:
    """A single row is a prefill, and no token that goes on where another batch's state was left."""
    family, model, arguments = case_of(name, tmp_path)
    request = {**REQUEST, "seq_len": 1, "inputs": "normal", "readout": "last"}
    found = zygote.run(model, arguments, request)
    assert found["sliced"] == [found["whole"]] * len(found["sliced"])
    check_with_transformers(found, model, family.dtype, family.tolerance(family.dtype), request)


def test_a_family_in_bfloat16(zygote: Zygote, tmp_path: Path) -> None:
    model = build_family("Llama", tmp_path / "model", torch.bfloat16)
    found = zygote.run(model, {**ARGUMENTS, "dtype": "bfloat16"}, REQUEST)
    check_itself(found, layers=4)
    check_independence(found)
    check_with_transformers(found, model, "bfloat16", ENGINE_TOLERANCES["bfloat16", "transformers"])


def test_a_family_that_transformers_has_not(zygote: Zygote, tmp_path: Path) -> None:
    """Step-3.5's final norm is no part of its forward, and its weights are vLLM's own random ones."""
    model = write_step(tmp_path / "model")
    found = zygote.run(model, {**ARGUMENTS, "dtype": "float32", "load_format": "dummy"}, REQUEST)
    check_itself(found, layers=STEP_LAYERS)
    assert found["numerics"]["final_norm"].startswith("PoC's, rounding ")


def test_experts_on_two_ranks(zygote: Zygote, tmp_path: Path) -> None:
    model = build_family("Qwen3-MoE", tmp_path / "model")
    arguments = {**ARGUMENTS, "dtype": "float32", "tensor_parallel_size": 2}
    found = zygote.run(model, arguments, REQUEST, VLLM_CPU_OMP_THREADS_BIND=cores_for(2))
    check_itself(found, layers=4)
    assert found["numerics"]["tensor_parallel_size"] == 2
    check_with_transformers(found, model, "float32", ENGINE_TOLERANCES["float32", "two ranks"])


@pytest.mark.parametrize(
    "speculative",
    [
        {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3},
        {"method": "draft_model", "num_speculative_tokens": 2},
    ],
    ids=lambda speculative: speculative["method"],
)
def test_speculative_decoding(zygote: Zygote, speculative: dict[str, Any], tmp_path: Path) -> None:
    model = build_family("Llama", tmp_path / "model")
    if speculative["method"] == "draft_model":
        speculative = {**speculative, "model": str(model)}
    arguments = {**ARGUMENTS, "dtype": "float32", "speculative_config": speculative}
    found = zygote.run(model, arguments, REQUEST)
    check_itself(found, layers=4)
    check_with_transformers(found, model, "float32", ENGINE_TOLERANCES["float32", "transformers"])


@pytest.mark.parametrize("name", ["LFM2", "Qwen3-Next"])
def test_layers_with_states_and_room_for_drafts(zygote: Zygote, name: str, tmp_path: Path) -> None:
    """Numbers alone: vLLM for CPUs by itself says something else each time, or fails with prefixes."""
    family, model, arguments = case_of(name, tmp_path)
    speculative = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}
    arguments |= {"speculative_config": speculative, "enable_prefix_caching": False}
    found = zygote.run(model, arguments, REQUEST)
    check_numbers(found, layers=family.layers)
    check_with_transformers(found, model, family.dtype, family.tolerance(family.dtype))


@pytest.mark.parametrize("name", ["LFM2", "Qwen3-Next"])
def test_prefix_caching_moves_no_number(zygote: Zygote, name: str, tmp_path: Path) -> None:
    _, model, arguments = case_of(name, tmp_path)
    found = [
        zygote.run(model, {**arguments, "enable_prefix_caching": is_on}, REQUEST)["whole"]
        for is_on in (True, False)
    ]
    assert found[0] == found[1]


def test_a_kv_connector(zygote: Zygote, tmp_path: Path) -> None:
    model, saved = build_family("Llama", tmp_path / "model"), tmp_path / "saved"
    connector = {
        "kv_connector": "ExampleConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"shared_storage_path": str(saved)},
    }
    arguments = {**ARGUMENTS, "dtype": "float32", "kv_transfer_config": connector}
    found = zygote.run(model, arguments, REQUEST)
    check_itself(found, layers=4)
    check_with_transformers(found, model, "float32", ENGINE_TOLERANCES["float32", "transformers"])
    kept = [path for path in saved.rglob("*") if path.is_file()]
    assert len(kept) == 2 * 4, "two prompts' four layers, and nothing of a PoC batch"
    assert "the KV connector holds metadata of a step" in found["in a step"]


def test_nonces_that_depend_on_their_batch_are_told(zygote: Zygote, tmp_path: Path) -> None:
    model = build_family("Llama", tmp_path / "model")
    found = zygote.run(model, {**ARGUMENTS, "dtype": "float32"}, REQUEST, has_one_scale=True)
    check_numbers(found, layers=4)
    assert found["beside others"] != found["whole"][0]
    assert found["numerics"]["independent_nonces"] is False


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "AVX2", reason="vLLM's FP8 cache on a CPU needs AVX-512"
)
def test_a_quantised_cache(zygote: Zygote, tmp_path: Path) -> None:
    model = build_family("Llama", tmp_path / "model", torch.bfloat16)
    found = zygote.run(model, {**ARGUMENTS, "dtype": "bfloat16", "kv_cache_dtype": "fp8"}, REQUEST)
    check_itself(found, layers=4)
    assert found["numerics"]["kv_cache_dtype"] == "fp8_e4m3"


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        pytest.param("Qwen3-MoE", {}, id="experts"),
        pytest.param("gpt-oss", {}, id="experts, sinks"),
        pytest.param("DeepSeek-V3", {}, id="latent attention"),
        *(pytest.param(name, {}, id=name) for name in WITH_STATES),
        *(
            pytest.param(name, {"enforce_eager": False}, id=f"{name}, compiled")
            for name in ("Falcon-H1", "Qwen3-Next")
        ),
        pytest.param("Llama", {"quantization": "fp8"}, id="FP8 weights"),
        pytest.param("Qwen3-MoE", {"quantization": "fp8"}, id="experts in FP8"),
        pytest.param("Llama", {"kv_cache_dtype": "fp8"}, id="FP8 cache"),
        pytest.param("Llama", {"async_scheduling": False}, id="no asynchronous scheduling"),
        pytest.param("Llama", {"attention_backend": "FLASHINFER"}, id="FlashInfer"),
        pytest.param("DeepSeek-V3", {"attention_backend": "TRITON_MLA"}, id="latent attention by Triton"),
        pytest.param("DeepSeek-V3", {"attention_backend": "FLASHMLA"}, id="latent attention by FlashMLA"),
        pytest.param(
            "Llama",
            {"enforce_eager": False, "compilation_config": {"cudagraph_mode": "FULL"}},
            id="full CUDA graphs",
        ),
    ],
)
def test_on_a_gpu(zygote: Zygote, name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    family = FAMILIES[name]
    model = build_family(name, tmp_path / "model", torch.bfloat16)
    found = zygote.run(model, {**ARGUMENTS, "dtype": "bfloat16", **arguments}, REQUEST)
    check_itself(found, layers=family.layers)
    if "quantization" not in arguments and "kv_cache_dtype" not in arguments:
        check_with_transformers(found, model, "bfloat16", family.tolerance("bfloat16"))


def check_quantised_weights(
    zygote: Zygote,
    quantise: Callable[[Path, Path, Path], None],
    method: str,
    tolerance: float,
    directory: Path,
) -> None:
    """That quantised weights count as what they mean."""
    plain = build_family("Llama", directory / "plain", torch.bfloat16)
    quantised, meant = directory / "quantised", directory / "meant"
    quantise(plain, quantised, meant)
    # By default vLLM rounds activations of 4-bit weights to 8 bits too, on processors with AMX.
    found = zygote.run(quantised, {**ARGUMENTS, "dtype": "bfloat16"}, REQUEST, VLLM_CPU_INT4_W4A8="0")
    check_itself(found, layers=4)
    check_independence(found)
    assert found["numerics"]["quantization"] == method
    check_with_transformers(found, meant, "bfloat16", tolerance)


def test_weights_and_activations_in_int8(zygote: Zygote, tmp_path: Path) -> None:
    tolerance = ENGINE_TOLERANCES["bfloat16", "INT8"]
    check_quantised_weights(zygote, quantise_to_int8, "compressed-tensors", tolerance, tmp_path)


NEEDS_AVX512 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "AVX2",
    reason="vLLM's kernels for 4-bit weights on a CPU need AVX-512",
)


@pytest.mark.parametrize(
    ("quantise", "method"),
    [
        pytest.param(quantise_to_awq, "awq", id="AWQ", marks=NEEDS_AVX512),
        pytest.param(quantise_to_gptq, "auto_gptq", id="GPTQ", marks=NEEDS_AVX512),
        pytest.param(quantise_to_int4, "compressed-tensors", id="compressed-tensors", marks=NEEDS_AVX512),
        pytest.param(quantise_to_awq, "auto_awq", id="AWQ on a GPU", marks=pytest.mark.gpu),
        pytest.param(quantise_to_gptq, "auto_gptq", id="GPTQ on a GPU", marks=pytest.mark.gpu),
        pytest.param(quantise_to_nvfp4, "compressed-tensors", id="NVFP4 on a GPU", marks=pytest.mark.gpu),
    ],
)
def test_weights_in_4_bits(
    zygote: Zygote, quantise: Callable[[Path, Path, Path], None], method: str, tmp_path: Path
) -> None:
    check_quantised_weights(zygote, quantise, method, ENGINE_TOLERANCES["bfloat16", "4 bits"], tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two stages need two GPUs")
@pytest.mark.parametrize("name", ["Llama", "Qwen3-MoE", "Falcon-H1"])
def test_each_gpu_has_a_stage(zygote: Zygote, name: str, tmp_path: Path) -> None:
    model = build_family(name, tmp_path / "model", torch.bfloat16)
    one = zygote.run(model, {**ARGUMENTS, "dtype": "bfloat16"}, REQUEST)
    found = zygote.run(model, {**ARGUMENTS, "dtype": "bfloat16", "pipeline_parallel_size": 2}, REQUEST)
    check_itself(found, layers=FAMILIES[name].layers)
    assert found["whole"] == one["whole"]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="expert parallelism needs two GPUs")
def test_each_gpu_has_experts_of_its_own(zygote: Zygote, tmp_path: Path) -> None:
    model = build_family("Qwen3-MoE", tmp_path / "model", torch.bfloat16)
    arguments = {"dtype": "bfloat16", "tensor_parallel_size": 2, "enable_expert_parallel": True}
    found = zygote.run(model, {**ARGUMENTS, **arguments}, REQUEST)
    check_itself(found, layers=4)
    check_with_transformers(found, model, "bfloat16", ENGINE_TOLERANCES["bfloat16", "two ranks"])
