"""What attention builders are told of a PoC batch, with the fields of each tested version of vLLM."""

import ast
from dataclasses import field, make_dataclass
from typing import Any

import pytest
import torch
from _symbols import Symbols, known_versions

from hallmark.poc.engine import private_layers
from hallmark.poc.engine.pins import PINS
from hallmark.poc.engine.private_layers import prefill_metadata

BATCH_SIZE, SEQ_LEN, BLOCK = 3, 20, 16

# What a builder reads back from the device where it is not told, which waits for inference's step in flight.
LENGTHS = {"seq_lens", "_seq_lens_cpu", "seq_lens_cpu_upper_bound"}


def fields_of(version: str) -> dict[str, bool]:
    """The fields of the metadata, and whether each has a default."""
    [pin] = [pin for pin in PINS if pin.symbol == "CommonAttentionMetadata"]
    definition = Symbols.load(version).of(pin)
    assert definition is not None
    [function] = ast.parse(f"def f({definition.signature}): ...").body
    assert isinstance(function, ast.FunctionDef)
    arguments = function.args
    return {
        argument.arg: default is not None
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    }


@pytest.mark.parametrize("version", known_versions())
def test_every_form_of_the_lengths_is_told(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = fields_of(version)
    fields = [
        (name, Any, field(default=None) if has_default else field()) for name, has_default in names.items()
    ]
    monkeypatch.setattr(
        private_layers,
        "CommonAttentionMetadata",
        make_dataclass("CommonAttentionMetadata", fields, kw_only=True),
    )
    told = vars(prefill_metadata(BATCH_SIZE, SEQ_LEN, BLOCK, torch.device("cpu")))
    assert set(told) == set(names)
    for name in LENGTHS & set(names):
        assert torch.equal(told[name], torch.full((BATCH_SIZE,), SEQ_LEN, dtype=torch.int32)), name


def test_vllm_0_26_has_the_form_that_flashinfer_asks_for() -> None:
    assert "_seq_lens_cpu" in fields_of("0.26.0")
    assert all("seq_lens_cpu_upper_bound" in fields_of(version) for version in known_versions())
