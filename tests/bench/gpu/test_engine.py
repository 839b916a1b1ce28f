"""What a round costs inside vLLM, taken apart."""

import pytest

pytest.importorskip("vllm")

from engine import in_a_call


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
