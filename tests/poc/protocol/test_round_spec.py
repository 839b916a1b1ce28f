"""The settings of a round as texts, their digest, and what a worker is told."""

import math
from typing import Any

import independent_verifier
import pytest
from builders import BLOCK, MODEL, make_round

from hallmark.poc.protocol.round_spec import (
    NO_FIRST,
    RoundSpec,
    default_projection_scale,
    round_digest,
    round_settings,
    shortest_decimal,
)

BASE: dict[str, Any] = {
    "hidden_size": 256,
    "seq_len": 64,
    "inputs": "tokens",
    "vocabulary": 4096,
    "first": NO_FIRST,
    "input_scale": 1.0,
    "projection": True,
    "projection_scale": 2.0**-6,
    "readout": "rows",
    "numbers": 14,
    "model": "",
}


@pytest.mark.parametrize(
    ("value", "decimal"),
    [
        (0.01, "0.01"),
        (1e-5, "0.00001"),
        (1e-6, "0.000001"),
        (1.0, "1"),
        (0.125, "0.125"),
        (2.0**-9, "0.001953125"),
        (1 / 3, "0.3333333333333333"),
        (0.1, "0.1"),
        (0.020000000000000004, "0.020000000000000004"),
    ],
)
def test_shortest_decimal(value: float, decimal: str) -> None:
    assert shortest_decimal(value) == decimal
    assert independent_verifier.decimal(value) == decimal
    assert float(decimal) == value


@pytest.mark.parametrize(
    ("width", "exponent"),
    [(1, 2), (4, 3), (5, 4), (256, 6), (257, 7), (576, 7), (1024, 7), (4096, 8), (5120, 9), (16384, 9)],
)
def test_a_projection_adds_at_most_a_sixteenth_of_the_energy(width: int, exponent: int) -> None:
    scale = default_projection_scale(width)
    assert scale == 2.0**-exponent == independent_verifier.projection_scale(width)
    assert 1 / 64 < width * scale**2 <= 1 / 16


def test_the_texts_and_their_order() -> None:
    assert round_settings(**BASE) == {
        "hidden_size": "256",
        "seq_len": "64",
        "inputs": "tokens",
        "vocabulary": "4096",
        "first": "none",
        "input_scale": "0",
        "projection": "on",
        "projection_scale": "0.015625",
        "readout": "rows",
        "numbers": "14",
        "model": "",
    }
    assert list(round_settings(**BASE).values()) == independent_verifier.settings(256, 64)
    plain: dict[str, Any] = {
        "inputs": "normal",
        "vocabulary": 0,
        "input_scale": 2.0**-5,
        "readout": "last",
        "numbers": 1,
    }
    texts = round_settings(**{**BASE, **plain, "projection": False, "first": 0, "model": "模型"})
    assert [texts[name] for name in ("vocabulary", "first", "input_scale", "projection", "model")] == [
        *("0", "0", "-5", "off", "模型")
    ]


@pytest.mark.parametrize("exponent", range(-24, 9))
def test_a_power_of_two_is_written_by_its_exponent(exponent: int) -> None:
    assert round_settings(**{**BASE, "input_scale": math.ldexp(1.0, exponent)})["input_scale"] == str(
        exponent
    )


def test_digest_is_the_independent_verifier_s() -> None:
    round_ = make_round(seq_len=64, projection_scale=1e-5)
    texts = independent_verifier.settings(256, 64, scale=1e-5)
    assert round_.digest == independent_verifier.round_digest(texts)
    plain = make_round(seq_len=64, use_random_projection=False)
    texts = independent_verifier.settings(256, 64, inputs="normal", projection=False, readout="last")
    assert plain.digest == independent_verifier.round_digest(texts)
    named = make_round(seq_len=256, first=17, model="org/model", numbers=3, vocabulary=4096)
    texts = independent_verifier.settings(256, 256, first=17, model="org/model", numbers=3)
    assert named.digest == independent_verifier.round_digest(texts)


CHANGES: list[dict[str, Any]] = [
    {},
    {"hidden_size": 512},
    {"seq_len": 128},
    {"inputs": "normal"},
    {"vocabulary": 5000},
    {"first": 0},
    {"first": 1},
    {"input_scale": 0.25},
    {"projection": False},
    {"projection_scale": 0.02},
    {"readout": "last"},
    {"numbers": 13},
    {"model": "m"},
]


def test_every_setting_that_changes_a_forward_changes_the_digest() -> None:
    assert {name for change in CHANGES for name in change} == BASE.keys()
    assert len({round_digest(round_settings(**{**BASE, **change})) for change in CHANGES}) == len(CHANGES)


def test_neither_the_key_nor_the_height_nor_the_judgement_is_among_the_settings() -> None:
    """One digest serves a round's provers; the block hash is a field of its own in each stream."""
    digests = {
        make_round(**change).digest
        for change in (
            {"public_key": "one"},
            {"public_key": "another"},
            {"block_hash": "another"},
            {"block_height": 8},
            {"fraud_threshold": 0.001},
            {"valid_rate": 0.1},
            {"batch_size": 4},
            {"node_id": 3, "node_count": 4},
        )
    }
    assert len(digests) == 1


def test_specification_travels_as_plain_values() -> None:
    round_ = make_round(batch_size=5, projection_scale=0.02, first=9)
    spec = round_.spec()
    wire = spec.to_wire()
    assert {type(value) for value in wire.values()} == {str, int, float, bool}
    assert RoundSpec.from_wire(wire) == spec
    assert (spec.block_hash, spec.batch_size, spec.hidden_size) == (BLOCK, 5, MODEL.hidden_size)
    assert (spec.inputs, spec.vocabulary, spec.first, spec.numbers) == ("tokens", 4096, 9, 16)
    assert spec.digest == round_.digest


@pytest.mark.parametrize(
    ("name", "value"),
    [("seq_len", "64"), ("projection", 1), ("first", None), ("numbers", 4.0), ("input_scale", 1)],
)
def test_a_specification_of_another_type_is_refused(name: str, value: Any) -> None:
    wire = make_round().spec().to_wire()
    with pytest.raises(ValueError, match=name):
        RoundSpec.from_wire({**wire, name: value})


def test_a_specification_with_other_keys_is_refused() -> None:
    wire = make_round().spec().to_wire()
    with pytest.raises(ValueError, match="keys"):
        RoundSpec.from_wire({key: wire[key] for key in wire if key != "numbers"})
    with pytest.raises(ValueError, match="keys"):
        RoundSpec.from_wire({**wire, "more": 1})
