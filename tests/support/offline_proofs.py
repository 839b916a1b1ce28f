"""Proofs of the small model, computed without a server, and the files that commands read them from."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from builders import make_claim, make_config
from command_line import Result

from hallmark.poc.offline.model import OfflineModel
from hallmark.poc.offline.recompute import Recomputation
from hallmark.poc.protocol.config import PoCConfig
from hallmark.poc.protocol.law import distance_of
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.vectors import encode
from hallmark.poc.rounds.payloads import generated_template
from hallmark.server.models.small import HIDDEN_SIZE, fast_dtype

BATCH_SIZE, SEQ_LEN, NUMBERS = 8, 16, 2
SHORT = ("--batch-size", BATCH_SIZE, "--seq-len", SEQ_LEN)
"""The options of `short_config`'s rounds."""


def short_config(**changes: Any) -> PoCConfig:
    """A request whose batches take little time."""
    return make_config(**{"batch_size": BATCH_SIZE, "seq_len": SEQ_LEN, **changes})


class Prover:
    """A node with a model, which proves honestly."""

    def __init__(self, directory: Path) -> None:
        self.model = OfflineModel.load(directory, device="cpu", dtype=fast_dtype())

    def round(self, config: PoCConfig) -> Round:
        return Round.resolve(config, self.model.deployed(config.model, config.batch_size * config.seq_len))

    def prove(self, nonces: Iterable[int], **changes: Any) -> ProofBatch:
        """Every nonce that counts with its distance and its numbers."""
        round_ = self.round(short_config(**changes))
        recomputation = Recomputation(self.model)
        recomputation.want(round_, nonces)
        for _ in recomputation.run():
            pass
        numbers = recomputation.numbers(round_)
        found = [
            nonce
            for nonce, of_nonce in numbers.items()
            if round_.is_valid(distance_of(of_nonce[0], round_.hidden_size))
        ]
        shape = {"batch_size": round_.batch_size, "seq_len": round_.config.seq_len}
        return make_claim(
            round_,
            found,
            [numbers[nonce] for nonce in found],
            round_digest=round_.digest,
            round_settings=round_.settings,
            numerics={**self.model.numerics, **shape},
        )

    def generated(self, proof: ProofBatch, **changes: Any) -> dict[str, Any]:
        """The body of the callback that carries a proof."""
        round_ = self.round(short_config(public_key=proof.public_key, block_hash=proof.block_hash, **changes))
        body = generated_template(round_, proof.numerics or {})
        first, last = min(proof.nonces), max(proof.nonces)
        return {**body, **proof.as_dict(), "covered": [first, last], "failed_nonces": []}


def part(proof: ProofBatch, places: slice) -> ProofBatch:
    """Some of a batch's nonces."""
    vectors = None if proof.vectors is None else proof.vectors[places]
    return replace(proof, nonces=proof.nonces[places], dist=proof.dist[places], vectors=vectors)


def claiming(proof: ProofBatch, dist: Iterable[float]) -> ProofBatch:
    """The same nonces with other distances, and no vectors, which would contradict them."""
    return replace(proof, dist=tuple(dist), vectors=None, encoding=None)


def off(honest: ProofBatch, rng: np.random.Generator, noise: float, share: float = 1.0) -> ProofBatch:
    """A batch with noise of its own on every number of a share of its nonces, in units of s."""
    numbers = honest.numbers()
    assert numbers is not None
    numbers += rng.normal(0.0, noise, numbers.shape) * (rng.random((len(numbers), 1)) < share)
    dist = tuple(distance_of(number, HIDDEN_SIZE) for number in numbers[:, 0].tolist())
    return replace(honest, dist=dist, vectors=encode(numbers))


def write(path: Path, *contents: Any) -> Path:
    """A file of JSON: one thing, or several as lines."""
    path.write_text("\n".join(json.dumps(content) for content in contents) + "\n")
    return path


def judged_lines(result: Result) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The verdicts and the summary of `hallmark verify --json`."""
    *verdicts, last = [json.loads(line) for line in result.out.splitlines()]
    assert [*last] == ["summary"]
    return verdicts, last["summary"]
