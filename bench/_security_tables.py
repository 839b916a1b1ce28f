"""The tables of docs/security.md."""

from collections.abc import Callable, Mapping
from typing import Any

from _tables import Table, number, text


def significant(digits: int) -> Callable[[Any], str]:
    """With so many significant digits, in scientific notation where it is shorter."""
    return lambda value: f"{value:.{digits}g}"


def percent(digits: int) -> Callable[[Any], str]:
    """A share in per cent, with so many digits after the point."""
    return lambda value: f"{100 * value:.{digits}f} %"


def yes(value: Any) -> str:
    """A truth value in a word."""
    return "yes" if value else "no"


_READ = (("normal", "last"), ("tokens", "groups"))
"""What a round reads now, and what the next protocol is to read."""


def _is_shown(row: Mapping[str, Any]) -> bool:
    """Whether a pair is one of vLLM's on a GPU, or of the two implementations on one CPU."""
    pair = {row["one"], row["other"]}
    with_gpu = any(way.endswith(" vllm-FLASH_ATTN") for way in pair)
    in_fp32 = any(way.endswith(" transformers-fp32") for way in pair)
    on_cpu = pair == {"cpu vllm", "cpu transformers-sdpa"}
    read = (row["inputs"], row["readout"])
    return ((with_gpu and not in_fp32) or on_cpu) and row["rows"] == 256 and read in _READ


