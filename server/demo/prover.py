"""What the demo computes without vLLM: honest noise, and what cheaters send."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hallmark.poc.offline.model import OfflineModel
from hallmark.poc.offline.proof_files import DeliveredBatch
from hallmark.poc.offline.recompute import Recomputation
from hallmark.poc.offline.rounds import resolve_round
from hallmark.poc.protocol.law import distance_of, distance_std
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.round_tensors import RoundTensors
from hallmark.poc.protocol.vectors import encode, encoding_of
from hallmark.poc.verdict.calibration import Calibration
from hallmark.poc.verdict.hypothesis_tests import number_errors

__all__ = ["Numbers", "Prover", "Update", "with_numbers"]

Numbers = Sequence[Sequence[float]]
"""The k numbers of each nonce."""

Update = Callable[[str], None]
"""Takes a few words on how far it is."""


def with_numbers(proof: ProofBatch, numbers: Numbers, hidden_size: int) -> ProofBatch:
    """Return a batch that claims other numbers of the same nonces."""
    dist = tuple(distance_of(its_own[0], hidden_size) for its_own in numbers)
    return replace(proof, dist=dist, vectors=encode(numbers), encoding=encoding_of(len(numbers[0])))


class Prover:
    """A transformers model, whole or with a shortcut in it, that computes the numbers of proofs anew.

    Args:
        model: The model.
        settings: The round's that the numbers depend on, by the names of a request.

    Attributes:
        model: The model.
    """

    def __init__(self, model: OfflineModel, settings: Mapping[str, Any]) -> None:
        self.model = model
        self._settings = settings

    def numbers(self, proof: ProofBatch, update: Update) -> Numbers:
        """Compute the numbers of a proof's nonces with the model as it is now."""
        round_ = self._round(proof)
        recomputation = Recomputation(self.model)
        recomputation.want(round_, proof.nonces)
        done = 0
        for size in recomputation.run():
            done += size
            update(f"{done} of {len(proof.nonces)} nonces")
        found = recomputation.numbers(round_)
        return [found[nonce] for nonce in proof.nonces]

    def calibration(self, proof: ProofBatch, numbers: Numbers) -> Calibration:
        """Say what honest machines of the proof's kind and of this one differ by.

        Args:
            proof: An honest proof at rate 1.
            numbers: What this model has for the same nonces.
        """
        width = self.model.hidden_size
        ours = [distance_of(its_own[0], width) for its_own in numbers]
        errors = number_errors(proof.dist, ours, distance_std(width), proof.numbers(), np.array(numbers))
        return Calibration.measure(errors)

    def mean_states(self, proof: ProofBatch, update: Update) -> Tensor:
        """Average the final hidden states of a proof's nonces, row by row: [seq_len, D]."""
        tensors = self._tensors(self._round(proof))
        total, done = torch.zeros(()), 0
        for keys in self._batches(proof, tensors.batch_size):
            total = total + self.model.states(tensors, keys).sum(dim=0, dtype=torch.float32).cpu()
            done += len(keys)
            update(f"{done} of {len(proof.nonces)} nonces")
        return (total / done).to(self.model.torch_dtype)

    def numbers_of(self, states: Tensor, proof: ProofBatch) -> Numbers:
        """Make numbers for a proof's nonces of the same final hidden states, [seq_len, D], for each."""
        tensors = self._tensors(self._round(proof))
        found: list[list[float]] = []
        for keys in self._batches(proof, tensors.batch_size):
            repeated = states.to(self.model.device).repeat(len(keys), 1)
            found += tensors.numbers(repeated, keys, tensors.order(keys)).tolist()
        return found

    def _round(self, proof: ProofBatch) -> Round:
        delivered = DeliveredBatch(source="the demo", proof=proof, r_target=None, computed=None)
        return resolve_round(delivered, self._settings, self.model.facts, self.model.numerics)

    def _tensors(self, round_: Round) -> RoundTensors:
        return RoundTensors(round_.spec(), self.model.torch_dtype, self.model.device)

    @staticmethod
    def _batches(proof: ProofBatch, size: int) -> Iterator[list[NonceKey]]:
        keys = [(proof.public_key, nonce) for nonce in proof.nonces]
        for start in range(0, len(keys), size):
            yield keys[start : start + size]
