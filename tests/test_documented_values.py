"""Documents mark values that are the code's, or a results file's: each is right, and each is known here."""

import json
import re
from typing import Any

import numpy as np
import pytest
from builders import make_round
from checkout import ROOT
from documented_values import power_of_ten, values
from report import newest
from sentences import PAGES

from hallmark.kernels.normal_table import normal_table
from hallmark.poc.engine.versions import FIRST_VERSION, LAST_VERSION
from hallmark.poc.protocol.config import (
    DEFAULT_BEYOND,
    DEFAULT_DESIGN_EFFECT,
    DEFAULT_KURTOSIS,
    DEFAULT_THRESHOLD,
    TOLERANCE_IN_SIGMAS,
)
from hallmark.poc.protocol.definition import MIN_VOCABULARY
from hallmark.poc.protocol.streams import PROTOCOL
from hallmark.poc.verdict.hypothesis_tests import LAW_MARGIN, LIMIT_IN_SIGMAS, PROBABILITY_MISMATCH
from hallmark.poc.verdict.judge import MAX_FAILED

PROTOCOL_FOLDER = ROOT / "docs" / "protocol"


def results(name: str, rows: str = "rows") -> list[dict[str, Any]]:
    """Return the rows of a file of bench/results/."""
    content = json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = content[rows]
    return found


def linked_results(page: str, bench: str) -> list[dict[str, Any]]:
    """Return the rows of the one file of a bench that a page of the protocol links to."""
    text = (PROTOCOL_FOLDER / page).read_text(encoding="utf-8")
    [name] = re.findall(rf"\(\.\./\.\./bench/results/({bench}-[\w-]+)\.json\)", text)
    return results(name)


def of_the_protocol() -> dict[str, str]:
    table = normal_table().double()
    variance = float(table.square().mean())
    published = json.loads((PROTOCOL_FOLDER / "vectors.json").read_text(encoding="utf-8"))["vectors"]
    # A half has 11 bits: half of the last one's place, over numbers of standard deviation 1.
    normal = np.abs(np.random.default_rng(0).normal(size=100_000))
    places = 2.0 ** (np.floor(np.log2(normal)) - 10)
    return {
        "protocol": PROTOCOL,
        "table_variance": f"{variance:.4f}",
        "table_kurtosis": f"{float(table.pow(4).mean()) / variance**2:.3f}",
        "table_largest": f"{table.max():.2f}",
        "min_vocabulary": f"{MIN_VOCABULARY:,}",
        "wire_characters": str(len(published["f16"][0])),
        "wire_numbers": str(len(published["numbers"][0])),
        "wire_rounding": power_of_ten(float(np.sqrt(np.mean(places**2 / 12)))),
        "tolerance": f"{published['tolerance']}",
    }


def of_the_verdict() -> dict[str, str]:
    return {
        "limit_in_sigmas": f"{LIMIT_IN_SIGMAS:g}",
        "tolerance_in_sigmas": f"{TOLERANCE_IN_SIGMAS:g}",
        "honest_sigma": f"{make_round().honest_sigma:g}",
        "honest_kurtosis": f"{DEFAULT_KURTOSIS:g}",
        "honest_beyond": f"{DEFAULT_BEYOND:g}",
        "honest_design_effect": f"{DEFAULT_DESIGN_EFFECT:g}",
        "largest_kurtosis": f"{LIMIT_IN_SIGMAS**2:g}",
        "p_nonce": power_of_ten(PROBABILITY_MISMATCH),
        "law_margin_percent": f"{LAW_MARGIN * 100:.1f}",
        "fraud_threshold": f"{DEFAULT_THRESHOLD:g}",
        "max_failed_percent": f"{MAX_FAILED * 100:.0f}",
    }


def of_drawing_and_rounding() -> dict[str, str]:
    drawn = linked_results("hallmark-2.md", "draw")
    costs = [row["ours_ns"] for row in drawn]
    gains = [row["two_hashes_to_ours"] for row in drawn]
    [pair] = [2 * 4096**2 * row["ours_ns"] * 1e-9 for row in drawn if row["shape"] == "1x4096x4096"]
    moved = {row["variant"]: row for row in linked_results("verdict.md", "numerics")}
    instructions, threads = moved["bf16, AVX2 only"], moved["bf16, one thread"]
    dtypes = moved["fp16"], moved["fp32"]
    return {
        "draw_least_ns": f"{min(costs):.1f}",
        "draw_most_ns": f"{max(costs):.1f}",
        "draw_least_gain": f"{min(gains):.1f}",
        "draw_most_gain": f"{max(gains):.0f}",
        "draw_pair_seconds": f"{pair:.2f}",
        "noise_instructions_rms": f"{instructions['rms_s']:.3f}",
        "noise_instructions_most": f"{instructions['max_s']:.2f}",
        "noise_dtype_rms": f"{max(row['rms_s'] for row in dtypes):.2f}",
        "noise_dtype_most": f"{max(row['max_s'] for row in dtypes):.2f}",
        "noise_threads_rms": f"{threads['rms_s']:g}",
        "noise_threads_most": f"{threads['max_s']:g}",
    }


