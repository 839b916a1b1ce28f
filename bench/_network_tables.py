"""The tables of docs/performance/network.md."""

from typing import Any

from _tables import Table, number, numbers, percent, text


def _yes(value: Any) -> str:
    return "yes" if value else "no"


def _scaled(by: float, digits: int) -> Any:
    return lambda value: f"{value / by:,.{digits}f}"


def _seconds(value: Any) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _measured(value: Any) -> str:
    return f"{value:,.2f}".removesuffix(".00")


NETWORK = {
    "bodies": Table(
        "network",
        (
            ("callback", "kind", text),
            ("vectors", "vectors", _yes),
            ("valid rate", "rate", text),
            ("bytes beside nonces", "fixed", number(0)),
            ("bytes of a nonce", "each", number(1)),
            ("32 nonces", "bytes of 32", number(0)),
            ("1,000", "bytes of 1000", number(0)),
            ("5,000", "bytes of 5000", number(0)),
            ("nonces in 1 MiB", "most nonces", number(0)),
        ),
        where=lambda row: row["what"] == "body",
    ),
    "asked": Table(
        "network",
        (
            ("nonces of a delivery", "nonces of a delivery", number(0)),
            ("every, s", "interval", text),
            ("valid rate", "rate", text),
            ("vectors", "vectors", _yes),
            ("deliveries/s", "deliveries/s", number(0)),
            ("MB/s", "bytes/s", _scaled(1e6, 0)),
            ("TB a day", "bytes a day", _scaled(1e12, 1)),
            ("an outbox holds, h", "outbox holds, h", number(1)),
            ("rows a round, millions", "rows a round", _scaled(1e6, 2)),
            ("receivers at work", "receivers", number(1)),
            ("cores of the database", "database cores", number(1)),
            ("nonces recomputed of a prover", "drawn", number(0)),
            ("verifier-seconds a round", "verifier-seconds a round", number(0)),
            ("of the network's compute", "share of the network", percent(3)),
        ),
        where=lambda row: row["what"] == "asked",
    ),
    "saturation": Table(
        "network",
        (("one of", "part", text), ("is too little from nodes", "nodes", number(0))),
        where=lambda row: row["what"] == "saturation",
    ),
    "load": Table(
        "network",
        (
            ("of what one receiver takes", "of what it takes", percent(0)),
            ("nodes", "nodes", number(0)),
            ("batches made", "batches made", number(0)),
            ("waiting after each round", "waiting at each round's end", numbers(0)),
            ("delivered again", "repeated deliveries", number(0)),
            ("99 % stored within, s", "lag, 99 % s", _seconds),
        ),
        where=lambda row: row["what"] == "load",
    ),
    "remedies": Table(
        "network",
        (
            ("part", "part", text),
            ("change", "change", text),
            ("nodes", "nodes", number(0)),
            ("its load", "load before", percent(0)),
            ("then", "load after", percent(0)),
            ("told by", "measure", text),
            ("before", "before", _measured),
            ("after", "after", _measured),
        ),
        where=lambda row: row["what"] == "in short",
    ),
    "plans": Table(
        "network",
        (
            ("delivered", "settings", text),
            ("receivers", "receivers", number(0)),
            ("cores of the database", "database cores", number(0)),
            ("verifiers", "verifiers", number(0)),
            ("MB/s", "bytes/s", _scaled(1e6, 1)),
            ("99 % stored within, s", "lag, 99 % s", _seconds),
            ("delivered again", "repeated deliveries", number(0)),
            ("waiting after the last round", "waiting", number(0)),
            ("without a verdict in the end", "without a verdict", number(0)),
        ),
        where=lambda row: row["what"] == "plan",
    ),
    "receivers": Table(
        "receiver",
        (
            ("batches of", "load", text),
            ("database", "database", text),
            ("receivers", "receivers", number(0)),
            ("to one on SQLite", "to SQLite", number(2)),
            ("slowest / fastest pass", "of passes", numbers(2)),
            ("receivers' ms a batch", "receivers' core seconds a batch", _scaled(1e-3, 2)),
            ("database's ms a batch", "database's core seconds a batch", _scaled(1e-3, 2)),
        ),
    ),
}
