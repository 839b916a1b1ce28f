"""Test vectors for implementations in other languages.

``python -P bench/vectors.py > docs/vectors.json`` writes them; docs/protocol.md explains each part.
Everything but the distances is exact.
"""

import hashlib
import json
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from hallmark.kernels.draw_matrix import draw_matrix_reference
from hallmark.kernels.draw_normals import draw_normals_reference, streams_tensor
from hallmark.kernels.normal_table import normal_table, signed_table
from hallmark.poc.offline.model import last_hidden
from hallmark.poc.protocol.config import DeployedModel, PoCConfig
from hallmark.poc.protocol.law import distance_std
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.round_spec import round_digest, round_settings
from hallmark.poc.protocol.round_tensors import RoundTensors, pad_keys
from hallmark.poc.protocol.streams import PROTOCOL, Stream, post_stream, pre_stream, stream_digest

__all__ = ["render", "vectors"]

Json = dict[str, Any]

BLOCK_HASH = "0000000000000000000a7c3e5b9d1f2468ace013579bdf02468ace013579bdf0"
PUBLIC_KEY = "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5"
PROJECTION_SCALE = 0.01

# What distances of the demo model may differ by between machines, in units of s: twice what another dtype
# makes of them, and nearly five times what another instruction set does (bench/numerics.py).
DISTANCE_TOLERANCE = 0.15

_DEMO: Json = {
    "hidden_size": 256,
    "seq_len": 64,
    "input_scale": 2.0**-3,
    "projection": True,
    "projection_scale": PROJECTION_SCALE,
    "model": "",
}
_PLAIN: Json = {**_DEMO, "input_scale": 1.0, "projection": False}
_LARGE: Json = {
    **_DEMO,
    "hidden_size": 4096,
    "seq_len": 256,
    "input_scale": 2.0**-5,
    "model": "Qwen/Qwen3-8B",
}
_UNUSUAL: Json = {**_DEMO, "seq_len": 1, "input_scale": 2.0, "projection_scale": 1.0, "model": "模型"}
_SMALL_SCALE: Json = {**_DEMO, "hidden_size": 1024, "projection_scale": 1e-5}


def vectors() -> Json:
    """All vectors as JSON has them; bf16 numbers as the four hex digits of their bit patterns."""
    rounds: list[Json] = [_DEMO, _PLAIN, _LARGE, _UNUSUAL, _SMALL_SCALE]
    return {
        "protocol": PROTOCOL,
        "table": _table(),
        "streams": _streams(),
        "projections": [
            _projection(purpose, stream, width)
            for width in (256, 1024)
            for purpose, stream in (("pre", pre_stream(BLOCK_HASH)), ("post", post_stream(BLOCK_HASH)))
        ],
        "rounds": [{"settings": round_settings(**r), "digest": _digest(**r)} for r in rounds],
        "targets": [
            _target(
                [_digest(**settings), BLOCK_HASH, PUBLIC_KEY, str(nonce)],
                settings["hidden_size"],
            )
            for settings in (rounds[0], rounds[2])
            for nonce in (0, 2**63 - 1)
        ],
        "distances": _distances(),
    }


