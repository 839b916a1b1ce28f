"""What Hallmark works with, what it refuses, and the test that shows each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from families import FAMILIES, REFUSED

from hallmark.poc.engine.unsupported import FEATURES

TESTED: Final = "tested"
EXPECTED: Final = "expected"
REFUSES: Final = "refused"

_FAMILIES: Final = "tests/poc/engine/test_model_families.py"
_MACHINES: Final = "tests/e2e/test_several_machines.py"
_REFUSALS: Final = "tests/poc/engine/test_unsupported.py"


@dataclass(frozen=True, slots=True)
class Support:
    """A line of the table.

    Attributes:
        what: A family of models, or something that vLLM can be told to do.
        state: Tested, expected to work, or refused.
        says: What was checked, or why it is refused or not tested.
        test: File and function of the test; empty where it is only expected.
    """

    what: str
    state: str
    says: str
    test: str = ""


def _proved(what: str, says: str, file: str, function: str) -> Support:
    return Support(what, TESTED, says, f"{file}::{function}")


def _expected(what: str, says: str) -> Support:
    return Support(what, EXPECTED, says)


def _families() -> Iterator[Support]:
    yield _proved(
        "Qwen3",
        "with every end-to-end test",
        "tests/e2e/test_oracle.py",
        "test_distances_agree_with_transformers",
    )
    notes = {
        "Granite": "its multipliers not 1",
        "GPT-2": "learned positions",
        "Gemma 2": "scaled embeddings, sliding window",
        "Gemma 3": "scaled embeddings, sliding window",
        "Mistral, sliding": "a window shorter than a nonce",
        "gpt-oss": "attention sinks, experts",
        "Qwen3-MoE": "experts",
        "Mixtral": "experts",
        "GLM-4-MoE": "experts, some shared",
        "DeepSeek-V2": "latent attention, experts",
        "DeepSeek-V3": "latent attention, experts in groups",
        "PaddleOCR-VL": "M-RoPE; rounds are about texts",
        "MiMo": "final norm outside of its forward",
        "Mamba": "state-space layers",
        "Mamba 2": "state-space layers",
        "Jamba": "state-space layers, attention, experts",
        "Falcon-H1": "attention and state-space layers beside each other, its multipliers not 1",
        "Nemotron-H": "state-space layers, attention, MLPs as layers of their own",
        "Granite 4": "state-space layers, attention, experts; its multipliers not 1",
        "LFM2": "convolutions with a state, attention",
        "Qwen3-Next": "linear attention, attention, experts; in bf16, within 0.3 s",
    }
    for name, family in FAMILIES.items():
        if family.needs_gpu:
            yield _expected(name, f"{notes[name]}; vLLM has no kernel for CPUs, a test needs a GPU")
        else:
            yield _proved(name, notes.get(name, "dense"), _FAMILIES, "test_a_family")
    yield _proved(
        "Step-3.5",
        "final norm outside of its forward, experts; not compared with transformers, which has it not",
        _FAMILIES,
        "test_a_family_that_transformers_has_not",
    )
    yield _expected("Voxtral", "embeddings by its language model; needs a tokenizer of Mistral's for audio")
    yield _expected(
        "Qwen2-VL, Qwen2.5-VL",
        "M-RoPE, as PaddleOCR-VL; vLLM's classes need torchvision, which the tests have not",
    )
    yield _expected(
        "Qwen3.5", "the layers of Qwen3-Next; vLLM's class needs torchvision, which the tests have not"
    )
    yield _expected(
        "other decoders with plain or latent attention, or these layers with states",
        "their layers are known by type; what is checked at the start finds those that are different",
    )
    yield Support(
        "OPT-350m",
        REFUSES,
        "its embeddings are narrower than its hidden states; found once the model is loaded",
        "tests/e2e/test_start.py::test_a_model_whose_embeddings_are_narrower_ends_the_start",
    )
    yield Support(
        "Qwen3-VL, Qwen3-Omni",
        REFUSES,
        "images added to the first layers' states",
        f"{_REFUSALS}::test_images_in_several_layers_are_refused",
    )
    for name, (_, words) in REFUSED.items():
        yield Support(name, REFUSES, words, f"{_REFUSALS}::test_a_family_is_refused_by_its_configuration")


def _weights() -> Iterator[Support]:
    yield _proved(
        "INT8 weights and activations (compressed-tensors)",
        "within 1.2 s of what they mean: some processors' products saturate",
        _FAMILIES,
        "test_weights_and_activations_in_int8",
    )
    yield _proved(
        "4-bit weights: AWQ, GPTQ, compressed-tensors",
        "of dense layers, with activations in bf16; on a CPU with AVX-512",
        _FAMILIES,
        "test_weights_in_4_bits",
    )
    yield _expected(
        "4-bit weights of experts, 4-bit weights on 8-bit activations", "vLLM's kernels on CPUs need AMX"
    )
    yield _expected("FP8, NVFP4, MXFP4", "no kernel of vLLM's for CPUs has them on every processor")


def _features() -> Iterator[Support]:
    yield _proved(
        "FP8 KV cache",
        "PoC's keys and values are in FP8 too; on a CPU with AVX-512",
        _FAMILIES,
        "test_a_quantised_cache",
    )
    yield _proved(
        "speculative decoding: n-grams, draft model",
        "a batch does not run the draft",
        _FAMILIES,
        "test_speculative_decoding",
    )
    yield _proved(
        "speculative decoding with layers that keep states",
        "numbers alone: by itself vLLM 0.32 for CPUs drafts wrongly there",
        _FAMILIES,
        "test_layers_with_states_and_room_for_drafts",
    )
    yield _proved(
        "prefix caching",
        "in the tests of families, but for state-space models, with which vLLM 0.32 for CPUs fails",
        _FAMILIES,
        "test_a_family",
    )
    yield _proved(
        "tensor parallelism",
        "two ranks",
        "tests/e2e/test_tensor_parallel.py",
        "test_two_ranks_find_and_validate_and_agree_with_one",
    )
    yield _proved("tensor parallelism with experts", "two ranks", _FAMILIES, "test_experts_on_two_ranks")
    yield _proved(
        "tensor parallelism with state-space and linear-attention layers",
        "two ranks",
        _FAMILIES,
        "test_states_on_two_ranks",
    )
    yield _proved(
        "compiled servers with state-space and linear-attention layers",
        "eager operators, and the compiled graph of `--enable-prompt-embeds`",
        _FAMILIES,
        "test_states_on_a_server_that_compiles",
    )
    yield _proved(
        "pipeline parallelism",
        "two stages, also of experts and of state-space layers",
        _FAMILIES,
        "test_two_stages_have_the_numbers_of_one",
    )
    yield _proved(
        "pipeline parallelism with tensor parallelism",
        "two stages of two ranks",
        _FAMILIES,
        "test_two_stages_of_two_ranks",
    )
    yield _expected("expert parallelism", "vLLM 0.32.0's kernel of experts crashes with it on CPUs")
    yield _proved(
        "ranks on several machines, by Ray", "two nodes", _MACHINES, "test_a_round_on_two_nodes_of_rays"
    )
    yield _proved(
        "ranks on several machines, by vLLM's launcher (--nnodes)",
        "two nodes",
        _MACHINES,
        "test_a_round_on_two_nodes_of_vllms_launcher",
    )
    yield _proved(
        "stages on several machines, by vLLM's launcher (--nnodes)",
        "two nodes",
        _MACHINES,
        "test_a_round_on_two_nodes_of_vllms_launcher",
    )
    yield _proved(
        "several servers, in the place of data parallelism",
        "two, with `n_groups` in the round",
        _MACHINES,
        "test_two_servers_share_a_walk_by_groups",
    )
    yield _proved(
        "asynchronous scheduling",
        "on by default, and so in every end-to-end test",
        "tests/e2e/test_concurrent_inference.py",
        "test_sliced_batches_beside_mixed_traffic_are_those_of_an_idle_server",
    )
    yield _proved(
        "KV connectors", "the example connector, which keeps them on a disk", _FAMILIES, "test_a_kv_connector"
    )
    by_words = {
        "deepstack": "test_images_in_several_layers_are_refused",
        "stages by Ray": "test_stages_by_ray_are_refused",
        "XD-RoPE": "test_a_feature_that_poc_does_not_work_with_is_refused_by_name",
        "audio": "test_a_feature_that_poc_does_not_work_with_is_refused_by_name",
        "encoder-decoder": "test_a_feature_that_poc_does_not_work_with_is_refused_by_name",
    }
    for feature in FEATURES:
        by_flag = "test_a_flag_that_asks_for_a_feature_is_refused"
        by_model = "test_a_family_is_refused_by_its_configuration"
        usual = by_flag if feature.flags else by_model
        test = next((test for words, test in by_words.items() if words in feature.name), usual)
        yield Support(feature.name, REFUSES, "", f"{_REFUSALS}::{test}")


GROUPS: Final[dict[str, Sequence[Support]]] = {
    "architectures": tuple(_families()),
    "weights": tuple(_weights()),
    "features": tuple(_features()),
}
"""The tables, by the name of their place in the document."""
