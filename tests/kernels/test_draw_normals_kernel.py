"""The drawing kernel, interpreted and compiled: Philox to the word, elements to the bit."""

from collections.abc import Sequence

import independent_verifier
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hallmark.kernels.draw_normals import (
    STREAM_ELEMENTS,
    draw_normals,
    draw_normals_reference,
    launch_draw_normals,
)
from hallmark.kernels.launch import Launch
from hallmark.kernels.normal_table import signed_table
from hallmark.kernels.philox import random_words

STREAMS = torch.tensor(
    [[0, 0, 0, 0], [2**32 - 1] * 4, [2**31, 1, 2**31 + 5, 3], [123456789, 987654321, 55, 2**32 - 2]]
)
WORD = 0xFFFFFFFF
WORDS = st.integers(0, WORD)
# Random123's kat_vectors.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((WORD, WORD, WORD, WORD), (WORD, WORD), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@triton.jit
def _philox_kernel(out_ptr: tl.tensor, in_ptr: tl.tensor, COUNT: tl.constexpr) -> None:
    lane = tl.arange(0, COUNT)
    c0 = tl.load(in_ptr + 6 * lane).to(tl.uint32)
    c1 = tl.load(in_ptr + 6 * lane + 1).to(tl.uint32)
    c2 = tl.load(in_ptr + 6 * lane + 2).to(tl.uint32)
    c3 = tl.load(in_ptr + 6 * lane + 3).to(tl.uint32)
    k0 = tl.load(in_ptr + 6 * lane + 4).to(tl.uint32)
    k1 = tl.load(in_ptr + 6 * lane + 5).to(tl.uint32)
    w0, w1, w2, w3 = random_words(c0, c1, c2, c3, k0, k1)
    tl.store(out_ptr + 4 * lane, w0.to(tl.int64))
    tl.store(out_ptr + 4 * lane + 1, w1.to(tl.int64))
    tl.store(out_ptr + 4 * lane + 2, w2.to(tl.int64))
    tl.store(out_ptr + 4 * lane + 3, w3.to(tl.int64))


def words(device: torch.device, inputs: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The four words for each of 2^n rows of counter and key, computed in a kernel."""
    out = torch.full((len(inputs), 4), -1, device=device)
    given = torch.tensor(inputs, device=device)
    Launch(_philox_kernel, (1,), (out, given), {"COUNT": len(inputs)}, num_warps=1, num_stages=1).run()
    return [tuple(row) for row in out.tolist()]


def bits(values: torch.Tensor) -> torch.Tensor:
    return values.view(torch.int16 if values.element_size() == 2 else torch.int32)


def drawn_by_kernel(
    device: torch.device, streams: torch.Tensor, table: torch.Tensor, elements: int
) -> torch.Tensor:
    """What the kernel writes over a poisoned output, and what lies right behind it."""
    poisoned = torch.full((len(streams) * elements + 64,), 7.0, dtype=table.dtype, device=device)
    out = poisoned[:-64].view(len(streams), elements)
    launch_draw_normals(out, streams.to(device), table.to(device)).run()
    assert bool((poisoned[-64:] == 7.0).all()), "the kernel wrote past its output"
    return out.cpu()


def test_philox_in_a_kernel_gives_the_published_answers(kernel_device: torch.device) -> None:
    found = words(kernel_device, [(*counter, *key) for counter, key, _ in [*KNOWN_ANSWERS, KNOWN_ANSWERS[0]]])
    shown = [" ".join(f"{word:08x}" for word in row) for row in found]
    assert shown[:3] == [expected for _, _, expected in KNOWN_ANSWERS]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(inputs=st.lists(st.tuples(WORDS, WORDS, WORDS, WORDS, WORDS, WORDS), min_size=16, max_size=16))
def test_philox_in_a_kernel_agrees_with_plain_integers(
    kernel_device: torch.device, inputs: list[tuple[int, int, int, int, int, int]]
) -> None:
    expected = [independent_verifier.philox(row[:4], row[4:]) for row in inputs]
    assert words(kernel_device, inputs) == expected


@pytest.mark.parametrize("elements", [16, 48, 5 * 272, 8176, 8192, 8208, 3 * 8192 + 32])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_draws_the_bits_of_the_reference(
    kernel_device: torch.device, dtype: torch.dtype, elements: int
) -> None:
    table = signed_table(2.0**-5, dtype)
    found = drawn_by_kernel(kernel_device, STREAMS, table, elements)
    assert torch.equal(bits(found), bits(draw_normals_reference(STREAMS, elements, table)))


@pytest.mark.parametrize("scale", [0.01, 1.0, 2.0**-24, 1e-6])
def test_a_table_may_have_any_scale(kernel_device: torch.device, scale: float) -> None:
    table = signed_table(scale)
    found = drawn_by_kernel(kernel_device, STREAMS[3:], table, 512)
    assert torch.equal(bits(found), bits(draw_normals_reference(STREAMS[3:], 512, table)))


def test_float16_keeps_subnormal_numbers(kernel_device: torch.device) -> None:
    table = signed_table(2.0**-20, torch.float16)
    found = drawn_by_kernel(kernel_device, STREAMS, table, 4096)
    assert torch.equal(bits(found), bits(draw_normals_reference(STREAMS, 4096, table)))
    assert bool(((found != 0) & (found.abs() < 2.0**-14)).any())


def test_many_short_streams(kernel_device: torch.device) -> None:
    streams = torch.randint(0, 2**32, (150, 4), generator=torch.Generator().manual_seed(1))
    found = drawn_by_kernel(kernel_device, streams, signed_table(1.0), 16)
    assert torch.equal(found, draw_normals_reference(streams, 16, signed_table(1.0)))


@pytest.mark.parametrize("elements", [0, 8, 24, STREAM_ELEMENTS])
def test_the_kernel_refuses_sizes_it_cannot_draw(elements: int) -> None:
    out = torch.empty(1).as_strided((1, elements), (0, 0))
    with pytest.raises(ValueError, match="elements"):
        launch_draw_normals(out, STREAMS[:1], signed_table(1.0, torch.float32))


@pytest.mark.parametrize("elements", [1, 7, 16, 123])
def test_the_op_draws_on_any_device(kernel_device: torch.device, elements: int) -> None:
    """Sizes that the kernel does not take are the reference's."""
    table = signed_table(1.0)
    found = draw_normals(STREAMS.to(kernel_device), elements, table.to(kernel_device))
    assert torch.equal(found.cpu(), draw_normals_reference(STREAMS, elements, table))
    torch.library.opcheck(draw_normals, (STREAMS.to(kernel_device), elements, table.to(kernel_device)))
