"""What verification costs: throughput on one and two of Ray's actors, and how many nonces a verdict takes.

Throughput: the same batches in one process, on one actor and on two, by both engines, each of one thread, on
a Ray that is started here. Numbers have to be the same to the bit. Cost: nonces that convict a stated cheat
at 10⁻⁷, in one batch and one after the other, as shares of what a GPU proves in an hour by the results of
`bench/gpu/engine.py`.

Run by `python -P bench/verification.py`; it takes a quarter of an hour on two cores.
"""

import os

# Before PyTorch and vLLM read them; an actor of one CPU has one thread too.
os.environ.update({"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"})

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

import torch
from _report import RESULTS, print_table, write_results

from hallmark.poc.actors.pool import ActorPool
from hallmark.poc.engine.in_process import VllmLoader
from hallmark.poc.offline.engine import Batch, EngineLoader, OfflineEngine, deployed
from hallmark.poc.offline.model import TransformersLoader
from hallmark.poc.protocol.config import PoCConfig
from hallmark.poc.protocol.round import Round
from hallmark.poc.verdict.cheat import Allowance, Cheat
from hallmark.poc.verdict.power import nonces_needed, stops_of_cheats, stops_of_honest
from hallmark.server.models.small import build_small_model, fast_dtype

BATCH_SIZE: Final = 8
SEQ_LEN: Final = 64
ENGINES: Final = ("transformers", "vllm")
ACTORS: Final = (1, 2)
THRESHOLD: Final = 1e-7
SIGMAS: Final = (0.02, 0.05, 0.1)
CHEATS: Final = {
    # Off by so much on SmolLM2: docs/soundness/other-weights.md.
    "INT8 weights": Cheat(0.072),
    "FP8 weights": Cheat(0.21),
    "INT4 weights": Cheat(0.82),
    "numbers made up": Cheat(2.0**0.5),
    "a tenth of them made up": Cheat(2.0**0.5, 0.1),
}


def throughput(model: Path, name: str, n_batches: int) -> Iterator[dict[str, Any]]:
    """Measure both engines on a model."""
    torch.set_num_threads(1)
    for engine in ENGINES:
        in_one, expected = _in_one_process(_loader(engine, model, in_pool=False), n_batches)
        row = {"what": "throughput", "model": name, "engine": engine, "batch": f"{BATCH_SIZE} x {SEQ_LEN}"}
        rates = {"one process": in_one}
        for count in ACTORS:
            rates[f"{count} actors"], found = _on_actors(
                _loader(engine, model, in_pool=True), count, n_batches
            )
            if found != expected:
                raise RuntimeError(f"{engine} has other numbers on {count} actors than in one process")
        yield {
            **row,
            **{f"nonces/s, {way}": rate for way, rate in rates.items()},
            **{f"{count} to one process": rates[f"{count} actors"] / in_one for count in ACTORS},
            "2 to 1": rates["2 actors"] / rates["1 actors"],
            "same bits": True,
        }


def _loader(engine: str, model: Path, *, in_pool: bool) -> EngineLoader:
    if engine == "vllm":
        return VllmLoader(model, BATCH_SIZE, SEQ_LEN, fast_dtype(), in_pool=in_pool)
    return TransformersLoader(model, "cpu", fast_dtype())


def _batches(engine: OfflineEngine, n_batches: int, block: str) -> list[Batch]:
    config = PoCConfig(
        block_hash=block, block_height=1, public_key="key", batch_size=BATCH_SIZE, seq_len=SEQ_LEN
    )
    spec = Round.resolve(config, deployed(engine.facts, "", BATCH_SIZE * SEQ_LEN)).spec()
    nonces = range(n_batches * BATCH_SIZE)
    return [
        Batch(spec, tuple(("key", nonce) for nonce in nonces[start : start + BATCH_SIZE]))
        for start in nonces[::BATCH_SIZE]
    ]


