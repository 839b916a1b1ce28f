"""What is known of slices: the cost of a layer, the stalls, the share. The clock is set by hand."""

import pytest
from clock import Clock

from hallmark.poc.protocol.status import SliceStats
from hallmark.poc.rounds.engine_protocol import Slice
from hallmark.poc.rounds.slices import SliceTimes


class Slices:
    """Slices that follow each other on a clock of their own."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.times = SliceTimes(self.clock)

    def run(self, seconds: float, layers: int = 1, *, concurrent_with_inference: bool = True) -> None:
        self.clock.advance(seconds)
        self.times.record(Slice(seconds, layers, None), concurrent_with_inference=concurrent_with_inference)

    def pause(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @property
    def stats(self) -> SliceStats:
        return self.times.stats(max_stall_ms=10.0)


@pytest.fixture
def slices() -> Slices:
    return Slices()


def test_nothing_is_told_before_the_first_slice(slices: Slices) -> None:
    assert slices.stats == {
        "slices": 0,
        "slices_concurrent_with_inference": 0,
        "slices_beside_inference": 0,
        "layer_ms": None,
        "max_stall_is_met": None,
        "stall_ms": {"p50": None, "p99": None, "max": None},
        "share_used": None,
    }
    assert slices.times.layers_within(1e9) == 1, "a layer of unknown cost is tried alone"


@pytest.mark.parametrize(
    ("seconds", "layers"),
    [(0.0, 1), (0.001, 1), (0.0039, 1), (0.004, 2), (0.0059, 2), (0.01, 5), (1.0, 500), (1e9, 10**6)],
)
def test_as_many_whole_layers_as_fit_and_never_none(slices: Slices, seconds: float, layers: int) -> None:
    slices.run(0.008, layers=4)
    assert slices.times.layers_within(seconds) == layers


def test_layers_that_cost_nothing_are_still_a_finite_number(slices: Slices) -> None:
    slices.run(0.0, layers=4)
    assert slices.times.layers_within(0.01) == 10**6
    assert slices.stats["layer_ms"] == 0.0


def test_a_slice_that_got_through_no_layer_counts_as_one(slices: Slices) -> None:
    slices.run(0.003, layers=0)
    assert slices.stats["layer_ms"] == pytest.approx(3.0)


def test_a_dearer_layer_counts_at_once(slices: Slices) -> None:
    slices.run(0.008, layers=4)
    slices.run(0.010, layers=1)
    assert slices.stats["layer_ms"] == pytest.approx(10.0)
    assert slices.times.layers_within(0.02) == 2


def test_a_cheaper_layer_counts_little_by_little(slices: Slices) -> None:
    slices.run(0.010)
    slices.run(0.005)
    assert slices.stats["layer_ms"] == pytest.approx(9.5)
    slices.run(0.005)
    assert slices.stats["layer_ms"] == pytest.approx(9.05)
    for _ in range(200):
        slices.run(0.005)
    assert slices.stats["layer_ms"] == pytest.approx(5.0)


def test_the_cost_of_a_layer_is_learnt_without_inference_too(slices: Slices) -> None:
    slices.run(0.004, layers=2, concurrent_with_inference=False)
    assert slices.stats["layer_ms"] == pytest.approx(2.0)
    assert slices.stats["slices"] == 1
    assert slices.stats["slices_concurrent_with_inference"] == 0


def test_percentiles_are_of_the_nearest_rank(slices: Slices) -> None:
    for milliseconds in range(200, 0, -1):
        slices.run(milliseconds / 1e3)
    stalls = slices.stats["stall_ms"]
    assert stalls["p50"] == pytest.approx(100.0)
    assert stalls["p99"] == pytest.approx(198.0)
    assert stalls["max"] == pytest.approx(200.0)


def test_of_one_slice_every_percentile_is_that_slice(slices: Slices) -> None:
    slices.run(0.003)
    assert slices.stats["stall_ms"] == pytest.approx({"p50": 3.0, "p99": 3.0, "max": 3.0})


def test_of_two_slices_the_median_is_the_shorter_one(slices: Slices) -> None:
    slices.run(0.004)
    slices.run(0.002)
    assert slices.stats["stall_ms"] == pytest.approx({"p50": 2.0, "p99": 4.0, "max": 4.0})


def test_a_slice_that_nobody_waited_for_is_no_stall(slices: Slices) -> None:
    slices.run(0.5, concurrent_with_inference=False)
    assert slices.stats["stall_ms"] == {"p50": None, "p99": None, "max": None}
    slices.run(0.003)
    assert slices.stats["stall_ms"]["max"] == pytest.approx(3.0)


def test_stalls_are_those_of_the_latest_thousand_slices(slices: Slices) -> None:
    slices.run(9.0)
    for _ in range(999):
        slices.run(0.001)
    assert slices.stats["stall_ms"]["max"] == pytest.approx(9000.0)
    slices.run(0.001)
    assert slices.stats["stall_ms"]["max"] == pytest.approx(1.0)
    assert slices.stats["slices_concurrent_with_inference"] == 1001


def test_the_share_is_of_the_time_from_a_slices_beginning_to_the_nexts(slices: Slices) -> None:
    slices.run(0.010)
    assert slices.stats["share_used"] is None, "one slice alone tells nothing"
    slices.pause(0.030)
    slices.run(0.020)
    assert slices.stats["share_used"] == pytest.approx(0.25)
    slices.pause(0.020)
    slices.run(0.001)
    assert slices.stats["share_used"] == pytest.approx(0.030 / 0.080)


def test_slices_without_a_pause_use_the_whole_engine(slices: Slices) -> None:
    for _ in range(5):
        slices.run(0.010)
    assert slices.stats["share_used"] == pytest.approx(1.0)


def test_the_share_is_never_above_the_whole(slices: Slices) -> None:
    """The engine's own seconds and this clock need not agree."""
    slices.run(0.010)
    slices.times.record(Slice(0.010, 1, None), concurrent_with_inference=True)
    assert slices.stats["share_used"] == pytest.approx(1.0)


