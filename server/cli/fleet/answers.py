"""What a node answers, or why it does not: the figures of its status that the fleet's views add up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from hallmark.poc.core.errors import HallmarkError
from hallmark.server.cli.client import ServerError, UnreachableError
from hallmark.server.cli.fleet.inventory import FleetNode
from hallmark.server.cli.round.start import remarks
from hallmark.server.cli.words import span

__all__ = ["Answer", "Figures"]

_SHARE: Final = ("node_id", "node_count", "group_id", "n_groups")


@dataclass(frozen=True, slots=True)
class Figures:
    """What a status says in numbers.

    Attributes:
        state: Of its round.
        checked: Nonces that the round has computed.
        rate: Nonces in a second, computed or validated; None where neither goes on.
        honest: Batches that it has judged honest since its start.
        fraud: Those that it has judged fraud.
        waiting: Callbacks still to be delivered.
        delivered: Callbacks that were.
        dead_letters: Callbacks given up, which lie in its outbox.
    """

    state: str
    checked: int
    rate: float | None
    honest: int
    fraud: int
    waiting: int
    delivered: int
    dead_letters: int

    @classmethod
    def of(cls, status: Mapping[str, Any]) -> Self:
        """Read them.

        Raises:
            KeyError: It is no status of a Hallmark of today.
            TypeError: Likewise.
        """
        judged, callbacks = status["validation"], status["callbacks"]
        rates = {"GENERATING": status["rate_per_second"], "VALIDATING": judged["nonces_per_second"] or 0.0}
        return cls(
            state=status["state"],
            checked=status["total_checked"],
            rate=rates.get(status["state"]),
            honest=judged["completed_jobs"] - judged["fraud_verdicts"],
            fraud=judged["fraud_verdicts"],
            waiting=callbacks["queued"],
            delivered=callbacks["delivered"],
            dead_letters=callbacks["dead_letters"],
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking one node; neither a status nor an error where it has not answered yet.

    Attributes:
        node: The node.
        status: Its status.
        figures: What that says in numbers.
        error: Why there is none.
        remarks: What is to be said though it has answered, a sentence each.
    """

    node: FleetNode
    status: Mapping[str, Any] | None = None
    figures: Figures | None = None
    error: HallmarkError | None = None
    remarks: tuple[str, ...] = ()

    @classmethod
    def read(cls, node: FleetNode, answer: Mapping[str, Any]) -> Self:
        """Read an answer with a status in it; one without is an error.

        Args:
            node: Whose it is.
            answer: To any of the routes that answer with the status.
        """
        status = answer.get("pow_status", answer)
        try:
            figures = Figures.of(status)
            told = tuple(remarks(answer)) if "callback" in answer else ()
        except (KeyError, TypeError) as exc:
            problem = f"{node.url} answers with no status of proof of compute: {type(exc).__name__}: {exc}"
            return cls(node, error=UnreachableError(problem))
        return cls(node, status, figures, remarks=(*told, *_troubles(node, status)))

    @property
    def state(self) -> str:
        """What a table has for it, in a word or two."""
        if self.figures is not None:
            return self.figures.state
        if isinstance(self.error, ServerError):
            return f"ERROR {self.error.status}"
        return "NO ANSWER" if self.error is not None else "ASKED"


def _troubles(node: FleetNode, status: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a node's round, or with the nonces that it walks."""
    troubles = []
    config = status.get("config") or {}
    if status.get("has_failed"):
        troubles.append(f"the round has failed: {status.get('reason')}")
    if status.get("is_stuck"):
        waited = span(status.get("seconds_since_progress") or 0)
        troubles.append(f"the engine has not answered for {waited}")
    share = {"group_id": 0, "n_groups": 1, **{name: config[name] for name in _SHARE if name in config}}
    if config and share != {"group_id": 0, "n_groups": 1, **node.share}:
        group = "" if share["n_groups"] == 1 else f", group {share['group_id']} of {share['n_groups']}"
        troubles.append(
            f"its round is that of node {share.get('node_id')} of {share.get('node_count')}{group}, and in "
            f"the inventory it is node {node.number} of {node.count}: others may walk the same nonces"
        )
    return troubles
