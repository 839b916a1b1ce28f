"""A round inside stock vLLM: right to the bit, and what it costs.

The engine runs in this process, so that every traceback is seen. Batches run whole, again, back to back, and
sliced between steps of inference; greedy completions with them and without; then the bare forward against a
round's.
"""

import argparse
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _results import is_small, keep  # isort: skip  # before Triton is imported

import torch
from _environment import enter_one_process
from _models import SHAPES
from _rounds import bench_round
from _vllm import Engine, running_engine

from hallmark.server.models.small import fast_dtype

BATCH_SIZE, SEQ_LEN = (8, 64) if is_small() else (32, 256)
REPEATS, BATCHES = (3, 2) if is_small() else (7, 4)
LAYERS = 2
"""Of a slice."""
ABOUT = (
    f"A round of {BATCH_SIZE} nonces of {SEQ_LEN} tokens in vLLM, {fast_dtype()}, random weights: batches "
    "and completions that differ from those run whole or without proofs; milliseconds of a batch, "
    f"{BATCHES} back to back, medians by turns, and the median of their quotients; what a further batch of a "
    "call costs and what a call costs once, from calls of one batch; the device's milliseconds "
    "in kernels and their number by the profiler; microseconds of Hallmark's own steps by themselves, of the "
    "bare forward's embedding and final norm that they replace, and of the difference, net; the "
    "host's to launch a batch; tokens a second of proofs, of chat's prefill of as many prompts as long, and "
    "their quotient. The bare forward goes from token ids to the model's own norm, compiled where the server "
    "compiles."
)
Batch = list[tuple[str, int]]
Completion = tuple[int, ...]
Numbers = list[list[float]]