def render(value: Json) -> str:
    """JSON with lists of plain values on one line each."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return re.sub(r"\[[^\[\]{}]*\]", lambda plain: re.sub(r"\s*\n\s*", " ", plain[0]), text) + "\n"


def _digest(**settings: Any) -> str:
    return round_digest(round_settings(**settings))


def _hex(values: Tensor) -> list[str]:
    return [f"{bits & 0xFFFF:04x}" for bits in values.view(torch.int16).tolist()]


def _table() -> Json:
    table = normal_table()
    patterns = table.view(torch.int16).numpy().astype("<u2").tobytes()
    return {
        "sha256": hashlib.sha256(patterns).hexdigest(),
        "first": _hex(table[:8]),
        "last": _hex(table[-8:]),
    }


def _streams() -> list[Json]:
    projected, plain = (_digest(**settings) for settings in (_DEMO, _PLAIN))
    scale = _DEMO["input_scale"]
    return [
        _stream("embeds", [projected, BLOCK_HASH, PUBLIC_KEY, "0"], scale),
        _stream("embeds", [projected, BLOCK_HASH, "clé-公開鍵-🗝", "17"], scale),
        _stream("embeds", [projected, BLOCK_HASH, PUBLIC_KEY, str(2**32 + 17)], scale),
        _stream("embeds", [plain, BLOCK_HASH, PUBLIC_KEY, "0"], 1.0),
        _stream("pre", [BLOCK_HASH], PROJECTION_SCALE),
        _stream("post", [BLOCK_HASH], PROJECTION_SCALE),
        _stream("target", [projected, BLOCK_HASH, PUBLIC_KEY, "0"], 1.0),
        _stream("target", [projected, BLOCK_HASH, "clé-公開鍵-🗝", str(2**63 - 1)], 1.0),
    ]


def _stream(purpose: str, fields: list[str], scale: float) -> Json:
    digest = stream_digest(purpose, *fields)
    stream = Stream.from_digest(digest)
    return {
        "purpose": purpose,
        "fields": fields,
        "digest": digest.hex(),
        "key": [stream.key0, stream.key1],
        "stream": [stream.c2, stream.c3],
        "elements": _hex(draw_normals_reference(streams_tensor([stream]), 32, signed_table(scale))[0]),
    }


def _projection(purpose: str, stream: Stream, width: int) -> Json:
    matrix = draw_matrix_reference(streams_tensor([stream])[0], width, width, PROJECTION_SCALE)
    return {
        "block_hash": BLOCK_HASH,
        "purpose": purpose,
        "width": width,
        "scale": PROJECTION_SCALE,
        "corner": [_hex(row) for row in matrix[:8, :8]],
    }


def _target(fields: list[str], width: int) -> Json:
    stream = Stream.from_digest(stream_digest("target", *fields))
    drawn = draw_normals_reference(streams_tensor([stream]), width, signed_table(1.0))
    return {"fields": fields, "width": width, "first": _hex(drawn[0, :8])}


def _distances() -> Json:
    # The one part that needs a model, and with it transformers.
    from transformers import AutoModelForCausalLM

    from hallmark.server.demo.model import build_demo_model

    with TemporaryDirectory() as directory:
        build_demo_model(Path(directory))
        weights = hashlib.sha256((Path(directory) / "model.safetensors").read_bytes()).hexdigest()
        model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.bfloat16, attn_implementation="eager"
        ).eval()
    config = PoCConfig(
        block_hash=BLOCK_HASH, block_height=840_000, public_key=PUBLIC_KEY, batch_size=4, seq_len=64
    )
    round_ = Round.resolve(config, _deployed(model))
    spec = round_.spec()
    tensors = RoundTensors(spec, torch.bfloat16, "cpu")
    nonces = list(range(10))
    distances: list[float] = []
    for start in range(0, len(nonces), spec.batch_size):
        keys = [(PUBLIC_KEY, nonce) for nonce in nonces[start : start + spec.batch_size]]
        padded = pad_keys(keys, spec.batch_size)
        batch = tensors.distances(last_hidden(model, tensors.inputs(padded)), padded)
        distances += batch[: len(keys)].tolist()
    return {
        "model": f"hallmark.server.demo.model.build_demo_model(directory), model.safetensors {weights}",
        "round": {
            "block_hash": BLOCK_HASH,
            "public_key": PUBLIC_KEY,
            "batch_size": spec.batch_size,
            "seq_len": spec.seq_len,
            "input_scale": spec.input_scale,
            "projection": "on",
            "projection_scale": spec.projection_scale,
            "model": config.model,
            "digest": spec.digest,
            "dtype": "bfloat16",
            "mode": "transformers, PyTorch eager on a CPU, eager attention",
            "tolerance": DISTANCE_TOLERANCE * distance_std(spec.hidden_size),
        },
        "nonces": nonces,
        "dist": [round(d, 9) for d in distances],
    }


def _deployed(model: Any) -> DeployedModel:
    embeddings: Tensor = model.get_input_embeddings().weight.detach()
    return DeployedModel(
        hidden_size=model.config.hidden_size,
        dtype="bfloat16",
        embedding_rms=float(embeddings.double().square().mean().sqrt()),
        served_names=(),
        max_batched_tokens=2048,
        max_sequences=32,
        max_model_len=model.config.max_position_embeddings,
    )


if __name__ == "__main__":
    sys.stdout.write(render(vectors()))
