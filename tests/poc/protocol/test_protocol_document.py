"""docs/protocol/ says what the code does: its numbers are read from the pages and checked."""

import hashlib
import json
import math
import re
import struct
from pathlib import Path
from typing import Any, get_args

import independent_verifier
import numpy as np
import pytest
from rounds import make_round
from scipy.stats import chi2

from hallmark.kernels.normal_table import normal_table
from hallmark.poc.protocol.config import (
    DEFAULT_BEYOND,
    DEFAULT_DESIGN_EFFECT,
    DEFAULT_KURTOSIS,
    TOLERANCE_IN_SIGMAS,
    PoCConfig,
)
from hallmark.poc.protocol.definition import MIN_VOCABULARY
from hallmark.poc.protocol.law import distance_of, r_target_for
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.round_spec import FIRST_ROW, default_projection_scale
from hallmark.poc.protocol.streams import PROTOCOL, NoncePurpose
from hallmark.poc.specification import RandomProjection
from hallmark.poc.verdict.hypothesis_tests import (
    LAW_MARGIN,
    LIMIT_IN_SIGMAS,
    PROBABILITY_MISMATCH,
    nonce_bound,
    probability_at_least,
)
from hallmark.poc.verdict.judge import MAX_FAILED, judge

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "docs" / "protocol"
PAGE = "".join((FOLDER / page).read_text(encoding="utf-8") for page in ("hallmark-2.md", "verdict.md"))
HEX = r"[0-9a-f]{8}"


def rows_after(heading: str) -> list[list[str]]:
    """The cells of the first table whose header row starts with `heading`."""
    _, _, after = PAGE.partition(f"| {heading} |")
    lines = after.partition("\n\n")[0].splitlines()[2:]
    assert lines, f"no table {heading!r}"
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]


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


class TestWorkedExample:
    """Each line of the example, computed from the lines above it."""

    @pytest.fixture
    def example(self) -> str:
        return PAGE.partition("### Worked example")[2].partition("\n## ")[0]

    @pytest.fixture
    def lines(self, example: str) -> dict[str, str]:
        return dict(re.findall(r"^(\w[\w ,\[\]]*?) {2,}(.+)$", example, re.MULTILINE))

    @pytest.fixture
    def fields(self, lines: dict[str, str]) -> list[str]:
        return [lines[name] for name in ("round", "block_hash", "public_key", "nonce")]

    def test_round(self, example: str, lines: dict[str, str]) -> None:
        texts = independent_verifier.settings(256, 64)
        assert "  ".join(f'LP("{text}")' for text in texts).split() == re.findall(r"LP\([^)]*\)", example)
        encoded = b"".join(map(independent_verifier.length_prefixed, texts))
        assert encoded.hex() in re.sub(r"\s", "", example)
        assert lines["round"] == independent_verifier.round_digest(texts)
        assert lines["round"] == make_round(seq_len=64).digest

    @pytest.mark.parametrize("purpose", ["tokens", "rows", "target"])
    def test_names_of_streams(self, lines: dict[str, str], fields: list[str], purpose: str) -> None:
        assert lines[f"{purpose} digest"] == independent_verifier.digest(purpose, *fields).hex()
        name = independent_verifier.stream(purpose, *fields)
        words = independent_verifier.words(name, 4)
        assert lines[f"{purpose} words"].split() == [f"{word:08x}" for word in words]
        k0, k1, c2, c3 = name
        assert lines.get(f"{purpose} k0 k1", f"{k0:08x} {k1:08x}") == f"{k0:08x} {k1:08x}"
        assert lines.get(f"{purpose} c2 c3", f"{c2:08x} {c3:08x}") == f"{c2:08x} {c3:08x}"
        published = json.loads((FOLDER / "vectors.json").read_text(encoding="utf-8"))
        first = next(stream for stream in published["streams"] if stream["purpose"] == purpose)
        assert first["fields"] == fields

    def test_tokens(self, lines: dict[str, str], fields: list[str]) -> None:
        name = independent_verifier.stream("tokens", *fields)
        tokens = independent_verifier.tokens(name, 64, 4096, None)
        assert lines["tokens"].split() == [str(token) for token in tokens[:4]]
        assert "tokens k0 k1" in lines
        assert "tokens c2 c3" in lines

    def test_rows(self, lines: dict[str, str], fields: list[str]) -> None:
        name = independent_verifier.stream("rows", *fields)
        words = independent_verifier.words(name, 56)
        ranks = [sorted(words).index(word) for word in words[:4]]
        assert lines["rows rank"].split() == [str(rank) for rank in ranks]
        groups = independent_verifier.groups(name, 64, 14)[:4]
        assert lines["rows group"].split() == [str(group) for group, _ in groups]
        assert lines["rows sign"].split() == ["+" if sign > 0 else "-" for _, sign in groups]

    def test_target(self, lines: dict[str, str], fields: list[str]) -> None:
        name = independent_verifier.stream("target", *fields)
        words = independent_verifier.words(name, 4)
        halves = [half for word in words for half in (word & 0xFFFF, word >> 16)]
        assert lines["halves"].split() == [f"{half:04x}" for half in halves]
        assert lines["sign and i"].split() == [f"{'-' if h & 0x8000 else '+'}{h & 0x7FF}" for h in halves]
        table = independent_verifier.table()
        assert lines["T[i]"].split() == [f"{table[half & 0x7FF]:04x}" for half in halves]
        z = independent_verifier.scaled(independent_verifier.normals(name, 8, table), 1.0)
        assert lines["z"].split() == [f"{pattern:04x}" for pattern in z]


