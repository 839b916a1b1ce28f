"""Test vectors for implementations in other languages.

``python -P bench/vectors.py > docs/protocol/vectors.json`` writes them.
docs/protocol/hallmark-2.md explains each part. Everything but the numbers of `vectors` is exact.
"""

import base64
import hashlib
import json
import re
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from hallmark.kernels.draw_matrix import draw_matrix_reference
from hallmark.kernels.draw_normals import draw_normals_reference, streams_tensor
from hallmark.kernels.draw_words import draw_words
from hallmark.kernels.norm_sums import sign_matrix
from hallmark.kernels.normal_table import normal_table, signed_table
from hallmark.poc.offline.model import OfflineModel
from hallmark.poc.protocol.config import PoCConfig
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.round_spec import (
    NO_FIRST,
    default_projection_scale,
    round_digest,
    round_settings,
)
from hallmark.poc.protocol.round_tensors import RoundTensors
from hallmark.poc.protocol.row_groups import row_order
from hallmark.poc.protocol.streams import PROTOCOL, Stream, post_stream, pre_stream, stream_digest

__all__ = ["render", "vectors"]

Json = dict[str, Any]

BLOCK_HASH = "0000000000000000000a7c3e5b9d1f2468ace013579bdf02468ace013579bdf0"
PUBLIC_KEY = "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5"
OTHER_KEY = "clé-公開鍵-🗝"
ELEMENTS = 32
WORDS = 16
NONCES = 10
BATCH_SIZE = 4

# What numbers of the small model may differ by between machines: twice the most that another dtype moves them
# (bench/numerics.py).
NUMBER_TOLERANCE = 0.2

# The small model's round by default, and others.
_DEMO: Json = {
    "hidden_size": 256,
    "seq_len": 256,
    "inputs": "tokens",
    "vocabulary": 4096,
    "first": NO_FIRST,
    "input_scale": 1.0,
    "projection": True,
    "projection_scale": default_projection_scale(256),
    "readout": "rows",
    "numbers": 16,
    "model": "",
}
_SHORT: Json = {**_DEMO, "seq_len": 64, "numbers": 14}
_NORMAL: Json = {"inputs": "normal", "vocabulary": 0, "readout": "last", "numbers": 1}
_PLAIN: Json = {**_SHORT, **_NORMAL, "projection": False}
_SCALED: Json = {**_SHORT, **_NORMAL, "input_scale": 2.0**-3, "projection_scale": 0.01}
_LARGE: Json = {
    **_DEMO,
    "hidden_size": 4096,
    "vocabulary": 128_256,
    "first": 128_000,
    "projection_scale": default_projection_scale(4096),
    "model": "meta-llama/Llama-3.1-8B",
}
_UNUSUAL: Json = {
    **_DEMO,
    "seq_len": 7,
    "vocabulary": 2**31 - 1,
    "first": 0,
    "projection_scale": 1.0,
    "readout": "last",
    "numbers": 1,
    "model": "模型",
}
_SMALL_SCALE: Json = {**_DEMO, "hidden_size": 1024, "numbers": 3, "projection_scale": 1e-5}
_ROUNDS = (_DEMO, _SHORT, _PLAIN, _SCALED, _LARGE, _UNUSUAL, _SMALL_SCALE)


