"""`hallmark calibrate`: how far honest recomputations on two platforms are apart."""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from hallmark.poc.core.errors import FieldError, StateError
from hallmark.poc.offline.cases import identity
from hallmark.poc.offline.proof_files import DeliveredBatch, read_batches
from hallmark.poc.offline.rounds import check_round, resolve_round
from hallmark.poc.protocol.config import Concern
from hallmark.poc.protocol.law import distance_of, distance_std
from hallmark.poc.protocol.proof import Numerics, ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.verdict.calibration import ENOUGH_NONCES, Calibration, check_law
from hallmark.poc.verdict.hypothesis_tests import number_errors
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
    --model this machine; and with neither, for bodies of `/validated`, the validator's. Where both sides have
    vectors, all numbers of a nonce are compared. With fewer than 6,000 nonces only sigma is lowered below its
    default.
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
        numbers: The nonces' numbers; none of those without vectors.
        digests: With which round settings, where that is known.
        numerics: Its fingerprint; empty where it is not known.
    """

    distances: Mapping[_Key, float]
    numbers: Mapping[_Key, Sequence[float]]
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
    numbers: dict[_Key, Sequence[float]] = {}
    digests: dict[_Key, str | None] = {}
    for batch in batches:
        if batch.r_target is not None and batch.r_target < 2.0:
            raise _below_rate_1(batch.r_target)
        proof = batch.proof
        _take(proof, distances, numbers)
        digests |= {identity(proof, nonce): proof.round_digest for nonce in proof.nonces}
    return _Side(distances, numbers, digests, dict(numerics[0]) if numerics else {})


def _take(proof: ProofBatch, distances: dict[_Key, float], numbers: dict[_Key, Sequence[float]]) -> None:
    """Note what a batch says of its nonces."""
    keys = [identity(proof, nonce) for nonce in proof.nonces]
    distances |= dict(zip(keys, proof.dist, strict=True))
    vectors = proof.numbers()
    if vectors is not None:
        numbers |= dict(zip(keys, vectors.tolist(), strict=True))


def _validator(batches: Sequence[DeliveredBatch]) -> _Side:
    """The validator's side of `/validated` bodies.

    Raises:
        FieldError: The proofs carry no recomputed distances.
    """
    distances: dict[_Key, float] = {}
    numbers: dict[_Key, Sequence[float]] = {}
    for batch in batches:
        if batch.computed is None:
            raise FieldError(
                "PROOFS",
                batch.source,
                "a body of /validated, which has the distances of both sides; or give --against or --model",
            )
        _take(batch.computed, distances, numbers)
    return _Side(distances, numbers, {}, {})


def _recomputed(recomputation: "Recomputation", rounds: Sequence[Round], numerics: Numerics) -> _Side:
    """This machine's side.

    Raises:
        StateError: One of the rounds is below rate 1.
    """
    distances: dict[_Key, float] = {}
    numbers: dict[_Key, Sequence[float]] = {}
    for round_ in rounds:
        if not round_.every_nonce_counts:
            raise _below_rate_1(round_.r_target)
        config = round_.config
        for nonce, its_own in recomputation.numbers(round_).items():
            key = (config.block_hash, config.block_height, config.public_key, nonce)
            failed = not all(map(math.isfinite, its_own))
            distances[key] = math.nan if failed else distance_of(its_own[0], round_.hidden_size)
            numbers[key] = its_own
    return _Side(distances, numbers, {}, numerics)


def _measured(first: _Side, second: _Side, common: Sequence[_Key], hidden_size: int) -> Calibration:
    """Compare what both sides have; a nonce that failed on one of them is left out.

    Raises:
        FieldError: There are too few, or the width is another one.
        StateError: The sides' rounds differ, or are below rate 1.
    """
    for key in common:
        digests = first.digests.get(key), second.digests.get(key)
        if None not in digests and digests[0] != digests[1]:
            raise StateError(
                f"nonce {key[3]} was computed with the round settings {digests[0]!r} on one platform and "
                f"{digests[1]!r} on the other"
            )
    keys = [key for key in common if math.isfinite(second.distances[key])]
    left, right = ([side.distances[key] for key in keys] for side in (first, second))
    theirs, ours = None, None
    if keys and all(key in first.numbers and key in second.numbers for key in keys):
        counts = {len(side.numbers[key]) for side in (first, second) for key in keys}
        if len(counts) > 1:
            raise StateError(f"the sides have {' and '.join(map(str, sorted(counts)))} numbers a nonce")
        theirs, ours = (np.array([side.numbers[key] for key in keys]) for side in (first, second))
    calibration = Calibration.measure(number_errors(left, right, distance_std(hidden_size), theirs, ours))
    check_law(left, hidden_size)
    return calibration


def _below_rate_1(r_target: float) -> StateError:
    return StateError(
        f"the proofs are of a round with r_target {r_target:.6f}, below rate 1, where only low distances are "
        "reported and errors are selected with them; calibrate at rate 1"
    )


def _warnings(calibration: Calibration, first: _Side, second: _Side) -> Iterator[str]:
    if calibration.n < ENOUGH_NONCES:
        yield (
            f"{calibration.n} nonces are too few to state less than the defaults of honest_kurtosis, "
            f"honest_beyond and honest_design_effect; that takes {ENOUGH_NONCES:,}"
        )
    if calibration.numbers == 1 and any(
        len(n) > 1 for side in (first, second) for n in side.numbers.values()
    ):
        yield "not all nonces have vectors on both sides: only distances are compared"
    if first.numerics and first.numerics == second.numerics:
        yield "both sides name the same platform: nothing is measured between platforms"


def _as_json(
    calibration: Calibration, hidden_size: int, first: _Side, second: _Side, warnings: Sequence[str]
) -> str:
    measured: dict[str, Any] = asdict(calibration)
    settings = calibration.settings
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
    settings = " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in found.settings.items())
    rows = {
        "nonces": f"{found.n}, {found.numbers} numbers each",
        "sigma": f"{found.sigma:.4f} s, at most {found.sigma_bound:.4f} s with 99.9 % confidence",
        "kurtosis": f"{found.kurtosis:.2f}",
        "mean": f"{found.mean:+.4f} s",
        "largest": f"{found.largest:.4f} s",
        "beyond": f"{found.n_beyond} of {found.n * found.numbers}, at most a share of "
        f"{found.beyond_bound:.2g} with 99.9 % confidence",
        "design effect": "too few are beyond"
        if found.design_effect is None
        else f"{found.design_effect:.2f}",
        "settings": settings,
    }
    return "\n".join(f"{name:15}{value}" for name, value in rows.items())
