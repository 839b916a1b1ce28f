"""Views of commands with values that are the same on every machine and day, printed as the commands do.

Run with the name of a view: on whatever terminal it runs on, it prints what a person would see.
"""

import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from builders import last_row_round
from judged import judged_batch

from hallmark.poc.offline.cases import JudgedCase, prover_records, summarize
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.verdict.calibration import Calibration
from hallmark.poc.verdict.judge import Verdict
from hallmark.server.cli.client import ServerError, UnreachableError
from hallmark.server.cli.consoles import results, show
from hallmark.server.cli.fleet.answers import Answer
from hallmark.server.cli.fleet.inventory import FleetNode
from hallmark.server.cli.fleet.view import live_view, show_answers
from hallmark.server.cli.offline import calibrate, report
from hallmark.server.cli.round import validate
from hallmark.server.cli.round.goal import Goal
from hallmark.server.cli.round.status import print_status
from hallmark.server.cli.round.trend import Trend
from hallmark.server.cli.round.view import view
from hallmark.server.demo import command as demo
from hallmark.server.demo.claims import Claim
from hallmark.server.demo.story import Judged
from hallmark.server.http.examples import PROOF, STATUS, VERDICT

__all__ = ["VIEWS"]

KEY: Final = "02a1633cafcc01ebfb6d78e39f687a1f0995c62fc95f51ead10a02ee0be551b5dc"
CALLBACKS: Final = {
    **STATUS["callbacks"],
    "queued": 3,
    "delivered": 1204,
    "dropped": 2,
    "dead_letters": 1,
    "oldest_age": 72.0,
    "last_error": "ConnectError: [Errno 111] Connection refused",
}
GENERATING: Final[dict[str, Any]] = {
    **STATUS,
    "config": {**STATUS["config"], "public_key": KEY, "group_id": 1, "n_groups": 2},
    "total_checked": 38_912,
    "total_valid": 38_910,
    "total_failed": 2,
    "elapsed_seconds": 324.5,
    "rate_per_second": 119.9,
    "callbacks": CALLBACKS,
}
VALIDATING: Final[dict[str, Any]] = {
    **STATUS,
    "state": "VALIDATING",
    "total_checked": 0,
    "total_valid": 0,
    "elapsed_seconds": 4000.0,
    "validation": {
        **STATUS["validation"],
        "queued_jobs": 1,
        "queued_nonces": 96,
        "nonces_per_second": 41.25,
        "completed_jobs": 312,
        "checked_nonces": 29_952,
        "failed_nonces": 1,
    },
}
IDLE: Final[dict[str, Any]] = {
    **STATUS,
    "state": "IDLE",
    "config": None,
    "numerics": {},
    "interrupted_round": {
        "block_hash": "00000000000000000001f7c1a8d2b1f4",
        "block_height": 912344,
        "public_key": KEY,
        "total_checked": 20_480,
        "reason": "the engine has not answered for 300 s",
        "is_resumed": False,
    },
}


def watching() -> None:
    """A round on its way to a goal, as its watcher sees it."""
    trend = Trend()
    for second, rate in enumerate(itertools.chain(range(0, 120, 12), [120] * 14)):
        trend.add({**GENERATING, "total_checked": 38_912 - 24 * 120 + second * rate}, float(second))
    console = results()
    show(console, view(GENERATING, console, trend=trend, goal=Goal.parse("100000")))


def fleet() -> list[Answer]:
    """What a fleet of two groups answers, in which a node hangs and another one has another token."""
    unauthorized = ServerError("GET /api/v1/pow/status", 401, "the bearer token is wrong")
    silent = UnreachableError("no answer from http://10.0.0.2:8000 within 10 s")
    errors = {1: silent, 4: unauthorized}
    answers = []
    for number, group in enumerate(("eu", "eu", "eu", "us", "us")):
        name = f"10.0.0.{number + 1}:8000"
        node = FleetNode(number, 5, name, f"http://{name}", group, ("eu", "us").index(group), None)
        status = {
            **GENERATING,
            "config": {**GENERATING["config"], **node.share, "group_id": 0, "n_groups": 1},
            "total_checked": 38_912 + 32 * number,
            "validation": {
                **STATUS["validation"],
                "completed_jobs": 12 * number,
                "fraud_verdicts": number // 2,
            },
        }
        answer = Answer.read(node, status)
        answers.append(Answer(node, error=errors[number]) if number in errors else answer)
    return answers


