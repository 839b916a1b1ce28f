"""A GGUF file made by hand is read as llama.cpp's format defines it, and a Llama comes out of it whole."""

import struct
from pathlib import Path
from typing import Any

import _smollm2
import numpy as np
import pytest
import torch
from _smollm2 import Gguf, halves_apart, llama, load, put_together, read_gguf, read_smollm2, split

WIDTH, HEADS, SHARED, INNER, VOCABULARY = 64, 4, 2, 96, 40
HEAD = WIDTH // HEADS
F32, F16, Q4_0, Q4_1, Q8_0 = 0, 1, 2, 3, 8


def text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def pair(key: str, value: Any) -> bytes:
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    if isinstance(value, list):
        return text(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    kind, code = (6, "f") if isinstance(value, float) else (4, "I")
    return text(key) + struct.pack(f"<I{code}", kind, value)


def gguf_file(metadata: dict[str, Any], tensors: dict[str, tuple[int, tuple[int, ...], bytes]]) -> bytes:
    """A file of version 3; each tensor is its type, its shape as numpy has it, and its bytes."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(pair(key, value) for key, value in metadata.items())
    data = b""
    for name, (kind, shape, raw) in tensors.items():
        head += text(name) + struct.pack("<I", len(shape))
        head += struct.pack(f"<{len(shape)}Q", *shape[::-1]) + struct.pack("<IQ", kind, len(data))
        data += raw + bytes(-len(raw) % 32)
    return head + bytes(-len(head) % 32) + data


def q4_1_block(d: float, m: float, values: list[int]) -> bytes:
    """Element i in the low half of byte i, element 16 + i in its high half."""
    assert len(values) == 32
    return struct.pack("<2e", d, m) + bytes(values[i] | values[16 + i] << 4 for i in range(16))


def q8_0_block(d: float, values: list[int]) -> bytes:
    return struct.pack("<e32b", d, *values)


def test_blocks_of_four_bits_are_scaled_and_shifted() -> None:
    values = [list(range(16)) + list(range(15, -1, -1)), [7] * 31 + [15]]
    raw = q4_1_block(0.5, -2.0, values[0]) + q4_1_block(0.25, 1.0, values[1])
    (tensor,) = read_gguf(gguf_file({}, {"a": (Q4_1, (2, 32), raw)})).tensors.values()
    assert tensor.dtype == np.float32
    np.testing.assert_array_equal(tensor[0], 0.5 * np.array(values[0]) - 2)
    np.testing.assert_array_equal(tensor[1], 0.25 * np.array(values[1]) + 1)


def test_blocks_of_eight_bits_are_signed() -> None:
    values = [-127, 127, *range(-15, 15)]
    (tensor,) = read_gguf(gguf_file({}, {"a": (Q8_0, (1, 32), q8_0_block(0.125, values))})).tensors.values()
    np.testing.assert_array_equal(tensor, 0.125 * np.array([values]))


def test_plain_numbers_metadata_and_alignment() -> None:
    metadata = {"general.alignment": 64, "name": "model", "rate": 0.5, "words": ["a", "bc", ""]}
    tensors = {
        "half": (F16, (3,), np.array([1, -2, 0.5], "<f2").tobytes()),
        "whole": (F32, (2, 2), np.array([[1, 2], [3, 4]], "<f4").tobytes()),
    }
    data = gguf_file(metadata, tensors)
    # The maker aligns to 32: move the data to the next multiple of 64.
    place = data.rindex(np.array([1, -2, 0.5], "<f2").tobytes())
    found = read_gguf(data[:place] + bytes(-place % 64) + data[place:])
    assert found.metadata == metadata
    np.testing.assert_array_equal(found.tensors["half"], [1, -2, 0.5])
    np.testing.assert_array_equal(found.tensors["whole"], [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GGML" + bytes(32), "not a GGUF file"),
        (gguf_file({}, {"a": (Q4_0, (1, 32), bytes(18))}), "'a': type 2 is not known"),
        (gguf_file({}, {"a": (F32, (64,), bytes(256))})[:-8], "'a' ends 8 bytes behind the end"),
    ],
)
def test_what_cannot_be_read_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_gguf(data)


def test_rows_of_queries_are_put_back_half_a_head_apart() -> None:
    rows = np.arange(2 * 6, dtype=np.float32).reshape(12, 1)
    # What llama.cpp's converter does to a weight of two heads of six rows each.
    interleaved = rows.reshape(2, 2, 3, 1).swapaxes(1, 2).reshape(12, 1)
    assert interleaved[:6, 0].tolist() == [0, 3, 1, 4, 2, 5]
    np.testing.assert_array_equal(halves_apart(interleaved, 2), rows)


def small_llama() -> Gguf:
    draw = np.random.default_rng(0)
    shapes = {
        "attn_norm": (WIDTH,),
        "attn_q": (HEADS * HEAD, WIDTH),
        "attn_k": (SHARED * HEAD, WIDTH),
        "attn_v": (SHARED * HEAD, WIDTH),
        "attn_output": (WIDTH, HEADS * HEAD),
        "ffn_norm": (WIDTH,),
        "ffn_gate": (INNER, WIDTH),
        "ffn_up": (INNER, WIDTH),
        "ffn_down": (WIDTH, INNER),
    }
    named = {f"blk.{block}.{name}.weight": shape for block in range(2) for name, shape in shapes.items()}
    named |= {"token_embd.weight": (VOCABULARY, WIDTH), "output_norm.weight": (WIDTH,)}
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.context_length": 128,
        "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": INNER,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": SHARED,
        "llama.attention.layer_norm_rms_epsilon": float(np.float32(1e-5)),
        "llama.rope.freq_base": 100_000.0,
        "llama.rope.dimension_count": HEAD,
        "tokenizer.ggml.bos_token_id": 1,
    }
    return Gguf(metadata, {name: draw.normal(size=shape).astype(np.float32) for name, shape in named.items()})


def test_a_llama_is_loaded_as_the_file_describes_it(tmp_path: Path) -> None:
    gguf = small_llama()
    llama(gguf).write(tmp_path)
    model = load(tmp_path, torch.bfloat16, "eager")
    config = model.config
    assert config.rms_norm_eps == 1e-5
    assert config.rope_parameters["rope_theta"] == 100_000
    assert config.num_key_value_heads == SHARED
    assert config.tie_word_embeddings
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    layer, tensors = model.model.layers[1], gguf.tensors
    for weight, name in (
        (model.model.embed_tokens.weight, "token_embd"),
        (model.model.norm.weight, "output_norm"),
        (layer.self_attn.v_proj.weight, "blk.1.attn_v"),
        (layer.mlp.down_proj.weight, "blk.1.ffn_down"),
    ):
        assert torch.equal(weight, torch.from_numpy(tensors[f"{name}.weight"]).bfloat16())
    for weight, name, heads in (
        (layer.self_attn.q_proj.weight, "blk.1.attn_q", HEADS),
        (layer.self_attn.k_proj.weight, "blk.1.attn_k", SHARED),
    ):
        own = torch.from_numpy(halves_apart(tensors[f"{name}.weight"], heads)).bfloat16()
        assert torch.equal(weight, own)
        assert not torch.equal(weight, torch.from_numpy(tensors[f"{name}.weight"]).bfloat16())


def test_another_architecture_and_foreign_tensors_are_refused() -> None:
    gguf = small_llama()
    with pytest.raises(ValueError, match="'gemma3' is not known"):
        llama(Gguf({**gguf.metadata, "general.architecture": "gemma3"}, gguf.tensors))
    bias = {"blk.0.attn_q.bias": np.zeros(WIDTH, np.float32)}
    with pytest.raises(ValueError, match=r"'blk.0.attn_q.bias' is none of a Llama's"):
        llama(Gguf(gguf.metadata, {**gguf.tensors, **bias}))


def test_parts_are_put_together_and_earlier_ones_removed(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5
    assert len(split(data, tmp_path, 100)) == 13
    assert put_together(tmp_path) == data
    paths = split(data, tmp_path, 1000)
    assert [path.stat().st_size for path in paths] == [1000, 280]
    assert sorted(tmp_path.iterdir()) == paths
    assert put_together(tmp_path) == data
    paths[1].unlink()
    with pytest.raises(FileNotFoundError, match="1 parts of 2"):
        put_together(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither a file nor a folder with parts"):
        put_together(tmp_path / "absent")


def test_other_bytes_than_the_pinned_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split(b"GGUF", tmp_path, 3)
    monkeypatch.setenv("HALLMARK_SMOLLM2", str(tmp_path))
    with pytest.raises(ValueError, match=f"not {_smollm2.SHA256}"):
        read_smollm2()
