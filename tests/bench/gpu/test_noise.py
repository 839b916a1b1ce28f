"""Honest noise, shortened: ways of running a tiny model agree, and what is made of numbers is right."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _noise_compare import Computed, clipped_sigma, compare, describe
from _noise_inputs import KINDS, Batch, Inputs, Size, signed_groups, words
from _noise_variants import load, numbers
from noise import embedding_table, write_tiny_llama
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    table = torch.randn(200, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    return Inputs(table / 8, torch.device("cpu"), (Size(16, 5), Size(24, 2)), 3)


def noise(directory: Path, *arguments: str) -> str:
    command = [sys.executable, "-P", "bench/gpu/noise.py", *arguments]
    environment = {**os.environ, "SMALL": "1", "HALLMARK_GPU_RESULTS": str(directory)}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_ways_of_running_a_tiny_model_are_compared(tmp_path: Path) -> None:
    noise(tmp_path, "run", "transformers")
    files = sorted(tmp_path.glob("noise-*-transformers-*.json"))
    assert len(files) == 3
    printed = noise(tmp_path, "compare")
    assert "against the CPU's fp32" in printed
    (path,) = tmp_path.glob("noise_pairs-*.json")
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert len(results["ways"]) == 3
    assert {"machine", "versions", "numerics", "inputs"} <= results["ways"][0].keys()
    rows = results["rows"]
    assert len(rows) == 3 * 2 * 2 * 2
    assert all(row["failed"] == 0 and 0 < row["sigma"] < 0.2 for row in rows)


def test_a_way_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "bench/gpu/noise.py", "run", "nothing", "transformers-eager"]
    environment = {**os.environ, "SMALL": "1", "HALLMARK_GPU_RESULTS": str(tmp_path)}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 1
    assert "failed: nothing" in ran.stdout
    assert "'nothing' is not known" in ran.stderr
    assert [path.name.partition("-transformers")[2] for path in tmp_path.iterdir()] == ["-eager-small.json"]


def test_the_tiny_model_is_the_same_each_time_and_loaded_whole(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        write_tiny_llama(folder)
    one, other = (folder / "model.safetensors" for folder in folders)
    assert one.read_bytes() == other.read_bytes()
    model = load(folders[0], torch.bfloat16, "eager")
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.model.embed_tokens.weight, embedding_table(folders[0]))
    weights = load_file(one)
    del weights["model.norm.weight"]
    save_file(weights, one, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"one: does not hold the whole model.*model\.norm\.weight"):
        load(folders[0], torch.bfloat16, "eager")


def test_groups_are_balanced_and_read_every_row_once() -> None:
    keys = np.stack([words(56, "rows", nonce) for nonce in range(5)])
    signs = signed_groups(keys, 14)
    assert signs.shape == (5, 14, 64)
    assert torch.equal(signs.sum(-1), torch.zeros(5, 14, dtype=torch.float64))
    assert torch.equal(signs.abs().sum(1), torch.tensor([0.0] * 8 + [1.0] * 56).double().expand(5, -1))
    assert torch.equal(signs.abs().sum(-1), torch.full((5, 14), 4.0).double())


def test_ranks_of_equal_keys_follow_the_rows() -> None:
    signs = signed_groups(np.array([[5, 1, 5, 0]], np.uint32), 2)
    # Ranks 0 to 3: rows 11, 9, 8 and 10.
    assert signs[0, 0].nonzero().flatten().tolist() == [9, 11]
    assert [signs[0, 0, 11], signs[0, 0, 9]] == [1, -1]
    assert [signs[0, 1, 8], signs[0, 1, 10]] == [1, -1]


def test_words_are_the_same_on_every_machine() -> None:
    assert words(3, "tokens", 64, 0).tolist() == [1676786894, 3146590433, 1946392521]


def test_batches_hold_every_nonce_once_and_do_not_depend_on_their_mates(inputs: Inputs) -> None:
    batches = list(inputs.batches())
    assert [(batch.kind, batch.size.rows, batch.nonces) for batch in batches] == [
        (kind, rows, nonces)
        for kind in KINDS
        for rows, nonces in ((16, range(3)), (16, range(3, 5)), (24, range(2)))
    ]
    alone = Inputs(inputs._embeddings, torch.device("cpu"), inputs.sizes, 1)
    assert alone.fingerprint == inputs.fingerprint
    single = [batch for batch in alone.batches() if batch.size.rows == 16 and batch.nonces == range(1, 2)]
    for whole, one in zip((batches[0], batches[3]), single, strict=True):
        for name in ("inputs", "signs", "targets"):
            assert torch.equal(getattr(whole, name)[1:2], getattr(one, name))


def test_inputs_are_of_the_scale_and_rows_of_the_table(inputs: Inputs) -> None:
    batches = list(inputs.batches())
    assert inputs.input_scale == 0.125
    assert float(batches[0].inputs.float().std()) == pytest.approx(0.125, rel=0.05)
    table = {tuple(row) for row in inputs._embeddings.tolist()}
    assert all(tuple(row) in table for row in batches[3].inputs.flatten(0, 1).tolist())
    # 4^5 = 16 · 64: the scale of hallmark/2 at this width.
    assert float(batches[3].p_pre.float().std()) == pytest.approx(2**-5, rel=0.05)
    assert float(batches[0].p_post.float().std()) == pytest.approx(0.01, rel=0.05)


def by_definition(hidden: torch.Tensor, batch: Batch) -> list[list[float]]:
    """Numbers of groups, one at a time, in float64."""
    found = []
    for nonce, signs in enumerate(batch.signs):
        numbers_of = []
        for group, of_group in enumerate(signs):
            total = sum(float(sign) * row.double() for sign, row in zip(of_group, hidden[nonce], strict=True))
            assert isinstance(total, torch.Tensor)
            rounded = total.to(torch.float32).to(hidden.dtype).double()
            projected = rounded + rounded @ batch.p_post.double()
            cosine = torch.nn.functional.cosine_similarity(projected, batch.targets[nonce, group], dim=0)
            numbers_of.append(float(cosine) * 8)
        found.append(numbers_of)
    return found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_numbers_are_those_of_the_definition(inputs: Inputs, dtype: torch.dtype) -> None:
    batch = list(inputs.batches())[-1]
    hidden = torch.randn(2, 24, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    found = numbers(hidden, batch, "groups")
    assert found.shape == (2, 4)
    assert torch.allclose(found, torch.tensor(by_definition(hidden, batch)).double(), atol=1e-5)
    # The last row is a sum of one row.
    batch.signs[:] = 0
    batch.signs[:, 0, -1] = 1
    assert torch.allclose(numbers(hidden, batch, "last"), numbers(hidden, batch, "groups")[:, :1])


def test_numbers_follow_the_law() -> None:
    table = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    batch = next(iter(Inputs(table, torch.device("cpu"), (Size(72, 400),), 400).batches()))
    hidden = torch.randn(400, 72, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = numbers(hidden, batch, "groups").numpy()
    assert found.shape == (400, 16)
    assert found.std() == pytest.approx(1, abs=0.03)
    assert abs(found.mean()) < 0.05


def test_the_clipped_sigma_leaves_flips_out() -> None:
    errors = 0.04 * np.random.default_rng(0).standard_normal((2000, 4))
    assert clipped_sigma(errors) == pytest.approx(0.04, rel=0.02)
    errors[::100, 0] = 1.5
    row = describe(errors)
    assert row["sigma"] > 0.08
    assert row["clipped"] == pytest.approx(0.04, rel=0.1)
    assert row["clipped_kurtosis"] < 4 < row["kurtosis"]
    assert row["beyond_0.35"] == 20 / 8000
    assert row["largest"] == 1.5
    errors[7] = 3.0
    assert describe(errors)["worst_nonce"] == 7


def test_numbers_that_are_none_are_counted_and_left_out() -> None:
    errors = np.full((4, 2), 0.1)
    errors[2, 1] = np.nan
    row = describe(errors)
    assert (row["failed"], row["worst_nonce"] != 2, row["kurtosis"]) == (1, True, pytest.approx(1))
    assert row["sigma"] == pytest.approx(0.1)
    with pytest.raises(ValueError, match="no nonce has finite numbers"):
        describe(np.full((2, 2), np.nan))


def test_only_ways_with_the_same_inputs_are_compared() -> None:
    values = np.ones((3, 1), np.float32)
    ways = [
        Computed("a", "1", {"normal/64/last": values}),
        Computed("b", "2", {"normal/64/last": values}),
        Computed("c", "1", {"normal/64/last": 1.5 * values[:2], "tokens/64/last": values}),
    ]
    (row,) = compare(ways)
    assert (row["one"], row["other"], row["nonces"], row["sigma"]) == ("a", "c", 2, 0.5)
    assert (row["inputs"], row["rows"], row["readout"]) == ("normal", 64, "last")
