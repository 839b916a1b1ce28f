"""What the nodes of a fleet, or of a group of it, come to together."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Self

from hallmark.server.cli.fleet.answers import Answer

__all__ = ["Tally", "groups_of"]


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over the nodes that have answered.

    Attributes:
        nodes: How many there are.
        failed: The names of those that gave an error.
        states: How many nodes there are in each state, those of errors left out.
        checked: As in `Figures`, like the following.
        rate: Nonces in a second; 0 where nothing runs.
        honest: Batches judged honest.
        fraud: Batches judged fraud.
        waiting: Callbacks still to be delivered.
        delivered: Callbacks that were.
        dead_letters: Callbacks given up.
    """

    nodes: int
    failed: tuple[str, ...]
    states: Counter[str]
    checked: int
    rate: float
    honest: int
    fraud: int
    waiting: int
    delivered: int
    dead_letters: int

    @classmethod
    def of(cls, answers: Collection[Answer]) -> Self:
        """Add up what nodes have answered."""
        figures = [answer.figures for answer in answers if answer.figures is not None]
        return cls(
            nodes=len(answers),
            failed=tuple(answer.node.name for answer in answers if answer.error is not None),
            states=Counter(answer.state for answer in answers if answer.error is None),
            checked=sum(each.checked for each in figures),
            rate=sum(each.rate or 0.0 for each in figures),
            honest=sum(each.honest for each in figures),
            fraud=sum(each.fraud for each in figures),
            waiting=sum(each.waiting for each in figures),
            delivered=sum(each.delivered for each in figures),
            dead_letters=sum(each.dead_letters for each in figures),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "nodes": self.nodes,
            "failed": [*self.failed],
            "states": dict(self.states),
            "total_checked": self.checked,
            "rate_per_second": self.rate,
            "honest_verdicts": self.honest,
            "fraud_verdicts": self.fraud,
            "callbacks_queued": self.waiting,
            "callbacks_delivered": self.delivered,
            "dead_letters": self.dead_letters,
        }


def groups_of(answers: Collection[Answer]) -> list[tuple[str | None, Tally]]:
    """Return each group's label and tally, in the order of their numbers; nothing of a single group."""
    members: dict[str | None, list[Answer]] = {}
    for answer in sorted(answers, key=lambda answer: answer.node.group_number):
        members.setdefault(answer.node.group, []).append(answer)
    return [(label, Tally.of(each)) for label, each in members.items()] if len(members) > 1 else []