def _measured(engine: OfflineEngine, n_batches: int) -> tuple[float, list[Any]]:
    """Return nonces a second, and the numbers in the order of nonces."""
    batches = _batches(engine, n_batches, "measured")
    begun = time.perf_counter()
    computed = [*engine.compute(batches)]
    elapsed = time.perf_counter() - begun
    numbers = {batch.keys: found for batch, found in computed}
    return n_batches * BATCH_SIZE / elapsed, [numbers[batch.keys] for batch in batches]


def _in_one_process(loader: EngineLoader, n_batches: int) -> tuple[float, list[Any]]:
    engine = loader.load()
    try:
        _run(engine, 2)
        return _measured(engine, n_batches)
    finally:
        engine.close()


def _on_actors(loader: EngineLoader, count: int, n_batches: int) -> tuple[float, list[Any]]:
    pool = ActorPool.connect(loader, None, actors=count, gpus=0, cpus=1, batches=count)
    try:
        while pool.status.at_work < count:
            _run(pool, count)
        _run(pool, 2 * count)
        return _measured(pool, n_batches)
    finally:
        pool.close()


def _run(engine: OfflineEngine, n_batches: int) -> None:
    """Warm up: another block, so that nothing of it is of use."""
    for _ in engine.compute(_batches(engine, n_batches, "warm-up")):
        pass


def costs() -> Iterator[dict[str, Any]]:
    """Say how many nonces a verdict takes, for each cheat and sigma, at rate 1 with 16 numbers a nonce."""
    for sigma in SIGMAS:
        config = PoCConfig(
            block_hash="any", block_height=0, public_key="any", honest_sigma=sigma, fraud_threshold=THRESHOLD
        )
        allowance = Allowance.of_config(config, 16, 1.0)
        for name, cheat in CHEATS.items():
            row: dict[str, Any] = {
                "what": "nonces",
                "cheat": name,
                "error": cheat.error,
                "share": cheat.share,
                "sigma": sigma,
                "one batch": nonces_needed(cheat, allowance),
                "convicted": None,
                "cleared at sigma": None,
                "cleared, exact": None,
            }
            if cheat.mean_square(3.5 * sigma, allowance.kurtosis) > sigma**2:
                row["convicted"] = stops_of_cheats(cheat, allowance).median
                row["cleared at sigma"] = stops_of_honest(cheat, allowance, sigma).median
                row["cleared, exact"] = stops_of_honest(cheat, allowance, 0.0).median
            yield row


def prover_hours(nonces: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Say what so many nonces are of a GPU's hour of proving, by the newest results on each."""
    newest = {path.stem[:-11]: path for path in sorted(RESULTS.glob("gpu_engine-*.json"))}
    for path in newest.values():
        results = json.loads(path.read_text(encoding="utf-8"))
        # Of several model runners one says enough.
        for measured in {(row["model"], row["mode"]): row for row in reversed(results["rows"])}.values():
            rate = 32 / (measured["round_ms"] / 1e3)
            yield {
                "what": "prover-hour",
                "model": measured["model"],
                "mode": measured["mode"],
                "gpu": results["machine"]["gpu"],
                "from": path.name,
                "nonces/s": rate,
                "nonces in an hour": 3600 * rate,
                **{f"seconds for {count}": count / rate for count in nonces},
                **{f"share for {count}": count / rate / 3600 for count in nonces},
            }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a folder with a model; by default a small one is made")
    parser.add_argument("--batches", type=int, default=24, help="batches of 8 x 64 each way")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        model = arguments.model
        if model is None:
            model = Path(folder) / "small"
            build_small_model(model)
        rows = [*throughput(model, model.name, arguments.batches)]
    print_table(rows)
    taken = [*costs()]
    print_table(taken)
    hours = [*prover_hours((32, 256))]
    print_table(hours)
    write_results(
        "verification",
        "cpu",
        about=(
            "Nonces a second that one process and Ray's actors recompute, one thread each, and their "
            "ratios; nonces that convict a cheat or clear an honest prover at 1e-7 with a power of 99 %; "
            "what they are of a GPU's hour of proving. Units of errors: s."
        ),
        rows=[*rows, *taken, *hours],
        packages=("torch", "transformers", "vllm-cpu", "ray", "numpy", "scipy", "hallmark-poc"),
    )


if __name__ == "__main__":
    main()
