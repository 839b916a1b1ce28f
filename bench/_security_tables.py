"""The tables of docs/security.md."""

from collections.abc import Callable, Mapping
from typing import Any

from _tables import Table, number, text


def significant(digits: int) -> Callable[[Any], str]:
    """With so many significant digits, in scientific notation where it is shorter."""
    return lambda value: f"{value:.{digits}g}"


def yes(value: Any) -> str:
    """A truth value in a word."""
    return "yes" if value else "no"


def _is_shown(row: Mapping[str, Any]) -> bool:
    """Whether a pair is one of vLLM's on a GPU, or of the two implementations on one CPU."""
    pair = {row["one"], row["other"]}
    with_gpu = any(way.endswith(" vllm-FLASH_ATTN") for way in pair)
    in_fp32 = any(way.endswith(" transformers-fp32") for way in pair)
    on_cpu = pair == {"cpu vllm", "cpu transformers-sdpa"}
    is_read = (row["inputs"], row["readout"], row["rows"]) == ("tokens", "groups", 256)
    return is_read and ((with_gpu and not in_fp32) or on_cpu)


SECURITY = {
    "law": Table(
        "soundness_law",
        (
            ("outputs", "outputs", text),
            ("numbers", "samples", number(0)),
            ("of a nonce", "k", text),
            ("p, law", "p_law", number(2)),
            ("p, correlations", "p_pairs", number(2)),
            ("p, of sizes", "p_sizes", number(2)),
            ("mean square", "variance", number(3)),
            ("measured / law at rate 0.1", "ratio_0.1", number(3)),
        ),
        where=lambda row: (row["projection"], row["width"]) == ("on", 576),
    ),
    "honest-noise": Table(
        "noise_pairs",
        (
            ("one", "one", text),
            ("other", "other", text),
            ("numbers", "numbers", number(0)),
            ("σ, s", "sigma", significant(2)),
            ("σ of errors clipped at 3.5 σ, s", "clipped", significant(2)),
            ("kurtosis, clipped", "clipped_kurtosis", number(1)),
            ("largest, s", "largest", significant(2)),
            ("beyond 0.35 s", "beyond_0.35", significant(2)),
        ),
        where=_is_shown,
    ),
    "false-alarms": Table(
        "verdict_power",
        (
            ("numbers of a nonce", "numbers", text),
            ("kurtosis", "kurtosis", number(0)),
            *((f"`{test}`", test, number(4)) for test in ("nonces", "rms", "beyond", "signed_mean")),
            ("fraud at 0.01", "fraud at 0.01", number(4)),
            ("fraud at 10⁻⁷", "fraud at 1e-07", number(4)),
        ),
        where=lambda row: row["what"] == "false alarms" and row["calibrated_on"] == 6000,
    ),
    "power": Table(
        "verdict_power",
        (
            ("numbers of a nonce", "numbers", text),
            ("kurtosis stated", "kurtosis", number(0)),
            ("σ, s", "sigma", number(2)),
            *(
                (f"{words}, {threshold}", f"{key} at {column}", number(0))
                for words, key in (("forger", "forger"), ("1.5 σ", "1.5 sigma"), ("2 σ", "2 sigma"))
                for threshold, column in (("0.01", "0.01"), ("10⁻⁷", "1e-07"))
            ),
        ),
        where=lambda row: row["what"] == "nonces to convict",
    ),
    "grinding": Table(
        "soundness_grinding",
        (
            ("cosine", "cosine", text),
            ("gain, best 1/10", "gain_10", number(2)),
            ("counted", "counted_10", number(2)),
            ("best 1/4", "gain_25", number(2)),
            ("best half", "gain_50", number(2)),
            ("best 9/10", "gain_90", number(3)),
        ),
        where=lambda row: row["rate"] == 0.1,
    ),
    "density": Table(
        "soundness_grinding",
        (
            ("cosine", "cosine", text),
            ("share run", "share", text),
            ("part of valid found", "found", number(3)),
            ("covered nonces, threshold 0.01", "covered_0.01", number(0)),
            ("valid nonces", "valid_0.01", number(0)),
            ("covered, 10⁻⁷", "covered_1e-07", number(0)),
            ("valid", "valid_1e-07", number(0)),
        ),
        rows="density",
        where=lambda row: row["share"] == 0.1,
    ),
    "games": Table(
        "soundness_games",
        (
            ("game", "game", text),
            ("outcome", "outcome", text),
            ("passes", "passes", yes),
            ("what it gains", "gains", text),
        ),
    ),
    "shaving": Table(
        "soundness_games",
        (
            ("lowered", "lowered", text),
            ("by, s", "by", number(2)),
            ("gain", "gain", number(2)),
            ("walked to convict, covered", "covered_1e-07", number(0)),
            ("clearest test", "covered_by", text),
            ("not covered", "uncovered_1e-07", number(0)),
        ),
        rows="shaving",
        where=lambda row: row["rate"] == 0.1,
    ),
}

DEMO = {
    "demo": Table(
        "demo",
        (
            ("who sent a proof", "who", text),
            ("what it did, and saved", "what", text),
            ("verdict", "verdict", text),
            ("p-value", "p_value", text),
            ("rejected by", "rejected_by", text),
        ),
    )
}
"""The table of docs/quickstart.md."""
