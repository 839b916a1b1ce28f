"""A round's forward against the bare one in transformers, each one replayed graph, by turns.

What a round adds is compared with transformers' unfused forward, which flatters it: the share to quote is
that of `engine.py`, inside vLLM. This stage needs no vLLM.
"""

import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _results import is_small, keep  # isort: skip  # before Triton is imported

import torch
from _graphs import by_turns, seconds_of
from overhead import BATCH_SIZE, DEVICE, MODELS, SEQ_LEN, Case
from torch import Tensor

from hallmark.kernels import norm_project, signed_table
from hallmark.poc.protocol.projection import RandomProjection
from hallmark.server.models.small import fast_dtype

TURNS = 3 if is_small() else 11
ABOUT = (
    f"A round's forward against the bare forward, from token ids to the model's norm, in transformers, "
    f"{fast_dtype()}, random weights: milliseconds of a batch on the device, medians by turns, the median of "
    "their quotients and the middle half's width; the round's own kernels by themselves."
)


@torch.inference_mode()
def measure(name: str) -> dict[str, Any]:
    """Return one model's row."""
    case = Case(MODELS[name])
    case.check()
    width, spec = case.shape.hidden_size, case.spec
    pair = RandomProjection(spec.block_hash, width, spec.projection_scale, DEVICE)
    table = signed_table(1.0, torch.bfloat16, DEVICE)
    streams = torch.randint(0, 2**32, (BATCH_SIZE, 4), device=DEVICE)
    hidden = case.hidden_states(tokens=case.tokens)

    def inputs() -> Tensor:
        return case.inputs(case.tokens, pair.pre_proj)

    def numbers(states: Tensor) -> Tensor:
        return norm_project(states, None, case.order, spec.numbers, pair.post_proj, streams, table)

    seconds = by_turns(
        {
            "bare": lambda: case.hidden_states(tokens=case.tokens),
            "round": lambda: numbers(case.hidden_states(inputs=inputs())),
        },
        TURNS,
    )

    def own_steps() -> tuple[Tensor, Tensor]:
        return inputs(), numbers(hidden)

    ours = seconds_of([own_steps])
    quotients = [b / a for a, b in zip(seconds["bare"], seconds["round"], strict=True)]
    low, _, high = statistics.quantiles(quotients, n=4)
    bare = statistics.median(seconds["bare"])
    return {
        "model": name,
        "batch": f"{BATCH_SIZE}x{SEQ_LEN}",
        "bare_ms": round(bare * 1e3, 3),
        "round_ms": round(statistics.median(seconds["round"]) * 1e3, 3),
        "overhead_percent": round((statistics.median(quotients) - 1) * 100, 3),
        "middle_half_percent": round((high - low) * 100, 3),
        "ours_us": round(ours * 1e6, 1),
        "ours_percent": round(ours / bare * 100, 3),
        "bare_tflop_s": round(case.shape.forward_flops(BATCH_SIZE, SEQ_LEN) / bare / 1e12, 1),
    }


def main() -> None:
    rows: list[dict[str, Any]] = []
    for name in ("demo",) if is_small() else MODELS:
        rows.append(measure(name))
        keep("forward", ABOUT, rows, dtype=fast_dtype())
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
