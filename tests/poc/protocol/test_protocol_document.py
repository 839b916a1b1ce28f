"""docs/protocol.md says what the code does: its numbers are read from the page and checked."""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import independent_verifier
import numpy as np
import pytest
from rounds import make_round
from scipy.special import betaincinv
from scipy.stats import norm

from hallmark.kernels.normal_table import normal_table
from hallmark.poc.protocol.config import MIN_TOLERANCE, PoCConfig
from hallmark.poc.protocol.law import r_target_for
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.specification import RandomProjection
from hallmark.poc.verdict.hypothesis_tests import LAW_MARGIN, PROBABILITY_MISMATCH, probability_at_least
from hallmark.poc.verdict.judge import MAX_FAILED, judge

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
HEX = r"[0-9a-f]{8}"


def rows_after(heading: str) -> list[list[str]]:
    """The cells of the first table whose header row starts with `heading`."""
    _, _, after = PAGE.partition(f"| {heading} |")
    lines = after.partition("\n\n")[0].splitlines()[2:]
    assert lines, f"no table {heading!r}"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def number(text: str) -> float:
    return float(text.replace(",", ""))


def test_philox_answers() -> None:
    for counter, key, words in rows_after("counter"):
        c0, c1, c2, c3 = (int(word, 16) for word in re.findall(HEX, counter))
        k0, k1 = (int(word, 16) for word in re.findall(HEX, key))
        answer = independent_verifier.philox((c0, c1, c2, c3), (k0, k1))
        assert " ".join(f"{word:08x}" for word in answer) == words.strip("`")


def test_table_checksum() -> None:
    patterns = b"".join(entry.to_bytes(2, "little") for entry in independent_verifier.table())
    assert hashlib.sha256(patterns).hexdigest() in PAGE


def test_moments_of_the_table() -> None:
    values = normal_table().double()
    variance = float(values.square().mean())
    kurtosis = float(values.pow(4).mean()) / variance**2
    assert (
        f"variance {variance:.4f}, kurtosis {kurtosis:.3f} and largest magnitude {values.max():.2f}" in PAGE
    )


def test_worked_example() -> None:
    """Each line of the example, computed from the lines above it."""
    _, _, example = PAGE.partition("### Worked example")
    lines = dict(re.findall(r"^(\w[\w ,\[\]]*?) {2,}(.+)$", example.partition("```\n\n")[0], re.MULTILINE))
    assert lines["round"] == independent_verifier.round_digest(256, 64, -3, "on", 0.01, "")
    encoded = b"".join(map(independent_verifier.length_prefixed, ("256", "64", "-3", "on", "0.01", "")))
    assert encoded.hex() in re.sub(r"\s", "", example)
    fields = [lines[name] for name in ("round", "block_hash", "public_key", "nonce")]
    assert lines["digest"] == independent_verifier.digest("embeds", *fields).hex()
    k0, k1, c2, c3 = independent_verifier.stream("embeds", *fields)
    assert lines["k0 k1"] == f"{k0:08x} {k1:08x}"
    assert lines["c2 c3"] == f"{c2:08x} {c3:08x}"
    words = independent_verifier.philox((0, 0, c2, c3), (k0, k1))
    assert lines["call 0"] == " ".join(f"{word:08x}" for word in words)
    halves = [half for word in words for half in (word & 0xFFFF, word >> 16)]
    assert lines["halves"].split() == [f"{half:04x}" for half in halves]
    assert lines["sign and i"].split() == [f"{'-' if h & 0x8000 else '+'}{h & 0x7FF}" for h in halves]
    table = independent_verifier.table()
    assert lines["T[i]"].split() == [f"{table[half & 0x7FF]:04x}" for half in halves]
    z = independent_verifier.normals((k0, k1, c2, c3), 8, table)
    elements = [f"{pattern:04x}" for pattern in independent_verifier.scaled(z, 2.0**-3)]
    assert lines["elements"].split()[:8] == elements
    published = json.loads((ROOT / "docs" / "vectors.json").read_text(encoding="utf-8"))
    assert published["streams"][0]["elements"][:8] == elements


def test_memory_overhead_is_documented() -> None:
    """Acceptance criterion 6.1: Memory overhead documented."""
    rows = rows_after("hidden size | bytes")
    for hidden, size, short in rows:
        assert number(size) == 2 * number(hidden) ** 2 * 2
        amount, unit = short.split()
        assert number(size) == int(amount) * {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit]
    assert RandomProjection(1, int(number(rows[0][0]))).memory_bytes == number(rows[0][1])


def test_targets_of_rates() -> None:
    for hidden, *targets in rows_after("hidden size | rate 0.001"):
        for rate, r_target in zip((0.001, 0.01, 0.05, 0.1), targets, strict=True):
            assert number(r_target) == pytest.approx(r_target_for(rate, int(number(hidden))), abs=5.1e-7)


