"""How numbers are counted by bins."""

import math

from hypothesis import given
from hypothesis import strategies as st

from hallmark.poc.rounds.number_histogram import BIN_WIDTH, BINS, FIRST_EDGE, NumberHistogram


def test_a_number_on_an_edge_is_in_the_bin_above_and_one_beyond_them_in_the_outermost() -> None:
    histogram = NumberHistogram()
    histogram.add([FIRST_EDGE, 0.0, BIN_WIDTH, -99.0, 99.0])
    counts = histogram.counts
    assert (counts[0], counts[20], counts[21], counts[-1]) == (2, 1, 1, 1)


@given(st.lists(st.floats()))
def test_every_finite_number_is_in_one_bin(numbers: list[float]) -> None:
    histogram = NumberHistogram()
    histogram.add(numbers)
    assert len(histogram.counts) == BINS
    assert sum(histogram.counts) == sum(map(math.isfinite, numbers))
