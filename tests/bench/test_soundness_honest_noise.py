"""The experiment on honest noise, shortened: ways of running a small model, vLLM among them, nearly agree."""

from pathlib import Path
from typing import Any

import honest_noise
import numpy as np
import pytest
import torch
from _arrays import decode
from _honest_ways import (
    BATCH_SIZE,
    Nonces,
    Way,
    blocks_of_rows,
    halves_of_k,
    in_transformers,
    nonces_of,
    summed_in_fp32,
)
from _noise_compare import clipped_sigma
from experiments import shortened

from hallmark.poc.offline.model import OfflineModel
from hallmark.poc.protocol.round_tensors import RoundTensors
from hallmark.server.models.small import build_small_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("small")
    build_small_model(directory)
    return directory


@pytest.fixture(scope="module")
def model(folder: Path) -> OfflineModel:
    return OfflineModel.load(folder, device="cpu", dtype="bfloat16")


def test_the_experiment_shortened(tmp_path: Path) -> None:
    results = shortened("honest_noise", tmp_path)
    check_that_every_two_ways_are_compared(results)
    check_that_other_arithmetic_differs_and_less_precision_more(results)
    check_that_the_errors_kept_are_those_of_the_rows(results)


def check_that_every_two_ways_are_compared(results: dict[str, Any]) -> None:
    rows = results["rows"]
    assert {(row["factor"], row["one"], row["other"]) for row in rows} == set(honest_noise.PAIRS)
    assert {row["inputs"] for row in rows} == {"tokens", "normal"}
    assert {row["first"] for row in rows} == {"none", 1}
    assert {row["readout"] for row in rows} == {"last", "groups"}
    assert all(row["failed"] == 0 for row in rows)
    # A model of 4 layers: two honest ways that were this far apart would not be running the same model.
    assert all(row["sigma"] < 0.2 for row in rows)
    assert 3 <= len(results["findings"]) <= 8
    assert all(sentence.endswith(".") for sentence in results["findings"])


def check_that_other_arithmetic_differs_and_less_precision_more(results: dict[str, Any]) -> None:
    rows = results["rows"]

    def sigma(one: str, other: str) -> float:
        found: float = honest_noise.one_row(rows, "small", one, other)["sigma"]
        return found

    assert sigma("vLLM", "eager") > 0
    assert sigma("eager", "eager, halves of K") > 0
    assert 0 < 2 * sigma("eager fp16", "eager fp32") < sigma("eager", "eager fp32")


def check_that_the_errors_kept_are_those_of_the_rows(results: dict[str, Any]) -> None:
    assert [kept["rows"] for kept in results["errors"]] == [24, 48]
    for kept in results["errors"]:
        (row,) = [
            row
            for row in results["rows"]
            if (row["one"], row["other"], row["rows"]) == (kept["one"], kept["other"], kept["rows"])
            and row["readout"] == "groups"
            and row["usual"]
        ]
        errors = decode(kept["errors"]).astype(np.float64)
        assert errors.shape == (row["nonces"], row["numbers"] // row["nonces"])
        assert clipped_sigma(errors) == pytest.approx(row["clipped"], rel=1e-2)


def test_numbers_are_those_that_the_product_computes(folder: Path, model: OfflineModel) -> None:
    nonces = nonces_of(model, "tokens", "none", 24, 5)
    found = in_transformers(folder, Way(), [nonces])
    tensors = RoundTensors(nonces.spec, torch.bfloat16, "cpu")
    expected = model.numbers(tensors, [("prover", nonce) for nonce in range(5)])
    assert np.allclose(found["tokens/none/24/groups"], expected, atol=1e-6)
    assert found["tokens/none/24/last"].shape == (5, 1)
    # Batches of one, each filled up: the same nonces in the same order.
    alone = in_transformers(folder, Way(asked=1), [nonces])["tokens/none/24/groups"]
    assert np.allclose(alone, expected, atol=0.2)
    assert not np.allclose(alone[::-1], expected, atol=0.2)


def test_another_readout_leaves_inputs_as_they_are(model: OfflineModel) -> None:
    nonces = nonces_of(model, "tokens", 7, 24, 3)
    keys = nonces.keys(BATCH_SIZE)[0]
    tokens = [
        RoundTensors(nonces.spec_for(readout, size), torch.bfloat16, "cpu").host_tokens(keys)
        for readout, size in (("groups", 8), ("last", 1))
    ]
    assert torch.equal(*tokens)
    assert torch.all(tokens[0][:, 0] == 7)
    assert [len(part) for part in nonces.keys(2)] == [2, 1]


def test_normal_inputs_are_as_large_as_those_of_tokens(model: OfflineModel) -> None:
    def rms(nonces: Nonces) -> float:
        tensors = RoundTensors(nonces.spec, torch.bfloat16, "cpu")
        keys = nonces.keys(BATCH_SIZE)[0]
        drawn = model.embed(tensors.tokens(keys)) if tensors.reads_tokens else tensors.normal(keys)
        return float(drawn.double().square().mean().sqrt())

    sizes = [rms(nonces_of(model, inputs, "none", 24, 4)) for inputs in ("tokens", "normal")]
    assert 0.7 < sizes[0] / sizes[1] < 1.42


@pytest.mark.parametrize("product", [halves_of_k, summed_in_fp32, blocks_of_rows])
def test_a_product_is_the_product(product: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    rows, weights = torch.randn(2, 31, 40, generator=draw), torch.randn(7, 40, generator=draw)
    exact = rows.double() @ weights.double().T
    assert torch.allclose(product(rows, weights).double(), exact, atol=1e-4)
    rounded = product(rows.bfloat16(), weights.bfloat16())
    assert rounded.shape == (2, 31, 7)
    assert rounded.dtype == torch.bfloat16
    assert float((rounded.double() - exact).abs().max()) < 0.3


def test_halves_of_k_are_rounded_apart() -> None:
    # 256 and 1 fit in bf16, 257 does not: the halves' sums do, and the whole is rounded once more.
    rows = torch.tensor([[256.0, 1.0, 1.0, 0.0]]).bfloat16()
    weights = torch.ones(1, 4).bfloat16()
    assert float(halves_of_k(rows, weights)) == 256.0 + 0.0
    assert float(summed_in_fp32(rows, weights)) == 258.0


def test_a_layer_with_a_bias_is_refused() -> None:
    from _honest_ways import _multiply_by

    with pytest.raises(ValueError, match="0 has a bias"):
        _multiply_by(halves_of_k, torch.nn.Sequential(torch.nn.Linear(2, 2)))


def test_a_way_whose_nonces_all_fail_has_a_row_without_figures() -> None:
    """Gemma 3 overflows in fp16."""
    assert honest_noise._described(np.full((3, 2), np.nan)) == {"nonces": 3, "numbers": 6, "failed": 3}
    assert honest_noise._described(np.array([[0.1], [np.nan]]))["failed"] == 1