def test_smallest_fraudulent_counts() -> None:
    for n, *counts in rows_after("n"):
        for threshold, count in zip((0.01, 1e-7), counts, strict=True):
            k = int(count)
            assert 3 * probability_at_least(k, int(number(n)), PROBABILITY_MISMATCH) < threshold
            assert 3 * probability_at_least(k - 1, int(number(n)), PROBABILITY_MISMATCH) >= threshold


def test_the_names_of_the_tests_and_the_order_they_are_told_in() -> None:
    names = [name.strip("`") for name, *_ in rows_after("test")]
    proof = ProofBatch(
        public_key="k", block_hash="b", block_height=0, node_id=0, nonces=(1,), dist=(1.0,), covered=(0, 9)
    )
    assert names == list(judge(proof, {1: 1.0}, make_round(valid_rate=0.1)).tests)


def test_what_noise_does_to_small_distances() -> None:
    """The mean of 2/d² over the valid part of the law, and how often honest errors exceed the tolerance."""

    def distances(hidden: int, rate: float) -> Any:
        shape = (hidden - 1) / 2
        return 2 * np.sqrt(betaincinv(shape, shape, rate * (np.arange(20_000) + 0.5) / 20_000))

    assert "at width 1,024 and rate 0.1 honest differences" in PAGE
    assert f"{np.mean(2 / distances(1024, 0.1) ** 2) - 1:.0%}" == "6%"
    assert "a mean square 6 % larger" in PAGE
    assert "0.10 s RMS at rate 1." in PAGE
    assert "up to 0.09 s RMS, measured at rate 1, from width 256 and rate 0.01 on" in " ".join(PAGE.split())
    for hidden, rate, rms in ((1024, 1.0, 0.1), (256, 0.01, 0.09), (256, 0.1, 0.09), (4096, 0.01, 0.09)):
        beyond = 2 * norm.sf(0.35 / rms * distances(hidden, rate) / math.sqrt(2))
        assert np.mean(beyond) < PROBABILITY_MISMATCH
    assert np.mean(2 * norm.sf(3.5 * distances(256, 0.01) / math.sqrt(2))) > PROBABILITY_MISMATCH


def test_defaults_and_constants() -> None:
    defaults = PoCConfig(block_hash="b", block_height=0, public_key="k")
    assert f"({defaults.distance_tolerance} s by default)" in PAGE
    assert f"`fraud_threshold` ({defaults.fraud_threshold} by default)" in PAGE
    assert f"by default {defaults.projection_scale}" in PAGE
    assert PROBABILITY_MISMATCH == 5e-4
    assert "Binomial(n, 5·10⁻⁴)" in PAGE
    tolerance = defaults.distance_tolerance
    assert tolerance is not None
    honest_sigma = make_round().honest_sigma
    assert honest_sigma is not None
    assert f"`distance_tolerance` / {tolerance / honest_sigma:g}" in PAGE
    assert f"The tolerance must be {MIN_TOLERANCE} " in PAGE
    assert 2 * norm.sf(MIN_TOLERANCE) == pytest.approx(PROBABILITY_MISMATCH, rel=0.01)
    assert f"`E[e⁴]/E[e²]²`, {defaults.honest_kurtosis:g} by default" in PAGE
    assert f"plus {LAW_MARGIN * 100:.1f} % of themselves" in PAGE
    assert f"more than {MAX_FAILED * 100:.0f} % of the nonces" in PAGE


def measured(bench: str) -> list[dict[str, Any]]:
    """The rows of the one file of results that the page refers to for a bench."""
    (link,) = re.findall(rf"\.\./(bench/results/{bench}[\w.-]+)", PAGE)
    rows: list[dict[str, Any]] = json.loads((ROOT / link).read_text(encoding="utf-8"))["rows"]
    return rows


def test_measured_cost_of_drawing_is_that_of_its_file() -> None:
    rows = measured("draw")
    costs = [row["ours_ns"] for row in rows]
    ratios = [row["two_hashes_to_ours"] for row in rows]
    text = " ".join(PAGE.split())
    assert f"{min(costs):.1f} to {max(costs):.1f} ns an element" in text
    assert f"{min(ratios):.1f} to {max(ratios):.0f} times less" in text
    (pair,) = (2 * 4096**2 * row["ours_ns"] * 1e-9 for row in rows if row["shape"] == "1x4096x4096")
    assert f"at width 4,096 is drawn in {pair:.2f} s" in text


def test_measured_differences_are_those_of_their_file() -> None:
    rows = {row["variant"]: row for row in measured("numerics")}
    text = " ".join(PAGE.split())
    avx2 = rows["bf16, AVX2 only"]
    assert f"{avx2['rms_s']:.3f} s RMS ({avx2['max_s']:.2f} s at most among 256 nonces)" in text
    rms = max(rows[dtype]["rms_s"] for dtype in ("fp16", "fp32"))
    largest = max(rows[dtype]["max_s"] for dtype in ("fp16", "fp32"))
    assert f"{rms:.2f} s RMS ({largest:.2f} s at most)" in text
    assert rows["bf16, one thread"]["max_s"] == 0
