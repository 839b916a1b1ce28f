"""What a prover says: a batch of nonces with their distances."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from hallmark.poc.core.checks import check_float, check_integer, check_text
from hallmark.poc.core.errors import FieldError, StateError
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.streams import PROTOCOL

__all__ = ["MAX_NUMERICS", "Numerics", "ProofBatch"]

Numerics = Mapping[str, str | int | bool]
"""A numerics fingerprint: information that travels with batches, never a reason for a verdict.

A batch of another `dtype` than the engine's is not judged at all.
"""

_REQUIRED = ("public_key", "block_hash", "block_height", "node_id", "nonces", "dist")
_OPTIONAL = ("protocol", "round", "covered", "failed_nonces", "numerics")
_ATTRIBUTES = {"round": "round_digest"}
"""Where an attribute has another name than the field on the wire."""
MAX_NUMERICS = 64
"""Entries that a fingerprint may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofBatch:
    """Nonces and the distances that a prover claims for them.

    A nonce may stand in `nonces` more than once, since clients join batches; the judge counts it once.

    Attributes:
        public_key: Whose nonces these are.
        block_hash: The block they were computed for.
        block_height: Its height.
        node_id: The prover's node number.
        nonces: The nonces, in any order.
        dist: Their claimed distances, from 0 to 2.
        protocol: The protocol it was computed by; None from older clients.
        round_digest: The digest of the round's settings, `Round.digest`; None from older clients.
        covered: First and last index of the node's walk that the batch covers; None from other provers.
        failed_nonces: Nonces that the prover could not compute; none of them is claimed as well.
        numerics: The prover's numerics fingerprint.

    Raises:
        FieldError: A field is out of its range, lengths differ, there is no nonce at all, or the protocol is
            another one.
    """

    public_key: str
    block_hash: str
    block_height: int
    node_id: int
    nonces: tuple[int, ...]
    dist: tuple[float, ...]
    protocol: str | None = None
    round_digest: str | None = None
    covered: tuple[int, int] | None = None
    failed_nonces: tuple[int, ...] = ()
    numerics: Numerics | None = None

    def __post_init__(self) -> None:
        check_text("public_key", self.public_key)
        check_text("block_hash", self.block_hash)
        check_integer("block_height", self.block_height)
        check_integer("node_id", self.node_id)
        object.__setattr__(self, "nonces", _check_integers("nonces", self.nonces))
        object.__setattr__(self, "failed_nonces", _check_integers("failed_nonces", self.failed_nonces))
        object.__setattr__(self, "dist", _check_distances(self.dist))
        if len(self.dist) != len(self.nonces):
            raise FieldError(
                "dist", f"{len(self.dist)} values", f"one for each of the {len(self.nonces)} nonces"
            )
        if not self.nonces and not self.failed_nonces:
            raise FieldError("nonces", [], "at least one nonce, claimed or failed")
        both = set(self.nonces).intersection(self.failed_nonces)
        if both:
            raise FieldError("failed_nonces", sorted(both), "nonces that the batch does not claim as well")
        _check_protocol(self.protocol)
        if self.round_digest is not None:
            check_text("round", self.round_digest)
        if self.covered is not None:
            object.__setattr__(self, "covered", _check_covered(self.covered))
        if self.numerics is not None:
            _check_numerics(self.numerics)

    def check_against(self, round_: Round) -> None:
        """Refuse a batch that does not belong to the round.

        The partition is checked only where the batch says what it covers: older clients join the batches
        of several nodes under one `node_id`. Where the round does not state `node_count`, the nonces'
        number is checked but not their residue class.

        Raises:
            StateError: The batch is about another block, or was computed with other settings.
            FieldError: A nonce is outside of what the batch covers or not in the node's residue class, or, at
                rate 1, a covered nonce is missing.
        """
        config = round_.config
        if (self.block_hash, self.block_height) != (config.block_hash, config.block_height):
            raise StateError(
                f"the batch is about block {self.block_hash!r} at height {self.block_height}, "
                f"the round about block {config.block_hash!r} at height {config.block_height}"
            )
        if self.round_digest not in (None, round_.digest):
            raise StateError(
                f"the batch was computed with the round settings {self.round_digest!r}, this round has "
                f"{round_.digest!r}: seq_len, input_scale, the projection, its scale or the model differ"
            )
        if self.covered is None:
            return
        walked = {*self.nonces, *self.failed_nonces}
        if config.node_count is not None:
            self._check_residues(walked, self.covered, config.node_count, config.n_groups)
        most = self.covered[1] - self.covered[0] + 1
        least = most if round_.every_nonce_counts else 1
        if not least <= len(walked) <= most:
            raise FieldError("nonces", f"{len(walked)} of them", f"{least} to {most}, by `covered`")

    def _check_residues(
        self, walked: set[int], covered: tuple[int, int], node_count: int, n_groups: int
    ) -> None:
        step = node_count * n_groups
        # Which of the node's groups it was is the prover's affair; that it was a single one is not.
        group = (min(walked) - self.node_id) // node_count % n_groups
        offset = self.node_id + group * node_count
        first, last = (offset + index * step for index in covered)
        strays = sorted(n for n in walked if not first <= n <= last or (n - offset) % step)
        if strays:
            raise FieldError("nonces", strays, f"{first} to {last} in steps of {step}, by `covered`")

    def as_dict(self) -> dict[str, Any]:
        """The batch as JSON has it; what is not known is left out."""
        wire: dict[str, Any] = {field: getattr(self, field) for field in _REQUIRED}
        wire |= {"nonces": list(self.nonces), "dist": list(self.dist)}
        if self.protocol is not None:
            wire["protocol"] = self.protocol
        if self.round_digest is not None:
            wire["round"] = self.round_digest
        if self.covered is not None:
            wire["covered"] = list(self.covered)
        if self.covered is not None or self.failed_nonces:
            wire["failed_nonces"] = list(self.failed_nonces)
        if self.numerics is not None:
            wire["numerics"] = dict(self.numerics)
        return wire

    @classmethod
    def from_dict(cls, wire: Mapping[str, Any]) -> Self:
        """A batch from parsed JSON; fields that are not known here are ignored, null is absence.

        Raises:
            FieldError: A field is missing or not what it should be.
        """
        known = {field: wire[field] for field in (*_REQUIRED, *_OPTIONAL) if wire.get(field) is not None}
        # Another protocol may well have other fields.
        _check_protocol(known.get("protocol"))
        for field in _REQUIRED:
            if field not in known:
                raise FieldError(field, None, "a value; the field is required")
        return cls(**{_ATTRIBUTES.get(field, field): value for field, value in known.items()})


