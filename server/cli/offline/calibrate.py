"""`hallmark calibrate`: how far honest recomputations on two platforms are apart."""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hallmark.poc.core.errors import FieldError, StateError
from hallmark.poc.offline.cases import identity
from hallmark.poc.offline.proof_files import DeliveredBatch, read_batches
from hallmark.poc.offline.rounds import check_round, resolve_round
from hallmark.poc.protocol.config import DEFAULT_TOLERANCE, Concern
from hallmark.poc.protocol.proof import Numerics
from hallmark.poc.protocol.round import Round
from hallmark.poc.verdict.calibration import ENOUGH_NONCES, Calibration, check_law
from hallmark.poc.verdict.hypothesis_tests import PROBABILITY_MISMATCH
from hallmark.server.cli.offline import recomputing
from hallmark.server.cli.options import RoundFile, Stated, round_body, takes_settings

if TYPE_CHECKING:
    # It brings the kernels, and with them Triton, which other commands must not wait for.
    from hallmark.poc.offline.recompute import Recomputation

__all__ = ["calibrate"]


@takes_settings([Concern.COMPUTATION], {"model": "served_model"})
def calibrate(
    proofs: Annotated[
        list[Path],
        typer.Argument(
            help="Honest proofs of one platform, at rate 1; or what `/validated` callbacks carried."
        ),
    ],
    stated: Stated,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Proofs of the same nonces from another platform; may be repeated."
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Recompute them here instead, with the model in this directory."),
    ] = None,
    hidden_size: Annotated[
        int | None, typer.Option(min=2, help="Width of the model's hidden state; needed without --model.")
    ] = None,
    round_file: RoundFile = None,
    device: recomputing.Device = None,
    dtype: recomputing.Dtype = None,
    state: recomputing.StateFile = None,
    no_state: recomputing.NoState = False,
    quiet: recomputing.Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure how far honest distances of two platforms are apart, and say what a round should allow for.

    The platforms are that of the proofs and, with --against, that of other proofs of the same nonces; with
    --model this machine; and with neither, for bodies of `/validated`, the validator's. 6,000 nonces are
    enough to show that an honest claim is beyond the tolerance with a probability of 5e-4 at most.
    """
    if against and model is not None:
        raise typer.BadParameter("give --against or --model, not both")
    batches = read_batches(proofs)
    if model is not None:
        body = round_body(round_file, stated)
        check_round(body)
        path = recomputing.state_path(proofs, state, no_state=no_state)
        loaded = recomputing.load_model(model, device, dtype, batches, quiet=quiet)
        if hidden_size not in (None, loaded.hidden_size):
            raise FieldError("--hidden-size", hidden_size, f"the model's, {loaded.hidden_size}")
        hidden_size = loaded.hidden_size
        rounds = [resolve_round(batch, body, loaded) for batch in batches]
        with recomputing.recomputation(loaded, model, path, quiet=quiet) as recomputation:
            wanted = [(round_, batch.proof.nonces) for round_, batch in zip(rounds, batches, strict=True)]
            recomputing.run(recomputation, wanted, path, quiet=quiet)
            second = _recomputed(recomputation, rounds, loaded.numerics)
    else:
        second = _side(read_batches(against)) if against else _validator(batches)
    first = _side(batches)
    if hidden_size is None:
        raise FieldError("--hidden-size", None, "the width of the model's hidden state, or --model")
    common = [key for key in first.distances if key in second.distances]
    calibration = _measured(first, second, common, hidden_size)
    warnings = [*_warnings(calibration, first, second)]
    if as_json:
        print(_as_json(calibration, hidden_size, first, second, warnings), flush=True)
    else:
        print(_as_text(calibration), flush=True)
        for warning in warnings:
            print(f"hallmark: {warning}", file=sys.stderr)


_Key = tuple[str, int, str, int]
"""Block hash, height, public key and nonce."""


@dataclass(frozen=True)
class _Side:
    """One platform.

    Attributes:
        distances: What it computed; NaN where that failed.
        digests: With which round settings, where that is known.
        numerics: Its fingerprint; empty where it is not known.
    """

    distances: Mapping[_Key, float]
    digests: Mapping[_Key, str | None]
    numerics: Numerics


def _side(batches: Sequence[DeliveredBatch]) -> _Side:
    """The provers' side of proofs, which must be of one platform and of rate 1.

    Raises:
        StateError: They are of several platforms, or of a round below rate 1.
    """
    numerics = [batch.proof.numerics for batch in batches if batch.proof.numerics is not None]
    if any(other != numerics[0] for other in numerics[1:]):
        raise StateError("the proofs are of several platforms, by their numerics; calibrate each by itself")
    distances: dict[_Key, float] = {}
    digests: dict[_Key, str | None] = {}
    for batch in batches:
        if batch.r_target is not None and batch.r_target < 2.0:
            raise _below_rate_1(batch.r_target)
        proof = batch.proof
        for nonce, distance in zip(proof.nonces, proof.dist, strict=True):
            distances[identity(proof, nonce)] = distance
            digests[identity(proof, nonce)] = proof.round_digest
    return _Side(distances, digests, dict(numerics[0]) if numerics else {})


def _validator(batches: Sequence[DeliveredBatch]) -> _Side:
    """The validator's side of `/validated` bodies.

    Raises:
        FieldError: The proofs carry no recomputed distances.
    """
    distances: dict[_Key, float] = {}
    for batch in batches:
        if batch.computed is None:
            raise FieldError(
                "PROOFS",
                batch.source,
                "a body of /validated, which has the distances of both sides; or give --against or --model",
            )
        distances |= {identity(batch.proof, nonce): value for nonce, value in batch.computed.items()}
    return _Side(distances, {}, {})


def _recomputed(recomputation: "Recomputation", rounds: Sequence[Round], numerics: Numerics) -> _Side:
    """This machine's side.

    Raises:
        StateError: One of the rounds is below rate 1.
    """
    distances: dict[_Key, float] = {}
    for round_ in rounds:
        if not round_.every_nonce_counts:
            raise _below_rate_1(round_.r_target)
        config = round_.config
        for nonce, distance in recomputation.distances(round_).items():
            distances[config.block_hash, config.block_height, config.public_key, nonce] = distance
    return _Side(distances, {}, numerics)


def _measured(first: _Side, second: _Side, common: Sequence[_Key], hidden_size: int) -> Calibration:
    """Compare what both sides have; a nonce that failed on one of them is left out.

    Raises:
        FieldError: There are too few, or the width is another one.
        StateError: The sides' rounds differ, or are below rate 1.
    """
    for key in common:
        theirs = first.digests.get(key), second.digests.get(key)
        if None not in theirs and theirs[0] != theirs[1]:
            raise StateError(
                f"nonce {key[3]} was computed with the round settings {theirs[0]!r} on one platform and "
                f"{theirs[1]!r} on the other"
            )
    pairs = [(first.distances[key], second.distances[key]) for key in common]
    pairs = [(left, right) for left, right in pairs if math.isfinite(right)]
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    calibration = Calibration.measure(left, right, hidden_size)
    check_law(left, hidden_size)
    return calibration


def _below_rate_1(r_target: float) -> StateError:
    return StateError(
        f"the proofs are of a round with r_target {r_target:.6f}, below rate 1, where only low distances are "
        "reported and errors are selected with them; calibrate at rate 1"
    )


def _warnings(calibration: Calibration, first: _Side, second: _Side) -> Iterator[str]:
    n = calibration.n
    if n < ENOUGH_NONCES:
        yield (
            f"{n} nonces are too few to show that at most {PROBABILITY_MISMATCH:g} of honest claims are "
            f"beyond the tolerance; that takes {ENOUGH_NONCES:,} without one beyond it"
        )
    elif not calibration.holds:
        yield (
            f"{calibration.n_beyond} of {n} honest claims are beyond {DEFAULT_TOLERANCE} s: it is not "
            f"shown that at most {PROBABILITY_MISMATCH:g} of all are"
        )
    if calibration.distance_tolerance > DEFAULT_TOLERANCE:
        yield (
            f"a tolerance of {calibration.distance_tolerance} s lets pass what {DEFAULT_TOLERANCE} s would "
            "find, and other nonces have to show that it is enough"
        )
    if first.numerics and first.numerics == second.numerics:
        yield "both sides name the same platform: nothing is measured between platforms"


def _settings(calibration: Calibration) -> dict[str, float]:
    return {
        "honest_sigma": calibration.honest_sigma,
        "honest_kurtosis": calibration.honest_kurtosis,
        "distance_tolerance": calibration.distance_tolerance,
    }


def _as_json(
    calibration: Calibration, hidden_size: int, first: _Side, second: _Side, warnings: Sequence[str]
) -> str:
    measured: dict[str, Any] = asdict(calibration)
    settings = _settings(calibration)
    return json.dumps(
        {
            "hidden_size": hidden_size,
            **{name: value for name, value in measured.items() if name not in settings},
            "settings": settings,
            "platforms": [dict(first.numerics), dict(second.numerics)],
            "warnings": list(warnings),
        }
    )


def _as_text(calibration: Calibration) -> str:
    found = calibration
    settings = " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in _settings(found).items())
    rows = {
        "nonces": f"{found.n}",
        "sigma": f"{found.sigma:.4f} s, at most {found.sigma_bound:.4f} s with 99 % confidence",
        "kurtosis": f"{found.kurtosis:.2f}",
        "mean": f"{found.mean:+.4f} s",
        "largest": f"{found.largest:.4f} s",
        f"beyond {DEFAULT_TOLERANCE} s": f"{found.n_beyond}, at most a share of {found.beyond_bound:.2g} "
        "with 95 % confidence",
        "settings": settings,
    }
    return "\n".join(f"{name:14}{value}" for name, value in rows.items())
