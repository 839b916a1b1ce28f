"""The small model: the same bytes every time, and every layer of it counts."""

import copy
import hashlib
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from hallmark.poc.core.errors import FieldError
from hallmark.server.models import small
from hallmark.server.models.small import build_small_model

# Files and tensors of the default model, fixed so that distances measured on it stay comparable for ever.
WEIGHTS_SHA256 = "fa2b88b6515b08f9257bc21f32e35f2fb2cd4fe8c155fce05e8e896dd0203e99"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small-model")
    build_small_model(path)
    return path


def hashes(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def load(directory: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
    return model.eval()


def outputs(model: PreTrainedModel, inputs: torch.Tensor) -> torch.Tensor:
    """Directions [n, hidden] of the last position's final hidden states, in float32."""
    with torch.no_grad():
        hidden = model.model(inputs_embeds=inputs.clone()).last_hidden_state[:, -1].float()
    return torch.nn.functional.normalize(hidden, dim=-1)


def test_the_same_files_every_time(directory: Path, tmp_path: Path) -> None:
    build_small_model(tmp_path)
    assert hashes(tmp_path) == hashes(directory)
    assert hashes(directory)["model.safetensors"] == WEIGHTS_SHA256


def test_another_seed_shares_no_matrix(directory: Path, tmp_path: Path) -> None:
    build_small_model(tmp_path, seed=1)
    ours, theirs = load_file(directory / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    same = {name for name in ours if torch.equal(ours[name], theirs[name])}
    assert same == {name for name in ours if "norm" in name}


def test_an_altered_layer_differs_there_only(directory: Path, tmp_path: Path) -> None:
    build_small_model(tmp_path, altered_layer=2)
    ours, theirs = load_file(directory / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    changed = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert changed == {name for name in ours if name.startswith("model.layers.2.") and "norm" not in name}
    expected = hashes(directory)
    assert {name for name, value in hashes(tmp_path).items() if expected[name] != value} == {
        "model.safetensors"
    }


@pytest.mark.parametrize("layer", [-1, small.LAYERS])
def test_a_layer_it_has_not_is_refused(tmp_path: Path, layer: int) -> None:
    with pytest.raises(FieldError, match=f"altered_layer: {layer} is not allowed; allowed: 0 to 3"):
        build_small_model(tmp_path / "model", altered_layer=layer)
    assert not (tmp_path / "model").exists()


def test_weights_have_the_spread_they_claim(directory: Path) -> None:
    for name, weight in load_file(directory / "model.safetensors").items():
        assert weight.dtype == torch.bfloat16
        if "norm" in name:
            assert torch.equal(weight, torch.ones_like(weight))
        else:
            # 16,384 numbers at least: the mean's standard error is below 1 % of the spread.
            assert weight.float().std().item() == pytest.approx(small.WEIGHT_STD, rel=0.03)
            assert abs(weight.float().mean().item()) < 0.04 * small.WEIGHT_STD


def test_the_embedding_scale_is_far_from_a_boundary_between_powers_of_two(directory: Path) -> None:
    table = load_file(directory / "model.safetensors")["model.embed_tokens.weight"].float()
    exponent = math.log2(table.square().mean().sqrt().item())
    assert round(exponent) == -3
    assert abs(exponent - round(exponent)) < 0.5 - math.log2(1.05)


@pytest.mark.parametrize("layer", range(small.LAYERS))
def test_every_layer_moves_the_output(directory: Path, tmp_path: Path, layer: int) -> None:
    """Exchanging or leaving out a layer moves the distance by far more than the tolerance of 0.35 s."""
    build_small_model(tmp_path, altered_layer=layer)
    model, altered = load(directory), load(tmp_path)
    without = copy.deepcopy(model)
    del without.model.layers[layer]
    for index, remaining in enumerate(without.model.layers):
        remaining.self_attn.layer_idx = index
    without.config.num_hidden_layers -= 1
    generator = torch.Generator().manual_seed(layer)
    inputs = (torch.randn(4, 64, small.HIDDEN_SIZE, generator=generator) / 8).to(torch.bfloat16)
    honest = outputs(model, inputs)
    for other in (altered, without):
        cosine = (honest * outputs(other, inputs)).sum(-1)
        # Two unit vectors of cosine c put a random target's distance sqrt(1 - c²) s apart.
        error = (1 - cosine.square()).clamp(min=0).sqrt()
        assert error.mean().item() > 0.4


def test_the_tokenizer_reads_any_text_and_names_every_token(directory: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    text = "Proof of compute: Grüße, µ²\n\t你好 \x00"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    names = tokenizer.convert_ids_to_tokens(list(range(small.VOCABULARY_SIZE)))
    assert len(set(names)) == small.VOCABULARY_SIZE


def test_the_chat_template_marks_the_turns(directory: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, tokenize=False
    )
    assert prompt == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer(prompt)["input_ids"].count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 2
