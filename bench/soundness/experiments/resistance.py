"""Is every forgery refused or convicted, and for the reason that is meant?

Each row of the table in `attacks/_resistance.py` goes as JSON to `POST /validate` of a server with a small
model, and, where only several batches show it, to `hallmark verify`. The script fails where one is answered
otherwise than the table says, or for another reason, or where an honest batch does not pass.

Rows are attacks: what the server answers to the last batch, because of which words or tests, what
`hallmark verify` says of all of them, and what is left to the network.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.extend(map(str, Path(__file__).parents[1].glob("*/")))  # `python -P` adds none of the rooms

from _experiment import options, write
from _resistance import ATTACKS, Attack
from _trial import Outcome, Trial, differences

Row = dict[str, Any]


def row_of(attack: Attack, outcome: Outcome) -> Row:
    """Return what the results file says of an attack."""
    last = outcome.answers[-1]
    because = last.reason
    if last.outcome == "refused":
        # The sentence itself has the value that was sent, and digests.
        allowed = because.partition("; allowed: ")[2]
        because = f"{attack.field_name}: {allowed}" if attack.field_name else attack.reason
    return {
        "plays_with": attack.kind,
        "sent": attack.sent,
        "answer": last.outcome.replace("_", " "),
        "because": because,
        "together": None if outcome.verified is None else outcome.verified.said(attack.says),
        "remedy": attack.remedy,
    }


def findings(rows: Sequence[Row]) -> list[str]:
    """Return what the rows say, in sentences."""
    attacks = [row for row in rows if row["plays_with"] != "honest"]
    refused, convicted, unsure, passed = (
        [row for row in attacks if row["answer"] == answer]
        for answer in ("refused", "fraud", "no verdict", "honest")
    )
    left = [row for row in attacks if row["remedy"]]
    settled = [row for row in passed if not row["remedy"]]
    return [
        f"{len(rows) - len(attacks)} kinds of honest batches pass, and of {len(attacks)} attacks a server "
        f"refuses {len(refused)} in words, convicts {len(convicted)} and gives no verdict on {len(unsure)}, "
        "each for the reason that the table expects.",
        f"{len(passed)} pass its verdict on single batches. `hallmark verify`, which is given all batches of "
        f"a prover, settles {len(settled)} of these.",
        f"{len(left)} are left to the network: "
        + "; ".join(f"{row['sent']} ({row['remedy']})" for row in left)
        + ".",
    ]


def main() -> None:
    chosen = options(__doc__)
    rows, wrong = [], []
    with tempfile.TemporaryDirectory() as folder, Trial.begun(Path(folder)) as trial:
        for attack in ATTACKS:
            outcome = trial.play(attack)
            wrong += [f"{attack.kind}, {attack.sent}: {words}" for words in differences(attack, outcome)]
            rows.append(row_of(attack, outcome))
    if wrong:
        sys.exit("\n".join(wrong))
    write(
        "resistance",
        chosen,
        None,
        about="What the product answers to each attack, and why; a small model, in float32.",
        rows=rows,
        findings=findings(rows),
    )


if __name__ == "__main__":
    main()
