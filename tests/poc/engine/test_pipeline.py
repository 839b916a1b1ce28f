"""Where the stages of a pipeline stop: transfers that are paired after every call, whatever it stops at."""

import random
from itertools import pairwise

import pytest

from hallmark.poc.engine.pipeline import StageStops

LAYERS = [(4,), (2, 2), (1, 3), (3, 1), (2, 1, 3), (1, 1, 1, 1), (0, 4), (4, 0), (2, 0, 2)]


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("batches", [1, 3])
def test_each_batch_that_a_stage_has_sent_the_next_one_has_received(
    layers: tuple[int, ...], batches: int
) -> None:
    stages = [StageStops(layers, stage) for stage in range(len(layers))]
    for progress in [*range(batches * sum(layers) + 1), None]:
        transfers = [stage.transfers(progress, batches) for stage in stages]
        assert transfers[0][0] == transfers[-1][1] == 0
        for (_, sent), (received, _) in pairwise(transfers):
            assert sent == received
        # A layer of a stage is passed only where the states that it goes on from have come.
        for index, (received, sent) in enumerate(transfers[1:], start=1):
            own = stages[index].passed(progress, batches) - received - sent
            assert own <= received * layers[index]


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("batches", [1, 3])
def test_slices_of_any_length_pass_each_stop_once(layers: tuple[int, ...], batches: int) -> None:
    draw = random.Random(sum(layers) * batches)  # noqa: S311
    stages = [StageStops(layers, stage) for stage in range(len(layers))]
    end = batches * sum(layers)
    progress, passed = 0, [0] * len(layers)
    while progress < end:
        target = min(end, progress + draw.randint(1, 5))
        for index, stage in enumerate(stages):
            moves = stage.passed(target, batches) - stage.passed(progress, batches)
            assert moves >= 0
            passed[index] += moves
        progress = target
    transfers = [int(index > 0) + int(index + 1 < len(layers)) for index in range(len(layers))]
    assert passed == [batches * (count + more) for count, more in zip(layers, transfers, strict=True)]
    assert [stage.passed(None, batches) for stage in stages] == passed


def test_a_stage_that_is_not_reached_stands_in_front_of_its_receive() -> None:
    first, second = StageStops((2, 2), 0), StageStops((2, 2), 1)
    assert [first.passed(progress, 1) for progress in range(5)] == [0, 1, 2, 3, 3]
    assert [second.passed(progress, 1) for progress in range(5)] == [0, 0, 0, 2, 3]
    assert [second.transfers(progress, 1) for progress in range(5)] == [
        (0, 0),
        (0, 0),
        (0, 0),
        (1, 0),
        (1, 0),
    ]
