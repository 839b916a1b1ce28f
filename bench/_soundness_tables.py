"""The tables of docs/soundness/: about five rows on the page of an experiment, all of them in tables.md."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from _tables import Line, Summary, Table, mebibytes, number, percent, significant, text

Row = Mapping[str, Any]


def _of_one_gpu_or_cpu(row: Row) -> bool:
    """Return whether a pair, read as a round is, has vLLM on a GPU or the two implementations on one CPU."""
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
)

_CONVICTED: Final = (
    ("nonces to convict at 10⁻⁷, calibrated σ", "calibrated_1e-07", number(0)),
    ("default σ", "default_1e-07", number(0)),
)
"""How many convict, as `_conviction.described` names them."""

HONEST_WAYS: Final = Table(
    "soundness_honest_noise",
    (
        ("model", "model", text),
        ("differ in", "factor", text),
        ("one", "one", text),
        ("other", "other", text),
        ("inputs", "inputs", text),
        ("row 0", "first", text),
        ("readout", "readout", text),
        ("rows", "rows", text),
        ("numbers", "numbers", number(0)),
        ("σ, s", "sigma", significant(2)),
        ("clipped, s", "clipped", significant(2)),
        ("kurtosis, clipped", "clipped_kurtosis", number(1)),
        ("beyond 0.35 s", "beyond_0.35", significant(2)),
        ("beyond 3.5 σ", "beyond_limit", significant(2)),
        ("worst nonce, s", "worst_rms", significant(2)),
    ),
)
MEASURED_TAILS: Final = Table(
    "soundness_thresholds",
    (
        ("source", "source", text),
        ("calibrated on", "calibrated_on", number(0)),
        ("σ, clipped, s", "clipped", significant(2)),
        ("kurtosis, clipped", "clipped_kurtosis", number(1)),
        ("σ measured, s", "measured_sigma", number(4)),
        ("σ stated, s", "honest_sigma", number(4)),
    ),
    rows="sources",
)
THRESHOLDS: Final = Table(
    "soundness_thresholds",
    (
        ("source", "source", text),
        ("nonces of a batch", "nonces", number(0)),
        ("σ stated", "stated", text),
        *((f"`{test}`", f"{test} at 0.01", number(4)) for test in ("nonces", "rms", "beyond", "signed_mean")),
        ("fraud at 0.01", "fraud at 0.01", number(4)),
        ("10⁻⁴", "fraud at 0.0001", number(4)),
        ("10⁻⁷", "fraud at 1e-07", number(4)),
        ("smallest p", "least", significant(1)),
    ),
    where=lambda row: row["added"] == 0,
)
ERRORS_ON_TOP: Final = Table(
    "soundness_thresholds",
    (
        ("source", "source", text),
        ("on top, σ", "added", number(1)),
        ("nonces of a batch", "nonces", number(0)),
        ("fraud at 0.01", "fraud at 0.01", number(2)),
        ("10⁻⁴", "fraud at 0.0001", number(2)),
        ("10⁻⁷", "fraud at 1e-07", number(2)),
    ),
    where=lambda row: row["added"] > 0,
)
DETECTION: Final = Table(
    "soundness_detection",
    (
        ("model", "model", text),
        ("rows", "rows", text),
        ("weights", "attack", text),
        ("bits", "bits", significant(3)),
        ("nonces measured", "nonces", text),
        ("error, s", "error", significant(2)),
        ("beyond 3.5 σ", "beyond", significant(2)),
        ("error / calibrated σ", "ratio_calibrated", significant(2)),
        *_CONVICTED,
    ),
    where=lambda row: row["attack"] != "honest",
)
SHORTCUTS: Final = Table(
    "soundness_shortcuts",
    (
        ("model", "model", text),
        ("rows", "rows", text),
        ("shortcut", "shortcut", text),
        ("operations saved", "saved", percent(2)),
        ("error, s", "error", significant(2)),
        ("saved / error²", "value", significant(2)),
        *_CONVICTED,
        ("hides, calibrated σ", "hides_calibrated", percent(2)),
        ("hides, default σ", "hides_default", percent(2)),
    ),
)
FORGING: Final = Table(
    "soundness_forging",
    (
        ("model", "model", text),
        ("reads", "reads", text),
        ("predictor", "predictor", text),
        ("made on", "made", text),
        ("saving", "saving", percent(1)),
        ("cosine", "cosine", number(2)),
        ("error, s", "error", number(2)),
        *_CONVICTED,
        ("gain at rate 0.1", "gain", number(2)),
        ("share run", "share", number(2)),
        ("covered to convict", "covered", number(0)),
        ("gain hidden", "hidden", number(2)),
    ),
)
CACHING: Final = Table(
    "soundness_caching",
    (
        ("model", "model", text),
        ("kept", "kept", text),
        ("saving", "saving", percent(2)),
        ("memory, MiB", "memory", mebibytes),
        ("pays after nonces", "pays", number(0)),
        ("net of 10,000", "net", percent(2)),
        ("error, s", "error", significant(2)),
        ("saving ÷ error²", "leverage", number(2)),
        *_CONVICTED,
    ),
)
CACHING_SHAPES: Final = Table(
    "soundness_caching",
    (
        ("model", "model", text),
        ("vocabulary", "vocabulary", number(0)),
        ("q, k, v of layer 0", "saving", percent(2)),
        ("memory, MiB", "memory", mebibytes),
        ("pays after nonces", "pays", number(0)),
        ("net of 10,000", "net", percent(2)),
        ("row 0, where stated", "row_0", percent(2)),
    ),
    rows="shapes",
)
CACHING_PREFIXES: Final = Table(
    "soundness_caching",
    (
        ("vocabulary", "vocabulary", number(0)),
        ("nonces", "nonces", number(0)),
        ("first token seen", "seen_1", percent(2)),
        ("first two", "seen_2", percent(4)),
        ("first three", "seen_3", significant(1)),
        ("saving", "saving", percent(3)),
    ),
    rows="prefixes",
)
RESISTANCE: Final = Table(
    "soundness_resistance",
    (
        ("plays with", "plays_with", text),
        ("what is sent", "sent", text),
        ("the server's answer", "answer", text),
        ("because", "because", text),
        ("`hallmark verify` over all batches", "together", text),
        ("what is left to the network", "remedy", text),
    ),
)

_SMOLLM2: Final = "SmolLM2-135M-Instruct"


def _is_of_smollm2(row: Row, key: str, *shown: str) -> bool:
    """Return whether a row is SmolLM2's.

    Of the shorter nonces where it says so, and one of those that are shown.
    """
    return row["model"] == _SMOLLM2 and row.get("rows", 64) == 64 and row[key] in shown


def _attack(words: str, page: str, bench: str, key: str, shown: str, saving: str, of: str = "work") -> Line:
    """Return a line of the table of attacks: a row of SmolLM2's in an experiment.

    Args:
        words: The attack.
        page: Which tells of it.
        bench: The experiment's results.
        key: Of the row's name.
        shown: Its name.
        saving: The key of the share that it saves.
        of: What it saves a share of.
    """

    def convicts(key: str) -> Callable[[Row], str]:
        return lambda row: "none of 1,000" if row[key] is None else f"{row[key]:,}"

    return Line(
        f"[{words}]({page}.md)",
        bench,
        lambda row: row.get("reads", "groups") == "groups" and _is_of_smollm2(row, key, shown),
        {
            "saves": lambda row: f"{percent(1)(row[saving])} of {of}",
            "error, s": lambda row: significant(2)(row["error"]),
            "convicts, calibrated σ": convicts("calibrated_1e-07"),
            "convicts, default σ": convicts("default_1e-07"),
        },
    )


def _predicted(words: str, predictor: str) -> Line:
    return _attack(words, "forging", "soundness_forging", "predictor", predictor, "saving")


def _weights(words: str, attack: str) -> Line:
    return _attack(words, "other-weights", "soundness_detection", "attack", attack, "saved", "memory")


def _shortcut(words: str, shortcut: str) -> Line:
    return _attack(words, "shortcuts", "soundness_shortcuts", "shortcut", shortcut, "saved")


ATTACKS: Final = Summary(
    "attack",
    (
        _predicted("numbers drawn by the law", "nothing: draw by the law"),
        _predicted("the outputs' mean direction", "mean of each row"),
        _predicted("a table of final states by token", "table by token, 4 contexts"),
        _weights("weights in INT4, groups of 128", "INT4 by 128"),
        _weights("weights in FP8", "FP8"),
        _weights("weights in INT8", "INT8 by channel"),
        _weights("weights in INT8, calibrated as GPTQ does", "GPTQ, INT8 by channel"),
        _weights("a tenth of the weights pruned, as Wanda does", "pruned 10 %, Wanda"),
        _shortcut("a layer left out, the cheapest", "layer 26 left out"),
        _shortcut("rows stopped a layer early, all but the last", "all rows but the last stop 1 layer early"),
        _shortcut("the last MLP left out", "the last MLP left out"),
        _attack(
            "q, k, v of the first layer kept by token",
            "caching",
            "soundness_caching",
            "kept",
            "q, k, v of layer 0",
            "saving",
        ),
    ),
)


def _hidden(words: str, shortcut: str, model: str = _SMOLLM2) -> Line:
    """Return a line on what hides: the share of a forward's work, where a shortcut is spread thinly."""
    return Line(
        words,
        "soundness_shortcuts",
        lambda row: (row["model"], row["rows"], row["shortcut"]) == (model, 64, shortcut),
        {
            "hides, calibrated σ": lambda row: percent(1)(row["hides_calibrated"]),
            "hides, default σ": lambda row: percent(1)(row["hides_default"]),
        },
    )


