"""The check at the start: it passes where ops are right, and names the one that is not."""

from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from hallmark.kernels.embed_project import embed_project
from hallmark.kernels.final_norm import FinalNorm
from hallmark.kernels.norm_project import norm_project
from hallmark.kernels.norm_sums import norm_sums
from hallmark.kernels.project_residual import project_residual
from hallmark.kernels.self_check import check_ops

# The package has functions of the modules' names.
MODULE = import_module("hallmark.kernels.self_check")
CPU = torch.device("cpu")


@pytest.mark.parametrize("width", [16, 123, 256, 1024])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_right_ops_pass(dtype: torch.dtype, width: int) -> None:
    check_ops(dtype, width, CPU)


def test_a_dtype_without_kernels_is_not_tried() -> None:
    check_ops(torch.float8_e4m3fn, 256, CPU)


def test_one_flipped_bit_of_a_draw_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = MODULE.draw_embeddings

    def wrong(*arguments: object) -> Tensor:
        drawn: Tensor = right(*arguments)
        drawn.view(torch.int16)[-1, -1, -1] ^= 1
        return drawn

    monkeypatch.setattr(MODULE, "draw_embeddings", wrong)
    with pytest.raises(RuntimeError, match=r"draw_embeddings does not compute on cpu .*bits differ"):
        check_ops(torch.bfloat16, 256, CPU)


def test_a_sum_that_lacks_one_step_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(x: Tensor, p: Tensor, dtype: torch.dtype) -> Tensor:
        cut = p.clone()
        cut[-16:] = 0
        projected: Tensor = project_residual(x, cut, dtype)
        return projected

    monkeypatch.setattr(MODULE, "project_residual", wrong)
    with pytest.raises(RuntimeError, match=r"project_residual .*an error of 0"):
        check_ops(torch.bfloat16, 1024, CPU)


@pytest.mark.parametrize("shards", [0, 2])
def test_a_gather_of_another_row_is_found(monkeypatch: pytest.MonkeyPatch, shards: int) -> None:
    def wrong(table: Tensor, tokens: Tensor, p: Tensor, *shard: Any) -> Tensor:
        shifted = tokens.clone()
        shifted[7] += 1
        embedded: Tensor = embed_project(table, shifted if len(shard) == shards else tokens, p, *shard)
        return embedded

    monkeypatch.setattr(MODULE, "embed_project", wrong)
    with pytest.raises(RuntimeError, match=r"embed_project .*an error of"):
        check_ops(torch.bfloat16, 256, CPU)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_sum_that_lacks_a_row_is_found(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    def wrong(hidden: Tensor, norm: FinalNorm | None, order: Tensor, numbers: int) -> Tensor:
        return norm_sums(hidden, norm, order[:, :-1], numbers)

    monkeypatch.setattr(MODULE, "norm_sums", wrong)
    with pytest.raises(RuntimeError, match=r"norm_sums .*a sum is another one"):
        check_ops(dtype, 256, CPU)


def test_numbers_of_other_targets_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any) -> Tensor:
        hidden, norm, order, numbers, p, streams, table = arguments
        return norm_project(hidden, norm, order, numbers, p, streams + 1, table)

    monkeypatch.setattr(MODULE, "norm_project", wrong)
    with pytest.raises(RuntimeError, match=r"norm_project .*a number moved by"):
        check_ops(torch.bfloat16, 256, CPU)


def test_a_row_that_is_not_normed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        MODULE, "norm_project", lambda hidden, norm, *others: norm_project(hidden, None, *others)
    )
    with pytest.raises(RuntimeError, match=r"norm_project .*a number moved by"):
        check_ops(torch.bfloat16, 256, CPU)


def test_a_number_that_is_none_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        MODULE, "norm_project", lambda *arguments: torch.full((33, 1), float("nan"), dtype=torch.float64)
    )
    with pytest.raises(RuntimeError, match="a number moved by nan"):
        check_ops(torch.bfloat16, 256, CPU)
