"""docs/protocol/ says what the code does: its numbers are read from the pages and checked."""

import hashlib
import json
import math
import re
import struct
from pathlib import Path
from typing import Any, get_args

import independent_verifier
import pytest
from builders import make_round
from scipy.stats import chi2

from hallmark.poc.protocol.config import DEFAULT_BEYOND
from hallmark.poc.protocol.law import distance_of, r_target_for
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.round_spec import FIRST_ROW, default_projection_scale
from hallmark.poc.protocol.streams import PROTOCOL, NoncePurpose
from hallmark.poc.specification import RandomProjection
from hallmark.poc.verdict.hypothesis_tests import PROBABILITY_MISMATCH, nonce_bound, probability_at_least
from hallmark.poc.verdict.judge import judge

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


def test_the_name_of_the_protocol() -> None:
    """In the title and in what is hashed."""
    assert PAGE.startswith(f"# Protocol `{PROTOCOL}`\n")
    assert f'"{PROTOCOL}" || LP(purpose)' in PAGE


def test_numbers_by_default() -> None:
    """The formula, computed for every length."""
    [formula] = re.findall(r"`(max\(.*?)` for `rows`", PAGE)
    least, most, skipped, rows = map(int, re.findall(r"\d+", formula))
    assert skipped == FIRST_ROW
    for seq_len in range(10, 200, 2):
        assert make_round(seq_len=seq_len).numbers == max(least, min(most, (seq_len - skipped) // rows))
    assert independent_verifier.default_numbers(256) == make_round().numbers == most


def test_rows_that_a_stream_is_for() -> None:
    shapes = {cells[0]: cells[1] for cells in rows_after("purpose")}
    assert shapes["`rows`"] == f"[seq_len \N{MINUS SIGN} {FIRST_ROW}]"