HIDDEN: Final = Summary(
    "shortcut",
    (
        _hidden("INT8 weights and activations, SmolLM2", "W8A8 in 7 of 30 layers"),
        _hidden("the same, Gemma 3", "W8A8 in 18 of 18 layers", "gemma-3-270m"),
        _hidden("neurons with small gates, SmolLM2", "the 90 % of neurons with the largest gates"),
        _hidden("rows that are not read, SmolLM2", "honest: rows 0 to 7 stop a layer early"),
    ),
)

SOUNDNESS: Final[dict[str, dict[str, Table | Summary]]] = {
    "README": {"attacks": ATTACKS},
    "law": {"law": replace(LAW, where=lambda row: (row["projection"], row["width"]) == ("on", 576))},
    "streams": {"streams": STREAMS},
    "honest-noise": {
        "honest-ways": replace(
            HONEST_WAYS,
            where=lambda row: (
                (row["one"], row["other"], row["rows"], row["readout"]) == ("vLLM", "eager", 64, "groups")
            ),
        ),
        "honest-noise": HONEST_NOISE,
    },
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
    "other-weights": {
        "detection": replace(
            DETECTION,
            where=lambda row: _is_of_smollm2(
                row,
                "attack",
                "INT8 by channel",
                "GPTQ, INT8 by channel",
                "FP8",
                "INT4 by 128",
                "pruned 50 %, Wanda",
            ),
        )
    },
    "shortcuts": {
        "shortcuts": replace(
            SHORTCUTS,
            where=lambda row: _is_of_smollm2(
                row,
                "shortcut",
                "honest: rows 0 to 7 stop a layer early",
                "all rows but the last stop 5 layers early",
                "half of each group not read",
                "the last MLP left out",
                "attention to a quarter of the keys and the first",
            ),
        ),
        "hidden": HIDDEN,
    },
    "forging": {
        "forging": replace(
            FORGING,
            where=lambda row: (
                row["reads"] == "groups"
                and row["made"] != "this block"
                and _is_of_smollm2(
                    row,
                    "predictor",
                    "mean of each row",
                    "linear in the input",
                    "table by token, 4 contexts",
                    "first 1 of 30 layers",
                    "first 28 of 30 layers",
                )
            ),
        )
    },
    "caching": {
        "caching": replace(
            CACHING,
            where=lambda row: _is_of_smollm2(
                row,
                "kept",
                "row 0 of all layers",
                "q, k, v of layer 0",
                "the same of an earlier block",
                "MLP of layer 15, by token",
                "output of the first layer, by token",
            ),
        ),
        "caching-shapes": CACHING_SHAPES,
    },
    "resistance": {"resistance": replace(RESISTANCE, where=lambda row: bool(row["remedy"]))},
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
        "honest-ways-all": HONEST_WAYS,
        "measured-tails": MEASURED_TAILS,
        "thresholds": THRESHOLDS,
        "errors-on-top": ERRORS_ON_TOP,
        "detection-all": DETECTION,
        "shortcuts-all": SHORTCUTS,
        "forging-all": FORGING,
        "caching-all": CACHING,
        "caching-prefixes": CACHING_PREFIXES,
        "resistance-all": RESISTANCE,
        "false-alarms-all": FALSE_ALARMS,
        "power-all": POWER,
        "grinding-all": GRINDING,
        "density": DENSITY,
        "shaving-all": SHAVING,
    },
}
"""The tables of each page, by the names that stand in it."""
