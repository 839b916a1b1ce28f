"""The tables of docs/guides/verify.md, and those of its guide for large models and many provers."""

from _tables import Table, number, percent, text

_WAYS = (("over time", "over time"), ("late", "after 10,000 honest"), ("one batch", "one batch"))
_THRESHOLDS = (("0.01", "0.01"), ("1e-07", "10⁻⁷"))

VERIFYING = {
    "ever-convicted": Table(
        "verdict_over_time",
        (
            ("numbers of a nonce", "numbers", text),
            ("kurtosis", "kurtosis", number(0)),
            ("nonces calibrated on", "calibrated_on", number(0)),
            ("over time", "over time", number(3)),
            ("a batch of 32 alone", "a batch alone", number(2)),
        ),
        where=lambda row: row["what"] == "ever convicted",
    ),
    "over-time": Table(
        "verdict_over_time",
        (
            ("numbers of a nonce", "numbers", text),
            ("kurtosis", "kurtosis", number(0)),
            ("error", "error", text),
            *(
                (f"{words}, {shown}", f"{way} at {threshold}", number(0))
                for threshold, shown in _THRESHOLDS
                for way, words in (*_WAYS, ("batches", "batches of 32"))
            ),
        ),
        where=lambda row: row["what"] == "nonces to convict",
    ),
}

AT_SCALE = {
    "nonces": Table(
        "verification",
        (
            ("cheat", "cheat", text),
            ("off by, s", "error", number(3)),
            ("in a share of", "share", percent(0)),
            ("σ, s", "sigma", text),
            ("one batch", "one batch", number(0)),
            ("one by one, convicted", "convicted", number(0)),
            ("honest with noise of σ, cleared", "cleared at sigma", number(0)),
            ("honest without noise, cleared", "cleared, exact", number(0)),
        ),
        where=lambda row: row["what"] == "nonces",
    ),
    "prover-hours": Table(
        "verification",
        (
            ("model", "model", text),
            ("vLLM", "mode", text),
            ("prover's GPU", "gpu", text),
            ("nonces/s", "nonces/s", number(0)),
            ("nonces in an hour", "nonces in an hour", number(0)),
            ("32 nonces, s", "seconds for 32", number(2)),
            ("of the hour", "share for 32", percent(4)),
            ("256 nonces, s", "seconds for 256", number(2)),
            ("of the hour ", "share for 256", percent(3)),
        ),
        where=lambda row: row["what"] == "prover-hour",
    ),
    "throughput": Table(
        "verification",
        (
            ("model", "model", text),
            ("engine", "engine", text),
            ("batch", "batch", text),
            ("1 actor to one process", "1 to one process", number(2)),
            ("2 actors to one process", "2 to one process", number(2)),
            ("2 actors to 1", "2 to 1", number(2)),
        ),
        where=lambda row: row["what"] == "throughput",
    ),
}
