"""Thresholds with measured tails: what does a verdict make of honest noise as it is, and of errors on top?

Honest errors are those that trained models really had between two ways of running them: of
`bench/gpu/noise.py` (two machines) and `honest_noise.py`, whole nonces with all their numbers. Nothing is
assumed of their tails, or of how the numbers of a nonce hang together.

Half of the nonces, chosen at random, calibrate by the product's `Calibration.measure`; the other half gives
batches, drawn with replacement, that the product's tests judge. Each number's sign is drawn anew: targets are
symmetric about 0, so that either sign is as likely. It is a hard trial: a half of a few hundred nonces is
itself noisier or quieter than the other by chance.

A row is a source of errors, a batch size, what sigma is stated, and what a cheater adds:

- stated: `bound`, what calibration states; `estimate`, the sigma that it measured, without its upper bound.
- added: RMS of normal errors that are added to every number, in sigmas of the source. 0 is honest.
- fraud at T: share of the batches that the combined verdict calls fraud. TEST at T: share that one test
  rejects by itself, at T over the number of tests.
- least: the smallest combined p-value of all batches.

`sources` has what calibration says of each.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

# `python -P` adds none of the rooms.
sys.path.extend(map(str, [*Path(__file__).parents[1].glob("*/"), Path(__file__).parents[2]]))

import numpy as np
import numpy.typing as npt
from _arrays import decode
from _experiment import new_figure, options, write
from _noise_compare import clipped_sigma, describe
from _provided import GEMMA_NAME
from matplotlib.figure import Figure
from report import newest
from verdict_power import Settings, p_values

from hallmark.poc.verdict.calibration import Calibration
from hallmark.poc.verdict.hypothesis_tests import bonferroni

Floats = npt.NDArray[np.float64]
Row = dict[str, Any]

THRESHOLDS: Final = (0.01, 1e-4, 1e-7)
BATCHES: Final = (16, 64, 500, 2_000)
ADDED: Final = (0.5, 1.0, 1.5, 2.0, 3.0)
TESTS: Final = ("nonces", "rms", "beyond", "signed_mean")

_CPU_VLLM, _CPU_TRANSFORMERS = "cpu vllm", "cpu transformers-eager"
_GPU_VLLM, _GPU_OTHER = "vllm-FLASH_ATTN", "vllm-TRITON_ATTN"


@dataclass(frozen=True, slots=True)
class Source:
    """Honest errors to draw from.

    Attributes:
        name: Model, rows and the two ways.
        errors: What batches are made of, [nonces, k], in s.
        other_pair: What calibrates in the place of a half of them: the errors of another pair.
    """

    name: str
    errors: Floats
    other_pair: Floats | None = None

    @property
    def sigma(self) -> float:
        """RMS of the errors clipped at 3.5 times itself."""
        return clipped_sigma(self.errors)

    def split(self, draw: np.random.Generator) -> tuple[Floats, Floats]:
        """Return the errors that calibrate, and those that batches are drawn from."""
        calibrating = self.errors if self.other_pair is None else self.other_pair
        order = draw.permutation(len(calibrating))
        half = len(order) // 2
        judged = calibrating[order[half:]] if self.other_pair is None else self.errors
        return calibrating[order[:half]], judged


@dataclass(frozen=True, slots=True)
class Size:
    """How much is simulated.

    Attributes:
        splits: Calibrations of each source.
        honest: Honest batches of each size, for each calibration.
        dishonest: Those with errors on top.
        sizes: Nonces of a batch.
    """

    splits: int
    honest: int
    dishonest: int
    sizes: Sequence[int]


def sources() -> list[Source]:
    """Read the errors that the repository keeps."""
    numbers = {
        f"{row['device']} {row['way']}": row["numbers"]
        for _, content in newest("noise_numbers")
        for row in content["rows"]
    }
    gpu = next(name for name in numbers if name.endswith(_GPU_VLLM))
    other = next(name for name in numbers if name.endswith(_GPU_OTHER))

    def errors(one: str, two: str, rows: int) -> Floats:
        key = f"tokens/{rows}/groups"
        return decode(numbers[one][key]).astype(np.float64) - decode(numbers[two][key])

    across = errors(gpu, _CPU_VLLM, 64)
    found = [
        Source("SmolLM2, 64 rows, vLLM ~ transformers, CPU", errors(_CPU_VLLM, _CPU_TRANSFORMERS, 64)),
        Source("SmolLM2, 64 rows, vLLM, GPU ~ CPU", across),
        Source("SmolLM2, 256 rows, vLLM, GPU ~ CPU", errors(gpu, _CPU_VLLM, 256)),
        Source("the second, calibrated on two attention kernels", across, errors(gpu, other, 64)),
    ]
    found += [
        Source(
            f"Gemma 3, {each['rows']} rows, vLLM ~ transformers, CPU",
            decode(each["errors"]).astype(np.float64),
        )
        for _, content in newest("soundness_honest_noise")
        for each in content["errors"]
        if each["model"] == GEMMA_NAME
    ]
    return found


def batch_of(errors: Floats, size: int, draw: np.random.Generator, added: float = 0.0) -> Floats:
    """Draw a batch of nonces with replacement, [size, k].

    Args:
        errors: Honest ones.
        size: Nonces.
        draw: Where from.
        added: RMS of normal errors on top, in s.
    """
    drawn = errors[draw.integers(len(errors), size=size)]
    signed: Floats = drawn * draw.choice((-1.0, 1.0), drawn.shape)
    return signed + draw.normal(0.0, added, drawn.shape) if added else signed


class Tally:
    """What verdicts said of batches."""

    def __init__(self) -> None:
        self._batches = 0
        self._rejected: Counter[str] = Counter()
        self._least = 1.0

    def judge(self, errors: Floats, settings: Settings) -> None:
        """Judge a batch, and count who rejects it."""
        found = p_values(errors, settings)
        combined = bonferroni(found.values())
        self._batches += 1
        self._least = min(self._least, combined)
        for threshold in THRESHOLDS:
            self._rejected[f"fraud at {threshold:g}"] += combined < threshold
            for test, p in found.items():
                self._rejected[f"{test} at {threshold:g}"] += len(found) * p < threshold

    def row(self) -> Row:
        """Return the shares."""
        names = [f"{what} at {threshold:g}" for what in ("fraud", *TESTS) for threshold in THRESHOLDS]
        shares = {name: self._rejected[name] / self._batches for name in names}
        return {"batches": self._batches, **shares, "least": self._least}


def simulate(source: Source, size: Size, draw: np.random.Generator) -> Iterator[Row]:
    """Yield the rows of a source: honest batches by what is stated, then those with errors on top."""
    honest = {(n, stated): Tally() for n in size.sizes for stated in ("bound", "estimate")}
    dishonest = {(n, added): Tally() for n in size.sizes for added in ADDED}
    for _ in range(size.splits):
        calibrating, judged = source.split(draw)
        bound = Settings.calibrated(calibrating)
        estimate = bound._replace(sigma=Calibration.measure(calibrating).sigma)
        for n in size.sizes:
            for _ in range(size.honest):
                batch = batch_of(judged, n, draw)
                honest[n, "bound"].judge(batch, bound)
                honest[n, "estimate"].judge(batch, estimate)
            for added in ADDED:
                for _ in range(size.dishonest):
                    dishonest[n, added].judge(batch_of(judged, n, draw, added * source.sigma), bound)
    for (n, stated), tally in honest.items():
        yield {"source": source.name, "nonces": n, "stated": stated, "added": 0.0, **tally.row()}
    for (n, added), tally in dishonest.items():
        yield {"source": source.name, "nonces": n, "stated": "bound", "added": added, **tally.row()}


def calibrated(source: Source, splits: int, draw: np.random.Generator) -> Row:
    """Say what calibration on halves of a source states, on average."""
    halves = [source.split(draw)[0] for _ in range(splits)]
    found = [Calibration.measure(half) for half in halves]
    shape = describe(source.errors)
    return {
        "source": source.name,
        "nonces": len(source.errors),
        "k": source.errors.shape[1],
        "calibrated_on": len(halves[0]),
        **{key: shape[key] for key in ("sigma", "clipped", "clipped_kurtosis", "beyond_limit", "largest")},
        "measured_sigma": float(np.mean([each.sigma for each in found])),
        "honest_sigma": float(np.mean([each.honest_sigma for each in found])),
        "honest_kurtosis": float(np.mean([each.honest_kurtosis for each in found])),
    }


def findings(rows: Sequence[Row], told: Sequence[Row]) -> list[str]:
    """Return what was found, in sentences."""
    right = [row for row in rows if "calibrated on" not in row["source"]]
    wrong = [row for row in rows if "calibrated on" in row["source"] and row["added"] == 0]
    honest = [row for row in right if row["added"] == 0 and row["stated"] == "bound"]
    estimate = [row for row in right if row["added"] == 0 and row["stated"] == "estimate"]
    batches = sum(row["batches"] for row in honest)
    shares = {
        threshold: sum(row[f"fraud at {threshold:g}"] * row["batches"] for row in honest) / batches
        for threshold in THRESHOLDS
    }
    worst = max(honest, key=lambda row: row["fraud at 0.01"])
    largest = max(row["nonces"] for row in rows)
    careless = max(estimate, key=lambda row: (row["fraud at 0.0001"], row["fraud at 0.01"]))
    widening = [row["honest_sigma"] / row["measured_sigma"] for row in told]
    sentences = [
        f"Of {batches:,} honest batches with measured errors {shares[0.01]:.2%} are called fraud at 0.01, "
        f"{shares[1e-4]:.3%} at 10⁻⁴ and {shares[1e-7]:.3%} at 10⁻⁷. The smallest p-value is "
        f"{min(row['least'] for row in honest):.1g}. The worst share at 0.01 is "
        f"{worst['fraud at 0.01']:.1%}: batches of {worst['nonces']:,}, {worst['source']}.",
        f"Calibration on {min(row['calibrated_on'] for row in told)} to "
        f"{max(row['calibrated_on'] for row in told)} nonces states a σ that is {min(widening):.2f} to "
        f"{max(widening):.2f} times the one that it measured. With the measured σ itself up to "
        f"{careless['fraud at 0.01']:.0%} of honest batches are called fraud at 0.01, "
        f"{careless['fraud at 0.0001']:.1%} at 10⁻⁴ and {careless['fraud at 1e-07']:.1%} at 10⁻⁷ "
        f"(batches of {careless['nonces']:,}, {careless['source']}).",
    ]
    if wrong:
        of_largest = next(row for row in wrong if row["nonces"] == largest and row["stated"] == "bound")
        sentences.append(
            f"Calibrated on another pair of platforms, {of_largest['fraud at 0.01']:.0%} of honest batches "
            f"of {largest:,} nonces are called fraud at 0.01 and {of_largest['fraud at 1e-07']:.0%} at 10⁻⁷."
        )
    for added in ADDED:
        by_size = {
            n: [row for row in right if (row["added"], row["nonces"]) == (added, n)]
            for n in sorted({row["nonces"] for row in rows})
        }
        parts = [
            f"{n:,} nonces {min(row['fraud at 0.01'] for row in of):.0%} and "
            f"{min(row['fraud at 1e-07'] for row in of):.0%}"
            for n, of in by_size.items()
        ]
        sentences.append(
            f"Errors of {added:g} σ on top of honest ones are convicted, at 0.01 and at 10⁻⁷ and where that "
            f"is hardest, in this share of batches: {'; '.join(parts)}."
        )
    return sentences


def draw_figure(rows: Sequence[Row]) -> Figure:
    """Draw power at 1e-7, and false alarms by what is stated."""
    figure, (left, right) = new_figure(2)
    own = [row for row in rows if "calibrated on" not in row["source"]]
    sizes = sorted({row["nonces"] for row in rows})
    for added in ADDED:
        of = [row for row in own if row["added"] == added]
        shares = [np.mean([row["fraud at 1e-07"] for row in of if row["nonces"] == n]) for n in sizes]
        left.plot(sizes, shares, marker="o", label=f"{added:g} σ on top")
    left.set(xlabel="nonces of a batch", ylabel="share convicted at 10⁻⁷", xscale="log", ylim=(-0.03, 1.03))
    left.legend(frameon=False, fontsize=7)
    for stated, style in (("bound", "-"), ("estimate", "--")):
        for threshold, colour in zip(THRESHOLDS, ("C0", "C1", "C2"), strict=True):
            of = [row for row in own if row["added"] == 0 and row["stated"] == stated]
            shares = [
                np.max([row[f"fraud at {threshold:g}"] for row in of if row["nonces"] == n]) for n in sizes
            ]
            right.plot(
                sizes, shares, style, color=colour, marker=".", label=f"{threshold:g}, σ: the {stated}"
            )
    right.set(xlabel="nonces of a batch", ylabel="honest batches called fraud", xscale="log")
    right.legend(frameon=False, fontsize=7)
    return figure


def main() -> None:
    chosen = options(__doc__)
    size = Size(4, 5, 2, (16, 64)) if chosen.small else Size(40, 10, 2, BATCHES)
    draw = np.random.default_rng(1)
    rows: list[Row] = []
    told: list[Row] = []
    for source in sources():
        told.append(calibrated(source, size.splits, draw))
        rows += simulate(source, size, draw)
    write(
        "thresholds",
        chosen,
        draw_figure(rows),
        about=(
            "Shares of batches of measured honest errors, and of such with normal errors on top, that the "
            "product's tests reject after the product's calibration on the other half of the nonces."
        ),
        rows=rows,
        sources=told,
        findings=findings(rows, told),
    )


if __name__ == "__main__":
    main()
