"""Every kind of stream looks like independent normal numbers.

The system before this one had an overflow that made every random sign +1, and no test saw it. Bounds are a
few standard errors wide; the streams are fixed, so a pass stays a pass.
"""

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from hallmark.kernels.draw_normals import draw_normals_reference, streams_tensor
from hallmark.kernels.normal_table import normal_table, signed_table
from hallmark.poc.protocol.streams import Stream, embeds_stream, post_stream, pre_stream, target_stream

ELEMENTS = 2**15
FAMILIES = {
    "consecutive nonces": [embeds_stream("round", "block", "key", nonce) for nonce in range(24)],
    "nonces above 2^32": [embeds_stream("round", "block", "key", 2**40 + nonce) for nonce in range(24)],
    "targets": [target_stream("round", "block", "key", nonce) for nonce in range(24)],
    "public keys": [embeds_stream("round", "block", f"key {i}", 0) for i in range(24)],
    "rounds": [embeds_stream(f"{i:064x}", "block", "key", 0) for i in range(24)],
    "blocks": [stream(f"{i:x}") for i in range(12) for stream in (pre_stream, post_stream)],
}


def draw(names: list[Stream]) -> Tensor:
    return draw_normals_reference(streams_tensor(names), ELEMENTS, signed_table(1.0)).double()


@pytest.fixture(params=FAMILIES, scope="module")
def family(request: pytest.FixtureRequest) -> Tensor:
    return draw(FAMILIES[request.param])


def test_moments(family: Tensor) -> None:
    entries = normal_table().double()
    m2, m4, m8 = (float(entries.pow(k).mean()) for k in (2, 4, 8))
    for sample in (family.flatten(), *family):
        n = len(sample)
        assert abs(float(sample.mean())) < 4.5 * (m2 / n) ** 0.5
        assert abs(float(sample.square().mean()) - m2) < 4.5 * ((m4 - m2**2) / n) ** 0.5
        assert abs(float(sample.pow(4).mean()) - m4) < 4.5 * ((m8 - m4**2) / n) ** 0.5
        assert abs(float(sample.pow(3).mean())) < 4.5 * (float(entries.pow(6).mean()) / n) ** 0.5


def test_signs_are_balanced(family: Tensor) -> None:
    for sample in (family.flatten(), *family):
        assert abs(float(sample.sign().mean())) < 4.5 * len(sample) ** -0.5
    # At each place within a Philox call, too.
    for place in range(8):
        sample = family[:, place::8].flatten()
        assert abs(float(sample.sign().mean())) < 4.5 * len(sample) ** -0.5


def test_every_entry_of_the_table_is_equally_likely(family: Tensor) -> None:
    values, counts = torch.unique(family.to(torch.bfloat16), return_counts=True)
    entries, multiplicity = torch.unique(signed_table(1.0)[:2048], return_counts=True)
    expected = torch.cat((multiplicity.flip(0), multiplicity)).double()
    assert torch.equal(values, torch.cat((-entries.flip(0), entries)))
    p_value = chisquare(counts.numpy(), (expected / expected.sum() * family.numel()).numpy()).pvalue
    assert 1e-4 < p_value < 1 - 1e-4


def test_streams_are_uncorrelated(family: Tensor) -> None:
    correlation = torch.corrcoef(family) - torch.eye(len(family))
    # 276 pairs: the largest of so many normal deviates stays under 4.8 with probability 0.9995.
    assert float(correlation.abs().max()) < 4.8 * ELEMENTS**-0.5
    squares = torch.corrcoef(family.square()) - torch.eye(len(family))
    assert float(squares.abs().max()) < 4.8 * ELEMENTS**-0.5


def test_neighbours_within_a_stream_are_uncorrelated(family: Tensor) -> None:
    # Lags of a call and a word, and of rows of common widths.
    for lag in (*range(1, 18), 64, 256, 1024, 4096):
        product = (family[:, lag:] * family[:, :-lag]).flatten()
        assert abs(float(product.mean())) < 4.8 * len(product) ** -0.5


def test_purposes_are_uncorrelated() -> None:
    """One nonce's input and target, and the block's two projections."""
    names = [
        *(stream("round", "block", "key", n) for n in range(4) for stream in (embeds_stream, target_stream)),
        pre_stream("block"),
        post_stream("block"),
    ]
    correlation = torch.corrcoef(draw(names)) - torch.eye(len(names))
    assert float(correlation.abs().max()) < 4.8 * ELEMENTS**-0.5
