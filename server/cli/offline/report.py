"""How `hallmark verify` tells what it found: as JSON, or as tables and sentences."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hallmark.poc.offline.cases import JudgedCase
from hallmark.poc.rounds.payloads import verdict_fields
from hallmark.poc.verdict.decision import Decision, Outcome
from hallmark.poc.verdict.judge import ValidatedBatch, Verdict
from hallmark.poc.verdict.prover_record import Reason
from hallmark.server.cli.consoles import show
from hallmark.server.cli.tables import new_table, text
from hallmark.server.cli.verdicts import (
    STYLES,
    VerdictRow,
    legend,
    p_value,
    rejection,
    row_notes,
    shortened,
    verdict_table,
)
from hallmark.server.cli.words import counted

__all__ = ["as_json", "show_table"]

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
    """Return a line of JSON for each batch, for each prover's batches together, and for the summary."""
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
        if case.decision is not None:
            line["sequential"] = case.decision.as_dict()
        lines.append(line)
    return "\n".join(json.dumps(line) for line in [*lines, {"summary": dict(summary)}])


def show_table(console: Console, judged: Sequence[JudgedCase], summary: Mapping[str, Any]) -> None:
    """Print a table of verdicts, one of each prover's over time, and in words what has no room there."""
    rows = [_row(number, case) for number, case in enumerate(judged, start=1)]
    parts: list[Table | Text] = [verdict_table(rows, console.width), *legend(rows), Text()]
    for number, (case, row) in enumerate(zip(judged, rows, strict=True), start=1):
        notes = [*_notes(case), *row_notes(row, console.width)]
        parts += [text(f"{number}: {note}") for note in notes]
    if summary["provers"]:
        parts += [
            Text(),
            Text("Over time: all that a prover sent", style="bold"),
            _over_time(summary["provers"]),
        ]
    parts += [Text(), *map(text, _said(summary))]
    show(console, *parts)


def _row(number: int, case: JudgedCase) -> VerdictRow:
    proof, verdict = case.proof, case.verdict
    label = str(number) if case.stands_for_itself else f"{number} joined"
    if verdict is None:
        return VerdictRow(
            label=label,
            public_key=proof.public_key,
            block_height=proof.block_height,
            nonces=len(proof.nonces),
            verdict="refused",
        )
    return VerdictRow(
        label=label,
        public_key=proof.public_key,
        block_height=proof.block_height,
        nonces=verdict.n_judged,
        verdict=verdict.verdict,
        n_invalid=verdict.n_invalid,
        n_failed=len(verdict.failed_nonces),
        error_rms=verdict.error_rms,
        tests=verdict.tests,
        p_value=verdict.probability_honest,
    )


def _over_time(records: Sequence[Mapping[str, Any]]) -> Table:
    """Return each prover's verdict over all that it sent."""
    counts = ("rounds", "batches", "nonces")
    numbers = (*counts, "wealth", "p-value")
    table = new_table("public key", *numbers, "verdict", numbers=numbers, folds=("public key",))
    for record in records:
        if not record["nonces"]:
            verdict, style = "not judged", "yellow"
        elif record["fraud_detected"]:
            verdict, style = "fraud", STYLES[Verdict.FRAUD]
        else:
            verdict, style = "no fraud", STYLES[Verdict.HONEST]
        table.add_row(
            text(shortened(record["public_key"])),
            *(f"{record[name]:,}" for name in counts),
            f"1e{record['log10_wealth']:+.0f}",
            p_value(record["p_value"]),
            verdict,
            style=style,
        )
    return table


def _notes(case: JudgedCase) -> Iterator[str]:
    """Yield what a table has no room for."""
    if case.is_joined:
        which = "the {} with vectors" if case.with_vectors else "all {}"
        batches = counted(len(case.sources), "batch")
        yield f"{which.format(batches)} of this prover in this round together"
    else:
        yield case.sources[0]
    if case.error is not None:
        yield f"refused: {case.error}"
    if case.n_claimed_before:
        is_one = case.n_claimed_before == 1
        were, count = ("was", "counts") if is_one else ("were", "count")
        nonces = counted(case.n_claimed_before, "nonce")
        yield f"{nonces} {were} claimed by an earlier batch and {count} once"
    if case.verdict is None:
        return
    if case.proof.round_digest is None:
        yield "the batch names no round settings: that it was computed with these is taken on trust"
    if case.proof.nonces and case.verdict.numbers == 1 and case.round is not None and case.round.numbers > 1:
        yield from _judged_by_the_first(case, case.round.numbers)
    if case.decision is not None:
        yield _decision(case.decision)
    if case.verdict.n_duplicates and not case.is_joined:
        repeat = "repeats" if case.verdict.n_duplicates == 1 else "repeat"
        yield f"{counted(case.verdict.n_duplicates, 'claim')} {repeat} a nonce of the same batch"
    yield from _findings(case.verdict)


