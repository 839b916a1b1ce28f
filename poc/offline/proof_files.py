"""Files of proofs, as provers, receivers and outboxes leave them."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hallmark.poc.core.checks import check_float
from hallmark.poc.core.errors import FieldError
from hallmark.poc.core.strict_json import parse_json
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.verdict_body import claimed_batch, is_verdict, recomputed_batch

__all__ = ["DeliveredBatch", "delivered", "read_batches", "read_bodies"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredBatch:
    """A batch of a file, and what came with it.

    Attributes:
        source: The file and the batch's number in it, from 1 on.
        proof: The batch as its prover claimed it.
        r_target: The bound it was found under; None where it does not say.
        computed: What a validator recomputed, as a batch; None but for a `/validated` body.
    """

    source: str
    proof: ProofBatch
    r_target: float | None
    computed: ProofBatch | None


def read_batches(paths: Iterable[Path]) -> list[DeliveredBatch]:
    """Read the proofs of several files, in order.

    Raises:
        FieldError: A file is not one of proofs, or a batch in it is not one or is of another protocol; the
            message names file and batch.
    """
    batches = []
    for path in paths:
        for number, body in enumerate(_bodies(path), start=1):
            source = f"{path}, proof {number}"
            try:
                batches.append(delivered(body, source))
            except FieldError as exc:
                raise FieldError(f"{source}: {exc.field}", exc.value, exc.allowed) from exc
    return batches


def read_bodies(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the proofs of a file as JSON has them, in their prover's words.

    It has one, several in an array, or one a line; - is standard input. A receiver and an outbox wrap each in
    `body`. In a `/validated` body `dist` and `vectors` are what the validator computed: the claim is
    `received_dist` and `received_vectors`.

    Raises:
        FieldError: It is no such file.
    """
    for body in _bodies(path):
        yield claimed_batch(body) if is_verdict(body) else body


def _bodies(path: Path) -> Iterator[dict[str, Any]]:
    entries = _parse(path)
    if not entries:
        raise FieldError("PROOFS", str(path), "at least one proof; the array is empty")
    for entry in entries:
        body = entry.get("body", entry) if isinstance(entry, dict) else entry
        if not isinstance(body, dict):
            raise FieldError("PROOFS", entry, "a ProofBatch as a JSON object")
        yield body


def _parse(path: Path) -> list[Any]:
    """Return the entries of a file: of one array, a single one, or those of all lines."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        try:
            contents = [parse_json(text)]
        except FieldError:
            raise
        except ValueError:
            lines = [line for line in text.splitlines() if line.strip()]
            if len(lines) < 2:
                raise
            contents = [parse_json(line) for line in lines]
    except FieldError:
        raise
    except FileNotFoundError as exc:
        raise FieldError("PROOFS", str(path), "a file that exists; there is no such file") from exc
    except (OSError, ValueError, RecursionError) as exc:
        raise FieldError(
            "PROOFS", str(path), f"a readable file of JSON, or of a JSON object a line ({exc})"
        ) from exc
    entries: list[Any] = []
    for content in contents:
        entries += content if isinstance(content, list) else [content]
    return entries


def delivered(body: Mapping[str, Any], source: str, *, is_claim: bool = False) -> DeliveredBatch:
    """Read a proof, or a verdict on one, as it was delivered.

    Args:
        body: As JSON has it.
        source: What the batch is called by.
        is_claim: Whether it came as a proof, whatever else it looks like: a prover could else have other
            numbers judged than those that it is credited for.

    Raises:
        FieldError: It is no batch, or one of another protocol.
    """
    has_verdict = not is_claim and is_verdict(body)
    proof = ProofBatch.parse(claimed_batch(body) if has_verdict else body)
    r_target = body.get("r_target")
    if r_target is not None:
        r_target = check_float("r_target", r_target, least=0.0, most=float("inf"), allowed="a number above 0")
    computed = None
    if has_verdict:
        computed = ProofBatch.parse({**recomputed_batch(body), "numerics": None})
    return DeliveredBatch(source=source, proof=proof, r_target=r_target, computed=computed)
