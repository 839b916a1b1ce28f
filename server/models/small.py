"""A small model that `hallmark demo` and the tests serve: made here, not downloaded.

It is a Qwen3 of about five million parameters with random weights and a byte-level tokenizer. What it says
is noise, but vLLM serves it like any other model, and each of its layers matters to the output: weights have
a standard deviation of 0.1, so that a layer adds about as much to the residual stream as it finds there. (At
the usual 0.02 and this width a layer could be left out and hardly change a distance.)

The same arguments give the same bytes with every version of torch: weights are drawn from SHAKE-256 by
integer arithmetic, apart from the protocol's own streams, so that the model outlives a change of them.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from string import ascii_letters, ascii_lowercase
from typing import Final

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from hallmark.poc.core.errors import FieldError

HIDDEN_SIZE: Final = 256
LAYERS: Final = 4
HEADS: Final = 4
KEY_VALUE_HEADS: Final = 2
HEAD_SIZE: Final = 64
INTERMEDIATE_SIZE: Final = 768
VOCABULARY_SIZE: Final = 4096
MAX_POSITIONS: Final = 2048
WEIGHT_STD: Final = 0.1

_END_OF_TEXT: Final = "<|endoftext|>"
_START_OF_TURN: Final = "<|im_start|>"
_END_OF_TURN: Final = "<|im_end|>"

_CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def fast_dtype() -> str:
    """Return the dtype that this machine serves the model in.

    Bfloat16, float32 where that is many times as fast.

    On x86 processors without AVX-512 PyTorch has no fast bf16 product.
    """
    slow = not torch.cuda.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return "float32" if slow else "bfloat16"


def build_small_model(directory: Path, *, seed: int = 0, altered_layer: int | None = None) -> None:
    """Write the model, its configuration and its tokenizer into a directory.

    Args:
        directory: Created where missing; files of an earlier build in it are overwritten.
        seed: Models of two seeds share no weight.
        altered_layer: Index of the one layer whose weights are drawn anew; everything else stays as it is
            without it. None alters nothing.

    Raises:
        FieldError: When the model has no layer of that index.
    """
    if altered_layer is not None and not 0 <= altered_layer < LAYERS:
        raise FieldError("altered_layer", altered_layer, f"0 to {LAYERS - 1}, or None")
    directory.mkdir(parents=True, exist_ok=True)
    save_file(
        dict(_weights(seed, altered_layer)), str(directory / "model.safetensors"), metadata={"format": "pt"}
    )
    tokenizer = _tokenizer()
    tokenizer.save(str(directory / "tokenizer.json"))
    for name, content in _configuration_files(tokenizer).items():
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _weights(seed: int, altered_layer: int | None) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the name and the bf16 tensor of every parameter."""
    attention, key_value = HEADS * HEAD_SIZE, KEY_VALUE_HEADS * HEAD_SIZE
    matrices = {
        "self_attn.q_proj": (attention, HIDDEN_SIZE),
        "self_attn.k_proj": (key_value, HIDDEN_SIZE),
        "self_attn.v_proj": (key_value, HIDDEN_SIZE),
        "self_attn.o_proj": (HIDDEN_SIZE, attention),
        "mlp.gate_proj": (INTERMEDIATE_SIZE, HIDDEN_SIZE),
        "mlp.up_proj": (INTERMEDIATE_SIZE, HIDDEN_SIZE),
        "mlp.down_proj": (HIDDEN_SIZE, INTERMEDIATE_SIZE),
    }
    norms = {
        "input_layernorm": HIDDEN_SIZE,
        "post_attention_layernorm": HIDDEN_SIZE,
        "self_attn.q_norm": HEAD_SIZE,
        "self_attn.k_norm": HEAD_SIZE,
    }
    for name in ("model.embed_tokens", "lm_head"):
        yield f"{name}.weight", _draw(f"{seed}/{name}", VOCABULARY_SIZE, HIDDEN_SIZE)
    for layer in range(LAYERS):
        edition = "altered" if layer == altered_layer else "original"
        for name, (rows, columns) in matrices.items():
            yield (
                f"model.layers.{layer}.{name}.weight",
                _draw(f"{seed}/layer {layer}/{edition}/{name}", rows, columns),
            )
        for name, size in norms.items():
            yield f"model.layers.{layer}.{name}.weight", torch.ones(size, dtype=torch.bfloat16)
    yield "model.norm.weight", torch.ones(HIDDEN_SIZE, dtype=torch.bfloat16)


def _draw(label: str, rows: int, columns: int) -> torch.Tensor:
    """Return a bf16 matrix [rows, columns] of nearly normal numbers with standard deviation `WEIGHT_STD`.

    Each is the centred sum of eight uniform bytes: exact integers, where a logarithm or a cosine would differ
    in the last bit from one machine to the next.
    """
    stream = hashlib.shake_256(f"hallmark demo model/{label}".encode()).digest(8 * rows * columns)
    sums = np.frombuffer(stream, dtype=np.uint8).reshape(rows, columns, 8).sum(axis=-1, dtype=np.float32)
    variance_of_a_sum = 8 * (256**2 - 1) / 12
    centred = (sums - np.float32(8 * 255 / 2)) * np.float32(WEIGHT_STD / variance_of_a_sum**0.5)
    return torch.from_numpy(centred).to(torch.bfloat16)


def _tokenizer() -> Tokenizer:
    """Return a byte-level BPE tokenizer of exactly `VOCABULARY_SIZE` tokens.

    All bytes, so that it reads any text; pairs of small letters and a space before a letter, so that it
    merges as real ones do; reserved tokens up to the size of the embedding table, so that whatever the model
    samples has a name.
    """
    special = [_END_OF_TEXT, _START_OF_TURN, _END_OF_TURN]
    space = "Ġ"  # how byte-level tokenizers write a space
    pairs = [(space, letter) for letter in ascii_letters]
    pairs += [(first, second) for first in ascii_lowercase for second in ascii_lowercase]
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet()) + [left + right for left, right in pairs]
    reserved = [f"<|reserved_{i}|>" for i in range(VOCABULARY_SIZE - len(tokens) - len(special))]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special + reserved])
    return tokenizer


def _configuration_files(tokenizer: Tokenizer) -> dict[str, dict[str, object]]:
    """Return what goes into each JSON file beside the weights, keyed by its name."""
    end_of_text, end_of_turn = tokenizer.token_to_id(_END_OF_TEXT), tokenizer.token_to_id(_END_OF_TURN)
    return {
        "config.json": {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "dtype": "bfloat16",
            "hidden_size": HIDDEN_SIZE,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KEY_VALUE_HEADS,
            "head_dim": HEAD_SIZE,
            "intermediate_size": INTERMEDIATE_SIZE,
            "vocab_size": VOCABULARY_SIZE,
            "max_position_embeddings": MAX_POSITIONS,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "tie_word_embeddings": False,
            "bos_token_id": end_of_text,
            "eos_token_id": end_of_turn,
        },
        "generation_config.json": {
            "bos_token_id": end_of_text,
            "eos_token_id": [end_of_turn, end_of_text],
            "pad_token_id": end_of_text,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": None,
            "eos_token": _END_OF_TURN,
            "pad_token": _END_OF_TEXT,
            "model_max_length": MAX_POSITIONS,
            "clean_up_tokenization_spaces": False,
            "chat_template": _CHAT_TEMPLATE,
        },
    }
