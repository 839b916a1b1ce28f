"""What the numbers of ways say of each other: rows of a table for every two ways."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

Errors = npt.NDArray[np.float64]

TOLERANCE = 0.35
LIMIT = 3.5
TRUTH = "cpu transformers-fp32"


@dataclass(frozen=True, slots=True)
class Computed:
    """What one way gave.

    Attributes:
        name: Device and way.
        fingerprint: Of the inputs.
        numbers: [nonces, k], by `kind/rows/readout`.
    """

    name: str
    fingerprint: str
    numbers: Mapping[str, npt.NDArray[np.float32]]


def compare(ways: Sequence[Computed]) -> list[dict[str, Any]]:
    """Return a row for each kind, length and readout of every two ways that had the same inputs."""
    return [
        {
            "one": one.name,
            "other": other.name,
            **dict(zip(("inputs", "rows", "readout"), _parts(key), strict=True)),
            **describe(_differences(one.numbers[key], other.numbers[key])),
        }
        for one, other in combinations(ways, 2)
        if one.fingerprint == other.fingerprint
        for key in one.numbers
        if key in other.numbers
    ]


def describe(errors: Errors) -> dict[str, Any]:
    """Return the columns of a row.

    Args:
        errors: [nonces, k], in units of s of the law.
    """
    finite = np.isfinite(errors).all(axis=1)
    kept = errors[finite]
    if not kept.size:
        raise ValueError("errors: no nonce has finite numbers alone")
    sigma = float(np.sqrt(np.mean(kept**2)))
    clipped = clipped_sigma(kept)
    limited = np.clip(kept, -LIMIT * clipped, LIMIT * clipped)
    by_nonce = np.sqrt(np.mean(errors**2, axis=1))
    worst = int(np.argmax(np.where(finite, by_nonce, -1.0)))
    return {
        "nonces": len(errors),
        "numbers": int(errors.size),
        "failed": int((~finite).sum()),
        "sigma": sigma,
        "clipped": clipped,
        "kurtosis": kurtosis(kept),
        "clipped_kurtosis": kurtosis(limited),
        "largest": float(np.abs(kept).max()),
        "beyond_0.35": float(np.mean(np.abs(kept) > TOLERANCE)),
        "beyond_limit": float(np.mean(np.abs(kept) > LIMIT * clipped)),
        "median": float(np.median(np.abs(kept))),
        "worst_nonce": worst,
        "worst_rms": float(by_nonce[worst]),
    }


def clipped_sigma(errors: Errors) -> float:
    """Return the fixed point of the RMS of errors clipped at 3.5 times itself."""
    sigma = float(np.sqrt(np.mean(errors**2)))
    for _ in range(200):
        sigma = float(np.sqrt(np.mean(np.clip(errors, -LIMIT * sigma, LIMIT * sigma) ** 2)))
    return sigma


def kurtosis(errors: Errors) -> float:
    """Return ``mean(e⁴)/mean(e²)²``, about zero; 3 where all errors are zero."""
    square = float(np.mean(errors**2))
    return float(np.mean(errors**4)) / square**2 if square else 3.0


def against_truth(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows about the CPU's fp32, the other way named alone."""
    found = []
    for row in rows:
        pair = [row["one"], row["other"]]
        if TRUTH in pair:
            pair.remove(TRUTH)
            shown = ("inputs", "readout", "rows", *_SHOWN)
            found.append({"way": pair[0], **{column: row[column] for column in shown}})
    return found


_SHOWN = ("sigma", "clipped", "clipped_kurtosis", "largest", "beyond_0.35", "beyond_limit", "worst_rms")


def by_pair(rows: Sequence[Mapping[str, Any]], column: str) -> list[dict[str, Any]]:
    """Return one line for every two ways, one column for each kind, readout and length."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (row["inputs"], row["readout"] != "last", row["rows"])):
        line = lines.setdefault((row["one"], row["other"]), {"one": row["one"], "other": row["other"]})
        line[f"{row['inputs']} {row['readout']} {row['rows']}"] = row[column]
    return list(lines.values())


def _differences(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> Errors:
    """Return the errors of the nonces that both have; a way may have stopped earlier."""
    shared = min(len(one), len(other))
    return one[:shared].astype(np.float64) - other[:shared]


def _parts(key: str) -> tuple[str, int, str]:
    kind, rows, readout = key.split("/")
    return kind, int(rows), readout
