"""The table of docs/start/demo.md."""

from _tables import Table, text

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
