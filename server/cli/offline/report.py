"""How `hallmark verify` tells what it found: as JSON, or as a table and sentences."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hallmark.poc.offline.cases import JudgedCase
from hallmark.poc.rounds.payloads import verdict_fields
from hallmark.poc.verdict.judge import ValidatedBatch, Verdict
from hallmark.poc.verdict.prover_record import Reason
from hallmark.server.cli.verdicts import STYLES, shortened

__all__ = ["as_json", "as_table"]

_WIDTH_OFF_A_TERMINAL = 140
_MAX_SHOWN = 12
_WHY_UNCOUNTED: Final = MappingProxyType(
    {
        Reason.NO_SIGMA: "the round has no honest sigma",
        Reason.SELECTED: "below rate 1 the one number they were judged by has selected them",
        Reason.NOT_RECOMPUTED: "they were not recomputed",
        Reason.REPEATED: "an earlier batch has them",
    }
)


def as_json(judged: Sequence[JudgedCase], summary: Mapping[str, Any]) -> str:
    """A line of JSON for each batch, for each prover's batches together, and for the summary."""
    lines = []
    for case in judged:
        line: dict[str, Any] = {
            "proofs": list(case.sources),
            "joined": case.is_joined,
            "public_key": case.proof.public_key,
            "block_hash": case.proof.block_hash,
            "block_height": case.proof.block_height,
            "node_id": case.proof.node_id,
        }
        if case.error is not None:
            line["error"] = str(case.error)
        if case.verdict is not None and case.round is not None:
            line |= {"round": case.round.digest, "n_claimed_before": case.n_claimed_before}
            line |= verdict_fields(case.verdict)
        lines.append(line)
    return "\n".join(json.dumps(line) for line in [*lines, {"summary": dict(summary)}])


def as_table(judged: Sequence[JudgedCase], summary: Mapping[str, Any]) -> str:
    """A table of verdicts, one of each prover's over time, and below them in words what has no room there."""
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_OFF_A_TERMINAL)
    with console.capture() as shown:
        console.print(_table(judged))
        if summary["provers"]:
            console.print(_over_time(summary["provers"]))
        for number, case in enumerate(judged, start=1):
            for note in _notes(case):
                console.print(escape(f"{number}: {note}"), soft_wrap=True, highlight=False)
        for line in _said(summary):
            console.print(escape(line), soft_wrap=True, highlight=False)
    return shown.get().rstrip("\n")


def _table(judged: Sequence[JudgedCase]) -> Table:
    """With a column for the p-value of each test that ran."""
    tests = dict.fromkeys(test for case in judged if case.verdict is not None for test in case.verdict.tests)
    table = Table("", "public key", "block", "nonces", "invalid", "failed", "RMS error")
    for test in tests:
        table.add_column(f"p {test.replace('_', ' ')}")
    for column in ("p-value", "verdict"):
        table.add_column(column)
    for number, case in enumerate(judged, start=1):
        # What comes from provers is text, not markup.
        key = escape(shortened(case.proof.public_key))
        block = str(case.proof.block_height)
        verdict = case.verdict
        if verdict is None:
            blanks = [""] * (len(tests) + 4)
            table.add_row(
                str(number), key, block, str(len(case.proof.nonces)), *blanks, "refused", style="yellow"
            )
            continue
        table.add_row(
            str(number),
            f"{key} (joined)" if case.is_joined else key,
            block,
            str(verdict.n_judged),
            str(verdict.n_invalid),
            str(len(verdict.failed_nonces)),
            "" if verdict.error_rms is None else f"{verdict.error_rms:.3f} s",
            *(_p_value(verdict.tests.get(test)) for test in tests),
            _p_value(verdict.probability_honest),
            verdict.verdict.replace("_", " "),
            style=STYLES[verdict.verdict],
        )
    return table


def _over_time(records: Sequence[Mapping[str, Any]]) -> Table:
    """Each prover's verdict over all that it sent."""
    table = Table(title="Over time: all that a prover sent", title_justify="left")
    for column in ("public key", "rounds", "batches", "nonces", "wealth", "p-value", "verdict"):
        table.add_column(column)
    for record in records:
        if not record["nonces"]:
            verdict, style = "not judged", "yellow"
        elif record["fraud_detected"]:
            verdict, style = "fraud", STYLES[Verdict.FRAUD]
        else:
            verdict, style = "no fraud", STYLES[Verdict.HONEST]
        table.add_row(
            escape(shortened(record["public_key"])),
            *(str(record[name]) for name in ("rounds", "batches", "nonces")),
            f"1e{record['log10_wealth']:+.0f}",
            _p_value(record["p_value"]),
            verdict,
            style=style,
        )
    return table


def _notes(case: JudgedCase) -> Iterator[str]:
    """What a table has no room for."""
    if case.is_joined:
        which = "the {} batches with vectors" if case.with_vectors else "all {} batches"
        yield f"{which.format(len(case.sources))} of this prover in this round together"
    else:
        yield case.sources[0]
    if case.error is not None:
        yield f"refused: {case.error}"
    if case.n_claimed_before:
        yield f"{case.n_claimed_before} nonces were claimed by an earlier batch and count once"
    if case.verdict is None:
        return
    if case.proof.round_digest is None:
        yield "the batch names no round settings: that it was computed with these is taken on trust"
    if case.verdict.numbers == 1 and case.round is not None and case.round.numbers > 1:
        yield (
            "the batch brought no vectors: it was judged by the first of each nonce's "
            f"{case.round.numbers} numbers"
        )
    if case.verdict.n_duplicates and not case.is_joined:
        yield f"{case.verdict.n_duplicates} claims repeat a nonce of the same batch"
    yield from _findings(case.verdict)


def _findings(verdict: ValidatedBatch) -> Iterator[str]:
    if verdict.verdict is Verdict.FRAUD:
        yield f"fraud by the test of {', '.join(test.replace('_', ' ') for test in verdict.rejected_by)}"
    if verdict.invalid_nonces:
        yield f"invalid nonces: {_listed(verdict.invalid_nonces)}"
    if verdict.failed_nonces:
        yield f"nonces that could not be recomputed: {_listed(verdict.failed_nonces)}"
    if verdict.numerics_differ:
        yield f"computed with another {', '.join(verdict.numerics_differ)}"


def _said(summary: Mapping[str, Any]) -> Iterator[str]:
    sample = summary["sample"]
    if sample is not None:
        yield f"at most {sample['nonces']} nonces of a batch were drawn with --seed {sample['seed']}"
    for record in summary["provers"]:
        for reason, count in record["uncounted"].items():
            yield (
                f"{count} nonces of {shortened(record['public_key'])} do not count over time: "
                f"{_WHY_UNCOUNTED[Reason(reason)]}"
            )
    for gap in summary["gaps"]:
        first, last = gap["indices"]
        yield (
            f"nothing here covers numbers {first} to {last} of the walk of node {gap['node_id']} of "
            f"{shortened(gap['public_key'])}"
        )
    counts = ", ".join(
        f"{summary[name]} {name.replace('_', ' ')}" for name in (*(v.value for v in Verdict), "refused")
    )
    yield f"{summary['batches']} batches: {counts}; {summary['credited_nonces']} distinct nonces credited"


def _listed(nonces: Sequence[int]) -> str:
    shown = ", ".join(map(str, nonces[:_MAX_SHOWN]))
    more = len(nonces) - _MAX_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _p_value(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
