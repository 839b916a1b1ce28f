"""The demo's table of verdicts: what a reader sees of each, in 80 columns."""

import io
from typing import Any

from rich.console import Console

from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.verdict.judge import Verdict
from hallmark.server.demo.claims import Claim
from hallmark.server.demo.command import _show
from hallmark.server.demo.story import Judged

PROOF = ProofBatch(
    public_key="key", block_hash="block", block_height=2, node_id=0, nonces=(1, 2), dist=(1.4, 1.5)
)


def claim(deserved: Verdict | None) -> Claim:
    return Claim("a [node]", "Did what it did. Saved [nothing].", PROOF, deserved)


def answer(verdict: str, probability: float, **tests: float) -> dict[str, Any]:
    return {"verdict": verdict, "probability_honest": probability, "tests": tests}


def shown(*judged: Judged) -> list[str]:
    output = io.StringIO()
    _show(Console(file=output, width=80), judged)
    lines = [line.rstrip() for line in output.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80
    return lines


def test_each_verdict_has_a_row_and_a_sentence() -> None:
    lines = shown(
        Judged(claim(Verdict.HONEST), answer("honest", 0.5, nonces=0.5, rms=0.25)),
        Judged(claim(Verdict.FRAUD), answer("fraud", 4e-20, nonces=1.0, rms=1e-20, signed_mean=0.1)),
        Judged(claim(Verdict.FRAUD), answer("fraud", 0.0, nonces=0.1, signed_mean=0.0)),
        Judged(claim(None), None),
        Judged(claim(Verdict.FRAUD), answer("no_verdict", 1.0, nonces=1.0)),
    )
    assert lines[1:12] == [
        "  who sent a proof of block 2     verdict      p-value   rejected by",
        "✓ a [node]                        honest           0.5",
        "    Did what it did. Saved [nothing].",
        "✓ a [node]                        fraud          4e-20   rms",
        "    Did what it did. Saved [nothing].",
        "✓ a [node]                        fraud       < 1e-300   signed mean",
        "    Did what it did. Saved [nothing].",
        "✓ a [node]                        refused                block height",
        "    Did what it did. Saved [nothing].",
        "✗ a [node]                        no verdict         1",
        "    Did what it did. Saved [nothing].",
    ]
    text = "\n".join(lines)
    for test in ("rms", "signed mean", "block height"):
        assert f"\n{test} " in text
    assert "\nnonces " not in text


def test_a_right_verdict_with_a_problem_is_marked() -> None:
    judged = Judged(claim(Verdict.HONEST), answer("honest", 1.0, nonces=1.0), ("chat was not answered",))
    assert any(line.startswith("✗ a [node]") for line in shown(judged))