def test_a_period_begins_with_a_slice_beside_inference(slices: Slices) -> None:
    slices.run(0.010, concurrent_with_inference=False)
    slices.pause(0.070)
    slices.run(0.010)
    assert slices.stats["share_used"] is None
    slices.pause(0.010)
    slices.run(0.010, concurrent_with_inference=False)
    assert slices.stats["share_used"] == pytest.approx(0.5), "it ends with whatever slice is next"
    slices.run(0.010, concurrent_with_inference=False)
    assert slices.stats["share_used"] == pytest.approx(0.5)


def test_a_rest_is_nobodys_share(slices: Slices) -> None:
    slices.run(0.010)
    slices.pause(0.030)
    slices.run(0.010)
    slices.times.rest()
    slices.pause(3600.0)
    slices.run(0.010)
    assert slices.stats["share_used"] == pytest.approx(0.25)
    slices.pause(0.010)
    slices.run(0.010)
    assert slices.stats["share_used"] == pytest.approx(0.020 / 0.060), "afterwards it is measured again"


def test_a_rest_keeps_what_is_known_of_stalls_and_layers(slices: Slices) -> None:
    slices.run(0.008, layers=4)
    before = slices.stats
    slices.times.rest()
    assert slices.stats == before


def test_the_share_is_of_the_latest_thousand_periods(slices: Slices) -> None:
    slices.run(1.0)
    slices.pause(999.0)
    for _ in range(1000):
        slices.run(0.001)
    assert slices.stats["share_used"] == pytest.approx(1.999 / 1000.999)
    slices.run(0.001)
    assert slices.stats["share_used"] == pytest.approx(1.0)


@pytest.mark.parametrize(("layer_seconds", "is_met"), [(0.0099, True), (0.0101, False)])
def test_the_stall_is_met_where_the_shortest_slice_there_is_keeps_within_it(
    slices: Slices, layer_seconds: float, is_met: bool
) -> None:
    slices.run(4 * layer_seconds, layers=4)
    assert slices.stats["max_stall_is_met"] is is_met


def test_a_stall_of_exactly_the_setting_is_met() -> None:
    slices = Slices()
    slices.run(0.5)
    assert slices.times.stats(max_stall_ms=500.0)["max_stall_is_met"] is True