def fleet_watched() -> None:
    """The same as its watcher sees it."""
    console = results()
    show(console, live_view(fleet(), console))


def validated() -> None:
    """Three proofs: an honest one, a forged one and one of another block."""
    proof = ProofBatch.parse({**PROOF, "public_key": KEY})
    forged = {
        **VERDICT,
        "verdict": "fraud",
        "probability_honest": 4.1e-31,
        "tests": {"nonces": 1.1e-9, "rms": 1.0e-31, "beyond": 3.0e-8, "signed_mean": 0.31},
        "rejected_by": ["nonces", "rms", "beyond"],
        "error_rms": 1.412,
        "n_invalid": 3,
        "numerics_differ": ["device"],
    }
    refused = ServerError(
        "POST /api/v1/pow/validate",
        409,
        "the batch is about block 'abc' at height 6, this round about block "
        "'00000000000000000001f7c1a8d2b1f4' at height 912345",
    )
    validate.show_verdicts(
        results(), [proof, replace(proof, public_key="my-key"), proof], [VERDICT, forged, refused]
    )


def verified() -> None:
    """Batches of two provers and what they come to together."""
    cases = []
    for number, (key, noise) in enumerate([(KEY, 0.5), (KEY, 0.5), ("my-key", 2.0)]):
        round_ = last_row_round(public_key=key)
        verdict = judged_batch(
            round_, range(number * 64, number * 64 + 64), noise, seed=number, vectors=False
        )
        cases.append(
            JudgedCase(
                sources=(f"proofs.json, proof {number + 1}",),
                proof=verdict.proof,
                n_claimed_before=0,
                round=round_,
                nonces=verdict.nonces,
                verdict=verdict,
            )
        )
    records = prover_records(cases)
    report.show_table(results(), cases, summarize(cases, records, 0.01, {}, None))


def calibrated() -> None:
    """What two platforms differ by."""
    found = Calibration(
        n=8192,
        numbers=16,
        sigma=0.0213,
        sigma_bound=0.0216,
        kurtosis=3.31,
        mean=-0.0004,
        largest=0.1309,
        n_beyond=88,
        beyond_bound=0.00105,
        design_effect=1.34,
        honest_sigma=0.0216,
        honest_kurtosis=3.31,
        honest_beyond=0.00105,
        honest_design_effect=1.34,
    )
    show(results(), *calibrate.shown(found))


def demonstrated() -> None:
    """An honest proof and a cheat of the demo."""
    proof = ProofBatch.parse(PROOF)
    honest = Claim("an honest node", "Ran the model by vLLM.", proof, Verdict.HONEST)
    int8 = Claim("INT8 weights", "Ran a model of half the size.", proof, Verdict.FRAUD)
    verdicts = [
        Judged(honest, VERDICT),
        Judged(int8, {**VERDICT, "verdict": "fraud", "probability_honest": 2e-40, "tests": {"rms": 5e-41}}),
    ]
    show(results(), *demo.shown(verdicts, "SmolLM2-135M-Instruct"))


VIEWS: Final[dict[str, Callable[[], None]]] = {
    "calibrate": calibrated,
    "demo": demonstrated,
    "fleet": lambda: show_answers(fleet()),
    "fleet-watch": fleet_watched,
    "round-status-generating": lambda: print_status(GENERATING),
    "round-status-idle": lambda: print_status(IDLE),
    "round-status-stopped": lambda: print_status(
        {**GENERATING, "state": "STOPPED", "reason": "stopped by request", "callbacks": STATUS["callbacks"]}
    ),
    "round-status-stuck": lambda: print_status(
        {**GENERATING, "is_stuck": True, "seconds_since_progress": 130.0}
    ),
    "round-status-validating": lambda: print_status(VALIDATING),
    "round-validate": validated,
    "round-watch": watching,
    "verify": verified,
}

if __name__ == "__main__":
    VIEWS[sys.argv[1]]()