def _judged_by_the_first(case: JudgedCase, numbers: int) -> Iterator[str]:
    of_each = f"the first of each nonce's {numbers} numbers"
    n_without = sum(bool(part.nonces) and part.vectors is None for part in case.parts)
    if case.decision is not None and n_without:
        # Each batch by what it brought, which the verdict's own numbers do not tell.
        yield f"{n_without} of {counted(len(case.parts), 'batch')} brought no vectors, judged by {of_each}"
    else:
        yield f"the batch brought no vectors: it was judged by {of_each}"


def _decision(decision: Decision) -> str:
    """Return what came of recomputing one nonce after the other."""
    after = f"{len(decision.nonces):,} of {counted(decision.n_claimed, 'nonce')}"
    match decision.outcome:
        case Outcome.CONVICTED:
            return f"convicted after {after}"
        case Outcome.CLEARED:
            probability = f"a probability of {decision.clearing.p_value:.2g} at most"
            return f"cleared after {after}: who cheats as stated gets so far with {probability}"
        case Outcome.UNDECIDED:
            return f"neither convicted nor cleared by {after}"


def _findings(verdict: ValidatedBatch) -> Iterator[str]:
    if verdict.verdict is Verdict.FRAUD:
        yield rejection(verdict.rejected_by)
    if verdict.invalid_nonces:
        yield f"invalid nonces: {_listed(verdict.invalid_nonces)}"
    if verdict.failed_nonces:
        yield f"nonces that could not be recomputed: {_listed(verdict.failed_nonces)}"
    if verdict.numerics_differ:
        yield f"computed with another {', '.join(verdict.numerics_differ)}"


def _said(summary: Mapping[str, Any]) -> Iterator[str]:
    yield from _drawn(summary["sample"])
    for record in summary["provers"]:
        for reason, count in record["uncounted"].items():
            yield (
                f"{counted(count, 'nonce')} of {record['public_key']} not counted over time: "
                f"{_WHY_UNCOUNTED[Reason(reason)]}"
            )
    for gap in summary["gaps"]:
        first, last = gap["indices"]
        yield (
            f"nothing here covers numbers {first} to {last} of the walk of node {gap['node_id']} of "
            f"{gap['public_key']}"
        )
    verdicts = ", ".join(
        f"{summary[name]:,} {name.replace('_', ' ')}" for name in (*(v.value for v in Verdict), "refused")
    )
    credited = counted(summary["credited_nonces"], "distinct nonce")
    yield f"{counted(summary['batches'], 'batch')}: {verdicts}; {credited} credited"


def _drawn(sample: Mapping[str, Any] | None) -> Iterator[str]:
    """Say which nonces were drawn, and why so many."""
    if sample is None:
        return
    by_seed = f"--seed {sample['seed']}"
    if "nonces" in sample:
        yield f"at most {sample['nonces']} nonces of a batch were drawn with {by_seed}"
        return
    share, power = sample["cheat_share"], sample["power"]
    whose = "all nonces" if share == 1.0 else f"{share:.3g} of the nonces"
    cheat = f"numbers that are off by {sample['cheat']:.3g} s in {whose}"
    if "sequential" in sample:
        if not sample["claimed"]:
            return  # all were refused
        recomputed = f"{sample['recomputed']:,} of {counted(sample['claimed'], 'nonce')}"
        yield (
            f"{recomputed} were drawn with {by_seed}, until provers were convicted, or cleared of {cheat}: "
            f"who has them is cleared with a probability of {1.0 - power:.3g} at most"
        )
        return
    for needed, of_provers in _by_need(sample["provers"]).items():
        drawn = sum(each["drawn"] for each in of_provers)
        claimed = sum(each["claimed"] for each in of_provers)
        yield (
            f"{drawn:,} of {counted(claimed, 'nonce')} were drawn with {by_seed}: {needed:,} of a prover and "
            f"round convict {cheat} with a probability of {power:g}, and each batch has one at least"
        )
    for each in sample["provers"]:
        if not each["power_reached"]:
            yield (
                f"{each['public_key']} claims {each['claimed']:,} nonces in block {each['block_hash']}, of "
                f"{each['needed']:,} that are needed: the probability of {power:g} is not reached"
            )


def _by_need(provers: Sequence[Mapping[str, Any]]) -> Mapping[int, list[Mapping[str, Any]]]:
    found: defaultdict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for each in provers:
        found[each["needed"]].append(each)
    return found


def _listed(nonces: Sequence[int]) -> str:
    shown = ", ".join(map(str, nonces[:_MAX_SHOWN]))
    more = len(nonces) - _MAX_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
