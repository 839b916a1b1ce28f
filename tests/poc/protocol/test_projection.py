"""Acceptance criteria 6.1 on the projection by itself."""

import hashlib
import subprocess
import sys

import independent_verifier
import pytest
import torch

from hallmark.kernels.draw_matrix import draw_matrix_reference
from hallmark.kernels.draw_normals import streams_tensor
from hallmark.poc.core.errors import FieldError
from hallmark.poc.protocol.streams import post_stream, pre_stream
from hallmark.poc.specification import RandomProjection


def fingerprint(projection: RandomProjection) -> str:
    both = torch.stack((projection.pre_proj, projection.post_proj)).view(torch.int16)
    return hashlib.sha256(both.numpy().tobytes()).hexdigest()


def test_module_is_created_with_the_names_of_the_specification() -> None:
    """Acceptance criterion 6.1: RandomProjection module created."""
    projection = RandomProjection(block_seed=42, dim=64)
    assert isinstance(projection, torch.nn.Module)
    assert {name: tuple(p.shape) for name, p in projection.named_parameters()} == {
        "pre_proj": (64, 64),
        "post_proj": (64, 64),
    }
    assert {p.dtype for p in projection.parameters()} == {torch.bfloat16}


def test_same_seed_gives_the_same_bits_in_another_process() -> None:
    """Acceptance criterion 6.1: Determinism tests pass (same seed = same projection)."""
    program = """
import hashlib, torch
from hallmark.poc.specification import RandomProjection
p = RandomProjection(42, 128)
both = torch.stack((p.pre_proj, p.post_proj)).view(torch.int16)
print(hashlib.sha256(both.numpy().tobytes()).hexdigest())
"""
    answers = {
        subprocess.run(
            [sys.executable, "-P", "-c", f"import torch; torch.manual_seed({i})\n{program}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for i in range(2)
    }
    assert answers == {fingerprint(RandomProjection(42, 128))}


def test_same_seed_gives_the_same_bits_in_this_process() -> None:
    """Acceptance criterion 6.1: Determinism tests pass (same seed = same projection)."""
    before = torch.get_rng_state()
    assert fingerprint(RandomProjection("0xab", 96)) == fingerprint(RandomProjection("0xab", 96))
    assert torch.equal(torch.get_rng_state(), before), "the process's own generator is left alone"


def test_different_seeds_scales_and_sides_differ() -> None:
    drawn: list[tuple[int | str, float]] = [
        *((1, 0.01), (2, 0.01), (-1, 0.01), ("0x1", 0.01), (1, 0.02), (2**32 + 1, 0.01))
    ]
    prints = {fingerprint(RandomProjection(seed, 64, scale)) for seed, scale in drawn}
    assert len(prints) == 6
    projection = RandomProjection(1, 64)
    assert not torch.equal(projection.pre_proj, projection.post_proj)


def test_an_integer_seed_is_the_block_hash_of_its_decimal_text() -> None:
    assert fingerprint(RandomProjection(42, 64)) == fingerprint(RandomProjection("42", 64))
    assert fingerprint(RandomProjection(-7, 64)) == fingerprint(RandomProjection("-7", 64))


@pytest.mark.parametrize("seed", [42, "0x8d3f2a"])
def test_matrices_are_the_streams_of_the_block(seed: int | str) -> None:
    projection = RandomProjection(seed, 40, scale=0.02)
    entries = independent_verifier.table()
    for purpose, stream, matrix in (
        ("pre", pre_stream(str(seed)), projection.pre_proj),
        ("post", post_stream(str(seed)), projection.post_proj),
    ):
        assert torch.equal(matrix, draw_matrix_reference(streams_tensor([stream])[0], 40, 40, 0.02))
        name = independent_verifier.stream(purpose, str(seed))
        patterns = independent_verifier.scaled(independent_verifier.normals(name, 1600, entries), 0.02)
        assert (matrix.view(torch.int16).int() & 0xFFFF).flatten().tolist() == patterns


def test_elements_have_the_stated_standard_deviation() -> None:
    projection = RandomProjection(3, 512, scale=0.01)
    for matrix in projection.parameters():
        assert float(matrix.double().std()) == pytest.approx(0.01, rel=0.01)
        assert abs(float(matrix.double().mean())) < 4.5 * 0.01 / 512


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_both_sides_are_residual(dtype: torch.dtype) -> None:
    projection = RandomProjection(5, 64, scale=0.05)
    x = draw_matrix_reference(torch.tensor([1, 2, 3, 4]), 10, 64, 1.0).to(dtype)
    for transform, matrix, out in (
        (projection.pre, projection.pre_proj, dtype),
        (projection.post, projection.post_proj, torch.float32),
    ):
        y = transform(x)
        assert y.dtype == out
        exact = x.double() + x.double() @ matrix.double()
        # One rounding to `out`, of a sum that float32 has accumulated.
        torch.testing.assert_close(y.double(), exact, rtol=torch.finfo(out).eps / 2, atol=64 * 2.0**-23)
        assert torch.equal(transform(torch.zeros_like(x)), torch.zeros(10, 64, dtype=out))


def test_is_frozen() -> None:
    projection = RandomProjection(5, 32)
    assert not any(p.requires_grad for p in projection.parameters())
    y = projection.post(projection.pre(torch.ones(2, 32)))
    assert not y.requires_grad


@pytest.mark.parametrize(("dim", "bytes_"), [(1, 4), (256, 262_144), (1024, 4 * 2**20)])
def test_memory_is_four_bytes_times_the_square_of_the_width(dim: int, bytes_: int) -> None:
    """Acceptance criterion 6.1: Memory overhead documented, by docs/protocol/hallmark-2.md."""
    projection = RandomProjection(5, dim)
    assert projection.memory_bytes == bytes_ == 4 * dim**2
    assert sum(p.untyped_storage().nbytes() for p in projection.parameters()) == bytes_


def test_moves_between_devices_and_wider_dtypes_without_changing_a_value() -> None:
    drawn = RandomProjection(5, 32)
    assert fingerprint(RandomProjection(5, 32).to("cpu")) == fingerprint(drawn)
    wide = RandomProjection(5, 32).to(torch.float32)
    assert wide.pre_proj.dtype == torch.float32
    assert torch.equal(wide.pre_proj, drawn.pre_proj.float())
    assert wide.memory_bytes == 2 * drawn.memory_bytes
    shapes_only = RandomProjection(5, 32).to("meta")
    assert shapes_only.pre_proj.is_meta
    assert shapes_only.pre(torch.empty(3, 32, device="meta")).shape == (3, 32)


@pytest.mark.parametrize("dim", [0, -1, 64.0])
def test_a_width_that_is_none_is_refused(dim: int) -> None:
    with pytest.raises(FieldError, match="dim"):
        RandomProjection(5, dim)
