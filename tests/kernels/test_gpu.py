"""What only a GPU can show: real sizes, no waiting, the same bits as the CPU, every run, a replayed graph."""

import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tolerances import KERNEL_NUMBER_TOLERANCES, MIN_HALF_STEP, ROUNDOFF, SUM_TOLERANCES

from hallmark.kernels import (
    FinalNorm,
    KernelPath,
    NormRounding,
    draw_embeddings,
    draw_embeddings_reference,
    draw_matrix,
    draw_matrix_reference,
    embed_project,
    kernel_path,
    norm_project,
    norm_project_reference,
    norm_sums,
    norm_sums_reference,
    project_residual,
    signed_table,
)
from hallmark.kernels.self_check import check_ops
from hallmark.poc.protocol.projection import RandomProjection
from hallmark.poc.protocol.round_spec import NO_FIRST, RoundSpec
from hallmark.poc.protocol.round_tensors import RoundTensors
from hallmark.poc.protocol.transfer import HostCopy

pytestmark = pytest.mark.gpu

STREAMS = torch.tensor([[1, 2, 3, 4], [2**32 - 1, 2**31, 2**32 - 5, 7]])
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
# Rows and widths of real models, the tiles of both shapes, and a part of a tile at every edge.
SIZES = [(8192, 1024), (8192, 4096), (8192, 5120), (1100, 2064), (130, 16_384)]
REPEATS = 20