def test_numbers_on_the_wire() -> None:
    published = json.loads((FOLDER / "vectors.json").read_text(encoding="utf-8"))["vectors"]
    numbers, text = published["numbers"][0], published["f16"][0]
    section = PAGE.partition("## 7. A batch")[2]
    lines = dict(re.findall(r"^(\w[\w ,]*?) {2,}(.+)$", section, re.MULTILINE))
    assert lines["c_0 to c_3"].split() == [str(number) for number in numbers[:4]]
    assert lines["halves, hex"].split() == re.findall("....", struct.pack("<4e", *numbers[:4]).hex())
    assert text.startswith(lines["text begins"])
    assert float(lines["d"]) == pytest.approx(independent_verifier.distance(numbers[0], 256), abs=5.1e-10)
    assert f"{len(text)} characters for {len(numbers)} numbers" in PAGE
    # A half has 11 bits: half of the last one's place, over numbers of standard deviation 1.
    steps = 2.0 ** (np.floor(np.log2(np.abs(np.random.default_rng(0).normal(size=100_000)))) - 11)
    assert f"{np.sqrt(np.mean((steps * 2) ** 2 / 12)):.0e}" == "2e-04"


def test_settings_are_named_in_their_order() -> None:
    names = [name for name, _ in rows_after("setting")]
    assert [name.replace(" ", "_") for name in names] == list(make_round().settings)


