"""The tables of the guide to standing verification."""

from _tables import Table, number, numbers, percent, text

QUEUE = {
    "kills": Table(
        "verification_queue",
        (
            ("batches acknowledged", "acknowledged", number(0)),
            ("receivers killed", "receivers killed", number(0)),
            ("in a post", "in a post", number(0)),
            ("workers killed", "workers killed", number(0)),
            ("in a job", "in a job", number(0)),
            ("crashes of PostgreSQL", "database crashes", number(0)),
            ("jobs", "jobs", number(0)),
            ("leased again", "jobs leased again", number(0)),
            ("verdicts", "verdicts", number(0)),
            ("cannot be judged", "without a verdict", number(0)),
            ("lost", "lost", number(0)),
            ("judged twice", "doubled", number(0)),
        ),
        where=lambda row: row["what"] == "kills",
    ),
    "throughput": Table(
        "verification_queue",
        (
            ("workers", "workers", text),
            ("jobs", "jobs", number(0)),
            ("to one worker", "to one worker", number(2)),
            ("slowest / fastest pass", "of passes", numbers(2)),
            ("a worker's time outside of its engine", "outside of the engine", percent(0)),
        ),
        where=lambda row: row["what"] == "throughput",
    ),
}
