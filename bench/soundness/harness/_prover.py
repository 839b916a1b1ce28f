"""A prover with a small model: what it computes honestly, and batches of whatever it likes to claim."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from _altered import Floats, recomputed

from hallmark.poc.offline.model import OfflineModel
from hallmark.poc.offline.recompute import Recomputation
from hallmark.poc.protocol.config import PoCConfig
from hallmark.poc.protocol.law import distance_of, number_of
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.round_tensors import RoundTensors
from hallmark.poc.protocol.vectors import encode, encoding_of
from hallmark.poc.rounds.payloads import generated_template


class Machine:
    """A model on one machine, which computes each nonce once.

    Args:
        directory: The model's.
        dtype: What it runs in.
    """

    def __init__(self, directory: Path, dtype: str) -> None:
        self.model = OfflineModel.load(directory, device="cpu", dtype=dtype)
        self._recomputation = Recomputation(self.model)

    def round(self, request: Mapping[str, Any]) -> Round:
        """Return a round that was asked for."""
        config = PoCConfig.parse(request)
        return Round.resolve(config, self.model.deployed(config.model, config.batch_size * config.seq_len))

    def numbers(self, round_: Round, nonces: Iterable[int]) -> Floats:
        """Return the numbers of nonces of a round's key, [n, k]."""
        return recomputed(self._recomputation, round_, nonces)

    def numbers_of_the_mean(self, round_: Round, nonces: Iterable[int], count: int) -> Floats:
        """Return the numbers of nonces as if each had the mean hidden states of the first few, [n, k].

        Args:
            round_: The round.
            nonces: Of whole batches.
            count: How many the mean is over.
        """
        tensors = RoundTensors(round_.spec(), self.model.torch_dtype, "cpu")
        size, key = round_.batch_size, round_.config.public_key
        mean = self.model.states(tensors, [(key, nonce) for nonce in range(count)]).mean(0)
        wanted = [(key, nonce) for nonce in nonces]
        batches = [wanted[start : start + size] for start in range(0, len(wanted), size)]
        found = [tensors.numbers(mean.repeat(size, 1), batch, tensors.order(batch)) for batch in batches]
        return np.concatenate([batch.numpy() for batch in found])


class Prover:
    """A prover in a round, with honest noise of its own.

    Args:
        machine: What it computes on.
        request: What the round was set with.
        key: Whose nonces it claims.
        sigma: The RMS of its noise in units of s.
        other: A machine with another model.
    """

    def __init__(
        self, machine: Machine, other: Machine, request: Mapping[str, Any], key: str, sigma: float
    ) -> None:
        self._machine = machine
        self._other = other
        self._request = {**request, "public_key": key}
        self._sigma = sigma
        self.round = machine.round(self._request)
        self.draw = np.random.default_rng(1)

    def elsewhere(self, **settings: Any) -> Self:
        """Return the same prover in a round of other settings, of another block or key."""
        request = {**self._request, **settings}
        return type(self)(self._machine, self._other, request, request["public_key"], self._sigma)

    @property
    def s(self) -> float:
        """The standard deviation of a distance."""
        return self.round.distance_std

    @property
    def least_that_counts(self) -> float:
        """The least number 0 of a valid nonce."""
        return number_of(self.round.r_target, self.round.hidden_size)

    def numbers(self, nonces: Iterable[int]) -> Floats:
        """Return the numbers of nonces in its own noise, [n, k]."""
        return self._noisy(self._machine.numbers(self.round, nonces))

    def of_another_model(self, nonces: Iterable[int]) -> Floats:
        """Return the numbers that the other model gives, [n, k]."""
        return self._noisy(self._other.numbers(self.round, nonces))

    def of_the_mean(self, nonces: Iterable[int]) -> Floats:
        """Return numbers without a forward of their own: those of the mean hidden states of a batch."""
        return self._machine.numbers_of_the_mean(self.round, nonces, self.round.batch_size)

    def from_the_law(self, count: int) -> Floats:
        """Return numbers as they are distributed, of no nonce, [count, k]."""
        shape, root = (self.round.hidden_size - 1) / 2, np.sqrt(self.round.hidden_size)
        return np.asarray(root * (2 * self.draw.beta(shape, shape, (count, self.round.numbers)) - 1))

    def is_valid(self, numbers: Floats) -> npt.NDArray[np.bool_]:
        """Return which nonces count, by their numbers, [n]."""
        return np.array([self.round.is_valid(distance) for distance in self.distances(numbers)], np.bool_)

    def distances(self, numbers: Floats) -> list[float]:
        """Return the distances of numbers 0, [n]."""
        return [distance_of(number, self.round.hidden_size) for number in numbers[:, 0].tolist()]

    def claim(
        self,
        nonces: Sequence[int],
        numbers: Floats,
        covered: tuple[int, int] | None = None,
        /,
        **members: Any,
    ) -> dict[str, Any]:
        """Return a batch as `/generated` carries one, with any numbers.

        Args:
            nonces: The nonces.
            numbers: [n, k].
            covered: What it says that it covers.
            **members: Others in the place of its own, or further ones; None leaves one out.
        """
        body: dict[str, Any] = {
            **generated_template(self.round, self._machine.model.numerics),
            "nonces": [*nonces],
            "dist": self.distances(numbers),
            "vectors": [*encode(numbers)],
            "encoding": encoding_of(numbers.shape[1]),
            "covered": covered,
            "failed_nonces": [],
            **members,
        }
        return {name: value for name, value in body.items() if value is not None}

    def honest(self, first: int, count: int, **members: Any) -> dict[str, Any]:
        """Return the honest batch of some nonces of the walk of a node that is alone, at rate 1."""
        nonces = range(first, first + count)
        covered = (first, first + count - 1)
        return self.claim(nonces, self.numbers(nonces), covered, **members)

    def _noisy(self, numbers: Floats) -> Floats:
        return np.asarray(numbers + self._sigma * self.draw.standard_normal(numbers.shape))
