"""Playing the attacks of a table: what the product answers, and in what that is not what is expected."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from _prover import Machine, Prover
from _resistance import ABSENT, KEY, NOISE, ROUND, Attack
from _validators import DTYPE, Answer, Server, Verified, running_server, verify

from hallmark.server.models.small import build_small_model

ALTERED_LAYER = 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attack.

    Attributes:
        answers: A server's, to each batch.
        verified: What `hallmark verify` says of all batches; None where it is not asked.
    """

    answers: Sequence[Answer]
    verified: Verified | None


class Trial:
    """Two small models that differ in one layer, a server for each, and a prover that has both.

    Args:
        folder: Where the models are, and files go.
        server: Of the deployed model.
        other_server: Of the other one.
    """

    def __init__(self, folder: Path, server: Server, other_server: Server) -> None:
        self._folder = folder
        self._server, self._other_server = server, other_server
        self._machine, self._other = (Machine(folder / name, DTYPE) for name in ("model", "other"))

    @classmethod
    @contextmanager
    def begun(cls, folder: Path) -> Iterator[Self]:
        """Make the models in a folder, and serve them for as long as this lasts."""
        build_small_model(folder / "model")
        build_small_model(folder / "other", altered_layer=ALTERED_LAYER)
        with ExitStack() as stack:
            servers = [stack.enter_context(running_server(folder / name)) for name in ("model", "other")]
            yield cls(folder, *servers)

    def play(self, attack: Attack) -> Outcome:
        """Send an attack's batches, one after the other; then judge all of them, where that is asked."""
        request = {name: value for name, value in {**ROUND, **attack.round}.items() if value is not ABSENT}
        batches = attack.sends(Prover(self._machine, self._other, request, KEY, NOISE))
        server = self._other_server if attack.judged_by_itself else self._server
        answers = [server.validate(request, batch) for batch in batches]
        if attack.together is None:
            return Outcome(answers, None)
        if not attack.together.states_round:
            request = {name: value for name, value in request.items() if not name.startswith("block_")}
        return Outcome(answers, verify(self._folder / "model", self._folder, batches, request))


def differences(attack: Attack, outcome: Outcome) -> list[str]:
    """Say in what an outcome is not what the table expects: of an answer, or of its reason."""
    return [*_of_answers(attack, outcome.answers), *_of_all(attack, outcome.verified)]


def _of_answers(attack: Attack, answers: Sequence[Answer]) -> Iterator[str]:
    *before, last = answers
    for number, answer in enumerate(before, start=1):
        if answer.outcome != "honest":
            yield from (f"batch {number}: {words}" for words in _of_answer(attack, answer))
    yield from _of_answer(attack, last)


def _of_answer(attack: Attack, answer: Answer) -> Iterator[str]:
    if answer.outcome != attack.expected:
        yield f"it is {answer.outcome} and not {attack.expected}: {answer.reason}"
    elif answer.outcome == "fraud" and attack.reason not in answer.body["rejected_by"]:
        yield f"it is fraud by {answer.reason}, not by {attack.reason}"
    elif answer.outcome == "refused":
        field = f"{attack.field_name}: " if attack.field_name else "the batch "
        if not answer.reason.startswith(field) or attack.reason not in answer.reason:
            yield f"it is refused for another reason: {answer.reason}"
    elif answer.outcome == "no_verdict" and (answer.body["failed_nonces"] or answer.body["rejected_by"]):
        yield f"it has no verdict for another reason: {dict(answer.body)}"


def _of_all(attack: Attack, verified: Verified | None) -> Iterator[str]:
    expected = attack.together
    if expected is None or verified is None:
        return
    if verified.code != expected.code:
        yield f"hallmark verify ends with {verified.code} and not {expected.code}: {verified.text}"
    if expected.says not in verified.text:
        yield f"hallmark verify does not say {expected.says!r}: {verified.text}"
    credited = f"; {expected.credited} distinct nonces credited"
    if expected.credited is not None and credited not in verified.text:
        yield f"hallmark verify does not credit {expected.credited}: {verified.text}"
