"""Drawing streams: the order of elements, independence of the tiling, and the limits."""

from importlib import import_module

import independent_verifier
import pytest
import torch

from hallmark.kernels.draw_embeddings import draw_embeddings_reference
from hallmark.kernels.draw_matrix import draw_matrix_reference
from hallmark.kernels.draw_normals import STREAM_ELEMENTS, draw_normals_reference
from hallmark.kernels.normal_table import signed_table

# The package has a function of this name.
MODULE = import_module("hallmark.kernels.draw_normals")

STREAMS = torch.tensor(
    [[0, 0, 0, 0], [2**32 - 1] * 4, [2**31, 1, 2**31 + 5, 3], [123456789, 987654321, 55, 2**32 - 2]]
)


def expected(stream: torch.Tensor, count: int) -> list[float]:
    k0, k1, c2, c3 = stream.tolist()
    return independent_verifier.normals((k0, k1, c2, c3), count, independent_verifier.table())


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 123, 1000])
def test_elements_come_in_the_order_of_the_protocol(count: int) -> None:
    drawn = draw_normals_reference(STREAMS, count, signed_table(1.0))
    assert drawn.tolist() == [expected(stream, count) for stream in STREAMS]


@pytest.mark.parametrize("calls_per_thread", [1, 3, 16, 50, 10**6])
def test_tiling_does_not_matter(calls_per_thread: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = draw_normals_reference(STREAMS, 397, signed_table(1.0))
    monkeypatch.setattr(MODULE, "_CALLS_PER_THREAD", calls_per_thread)
    assert torch.equal(draw_normals_reference(STREAMS, 397, signed_table(1.0)), whole)


def test_a_stream_longer_than_a_tile_goes_on() -> None:
    tile = MODULE._CALLS_PER_THREAD * torch.get_num_threads()
    elements = 8 * tile + 20
    long = draw_normals_reference(STREAMS[1:3], elements, signed_table(1.0))
    table = independent_verifier.table()
    for stream, drawn in zip(STREAMS[1:3].tolist(), long, strict=True):
        k0, k1, c2, c3 = stream
        for call in (0, 1, tile - 1, tile):
            words = independent_verifier.philox((call, 0, c2, c3), (k0, k1))
            values = [
                independent_verifier.from_bf16(table[half & 0x7FF]) * (-1 if half & 0x8000 else 1)
                for word in words
                for half in (word & 0xFFFF, word >> 16)
            ]
            assert drawn[8 * call : 8 * call + 8].tolist() == values


def test_a_stream_does_not_depend_on_its_neighbours() -> None:
    together = draw_normals_reference(STREAMS, 100, signed_table(1.0))
    alone = [draw_normals_reference(stream.view(1, 4), 100, signed_table(1.0)) for stream in STREAMS]
    assert torch.equal(together, torch.cat(alone))


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    short, long = (draw_normals_reference(STREAMS, count, signed_table(1.0)) for count in (50, 300))
    assert torch.equal(long[:, :50], short)


@pytest.mark.parametrize("elements", [-1, STREAM_ELEMENTS, 2**40])
def test_refuses_more_elements_than_a_stream_has(elements: int) -> None:
    with pytest.raises(ValueError, match="elements"):
        draw_normals_reference(STREAMS, elements, signed_table(1.0))


def test_drawing_nothing_gives_nothing() -> None:
    assert draw_normals_reference(STREAMS, 0, signed_table(1.0)).shape == (4, 0)
    assert draw_normals_reference(STREAMS[:0], 8, signed_table(1.0)).shape == (0, 8)


@pytest.mark.parametrize("shape", [(1, 1), (5, 123), (4, 16), (3, 257)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_embeddings_are_row_major_and_scaled(shape: tuple[int, int], dtype: torch.dtype) -> None:
    rows, columns = shape
    drawn = draw_embeddings_reference(STREAMS, rows, columns, signed_table(2.0**-5, dtype))
    assert drawn.shape == (4, rows, columns)
    assert drawn.dtype == dtype
    exact = torch.tensor([expected(s, rows * columns) for s in STREAMS], dtype=torch.float64) * 2.0**-5
    # 2^-5 keeps every entry within float16's reach: the products are exact in all three dtypes.
    assert torch.equal(drawn.double(), exact.view(4, rows, columns))


@pytest.mark.parametrize("shape", [(1, 1), (5, 123), (16, 16)])
def test_matrices_are_row_major_and_rounded_once(shape: tuple[int, int]) -> None:
    rows, columns = shape
    for stream in STREAMS:
        drawn = draw_matrix_reference(stream, rows, columns, 0.01)
        patterns = independent_verifier.scaled(expected(stream, rows * columns), 0.01)
        assert (drawn.view(torch.int16).int() & 0xFFFF).flatten().tolist() == patterns
        assert drawn.shape == shape
