"""The round that delivered proofs are judged in, where no server has set it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from hallmark.poc.core.errors import HallmarkError, StateError
from hallmark.poc.offline.cases import JudgedCase, identity
from hallmark.poc.offline.engine import deployed
from hallmark.poc.offline.proof_files import DeliveredBatch
from hallmark.poc.protocol.config import DeployedModel, PoCConfig
from hallmark.poc.protocol.proof import Numerics
from hallmark.poc.protocol.round import Round

__all__ = ["check_round", "resolve_cases", "resolve_round", "same_round"]

_TARGET_MARGIN = 1e-6


def check_round(body: Mapping[str, Any]) -> PoCConfig:
    """Return the round that the options ask for, of no block in particular where they name none.

    Raises:
        FieldError: An option or a field of the file is out of its range.
    """
    return PoCConfig.parse({"block_hash": "any", "block_height": 0, "public_key": "any", **body})


def resolve_round(
    batch: DeliveredBatch, body: Mapping[str, Any], facts: DeployedModel, numerics: Numerics
) -> Round:
    """Return the round that a batch is judged in; of its own block unless the body names one.

    Args:
        batch: The batch.
        body: What options and file say, as a body of `/init`.
        facts: Of the engine that recomputes it.
        numerics: The same.

    Raises:
        FieldError: The settings contradict each other or the model, or a nonce is not where it should be.
        StateError: The batch was computed for another block, or with other settings or weights.
    """
    proof = batch.proof
    settings = {"block_hash": proof.block_hash, "block_height": proof.block_height, **body}
    settings["public_key"] = proof.public_key
    if batch.r_target is not None and not {"r_target", "valid_rate"} & body.keys():
        settings["r_target"] = batch.r_target
    config = PoCConfig.parse(settings)
    round_ = Round.resolve(config, deployed(facts, config.model, config.batch_size * config.seq_len))
    theirs = round_.r_target if batch.r_target is None else min(batch.r_target, 2.0)
    if abs(theirs - round_.r_target) > _TARGET_MARGIN:
        raise StateError(
            f"the batch was found under r_target {theirs:.6f}, this round has {round_.r_target:.6f}: the "
            "valid rate or the width of the model differs"
        )
    proof.check_against(round_, numerics)
    return round_


def same_round(earlier: Round, round_: Round) -> Round:
    """Return the round that batches of one prover and block hash are in, where both say so.

    Args:
        earlier: Of the first of them.
        round_: Of another one.

    Returns:
        The first one's, so that they are judged together.

    Raises:
        StateError: One is about another height, or was found under another r_target. A prover could else be
            credited for a nonce once a height, or divide its batches into rounds that nobody judges together.
    """
    theirs, ours = round_.config.block_height, earlier.config.block_height
    if theirs != ours:
        raise StateError(
            f"the batch is about height {theirs}, an earlier one of this prover and block hash about height "
            f"{ours}: a block has one height, which --round states"
        )
    if round_.r_target != earlier.r_target:
        raise StateError(
            f"the batch was found under r_target {round_.r_target:.6f}, an earlier one of this prover and "
            f"block under {earlier.r_target:.6f}: a round has one, which --r-target or --valid-rate states"
        )
    return earlier


def resolve_cases(
    batches: Iterable[DeliveredBatch], body: Mapping[str, Any], facts: DeployedModel, numerics: Numerics
) -> Iterator[JudgedCase]:
    """Yield each batch with its round and all its nonces, or with the reason why it is not judged.

    Args:
        batches: In the order in which they were delivered.
        body: As for `resolve_round`.
        facts: As for `resolve_round`.
        numerics: As for `resolve_round`.
    """
    claimed: set[tuple[str, int, str, int]] = set()
    rounds: dict[tuple[str, str], Round] = {}
    for batch in batches:
        nonces = tuple(dict.fromkeys(batch.proof.nonces))
        keys = {identity(batch.proof, nonce) for nonce in nonces}
        case = JudgedCase(
            sources=(batch.source,), proof=batch.proof, nonces=nonces, n_claimed_before=len(keys & claimed)
        )
        claimed |= keys
        try:
            round_ = resolve_round(batch, body, facts, numerics)
            prover = (batch.proof.block_hash, batch.proof.public_key)
            round_ = same_round(rounds.setdefault(prover, round_), round_)
        except HallmarkError as exc:
            yield replace(case, error=exc)
        else:
            yield replace(case, round=round_)
