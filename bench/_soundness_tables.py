"""The tables of docs/soundness/: about five rows on the page of an experiment, all of them in tables.md."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from _tables import Table, number, text

Row = Mapping[str, Any]


def significant(digits: int) -> Callable[[Any], str]:
    """With so many significant digits, in scientific notation where it is shorter."""
    return lambda value: f"{value:.{digits}g}"


def _of_one_gpu_or_cpu(row: Row) -> bool:
    """Whether a pair, read as a round is, has vLLM on a GPU or the two implementations on one CPU."""
    pair = {row["one"], row["other"]}
    with_gpu = any(way.endswith(" vllm-FLASH_ATTN") for way in pair)
    in_fp32 = any(way.endswith(" transformers-fp32") for way in pair)
    on_cpu = pair == {"cpu vllm", "cpu transformers-sdpa"}
    is_read = (row["inputs"], row["readout"], row["rows"]) == ("tokens", "groups", 256)
    return is_read and ((with_gpu and not in_fp32) or on_cpu)


LAW: Final = Table(
    "soundness_law",
    (
        ("outputs", "outputs", text),
        ("width", "width", text),
        ("projection", "projection", text),
        ("numbers", "samples", number(0)),
        ("of a nonce", "k", text),
        ("p, law", "p_law", number(2)),
        ("p, correlations", "p_pairs", number(2)),
        ("p, of sizes", "p_sizes", number(2)),
        ("mean square", "variance", number(3)),
        ("measured / law at rate 0.1", "ratio_0.1", number(3)),
    ),
)
STREAMS: Final = Table(
    "soundness_streams",
    (
        ("family", "family", text),
        ("test", "test", text),
        ("p", "p_value", significant(2)),
    ),
    least="p_value",
)
HONEST_NOISE: Final = Table(
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
    where=_of_one_gpu_or_cpu,
)
FALSE_ALARMS: Final = Table(
    "verdict_power",
    (
        ("numbers of a nonce", "numbers", text),
        ("kurtosis", "kurtosis", number(0)),
        ("calibrated on", "calibrated_on", number(0)),
        *((f"`{test}`", test, number(4)) for test in ("nonces", "rms", "beyond", "signed_mean")),
        ("fraud at 0.01", "fraud at 0.01", number(4)),
        ("fraud at 10⁻⁷", "fraud at 1e-07", number(4)),
    ),
    where=lambda row: row["what"] == "false alarms",
)
POWER: Final = Table(
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
)
GRINDING: Final = Table(
    "soundness_grinding",
    (
        ("rate", "rate", text),
        ("cosine", "cosine", text),
        ("gain, best 1/10", "gain_10", number(2)),
        ("counted", "counted_10", number(2)),
        ("best 1/4", "gain_25", number(2)),
        ("best half", "gain_50", number(2)),
        ("best 9/10", "gain_90", number(3)),
    ),
)
DENSITY: Final = Table(
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
)
SHAVING: Final = Table(
    "soundness_games",
    (
        ("rate", "rate", text),
        ("lowered", "lowered", text),
        ("by, s", "by", number(2)),
        ("gain", "gain", number(2)),
        ("walked to convict, covered", "covered_1e-07", number(0)),
        ("clearest test", "covered_by", text),
        ("not covered", "uncovered_1e-07", number(0)),
    ),
    rows="shaving",
)

SOUNDNESS: Final[dict[str, dict[str, Table]]] = {
    "law": {"law": replace(LAW, where=lambda row: (row["projection"], row["width"]) == ("on", 576))},
    "streams": {"streams": STREAMS},
    "honest-noise": {"honest-noise": HONEST_NOISE},
    "verdict": {
        "false-alarms": replace(
            FALSE_ALARMS,
            where=lambda row: (
                (row["what"], row.get("calibrated_on"), row["kurtosis"]) == ("false alarms", 6000, 4)
            ),
        ),
        "power": replace(
            POWER,
            where=lambda row: (
                (row["what"], row.get("sigma"), row["kurtosis"]) == ("nonces to convict", 0.05, 4)
            ),
        ),
    },
    "grinding": {
        "grinding": replace(
            GRINDING, where=lambda row: row["rate"] == 0.1 and row["cosine"] in (0.1, 0.4, 0.8, 0.9, 0.98)
        )
    },
    "games": {
        "shaving": replace(
            SHAVING, where=lambda row: (row["rate"], row["lowered"]) == (0.1, "every distance")
        )
    },
    "tables": {
        "law-all": LAW,
        "false-alarms-all": FALSE_ALARMS,
        "power-all": POWER,
        "grinding-all": GRINDING,
        "density": DENSITY,
        "shaving-all": SHAVING,
    },
}
"""The tables of each page, by the names that stand in it."""
