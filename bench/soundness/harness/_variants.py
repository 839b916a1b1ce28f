"""Ways of computing the same honest distances, each in a process with the environment it needs.

Run as a script it computes what `in_a_process` asks for: instruction sets are chosen before torch is
imported, and vLLM takes a process of its own.
"""

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

sys.path.extend(map(str, Path(__file__).parents[1].glob("*/")))  # `python -P` adds none of the rooms
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from _forward import Distances, Prover
from _vllm import ENVIRONMENT, Engine
from transformers import AutoModelForCausalLM

from hallmark.poc.protocol.round_spec import RoundSpec

BASELINE = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
}


@dataclass(frozen=True, slots=True)
class Variant:
    """How distances are computed.

    Attributes:
        dtype: Of the model.
        engine: Whose code runs the model.
        attention: transformers' implementation; vLLM has its own.
        batch_size: Nonces in a forward.
        threads: Of a forward; 0: as many as there are cores.
        compiled: Whether torch.compile has made the model's code.
        baseline: Whether only the oldest instruction set is used, SSE.
        shuffled: Whether nonces meet other batch mates, in other places.
        nonces: How many are computed, from 0 on.
    """

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    engine: Literal["transformers", "vllm"] = "transformers"
    attention: Literal["sdpa", "eager"] = "sdpa"
    batch_size: int = 32
    threads: int = 0
    compiled: bool = False
    baseline: bool = False
    shuffled: bool = False
    nonces: int = 256


def in_a_process(directory: Path, spec: RoundSpec, ways: Sequence[Variant]) -> list[Distances]:
    """The distances of each way, by a fresh interpreter.

    Args:
        directory: A model of transformers, saved.
        spec: The round; its batch size is each way's own.
        ways: What a process can do one after another: with the same `baseline`, and vLLM alone.
    """
    (baseline,) = {way.baseline for way in ways}
    with TemporaryDirectory() as folder:
        job, answer = Path(folder) / "job.json", Path(folder) / "answer.json"
        job.write_text(json.dumps({"spec": spec.to_wire(), "ways": [asdict(way) for way in ways]}))
        command = [sys.executable, "-P", __file__, str(directory), str(job), str(answer)]
        ran = subprocess.run(
            command, env={**os.environ, **(BASELINE if baseline else {})}, capture_output=True, text=True
        )
        if ran.returncode:
            raise RuntimeError(f"{ways}: {ran.stdout[-4000:]}\n{ran.stderr[-4000:]}")
        return [np.array(each) for each in json.loads(answer.read_text())]


def order_of(way: Variant) -> list[int]:
    """The nonces in the order in which they are put into batches."""
    nonces = list(range(way.nonces))
    if way.shuffled:
        random.Random(0).shuffle(nonces)  # noqa: S311
    return nonces


def in_order(distances: Sequence[float], nonces: Sequence[int]) -> list[float]:
    """Distances by nonce, whatever order they were computed in."""
    return [distance for _, distance in sorted(zip(nonces, distances, strict=True))]


def by_transformers(directory: Path, spec: RoundSpec, way: Variant) -> list[float]:
    """Distances by PyTorch and a model of transformers."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        directory, dtype=getattr(torch, way.dtype), attn_implementation=way.attention
    ).eval()
    if way.compiled:
        model.base_model.compile()
    threads = torch.get_num_threads()
    torch.set_num_threads(way.threads or threads)
    try:
        computed = Prover(model, spec).run(order_of(way))
    finally:
        torch.set_num_threads(threads)
    distances: list[float] = computed.distances.tolist()
    return distances


def by_vllm(directory: Path, spec: RoundSpec, way: Variant) -> list[float]:
    """Distances by vLLM with PoC in it, by the calls that its server makes."""
    os.environ.update(ENVIRONMENT)
    from vllm import LLM

    llm = LLM(
        model=str(directory),
        skip_tokenizer_init=True,
        dtype=way.dtype,
        enforce_eager=not way.compiled,
        enable_prompt_embeds=way.compiled,
        max_model_len=512,
        max_num_seqs=way.batch_size,
        max_num_batched_tokens=max(way.batch_size * spec.seq_len, 512),
        additional_config={"hallmark": {"max_batch_size": way.batch_size, "seq_len": spec.seq_len}},
    )
    try:
        engine = Engine(llm)
        forward = engine.warm["numerics"]["forward"]
        if ("compiled" in str(forward)) != way.compiled:
            raise RuntimeError(f"vLLM's forward is {forward}, asked for {way}")
        _payload(engine.call("poc_open_round", 3, spec.to_wire()))
        keys = [("prover", nonce) for nonce in order_of(way)]
        batches = [keys[start : start + way.batch_size] for start in range(0, len(keys), way.batch_size)]
        done = _payload(engine.call("poc_start", 4, batches, None))["batches"]
    finally:
        llm.llm_engine.engine_core.shutdown()
    return [distance for batch in done for distance in batch["distances"]]


def _payload(reply: dict[str, Any]) -> Any:
    if reply["status"] != "ok":
        raise RuntimeError(reply["error"])
    return reply["payload"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("job", type=Path)
    parser.add_argument("answer", type=Path)
    arguments = parser.parse_args()
    job = json.loads(arguments.job.read_text())
    spec = RoundSpec.from_wire(job["spec"])
    answers = []
    for settings in job["ways"]:
        way = Variant(**settings)
        compute = by_vllm if way.engine == "vllm" else by_transformers
        distances = compute(arguments.model, replace(spec, batch_size=way.batch_size), way)
        answers.append(in_order(distances, order_of(way)))
    arguments.answer.write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
