"""The demo's table of verdicts: what a reader sees of each, in 80 columns."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from builders import make_batch
from rich.console import Console

from hallmark.poc.verdict.judge import Verdict
from hallmark.server.cli.consoles import show
from hallmark.server.demo import command
from hallmark.server.demo.claims import Claim
from hallmark.server.demo.story import Judged

PROOF = make_batch(block_height=2)


def claim(deserved: Verdict | None) -> Claim:
    return Claim("a [node]", "Did what it did. Saved [nothing].", PROOF, deserved)


def answer(verdict: str, probability: float, **tests: float) -> dict[str, Any]:
    return {"verdict": verdict, "probability_honest": probability, "tests": tests}


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Shows verdicts in 80 columns, and returns the lines."""

    def show_verdicts(*judged: Judged) -> list[str]:
        show(Console(file=io.StringIO(), width=80), *command.shown(judged, "the [model]"))
        lines = capsys.readouterr().out.splitlines()
        # Sentences below the table are folded by a terminal.
        assert max(map(len, lines[: lines.index("", 1)])) <= 80
        return lines

    return show_verdicts


Shown = Callable[..., list[str]]


def test_each_verdict_has_a_row_and_a_sentence(shown: Shown) -> None:
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


def test_a_right_verdict_with_a_problem_is_marked(shown: Shown) -> None:
    judged = Judged(claim(Verdict.HONEST), answer("honest", 1.0, nonces=1.0), ("chat was not answered",))
    lines = shown(judged)
    assert any(line.startswith("✗ a [node]") for line in lines)
    assert lines[-2:] == ["✗ chat was not answered", "Not all came out right."]


def test_what_came_out_right_is_said_of_the_model(shown: Shown) -> None:
    text = " ".join(" ".join(shown(Judged(claim(Verdict.HONEST), answer("honest", 1.0, nonces=1.0)))).split())
    assert "All came out right. The honest node proved that it runs the [model], the validator" in text