def test_purposes_of_streams() -> None:
    purposes = [name for cell, *_ in rows_after("purpose") for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(purposes) == sorted([*get_args(NoncePurpose), "pre", "post"])


def test_scales_of_projections() -> None:
    for hidden, scale in rows_after("hidden size | projection_scale by default"):
        assert number(scale) == default_projection_scale(int(number(hidden)))


def test_what_inputs_and_readout_are_where_they_are_not_stated() -> None:
    stated: dict[str, list[dict[str, Any]]] = {
        "neither, `use_random_projection` false": [{"use_random_projection": False}],
        "neither, V below 4,096": [{"vocabulary": 4095}],
        "neither, seq_len odd or below 10": [{"seq_len": 255}, {"seq_len": 8}],
        "neither, otherwise": [{}],
        "`tokens` or `rows` alone": [{"inputs": "tokens"}, {"readout": "rows"}],
        "`normal` or `last` alone": [{"inputs": "normal"}, {"readout": "last"}],
    }
    rows = {row[0]: row[1] for row in rows_after("stated")}
    assert rows.pop("both") == "as stated"
    assert rows.keys() == stated.keys()
    for name, cases in stated.items():
        for case in cases:
            definition = make_round(**case).definition
            assert rows[name] == f"`{definition.inputs}`, `{definition.readout}`"


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


def test_bounds_of_a_nonce() -> None:
    """t from its formula, as far as 3.4, and as the verdict has it."""
    for k, *bounds in rows_after("k"):
        for kurtosis, told in zip((3, 4, 5, 6), bounds, strict=True):
            degrees = 2 / (kurtosis / 3 * (1 + 2 / int(k)) - 1)
            t = math.sqrt(chi2.isf(5e-5, degrees) / degrees)
            assert told == (f"{t:.2f}" if t <= 3.4 else "3.40, p₀ = p")
            bound = nonce_bound(int(k), kurtosis, DEFAULT_BEYOND)
            assert bound.size == pytest.approx(min(t, 3.4))
            assert bound.probability == (PROBABILITY_MISMATCH if t <= 3.4 else DEFAULT_BEYOND)


def test_smallest_fraudulent_counts() -> None:
    for n, *counts in rows_after("n"):
        for threshold, count in zip((0.01, 1e-7), counts, strict=True):
            invalid = int(count)
            assert 4 * probability_at_least(invalid, int(number(n)), PROBABILITY_MISMATCH) < threshold
            assert 4 * probability_at_least(invalid - 1, int(number(n)), PROBABILITY_MISMATCH) >= threshold


def test_the_names_of_the_tests_and_the_order_they_are_told_in() -> None:
    names = [name.strip("`") for name, *_ in rows_after("test")]
    round_ = make_round(valid_rate=0.1, seq_len=16)
    numbers = (3.0, -1.0)
    proof = ProofBatch(
        public_key="k",
        block_hash="b",
        block_height=0,
        node_id=0,
        nonces=(1,),
        dist=(distance_of(numbers[0], round_.hidden_size),),
        vectors=(independent_verifier.f16(numbers),),
        encoding={"dtype": "f16", "k_dim": 2, "endian": "le"},
        covered=(0, 9),
    )
    assert names == list(judge(proof, {1: numbers}, round_).tests)


def test_defaults_and_constants() -> None:
    defaults = PoCConfig(block_hash="b", block_height=0, public_key="k")
    assert f"`fraud_threshold` ({defaults.fraud_threshold} by default)" in PAGE
    assert f"V below {MIN_VOCABULARY:,}" in PAGE
    assert f"# Protocol `{PROTOCOL}`" in PAGE
    assert f'"{PROTOCOL}" || LP(purpose)' in PAGE
    assert f"`protocol` | optional: `{PROTOCOL}`" in PAGE
    text = PAGE.replace("\N{MINUS SIGN}", "-")
    assert PROBABILITY_MISMATCH == 5e-4
    assert "p₀ = 5·10⁻⁴" in text
    assert f"between the two platforms: {make_round().honest_sigma:g} by default" in text
    assert f"`E[e⁴]/E[e²]²`: {DEFAULT_KURTOSIS:g} by default" in text
    assert f"beyond L: {DEFAULT_BEYOND:g} by default" in text
    assert f"worth one: {DEFAULT_DESIGN_EFFECT:g} by default" in text
    assert f" = `distance_tolerance` / {TOLERANCE_IN_SIGMAS:g}" in text
    assert f"`L = {LIMIT_IN_SIGMAS:g} \N{GREEK SMALL LETTER SIGMA}`" in text
    assert f"above {LIMIT_IN_SIGMAS**2:g} as {LIMIT_IN_SIGMAS**2:g}" in text
    assert f"plus {LAW_MARGIN * 100:.1f} % of" in text
    assert f"more than {MAX_FAILED * 100:.0f} % of the nonces" in text
    assert f"[seq_len - {FIRST_ROW}]" in text
    assert "`max(1, min(16, ⌊(seq_len - 8)/4⌋))`" in text
    assert independent_verifier.default_numbers(256) == make_round().numbers == 16


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
    assert f"{avx2['rms_s']:.3f} RMS ({avx2['max_s']:.2f} at most among those of 256 nonces)" in text
    rms = max(rows[dtype]["rms_s"] for dtype in ("fp16", "fp32"))
    largest = max(rows[dtype]["max_s"] for dtype in ("fp16", "fp32"))
    assert f"{rms:.2f} RMS ({largest:.2f} at most)" in text
    assert rows["bf16, one thread"]["max_s"] == 0
    tolerance = json.loads((FOLDER / "vectors.json").read_text(encoding="utf-8"))["vectors"]["tolerance"]
    assert f"`tolerance` is {tolerance}." in text