def spec(**changes: Any) -> RoundSpec:
    fields: dict[str, Any] = {
        "digest": "0" * 64,
        "block_hash": "a block",
        "hidden_size": 1024,
        "seq_len": 64,
        "batch_size": 8,
        "inputs": "normal",
        "vocabulary": 0,
        "first": NO_FIRST,
        "input_scale": 2.0**-5,
        "projection": True,
        "projection_scale": 0.01,
        "readout": "rows",
        "numbers": 14,
    }
    return RoundSpec(**{**fields, **changes})


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    """Every synchronisation with the device that PyTorch knows of is an error."""
    with warnings.catch_warnings():
        # Torch says once that this is a prototype. As an error that would leave the mode on for good.
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(123, 80), (256, 1024), (31, 257)])
def test_inputs_are_the_same_bits_as_on_the_cpu(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    table = signed_table(2.0**-5, dtype)
    on_cpu = draw_embeddings(STREAMS, *shape, table)
    on_gpu = draw_embeddings(STREAMS.cuda(), *shape, table.cuda())
    assert torch.equal(on_gpu.cpu(), on_cpu)


def test_a_reference_on_the_gpu_draws_the_same_bits_too() -> None:
    table = signed_table(2.0**-5)
    on_gpu = draw_embeddings_reference(STREAMS.cuda(), 123, 80, table.cuda())
    assert torch.equal(on_gpu.cpu(), draw_embeddings_reference(STREAMS, 123, 80, table))


def test_projections_are_the_same_bits_as_on_the_cpu() -> None:
    on_cpu = RandomProjection("a block", 272)
    on_gpu = RandomProjection("a block", 272, device="cuda")
    assert torch.equal(on_gpu.pre_proj.cpu(), on_cpu.pre_proj)
    assert torch.equal(on_gpu.post_proj.cpu(), on_cpu.post_proj)
    assert torch.equal(
        draw_matrix(STREAMS[0], 4096, 4096, 0.01, "cuda").cpu(),
        draw_matrix_reference(STREAMS[0], 4096, 4096, 0.01),
    )


@pytest.mark.parametrize(("rows", "width"), SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_projections_of_real_size_agree_with_float64_in_every_run(
    dtype: torch.dtype, rows: int, width: int
) -> None:
    x = draw_embeddings(STREAMS[:1].cuda(), rows, width, signed_table(1.0, dtype, "cuda"))[0]
    p = draw_matrix(STREAMS[1], width, width, 0.01, "cuda")
    found = project_residual(x, p, torch.float32)
    for start in range(0, rows, 1024):
        part = x[start : start + 1024].double()
        exact = part + part @ p.double()
        bound = SUM_TOLERANCES[dtype, "cuda"] * (width + 1) * (part.abs() + part.abs() @ p.double().abs())
        assert bool(((found[start : start + 1024].double() - exact).abs() <= bound).all())
    rounded = project_residual(x, p, dtype)
    bound = ROUNDOFF[dtype] * found.double().abs() + MIN_HALF_STEP[dtype]
    assert bool(((rounded.double() - found.double()).abs() <= bound).all())
    for _ in range(REPEATS):
        assert torch.equal(project_residual(x, p, dtype), rounded)


@pytest.mark.parametrize("width", [576, 640, 1024, 4096, 5120])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_a_real_table_are_gathered_and_projected_to_the_bit(dtype: torch.dtype, width: int) -> None:
    """On one rank, and by two of a divided table."""
    generator = torch.Generator("cuda").manual_seed(3)
    table = torch.randn(131_072, width, generator=generator, device="cuda").to(dtype)
    tokens = torch.randint(0, len(table), (8192,), generator=generator, device="cuda")
    p = draw_matrix(STREAMS[1], width, width, 0.01, "cuda")
    expected = project_residual(table[tokens], p, dtype)
    for _ in range(REPEATS):
        assert torch.equal(embed_project(table, tokens, p), expected)
    parts = []
    for first in (0, 65_536):
        places = ((tokens >= first) & (tokens < first + 65_536)).nonzero().squeeze(1)
        shard = table[first : first + 65_536]
        parts.append(embed_project(shard, tokens[places] - first, p, places, len(tokens)))
    assert torch.equal(parts[0] + parts[1], expected)


def hidden_of_real_size(width: int, dtype: torch.dtype) -> tuple[torch.Tensor, FinalNorm, torch.Tensor]:
    """Hidden states of 32 nonces of 256 rows, a norm with a residual, and an order of rows 8 and up."""
    table = signed_table(1.0, dtype, "cuda")
    streams = torch.randint(0, 2**32, (32, 4), generator=torch.Generator().manual_seed(2)).cuda()
    hidden, residual = (
        draw_embeddings(streams + shift, 256, width, table).view(-1, width) for shift in (0, 100)
    )
    weight = torch.linspace(0.5, 1.5, width, device="cuda").to(dtype)
    norm = FinalNorm(weight, 1e-6, residual, False, NormRounding(True, False))
    generator = torch.Generator().manual_seed(5)
    order = torch.stack([torch.randperm(248, generator=generator) + 8 for _ in range(32)]).int().cuda()
    return hidden, norm, order


@pytest.mark.parametrize("width", [576, 640, 1024, 4096, 5120, 8192, 16_384])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_of_real_size_agree_with_the_reference_in_every_run(dtype: torch.dtype, width: int) -> None:
    hidden, norm, order = hidden_of_real_size(width, dtype)
    magnitude = float(hidden.abs().max())
    for final, numbers in ((None, 16), (norm, 16), (norm, 1)):
        found = norm_sums(hidden, final, order, numbers)
        expected = norm_sums_reference(hidden, final, order, numbers)
        rows = 248 / numbers
        # The sum's own rounding; each row's, where its root differs in its last bit; fp32 additions.
        roundings = 1 if final is None else 1 + 2 * rows
        bound = 2 * roundings * ROUNDOFF[dtype] * (expected.abs() + 2 * magnitude)
        bound += rows * 2.0**-24 * 2 * rows * magnitude
        assert bool(((found - expected).abs() <= bound).all())
        for _ in range(REPEATS):
            assert torch.equal(norm_sums(hidden, final, order, numbers), found)


@pytest.mark.parametrize("width", [576, 640, 1024, 4096, 5120, 16_384])
@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_of_real_size_agree_with_the_reference_in_every_run(dtype: torch.dtype, width: int) -> None:
    hidden, norm, order = hidden_of_real_size(width, dtype)
    streams = torch.randint(0, 2**32, (32, 4), generator=torch.Generator().manual_seed(9)).cuda()
    p, targets = draw_matrix(STREAMS[1], width, width, 0.01, "cuda"), signed_table(1.0, device="cuda")
    for final, numbers in ((None, 16), (norm, 16), (norm, 1)):
        arguments = (hidden, final, order, numbers, p, streams, targets)
        found = norm_project(*arguments)
        expected = norm_project_reference(*arguments)
        assert float((found - expected).abs().max()) <= KERNEL_NUMBER_TOLERANCES[dtype, "norm"]
        for _ in range(REPEATS):
            assert torch.equal(norm_project(*arguments), found)


def test_what_is_read_out_of_a_batch_does_not_depend_on_the_rest_of_it() -> None:
    hidden, norm, order = hidden_of_real_size(1024, torch.bfloat16)
    whole = norm_sums(hidden, norm, order, 16)
    assert norm.residual is not None
    alone = norm._replace(residual=norm.residual[-256:])
    assert torch.equal(norm_sums(hidden[-256:], alone, order[-1:], 16), whole[-1:])


def test_tensors_off_a_boundary_are_served() -> None:
    """A view that begins anywhere, and one with other strides."""
    p = draw_matrix_reference(STREAMS[1], 64, 64, 0.05, "cuda")
    shifted = torch.randn(65 * 64 + 1, device="cuda").to(torch.bfloat16)[1:].view(65, 64)
    torch.testing.assert_close(
        project_residual(shifted, p.T, torch.float32),
        shifted.float() + shifted.float() @ p.T.float(),
        rtol=1e-2,
        atol=1e-2,
    )


def test_a_captured_graph_computes_what_its_buffers_hold_at_the_replay() -> None:
    """Tokens, order and streams: nothing of a batch is left in the graph."""
    width, rows, n = 1024, 16, 4
    targets = signed_table(1.0, device="cuda")
    p = draw_matrix(STREAMS[0], width, width, 0.01, "cuda")
    table = torch.randn(4096, width, device="cuda").bfloat16()
    weight = torch.ones(width, dtype=torch.bfloat16, device="cuda")

    def batch_of(seed: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(0, 4096, (n * rows,), generator=generator)
        order = torch.stack([torch.randperm(8, generator=generator) + 8 for _ in range(n)]).int()
        return [part.cuda() for part in (tokens, order, torch.randint(0, 2**32, (n, 4), generator=generator))]

    contents = {"first": batch_of(1), "second": batch_of(2)}
    buffers = [part.clone() for part in contents["first"]]

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        tokens, order, streams = buffers
        inputs = embed_project(table, tokens, p)
        norm = FinalNorm(weight, 1e-6, inputs, False, NormRounding(True, False))
        return inputs, norm_project(inputs, norm, order, 4, p, streams, targets)

    def fill(name: str) -> None:
        for buffer, part in zip(buffers, contents[name], strict=True):
            buffer.copy_(part)

    expected = {}
    for name in contents:
        fill(name)
        expected[name] = [tensor.clone() for tensor in batch()]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = batch()
    for name in ("second", "first", "second"):
        fill(name)
        for tensor in captured:
            tensor.fill_(float("nan"))
        graph.replay()
        for tensor, right in zip(captured, expected[name], strict=True):
            assert torch.equal(tensor, right)
    assert not torch.equal(expected["first"][1], expected["second"][1])


def test_ops_survive_torch_compile() -> None:
    width = 272
    targets = signed_table(1.0, device="cuda")
    p, streams = draw_matrix(STREAMS[0], width, width, 0.01, "cuda"), STREAMS.cuda()
    table, tokens = torch.randn(64, width, device="cuda").bfloat16(), torch.arange(20, device="cuda")
    order = torch.tensor([[9, 8], [8, 9]], dtype=torch.int32, device="cuda")

    def batch(tokens: torch.Tensor) -> torch.Tensor:
        inputs = embed_project(table, tokens, p)
        return norm_project(inputs * 2, None, order, 1, p, streams, targets)

    compiled = torch.compile(batch, fullgraph=True)
    assert torch.equal(compiled(tokens), batch(tokens))


def test_a_batch_waits_for_nothing() -> None:
    """Neither its inputs nor its numbers, up to the copy that brings them to the host."""
    tensors = RoundTensors(spec(inputs="tokens", vocabulary=4096, input_scale=1.0), torch.bfloat16, "cuda")
    table = torch.randn(4096, 1024, dtype=torch.bfloat16, device="cuda")
    keys = [("key", nonce) for nonce in range(8)]

    def batch() -> torch.Tensor:
        inputs = tensors.embed(table, tensors.tokens(keys).flatten())
        return tensors.numbers(inputs, keys, tensors.order(keys))

    batch()
    with waiting_is_an_error():
        copy = HostCopy(batch())
    torch.cuda.synchronize()
    assert copy.has_arrived()
    assert bool(copy.tensor.isfinite().all())


def test_a_round_agrees_with_the_cpu() -> None:
    keys = [("key", nonce) for nonce in range(8)]
    on_cpu, on_gpu = (RoundTensors(spec(), torch.bfloat16, device) for device in ("cpu", "cuda"))
    drawn = on_cpu.normal(keys)
    assert torch.equal(on_gpu.normal(keys).cpu(), drawn)
    inputs = on_cpu.project(drawn)
    # X + X·P may all but cancel: what its terms' sum may be off by does not shrink with it.
    terms = drawn.double().abs()
    p = RandomProjection("a block", 1024, 0.01).pre_proj.double().abs()
    sums = SUM_TOLERANCES[torch.bfloat16, "cuda"] * (1024 + 1) * (terms + terms @ p)
    bound = 2 * ROUNDOFF[torch.bfloat16] * inputs.double().abs() + 2 * sums
    assert bool(((on_gpu.project(drawn.cuda()).cpu().double() - inputs.double()).abs() <= bound).all())
    hidden = inputs.view(-1, 1024)
    order = on_cpu.order(keys)
    on_device = on_gpu.order(keys)
    assert torch.equal(on_device.cpu(), order)
    numbers = on_gpu.numbers(hidden.cuda(), keys, on_device).cpu()
    # A sum may be rounded to its neighbour where the order of adding has moved it past the middle.
    tolerance = KERNEL_NUMBER_TOLERANCES[torch.bfloat16, "norm"]
    assert float((numbers - on_cpu.numbers(hidden, keys, order)).abs().max()) <= tolerance


@pytest.mark.parametrize("width", [272, 1024, 4096])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_check_at_the_start_passes(dtype: torch.dtype, width: int) -> None:
    check_ops(dtype, width, torch.device("cuda"))


def test_kernels_are_used_where_there_are_some() -> None:
    device = torch.device("cuda")
    assert kernel_path(device, 4096) is KernelPath.TRITON
    assert kernel_path(device, 16_400) is KernelPath.REFERENCE
    assert kernel_path(device, 1000) is KernelPath.REFERENCE
    assert kernel_path(torch.device("cpu"), 4096) is KernelPath.REFERENCE


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="compute-sanitizer is not installed")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer_finds_nothing(tool: str) -> None:
    code = """
import torch
from hallmark.kernels import FinalNorm, NormRounding, draw_matrix, embed_project, norm_project, signed_table
streams = torch.arange(12, device="cuda").view(3, 4)
order = torch.tensor([3, 0, 4, 2], dtype=torch.int32, device="cuda").expand(3, -1)
tokens, places = torch.arange(15, device="cuda"), torch.arange(15, device="cuda").flip(0)
for dtype in (torch.bfloat16, torch.float16, torch.float32):
    for width in (272, 2064, 8208):
        p = draw_matrix(streams[0].cpu(), width, width, 0.01, "cuda")
        table = torch.randn(15, width, device="cuda").to(dtype)
        embed_project(table, tokens, p)
        x = embed_project(table, tokens, p, places, 15)
        weight = torch.ones(width, dtype=dtype, device="cuda")
        norm = FinalNorm(weight, 1e-6, x, False, NormRounding(True, True))
        for numbers in (1, 2):
            norm_project(x, norm, order, numbers, p, streams, signed_table(1.0, device="cuda"))
torch.cuda.synchronize()
"""
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", "--print-limit", "3"]
    done = subprocess.run(
        [*command, sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parent,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "ERROR SUMMARY: 0 errors" in done.stdout or "0 hazards" in done.stdout