class Checks:
    """What must hold of an engine, and what was counted."""

    def __init__(self, engine: Engine, hidden_size: int) -> None:
        from vllm import SamplingParams

        self._engine = engine
        self._greedy = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
        self._prompts = [[(7 * i + 13 * j) % 1000 for j in range(40 + i)] for i in range(4)]
        self._batches: list[Batch] = [
            [("key", BATCH_SIZE * batch + i) for i in range(BATCH_SIZE)] for batch in range(3)
        ]
        # The block by which mean distances of several machines can be compared.
        self._spec = bench_round(hidden_size, seq_len=SEQ_LEN, batch_size=BATCH_SIZE, block_hash="gpu")

    def run(self) -> dict[str, Any]:
        """Return the counts; none of what differs may be anything but 0."""
        alone = [self._complete(i) for i in range(len(self._prompts))]
        self._engine.poc("poc_open_round", self._spec.to_wire())
        whole = [self._whole(batch) for batch in self._batches]
        assert all(c == c for batch in whole for numbers in batch for c in numbers), "a nonce failed"
        again = [self._whole(batch) for batch in self._batches]
        together = self._engine.poc("poc_start", self._batches, None)
        back_to_back = [batch["numbers"] for batch in together["batches"]]
        sliced, beside, seconds = self._beside_inference()
        self._engine.poc("poc_close_round")
        return {
            "again_differ": sum(a != b for a, b in zip(whole, again, strict=True)),
            "back_to_back_differ": sum(a != b for a, b in zip(whole, back_to_back, strict=True)),
            "sliced_differ": sum(a != b for a, b in zip(whole, sliced, strict=True)),
            "slices": len(seconds),
            "slice_ms": round(sorted(seconds)[len(seconds) // 2] * 1e3, 3),
            "completions_differ": sum(alone[i] != completion for i, completion in enumerate(beside)),
            "mean_distance": statistics.mean(
                self._distance(numbers[0]) for batch in whole for numbers in batch
            ),
        }

    def _complete(self, prompt: int) -> Completion:
        prompts = [{"prompt_token_ids": self._prompts[prompt]}]
        found = self._engine.llm.generate(prompts, self._greedy, use_tqdm=False)
        return tuple(found[0].outputs[0].token_ids)

    def _distance(self, number: float) -> float:
        return math.sqrt(max(0.0, 2.0 - 2.0 * number / math.sqrt(self._spec.hidden_size)))

    def _whole(self, batch: Batch) -> Numbers:
        numbers: Numbers = self._engine.poc("poc_start", [batch], None)["batches"][0]["numbers"]
        return numbers

    def _beside_inference(self) -> tuple[list[Numbers], list[Completion], list[float]]:
        """Run each batch a slice at a time, with completions between slices as long as there are prompts.

        Returns:
            The batches' numbers, the completions, and each slice's seconds.
        """
        sliced: list[Numbers] = []
        beside: list[Completion] = []
        seconds: list[float] = []
        for batch in self._batches:
            done = self._engine.poc("poc_start", [batch], LAYERS)
            while done["batches"] is None:
                seconds.append(done["seconds"])
                if len(beside) < len(self._prompts):
                    beside.append(self._complete(len(beside)))
                done = self._engine.poc("poc_advance", LAYERS)
            sliced.append(done["batches"][0]["numbers"])
        return sliced, beside, seconds


def prefilled_tokens_per_second(engine: Engine) -> float:
    """Return what the same engine prefills for chat: as many prompts as long at once, for a token each.

    The median of some runs; no two prompts begin alike, so that no prefix is found in the cache.
    """
    from vllm import SamplingParams

    one_token = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)
    generator = torch.Generator().manual_seed(0)
    seconds = []
    for turn in range(REPEATS + 1):
        tokens = torch.randint(0, 1000, (BATCH_SIZE, SEQ_LEN), generator=generator).tolist()
        prompts = [{"prompt_token_ids": prompt} for prompt in tokens]
        begun = time.perf_counter()
        engine.llm.generate(prompts, one_token, use_tqdm=False)
        if turn:
            seconds.append(time.perf_counter() - begun)
    return BATCH_SIZE * SEQ_LEN / statistics.median(seconds)


def in_a_call(one: dict[str, float], several: dict[str, float], batches: int) -> dict[str, float]:
    """Tell what a round adds to each batch of a call from what it adds to the call.

    Args:
        one: `bare` and `round`, seconds of a batch where a call has one.
        several: the same where it has several.
        batches: how many.
    """
    further = {name: (several[name] * batches - one[name]) / (batches - 1) for name in ("bare", "round")}
    once = {name: one[name] - further[name] for name in further}
    return {
        "further_overhead_percent": round((further["round"] / further["bare"] - 1) * 100, 3),
        "once_ms": round((once["round"] - once["bare"]) * 1e3, 3),
    }


def costs(engine: Engine, flops: float) -> dict[str, Any]:
    """Return the bare forward's and a round's times, and what both are in tokens beside chat."""
    times = engine.call("bench_forwards", REPEATS, BATCHES)
    one = engine.call("bench_forwards", REPEATS, 1)
    proved, prefilled = BATCH_SIZE * SEQ_LEN / times["round"], prefilled_tokens_per_second(engine)
    row = {
        "bare_ms": round(times["bare"] * 1e3, 3),
        "round_ms": round(times["round"] * 1e3, 3),
        "overhead_percent": round((times["quotient"] - 1) * 100, 3),
        **in_a_call(one, times, BATCHES),
        "host_ms": round(times["host"] * 1e3, 2),
        "bare_tflop_s": round(flops / times["bare"] / 1e12, 1),
        "proved_tokens_s": round(proved),
        "prefilled_tokens_s": round(prefilled),
        "proved_to_prefilled": round(proved / prefilled, 3),
    }
    return row | on_the_device(engine.call("bench_device"))


def on_the_device(steps: dict[str, dict[str, float]]) -> dict[str, float]:
    """Say what a round adds to the device's work; nothing where nothing was profiled.

    Args:
        steps: as `BenchWorker.bench_device` returns it.
    """
    if not steps:
        return {}
    own, embed, norm = (steps.get(name, {"device_ms": 0.0})["device_ms"] for name in ("own", "embed", "norm"))
    net, bare, whole = own - embed - norm, steps["bare"]["device_ms"], steps["round"]["device_ms"]
    return {
        "bare_device_ms": round(bare, 3),
        "round_device_ms": round(whole, 3),
        "bare_launches": steps["bare"]["launches"],
        "round_launches": steps["round"]["launches"],
        "own_us": round(own * 1e3, 1),
        "own_percent": round(own / (whole - own) * 100, 3),
        "embed_us": round(embed * 1e3, 1),
        "norm_us": round(norm * 1e3, 1),
        "net_us": round(net * 1e3, 1),
        "net_percent": round(net / bare * 100, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=list(SHAPES))
    parser.add_argument("mode", choices=("eager", "compiled"))
    parser.add_argument("--attention", help="vLLM's attention backend; the platform's own by default")
    parser.add_argument(
        "--runner", choices=("1", "2"), default="1", help="the version of vLLM's model runner"
    )
    arguments = parser.parse_args()
    enter_one_process(arguments.runner)
    options: dict[str, object] = {"enforce_eager": arguments.mode == "eager"}
    if arguments.mode == "compiled":
        options["compilation_config"] = {"cudagraph_capture_sizes": [1, 2, 4, 8]}
    if arguments.attention is not None:
        options["attention_backend"] = arguments.attention
    shape = SHAPES[arguments.model]
    begun = time.perf_counter()
    with running_engine(shape, batch_size=BATCH_SIZE, seq_len=SEQ_LEN, **options) as engine:
        numerics = engine.warm["numerics"]
        row: dict[str, Any] = {
            "model": arguments.model,
            "attention": numerics["attention"],
            "mode": arguments.mode,
            "runner": numerics["model_runner"],
            "start_s": round(time.perf_counter() - begun, 1),
            "scratch_mib": engine.set_up["scratch_bytes"] >> 20,
            "peak_mib": engine.warm["peak_bytes"] >> 20,
        }
        row |= Checks(engine, shape.hidden_size).run()
        row |= costs(engine, shape.forward_flops(BATCH_SIZE, SEQ_LEN))
        keep("engine", ABOUT, [{**row, "numerics": numerics}], dtype=fast_dtype())
    wrong = [name for name, count in row.items() if name.endswith("_differ") and count]
    if wrong:
        sys.exit(f"not 0: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
