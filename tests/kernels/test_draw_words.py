"""Drawing words: the order of the protocol, any number of them, and uniform."""

import independent_verifier
import pytest
import torch
from scipy.stats import chisquare

from hallmark.kernels.draw_normals import streams_tensor
from hallmark.kernels.draw_words import draw_words
from hallmark.poc.protocol.streams import nonce_streams

STREAMS = [(0, 0, 0, 0), (2**32 - 1,) * 4, (2**31, 1, 2**31 + 5, 3), (123456789, 987654321, 55, 2**32 - 2)]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 123, 1000])
def test_words_come_in_the_order_of_the_protocol(count: int) -> None:
    drawn = draw_words(streams_tensor(STREAMS), count)
    assert drawn.dtype == torch.int64
    assert drawn.shape == (4, count)
    assert drawn.tolist() == [independent_verifier.words(stream, count) for stream in STREAMS]


def test_of_no_stream_there_are_no_words() -> None:
    assert draw_words(streams_tensor([]), 8).shape == (0, 8)


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    streams = streams_tensor(STREAMS)
    assert torch.equal(draw_words(streams, 301)[:, :50], draw_words(streams, 50))


def test_a_stream_does_not_depend_on_its_neighbours() -> None:
    alone = [draw_words(streams_tensor([stream]), 64) for stream in STREAMS]
    assert torch.equal(draw_words(streams_tensor(STREAMS), 64), torch.cat(alone))


def test_every_bit_and_every_value_of_a_byte_is_as_likely_as_the_others() -> None:
    names = nonce_streams("tokens", "round", "block", [("key", nonce) for nonce in range(64)])
    drawn = draw_words(streams_tensor(names), 2048)
    count = drawn.numel()
    for bit in range(32):
        assert abs(float((drawn >> bit & 1).double().mean()) - 0.5) < 4.5 * 0.5 * count**-0.5
    for byte in range(4):
        histogram = torch.bincount((drawn >> 8 * byte & 0xFF).flatten(), minlength=256)
        assert 1e-4 < chisquare(histogram.numpy()).pvalue < 1 - 1e-4