def vectors() -> Json:
    """Return all vectors as JSON has them; bf16 numbers as the four hex digits of their bit patterns."""
    return {
        "protocol": PROTOCOL,
        "table": _table(),
        "streams": _streams(),
        "projections": [
            _projection(purpose, stream, width, scale)
            for width in (256, 1024)
            for scale in (default_projection_scale(width), 0.01)
            for purpose, stream in (("pre", pre_stream(BLOCK_HASH)), ("post", post_stream(BLOCK_HASH)))
        ],
        "rounds": [{"settings": round_settings(**r), "digest": _digest(**r)} for r in _ROUNDS],
        "tokens": [
            _tokens(settings, public_key, nonce)
            for settings, public_key, nonce in (
                (_SHORT, PUBLIC_KEY, 0),
                (_SHORT, OTHER_KEY, 17),
                (_LARGE, PUBLIC_KEY, 2**32 + 17),
                (_UNUSUAL, PUBLIC_KEY, 2**63 - 1),
            )
        ],
        "rows": [
            _rows(settings, PUBLIC_KEY, nonce)
            for settings in (_SHORT, _DEMO, _SMALL_SCALE)
            for nonce in (0, 2**63 - 1)
        ],
        "targets": [
            _target(settings, PUBLIC_KEY, nonce)
            for settings in (_DEMO, _PLAIN, _LARGE)
            for nonce in (0, 2**63 - 1)
        ],
        "vectors": _vectors(),
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


def _fields(settings: Json, public_key: str, nonce: int) -> list[str]:
    return [_digest(**settings), BLOCK_HASH, public_key, str(nonce)]


def _streams() -> list[Json]:
    return [
        _stream("tokens", _fields(_SHORT, PUBLIC_KEY, 0)),
        _stream("tokens", _fields(_SHORT, OTHER_KEY, 17)),
        _stream("tokens", _fields(_LARGE, PUBLIC_KEY, 2**32 + 17)),
        _stream("rows", _fields(_SHORT, PUBLIC_KEY, 0)),
        _stream("rows", _fields(_DEMO, PUBLIC_KEY, 2**63 - 1)),
        _stream("embeds", _fields(_SCALED, PUBLIC_KEY, 0), _SCALED["input_scale"]),
        _stream("embeds", _fields(_PLAIN, OTHER_KEY, 17), 1.0),
        _stream("pre", [BLOCK_HASH], default_projection_scale(256)),
        _stream("post", [BLOCK_HASH], 0.01),
        _stream("target", _fields(_SHORT, PUBLIC_KEY, 0), 1.0),
        _stream("target", _fields(_SHORT, OTHER_KEY, 2**63 - 1), 1.0),
    ]


def _stream(purpose: str, fields: list[str], scale: float | None = None) -> Json:
    """Return a stream; without a scale it is one of words."""
    digest = stream_digest(purpose, *fields)
    stream = Stream.from_digest(digest)
    named: Json = {
        "purpose": purpose,
        "fields": fields,
        "digest": digest.hex(),
        "key": [stream.key0, stream.key1],
        "stream": [stream.c2, stream.c3],
    }
    streams = streams_tensor([stream])
    if scale is None:
        return {**named, "words": [f"{word:08x}" for word in draw_words(streams, WORDS)[0].tolist()]}
    elements = _hex(draw_normals_reference(streams, ELEMENTS, signed_table(scale))[0])
    return {**named, **({} if scale == 1.0 else {"scale": scale}), "elements": elements}


def _projection(purpose: str, stream: Stream, width: int, scale: float) -> Json:
    matrix = draw_matrix_reference(streams_tensor([stream])[0], width, width, scale)
    return {
        "block_hash": BLOCK_HASH,
        "purpose": purpose,
        "width": width,
        "scale": scale,
        **({"default": True} if scale == default_projection_scale(width) else {}),
        "corner": [_hex(row) for row in matrix[:8, :8]],
    }


def _drawn_from(purpose: str, fields: list[str]) -> Tensor:
    return streams_tensor([Stream.from_digest(stream_digest(purpose, *fields))])


def _tokens(settings: Json, public_key: str, nonce: int) -> Json:
    fields = _fields(settings, public_key, nonce)
    vocabulary, first = settings["vocabulary"], settings["first"]
    words = draw_words(_drawn_from("tokens", fields), settings["seq_len"])[0].tolist()
    tokens = [word * vocabulary >> 32 for word in words]
    return {
        "fields": fields,
        "seq_len": settings["seq_len"],
        "vocabulary": vocabulary,
        "first": "none" if first == NO_FIRST else first,
        "tokens": tokens if first == NO_FIRST else [first, *tokens[1:]],
    }


def _rows(settings: Json, public_key: str, nonce: int) -> Json:
    fields = _fields(settings, public_key, nonce)
    seq_len, numbers = settings["seq_len"], settings["numbers"]
    order = row_order(_drawn_from("rows", fields), seq_len)[0]
    signs = sign_matrix(len(order), numbers)[:, order.argsort()]
    return {
        "fields": fields,
        "seq_len": seq_len,
        "numbers": numbers,
        "group": signs.abs().argmax(dim=0).tolist(),
        "sign": signs.sum(dim=0).int().tolist(),
    }


def _target(settings: Json, public_key: str, nonce: int) -> Json:
    fields = _fields(settings, public_key, nonce)
    width, numbers = settings["hidden_size"], settings["numbers"]
    drawn = draw_normals_reference(_drawn_from("target", fields), numbers * width, signed_table(1.0))
    return {
        "fields": fields,
        "width": width,
        "numbers": numbers,
        "first": [_hex(z[:8]) for z in drawn.view(numbers, width)],
    }


def _vectors() -> Json:
    # The one part that needs a model, and with it transformers.
    from hallmark.server.models.small import build_small_model

    with TemporaryDirectory() as name:
        directory = Path(name)
        build_small_model(directory)
        weights = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
        model = OfflineModel.load(directory, device="cpu", dtype="bfloat16")
    config = PoCConfig(
        block_hash=BLOCK_HASH, block_height=840_000, public_key=PUBLIC_KEY, batch_size=BATCH_SIZE
    )
    round_ = Round.resolve(config, model.deployed("", BATCH_SIZE * config.seq_len))
    tensors = RoundTensors(round_.spec(), model.torch_dtype, model.device)
    nonces = list(range(NONCES))
    numbers: list[list[float]] = []
    for start in range(0, NONCES, BATCH_SIZE):
        numbers += model.numbers(
            tensors, [(PUBLIC_KEY, nonce) for nonce in nonces[start : start + BATCH_SIZE]]
        )
    return {
        "model": f"hallmark.server.models.small.build_small_model(directory), model.safetensors {weights}",
        "round": {
            "block_hash": BLOCK_HASH,
            "public_key": PUBLIC_KEY,
            "batch_size": round_.batch_size,
            **round_.settings,
            "digest": round_.digest,
            "dtype": "bfloat16",
            "mode": "transformers, PyTorch eager on a CPU, eager attention",
        },
        "nonces": nonces,
        "numbers": [[round(number, 9) for number in found] for found in numbers],
        "f16": [_f16(found) for found in numbers],
        "tolerance": NUMBER_TOLERANCE,
    }


def _f16(numbers: Sequence[float]) -> str:
    """Write numbers as the wire has them; struct rounds a double once, to nearest even."""
    return base64.b64encode(struct.pack(f"<{len(numbers)}e", *numbers)).decode("ascii")


if __name__ == "__main__":
    sys.stdout.write(render(vectors()))