def _check_protocol(value: object) -> None:
    if value not in (None, PROTOCOL):
        raise FieldError("protocol", value, PROTOCOL)


def _check_array(field: str, values: object) -> list[Any] | tuple[Any, ...]:
    if not isinstance(values, list | tuple):
        raise FieldError(field, values, "an array")
    return values


def _check_integers(field: str, values: object) -> tuple[int, ...]:
    return tuple(
        check_integer(f"{field}[{place}]", value) for place, value in enumerate(_check_array(field, values))
    )


def _check_distances(values: object) -> tuple[float, ...]:
    return tuple(
        check_float(f"dist[{place}]", value, least=0.0, most=2.0, allowed="a finite number from 0 to 2")
        for place, value in enumerate(_check_array("dist", values))
    )


def _check_covered(value: object) -> tuple[int, int]:
    pair = _check_integers("covered", value)
    if len(pair) != 2 or pair[0] > pair[1]:
        raise FieldError("covered", value, "two indices, the first not above the last")
    return pair[0], pair[1]


def _check_numerics(value: object) -> None:
    allowed = f"an object of at most {MAX_NUMERICS} texts, integers and booleans"
    if not isinstance(value, Mapping) or len(value) > MAX_NUMERICS:
        raise FieldError("numerics", value, allowed)
    for name, item in value.items():
        check_text("numerics", name)
        if isinstance(item, str):
            check_text(f"numerics.{name}", item, empty=True)
        elif not isinstance(item, int):
            raise FieldError(f"numerics.{name}", item, "text, an integer or a boolean")
