"""What a round costs inside vLLM, taken apart."""

import pytest

pytest.importorskip("vllm")

from engine import in_a_call, on_the_device


@pytest.mark.parametrize("batches", [2, 4])
def test_what_a_call_costs_is_told_from_what_its_batches_cost(batches: int) -> None:
    def seconds(batches: int) -> dict[str, float]:
        """Return those of a batch where one takes 100 ms, 0.3 more in a round, and a call 5 or 7."""
        return {
            "bare": (0.005 + 0.1 * batches) / batches,
            "round": (0.007 + 0.1003 * batches) / batches,
        }

    found = in_a_call(seconds(1), seconds(batches), batches)
    assert found == {"further_overhead_percent": 0.3, "once_ms": 2.0}


def test_what_replaces_steps_of_the_bare_forward_is_told_net_of_them() -> None:
    milliseconds = {"bare": 100.0, "round": 101.0, "own": 1.0, "embed": 0.2, "norm": 0.3}
    steps = {name: {"device_ms": found, "launches": 7} for name, found in milliseconds.items()}
    found = on_the_device(steps)
    assert found["own_us"] == 1000.0
    assert found["own_percent"] == 1.0
    assert found["net_us"] == 500.0
    assert found["net_percent"] == 0.5
    del steps["norm"]  # which the round's forward has too
    assert on_the_device(steps)["net_us"] == 800.0
    assert on_the_device({}) == {}