def of_vllm() -> dict[str, str]:
    first, last = (".".join(map(str, version)) for version in (FIRST_VERSION, LAST_VERSION))
    return {"vllm_oldest": first, "vllm_newest": last}


def of_performance() -> dict[str, str]:
    [predicted] = [row for row in results("prediction-h200-2026-11-27", "shares") if row["model"] == "8B"]
    [h200] = [row for row in results("gpu_engine-h200-2026-11-27") if row["model"] == "8B"]
    h100 = {(row["model"], row["mode"]): row for row in results("gpu_engine-h100-80gb-hbm3-2026-11-27")}
    older = {(row["model"], row["mode"]): row for row in results("gpu_engine-h100-80gb-hbm3-2026-11-26")}
    unfused = "compiled, with the compiler's unfused operators"
    products = [
        row["times_floor"]
        for row in results("gpu_kernels-h100-80gb-hbm3-2026-11-27")
        if (row["op"], row.get("bits")) == ("project_residual", "own")
    ]
    return {
        "predicted_percent": f"{predicted['share_percent']:.2f}",
        "predicted_net_percent": f"{predicted['net_percent']:.2f}",
        "predicted_readout_percent": f"{predicted['readout_percent']:.2f}",
        "h200_own_ms": f"{h200['own_us'] / 1000:.2f}",
        "h200_own_percent": f"{h200['own_percent']:.2f}",
        "h200_further_percent": f"{h200['further_overhead_percent']:.2f}",
        "h200_percent": f"{h200['overhead_percent']:.2f}",
        "h100_8b_own_percent": f"{h100['8B', 'compiled']['own_percent']:.2f}",
        "h100_8b_compiled_percent": f"{h100['8B', 'compiled']['overhead_percent']:.2f}",
        "h100_8b_eager_percent": f"{h100['8B', 'eager']['overhead_percent']:.2f}",
        "h100_32b_own_percent": f"{h100['32B', 'eager']['own_percent']:.2f}",
        "h100_32b_percent": f"{h100['32B', 'eager']['overhead_percent']:.2f}",
        "h100_product_least": f"{min(products):.2f}",
        "h100_product_most": f"{max(products):.2f}",
        "launches_fused": f"{older['0.6B', 'compiled']['bare_launches']:,}",
        "launches_unfused": f"{older['0.6B', unfused]['bare_launches']:,}",
        "h100_device_ms": f"{older['0.6B', 'eager']['bare_device_ms']:.0f}",
        "h100_host_ms": f"{older['0.6B', 'eager']['host_ms']:.0f}",
    }


def of_families() -> dict[str, str]:
    [(_, measured)] = newest("family_noise")
    dense = [row["bf16_sigma_s"] for row in measured["rows"] if row["experts"] == "none"]
    sparse = [row["bf16_sigma_s"] for row in measured["rows"] if row["experts"].startswith("2 of")]
    return {
        "family_noise_least": f"{min(dense):.2g}",
        "family_noise_most": f"{max(dense):.2g}",
        "family_noise_experts_least": f"{min(sparse):.2g}",
        "family_noise_experts_most": f"{max(sparse):.2g}",
    }


def test_the_marked_values_of_all_documents() -> None:
    """A mark that is not expected here fails as well as one that is missing or wrong."""
    found = values(*(page.read_text(encoding="utf-8") for page in PAGES))
    parts = (
        of_the_protocol(),
        of_the_verdict(),
        of_drawing_and_rounding(),
        of_vllm(),
        of_performance(),
        of_families(),
    )
    expected = dict(item for part in parts for item in part.items())
    names = found.keys() | expected.keys()
    pairs = {name: (found.get(name), expected.get(name)) for name in names}
    assert {name: pair for name, pair in pairs.items() if pair[0] != pair[1]} == {}, "documented, expected"


def test_values_are_numbers_and_code_spans() -> None:
    first = "From <!-- value:a -->-1,024.5, to\n| <!-- value:b -->5·10⁻⁴ | <!-- value:c -->`x y` |"
    second = "Until <!-- value:d -->3 % of <!-- value:d -->3."
    assert values(first, second) == {"a": "-1,024.5", "b": "5·10⁻⁴", "c": "x y", "d": "3"}


@pytest.mark.parametrize(
    ("pages", "message"),
    [
        pytest.param(("A <!-- value:a -->1, <!-- value:a -->2.",), "a is 1 and 2", id="contradiction"),
        pytest.param(("A <!-- value:a -->1.", "B <!-- value:a -->2."), "a is 1 and 2", id="other page"),
        pytest.param(("A <!-- value:a --> 1.",), "no value behind", id="space"),
        pytest.param(("A <!-- value:a -->one.",), "no value behind", id="no number"),
        pytest.param(("A <!--value:a-->1.",), "no value behind", id="no spaces inside"),
        pytest.param(("A\n<!-- value:a -->1.",), "begins a line", id="begins a line"),
        pytest.param(("- <!-- value:a -->1.",), "begins a line", id="begins an item"),
    ],
)
def test_marks_that_are_no_marks(pages: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        values(*pages)
