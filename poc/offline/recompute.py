"""Recomputing numbers without a server, those of each nonce once."""

from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version

from hallmark.poc.offline.engine import Batch, OfflineEngine
from hallmark.poc.offline.number_file import Arithmetic, NumberFile
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.round_spec import RoundSpec
from hallmark.poc.protocol.streams import PROTOCOL

__all__ = ["Recomputation"]


class Recomputation:
    """Numbers recomputed by one engine, in batches of each round's shape.

    Args:
        engine: What computes them.
        file: Where numbers are kept and looked up; None keeps none.
        fingerprint: Of what loaded the engine; it tells the file's numbers of one model from those of
            another.

    Attributes:
        engine: What computes them.
        reused: Nonces whose numbers the file had.
    """

    def __init__(self, engine: OfflineEngine, file: NumberFile | None = None, fingerprint: str = "") -> None:
        self.engine = engine
        self._file = file
        self._fingerprint = fingerprint
        self._numbers: dict[RoundSpec, dict[NonceKey, Sequence[float]]] = {}
        self._open: dict[RoundSpec, dict[NonceKey, None]] = {}
        self.reused = 0

    @property
    def n_open(self) -> int:
        """Nonces that have still to be computed."""
        return sum(map(len, self._open.values()))

    def want(self, round_: Round, nonces: Iterable[int]) -> None:
        """Ask for the numbers of some nonces of the round's public key."""
        spec = round_.spec()
        numbers = self._numbers.setdefault(spec, {})
        known = {} if self._file is None else self._file.known(self._arithmetic(spec))
        for nonce in nonces:
            key = (round_.config.public_key, nonce)
            if key in numbers or key in self._open.get(spec, ()):
                continue
            if key in known:
                numbers[key] = known[key]
                self.reused += 1
            else:
                self._open.setdefault(spec, {})[key] = None

    def run(self) -> Iterator[int]:
        """Compute what is open; yields the size of each batch once it is kept.

        What is in a batch does not depend on who computes it, or on the order in which batches are done.

        Raises:
            EngineError: The device has no memory for a batch.
            StateError: The model is not of the round's width, or the file cannot be written.
        """
        batches = [
            Batch(spec, tuple(keys))
            for spec, wanted in self._open.items()
            for keys in _groups([*wanted], spec.batch_size)
        ]
        for (spec, keys), found in self.engine.compute(batches):
            if self._file is not None:
                self._file.add(self._arithmetic(spec), keys, found)
            self._numbers[spec].update(zip(keys, found, strict=True))
            still_open = self._open[spec]
            for key in keys:
                del still_open[key]
            if not still_open:
                del self._open[spec]
            yield len(keys)

    def numbers(self, round_: Round, nonces: Iterable[int] | None = None) -> dict[int, Sequence[float]]:
        """Return what has been computed for the round's public key, by nonce; NaN where that failed.

        Args:
            round_: The round.
            nonces: Which of them, all computed; None: all that are.
        """
        public_key = round_.config.public_key
        computed = self._numbers.get(round_.spec(), {})
        if nonces is not None:
            return {nonce: computed[public_key, nonce] for nonce in nonces}
        return {nonce: numbers for (key, nonce), numbers in computed.items() if key == public_key}

    def _arithmetic(self, spec: RoundSpec) -> Arithmetic:
        return {
            **{f"round.{name}": value for name, value in spec.to_wire().items()},
            **self.engine.numerics,
            "protocol": PROTOCOL,
            "hallmark": version("hallmark-poc"),
            "model": self._fingerprint,
        }


def _groups(keys: Sequence[NonceKey], size: int) -> Iterator[Sequence[NonceKey]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]
