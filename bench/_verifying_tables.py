"""The tables of docs/verifying.md."""

from _tables import Table, number, text

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