SECURITY = {
    "law": Table(
        "soundness_law",
        (
            ("model", "model", text),
            ("weights", "weights", text),
            ("projection", "projection", text),
            ("p, own targets", "p_own", number(2)),
            ("distances", "samples", number(0)),
            ("p, other keys'", "p_more", number(2)),
            ("measured / law at rate 0.1", "ratio_0.1", number(3)),
            ("spread between blocks, own target", "own_spread", number(2)),
            ("a target fixed per block", "fixed_spread", number(2)),
            ("cosine of two outputs", "outputs_cosine", number(2)),
        ),
    ),
    "rates": Table(
        "soundness_law",
        (
            ("projection", "projection", text),
            ("rate", "rate", text),
            ("distances", "samples", number(0)),
            ("valid", "valid", number(0)),
            ("measured / law", "ratio", number(3)),
            ("99 % from", "low", number(3)),
            ("to", "high", number(3)),
        ),
        rows="rates",
    ),
    "stretching": Table(
        "soundness_streams",
        (
            ("width", "width", text),
            ("norm of P", "norm_of_p", number(2)),
            ("energy P adds", "share_of_output", number(3)),
            ("least singular value of I + P", "least", number(3)),
            ("by the law", "law_least", number(3)),
            ("largest", "largest", number(2)),
            ("by the law", "law_largest", number(2)),
        ),
        rows="stretching",
    ),
    "honest-noise": Table(
        "soundness_honest_noise",
        (
            ("model", "model", text),
            ("weights", "weights", text),
            ("dtype", "dtype", text),
            ("what differs", "pair", text),
            ("nonces", "n", number(0)),
            ("σ, s", "sigma", significant(2)),
            ("99 % bound, s", "upper", significant(2)),
            ("kurtosis", "kurtosis", number(1)),
            ("largest, s", "largest", significant(2)),
            ("beyond the tolerance", "beyond", significant(2)),
            ("default σ holds", "holds", yes),
        ),
        # float32 agrees to within a millionth of s, in every pair.
        where=lambda row: row["dtype"] != "float32",
    ),
    "honest-noise-trained": Table(
        "noise_pairs",
        (
            ("one", "one", text),
            ("other", "other", text),
            ("inputs", "inputs", text),
            ("read", "readout", text),
            ("numbers", "numbers", number(0)),
            ("σ, s", "sigma", significant(2)),
            ("σ of errors clipped at 3.5 σ, s", "clipped", significant(2)),
            ("kurtosis, clipped", "clipped_kurtosis", number(1)),
            ("largest, s", "largest", significant(2)),
            ("beyond 0.35 s", "beyond_0.35", significant(2)),
        ),
        where=_is_shown,
    ),
    "precomputation": Table(
        "soundness_precomputation",
        (
            ("model", "model", text),
            ("weights", "weights", text),
            ("projection", "projection", text),
            ("method", "method", text),
            ("prepared", "prepared", text),
            ("cosine", "cosine", number(3)),
            ("error, s", "error_s", number(3)),
            ("beyond the tolerance", "beyond", number(3)),
        ),
        where=lambda row: row["weights"] == "trained" and row["model"].startswith("qwen3 "),
    ),
    "precomputed-tables": Table(
        "soundness_precomputation",
        (
            ("bits of a seed", "seed_bits", text),
            ("width", "width", text),
            ("nonces answered of a million", "hits", significant(2)),
            ("TB", "terabytes", significant(2)),
        ),
        rows="tables",
    ),
    "grinding": Table(
        "soundness_grinding",
        (
            ("predictor", "predictor", text),
            ("cost, of a forward", "cost", number(4)),
            ("cosine", "cosine", number(3)),
            ("gain, best 1/10", "gain_10", number(2)),
            ("best 1/4", "gain_25", number(2)),
            ("best half", "gain_50", number(2)),
            ("best 9/10", "gain_90", number(3)),
            ("most per operation", "per_operation", number(2)),
        ),
        where=lambda row: row["factor"] == "base",
    ),
    "grinding-factors": Table(
        "soundness_grinding",
        (
            ("factor", "factor", text),
            ("value", "value", text),
            ("predictor", "predictor", text),
            ("cosine", "cosine", number(3)),
            ("gain, best 1/10", "gain_10", number(2)),
            ("best half", "gain_50", number(2)),
            ("most per operation", "per_operation", number(2)),
        ),
        where=lambda row: row["predictor"] in ("mean direction", "linear, pooled", "distilled layer"),
    ),
    "density": Table(
        "soundness_grinding",
        (
            ("predictor", "predictor", text),
            ("share run", "share", text),
            ("part of valid found", "found", number(3)),
            ("covered nonces, threshold 0.01", "covered_0.01", number(0)),
            ("valid nonces", "valid_0.01", number(0)),
            ("covered, 10⁻⁷", "covered_1e-07", number(0)),
            ("valid", "valid_1e-07", number(0)),
        ),
        rows="density",
        where=lambda row: row["rate"] == 0.1,
    ),
    "hidden": Table(
        "soundness_grinding",
        (
            ("predictor", "predictor", text),
            ("covered nonces", "covered", number(0)),
            ("gain, convicted in one case of two", "gain_half", number(2)),
            ("per operation", "per_operation_half", number(2)),
            ("gain, one case of ten", "gain_tenth", number(2)),
        ),
        rows="hidden",
        where=lambda row: (row["rate"], row["threshold"]) == (0.1, 0.01),
    ),
    "forging": Table(
        "soundness_forging",
        (
            ("predictor", "predictor", text),
            ("cost, of a forward", "cost", number(4)),
            ("cosine", "cosine", number(3)),
            ("error, s", "error_rms", number(3)),
            ("beyond the tolerance", "beyond", number(3)),
            ("nonces to convict, 0.01", "nonces_0.01", number(0)),
            ("10⁻⁷", "nonces_1e-07", number(0)),
            ("test that speaks", "spoke_1e-07", text),
        ),
        where=lambda row: (row["factor"], row["rate"]) == ("base", 1),
    ),
    "forging-ladder": Table(
        "soundness_forging",
        (
            ("cosine", "cosine", number(3)),
            ("error, s", "error_rms", number(3)),
            ("nonces to convict, 0.01", "nonces_0.01", number(0)),
            ("10⁻⁷", "nonces_1e-07", number(0)),
            ("test that speaks", "spoke_1e-07", text),
        ),
        rows="ladder",
        where=lambda row: row["rate"] == 1,
    ),
    "detection": Table(
        "soundness_detection",
        (
            ("model", "model", text),
            ("attack", "attack", text),
            ("error, s", "rms", number(3)),
            ("kurtosis", "kurtosis", number(1)),
            ("error at its best, s", "rms_corrected", number(3)),
            ("nonces to convict, 0.01", "nonces_0.01", number(0)),
            ("10⁻⁷", "nonces_1e-07", number(0)),
            ("AUC of 16", "auc_16", number(2)),
            ("64", "auc_64", number(2)),
            ("256", "auc_256", number(2)),
        ),
        where=lambda row: row["weights"] == "trained" and row["model"].startswith("qwen3"),
    ),
    "shortcuts": Table(
        "soundness_shortcuts",
        (
            ("substitute", "substitute", text),
            ("work", "share", percent(1)),
            ("error, s", "error", number(2)),
            ("test that speaks", "test", text),
            ("nonces to convict, 0.01", "nonces_0.01", number(0)),
            ("10⁻⁷", "nonces_1e-7", number(0)),
        ),
        where=lambda row: (
            (row["varied"], row["weights"], row["scale"]) == ("input scale", "trained", "embedding")
        ),
    ),
    "shortcut-factors": Table(
        "soundness_shortcuts",
        (
            ("varied", "varied", text),
            ("model", "model", text),
            ("weights", "weights", text),
            ("rows", "seq_len", number(0)),
            ("input scale", "input_scale", significant(3)),
            ("exact work", "share_free", percent(0)),
            ("least work within 0.10 s", "share_hidden", percent(0)),
            ("by", "by_hidden", text),
            ("least error at half of the work, s", "error_half", number(2)),
            ("by", "by_half", text),
            ("nonces at 10⁻⁷", "nonces_half", number(0)),
            ("least error at an eighth, s", "error_eighth", number(2)),
        ),
        rows="cells",
    ),
    "readouts": Table(
        "soundness_readouts",
        (
            ("weights", "weights", text),
            ("readout", "readout", text),
            ("exact work", "share_free", percent(0)),
            ("least work within 0.10 s", "share_hidden", percent(0)),
            ("least error for at most 55 % of the work, s", "error_half", number(2)),
            ("by", "by_half", text),
            ("least error at a quarter, s", "error_quarter", number(2)),
            ("extra cost", "extra", percent(2)),
        ),
        rows="readouts",
    ),
    "thresholds": Table(
        "soundness_thresholds",
        (
            ("a verdict that", "use", text),
            ("threshold", "threshold", significant(1)),
            ("honest batches convicted at most", "honest_convicted_at_most", significant(2)),
            ("in the simulation", "honest_convicted_simulated", significant(2)),
            ("missed of errors 0.12 s, 1,024 nonces", "missed_0.12_of_1024", significant(2)),
            ("0.15 s", "missed_0.15_of_1024", significant(2)),
            ("0.24 s", "missed_0.24_of_1024", significant(2)),
            ("1 s", "missed_1_of_1024", significant(2)),
        ),
        rows="recommended",
    ),
    "told-noise": Table(
        "soundness_thresholds",
        (
            ("noise, s", "sigma", significant(4)),
            ("told, s", "declared", significant(2)),
            ("nonces", "n", number(0)),
            ("rms", "rms", significant(2)),
            ("binomial", "binomial", significant(2)),
            ("signed mean", "signed_mean", significant(2)),
        ),
        rows="exact",
        where=lambda row: row["threshold"] == 1e-7,
    ),
    "missed": Table(
        "soundness_thresholds",
        (
            ("error, s", "error", text),
            ("noise allowed for, s", "sigma", text),
            ("nonces", "n", number(0)),
            ("missed at 0.01", "missed_0.01", significant(2)),
            ("10⁻⁷", "missed_1e-07", significant(2)),
        ),
        rows="missed",
        where=lambda row: row["error"] < 1,
    ),
    "games": Table(
        "soundness_games",
        (
            ("game", "game", text),
            ("outcome", "outcome", text),
            ("passes", "passes", yes),
            ("what it gains", "gains", text),
            ("in words", "words", text),
        ),
    ),
    "shaving": Table(
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
    ),
    "mixtures": Table(
        "soundness_games",
        (
            ("forged share", "forged_share", text),
            ("nonces to convict, 0.01", "nonces_0.01", number(0)),
            ("10⁻⁷", "nonces_1e-07", number(0)),
            ("forged by then", "forged_by_then_1e-07", number(0)),
        ),
        rows="mixtures",
    ),
    "chosen": Table(
        "soundness_games",
        (
            ("model", "model", text),
            ("weights", "weights", text),
            ("substitute", "substitute", text),
            ("chosen", "chosen", text),
            ("error, s", "rms", number(3)),
            ("nonces to convict, 10⁻⁷", "nonces_1e-07", number(0)),
        ),
        rows="chosen_nonces",
    ),
    "pooling": Table(
        "soundness_games",
        (
            ("cheat", "cheat", text),
            ("nonces in a batch", "batch", text),
            ("convicted alone, 10⁻⁷", "convicted_alone_1e-07", significant(2)),
            ("nonces to convict together", "nonces_pooled_1e-07", number(0)),
        ),
        rows="pooling",
    ),
}
