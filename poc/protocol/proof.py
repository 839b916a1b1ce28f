"""What a prover says: a batch of nonces with their distances."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache, partial
from types import MappingProxyType
from typing import Annotated, Any, Final, LiteralString, Self

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, FailFast, Field
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from hallmark.poc.core.checks import INTEGER_LIMIT, check_integer, check_text
from hallmark.poc.core.errors import FieldError, StateError
from hallmark.poc.core.models import STRICT, json_schema, refuse_near_misses, refuses_in_words
from hallmark.poc.protocol.bodies import GeneratedBody, ValidatedBody
from hallmark.poc.protocol.config import UNSET
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.status import RoundStatus
from hallmark.poc.protocol.streams import PROTOCOL
from hallmark.poc.protocol.vectors import Encoding, check_encoding, check_vectors, decode

__all__ = ["MAX_NUMERICS", "Numerics", "ProofBatch"]

Numerics = Mapping[str, str | int | bool]
"""A numerics fingerprint: information that travels with batches, never a reason for a verdict.

A batch of another `dtype`, `quantization` or `kv_cache_dtype` than the engine's is not judged at all.
"""

MAX_NUMERICS = 64
"""Entries that a fingerprint may have."""

_WIRE_NAMES = MappingProxyType({"round_digest": "round"})
"""Fields that the wire calls otherwise."""

_INTEGER: Final = f"an integer from 0 to {INTEGER_LIMIT - 1}"
_OF_RECEIVERS: Final = ("n_nonces",)
"""What receivers say of a batch that they list."""

_ALLOWED = MappingProxyType(
    {
        "dist": "a finite number from 0 to 2",
        "numerics": "text, an integer or a boolean",
        "encoding": "text and an integer",
        "vectors": "text",
        **dict.fromkeys(("nonces", "failed_nonces", "covered"), _INTEGER),
    }
)
"""What the elements of a field may be."""

_Nonces = Annotated[
    tuple[Annotated[int, Field(ge=0, lt=INTEGER_LIMIT)], ...], Field(strict=False), FailFast()
]
_Distances = Annotated[
    tuple[Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)], ...], Field(strict=False), FailFast()
]


def _check_entries(value: object, lowest: int, highest: int, allowed: LiteralString) -> object:
    """Refuse what has too few or too many entries before each of them is looked at."""
    if isinstance(value, list | dict | tuple) and not lowest <= len(value) <= highest:
        raise PydanticCustomError("entries", allowed)
    return value


_FEW_ENTRIES = BeforeValidator(
    partial(_check_entries, lowest=0, highest=MAX_NUMERICS, allowed="an object of at most 64 entries")
)
_INDICES: Final = "two indices, the first not above the last"
_Index = Annotated[int, Field(ge=0, lt=INTEGER_LIMIT)]


@refuses_in_words(_WIRE_NAMES, _ALLOWED)
@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class ProofBatch:
    """Nonces and the distances that a prover claims for them.

    A nonce may stand in `nonces` more than once, since clients join batches; the judge counts it once.

    Raises:
        FieldError: A field is of another type or out of its range, lengths differ, there is no nonce at all,
            or the protocol is another one.
    """

    public_key: Annotated[str, Field(description="Whose nonces these are, not whose round it is.")]
    block_hash: Annotated[str, Field(description="The block that they were computed for.")]
    block_height: Annotated[int, Field(description="Its height.")]
    node_id: Annotated[int, Field(description="The prover's node number.")] = 0
    nonces: Annotated[_Nonces, Field(description="The nonces, in any order.")]
    dist: Annotated[_Distances, Field(description="Their claimed distances, from 0 to 2.")]
    vectors: Annotated[
        tuple[str, ...] | None,
        Field(
            strict=False,
            description="All numbers of each nonce, base64 of little-endian IEEE halves, for a verdict by "
            "all of them.",
        ),
    ] = None
    encoding: Annotated[
        Encoding | None,
        Field(description='What the vectors are: `{"dtype": "f16", "k_dim": k, "endian": "le"}`.'),
        _FEW_ENTRIES,
    ] = None
    protocol: Annotated[
        str | None,
        Field(description="The protocol it was computed by; another one than the server's is refused."),
    ] = None
    round_digest: Annotated[
        str | None,
        Field(
            description="The digest of the prover's round settings; another one than the round's is refused."
        ),
    ] = None
    round_settings: Annotated[
        Mapping[str, str] | None,
        Field(
            description="The texts that the digest is of, so that a refusal can name the one that differs."
        ),
        _FEW_ENTRIES,
    ] = None
    covered: Annotated[
        tuple[_Index, _Index] | None,
        Field(strict=False, description="First and last index of the prover's walk that the batch covers."),
        BeforeValidator(partial(_check_entries, lowest=2, highest=2, allowed=_INDICES)),
    ] = None
    failed_nonces: Annotated[
        _Nonces, Field(description="Nonces that the prover could not compute; none is claimed as well.")
    ] = ()
    numerics: Annotated[
        Numerics | None,
        Field(
            description="The prover's numerics fingerprint; another dtype, quantization or kv_cache_dtype "
            "than the server's is refused."
        ),
        _FEW_ENTRIES,
    ] = None

    def __post_init__(self) -> None:
        check_text("public_key", self.public_key)
        check_text("block_hash", self.block_hash)
        check_integer("block_height", self.block_height)
        check_integer("node_id", self.node_id)
        if len(self.dist) != len(self.nonces):
            raise FieldError(
                "dist", f"{len(self.dist)} values", f"one for each of the {len(self.nonces)} nonces"
            )
        if not self.nonces and not self.failed_nonces:
            raise FieldError("nonces", [], "at least one nonce, claimed or failed")
        self._check_vectors()
        both = set(self.nonces).intersection(self.failed_nonces)
        if both:
            raise FieldError("failed_nonces", sorted(both), "nonces that the batch does not claim as well")
        _check_protocol(self.protocol)
        if self.round_digest is not None:
            check_text("round", self.round_digest)
        if self.covered is not None and self.covered[0] > self.covered[1]:
            raise FieldError("covered", self.covered, _INDICES)
        for field, entries in (("numerics", self.numerics), ("round_settings", self.round_settings)):
            for name, item in (entries or {}).items():
                check_text(field, name)
                if isinstance(item, str):
                    check_text(f"{field}.{name}", item, empty=True)

    def _check_vectors(self) -> None:
        numbers = check_encoding(self.encoding, has_vectors=self.vectors is not None)
        if self.vectors is None:
            return
        if len(self.vectors) != len(self.nonces):
            raise FieldError(
                "vectors", f"{len(self.vectors)} values", f"one for each of the {len(self.nonces)} nonces"
            )
        decode(self.vectors, numbers)

    def numbers(self) -> npt.NDArray[np.float64] | None:
        """Return the numbers of each nonce, [n, k]; None where the batch has no vectors."""
        return (
            None
            if self.vectors is None
            else decode(self.vectors, check_encoding(self.encoding, has_vectors=True))
        )

    def check_against(self, round_: Round, numerics: Numerics = MappingProxyType({})) -> None:
        """Refuse a batch that does not belong to the round, or was computed by another arithmetic.

        The partition is checked only where the batch says what it covers: older clients join the batches
        of several nodes under one `node_id`. Where the round does not state `node_count`, the nonces'
        number is checked but not their residue class.

        Args:
            round_: The round.
            numerics: Of the engine that is to judge it.

        Raises:
            StateError: The batch is about another block, or was computed with other settings, in another
                dtype, with another quantisation or with a KV cache of another dtype.
            FieldError: The vectors are not of the round's numbers, or are missing where it requires them; a
                nonce is outside of what the batch covers or not in the node's residue class, or, at
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
                f"{round_.digest!r}: {_difference(self.round_settings, round_.settings)}"
            )
        _check_same_arithmetic(self.numerics or {}, numerics)
        self._check_numbers(round_)
        if self.covered is None:
            return
        walked = {*self.nonces, *self.failed_nonces}
        if config.node_count is not None:
            self._check_residues(walked, self.covered, config.node_count, config.n_groups)
        most = self.covered[1] - self.covered[0] + 1
        least = most if round_.every_nonce_counts else 1
        if not least <= len(walked) <= most:
            raise FieldError("nonces", f"{len(walked)} of them", f"{least} to {most}, by `covered`")

    def _check_numbers(self, round_: Round) -> None:
        found = self.numbers()
        if found is None:
            if round_.config.vectors == "required" and self.nonces:
                raise FieldError("vectors", None, "one for each nonce: the round requires them")
            return
        if found.shape[1] != round_.numbers:
            raise FieldError("encoding.k_dim", found.shape[1], f"the round's, {round_.numbers}")
        check_vectors(found, self.dist, round_.hidden_size)

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
        """Return the batch as JSON has it; what is not known is left out."""
        wire: dict[str, Any] = {}
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if value is not None:
                wire[_WIRE_NAMES.get(name, name)] = _as_json(value)
        if self.covered is None and not self.failed_nonces:
            del wire["failed_nonces"]
        return wire

    @classmethod
    @cache
    def known_fields(cls) -> frozenset[str]:
        """Return the members that a batch may have, and those of what servers and receivers say of it."""
        ours = {_WIRE_NAMES.get(field.name, field.name) for field in fields(cls)}
        sent = (GeneratedBody, ValidatedBody, RoundStatus)
        return frozenset(ours.union(_OF_RECEIVERS, *(body.__annotations__ for body in sent)))

    @classmethod
    def request_schema(cls) -> dict[str, Any]:
        """Return the JSON schema of a batch."""
        optional = [field.name for field in fields(cls) if field.default is not MISSING]
        return json_schema(cls, _WIRE_NAMES, nullable=optional)

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """Read a batch from parsed JSON; null is absence, what nothing knows is left out.

        Raises:
            FieldError: As for the class, or a name is a near miss of a field's.
        """
        # Another protocol may well have other fields.
        _check_protocol(body.get("protocol"))
        refuse_near_misses(body, cls.known_fields())
        wire = {name: _WIRE_NAMES.get(name, name) for name in (field.name for field in fields(cls))}
        stated = {name: body[field] for name, field in wire.items() if body.get(field) is not None}
        if stated.get("node_id") == UNSET and type(stated["node_id"]) is int:
            del stated["node_id"]
        return cls(**stated)


_MAX_SAID = 100


def _difference(theirs: Mapping[str, str] | None, ours: Mapping[str, str]) -> str:
    """Say which settings differ, as far as the batch has told them."""
    if theirs is None:
        return f"seq_len, inputs, readout, projection or model differ, or the protocol, {PROTOCOL} here"
    differing = [name for name in ours if theirs.get(name) != ours[name]]
    if not differing:
        return f"it follows another version of the protocol than {PROTOCOL}"
    return ", ".join(f"{name} {_said(name, theirs)} and not {_said(name, ours)}" for name in differing)


def _said(name: str, settings: Mapping[str, str]) -> str:
    text = settings.get(name, "")[:_MAX_SAID]
    # The scale is told by its exponent.
    is_exponent = name == "input_scale" and text.removeprefix("-").isdecimal()
    return f"2^{text}" if is_exponent else repr(text)


# Kernels that vLLM names in the place of the method, which may be any.
_UNTOLD = frozenset({None, "moe_wna16", "humming"})


def _check_same_arithmetic(theirs: Numerics, ours: Numerics) -> None:
    """Refuse what says that it was computed in another dtype, with other weights or another cache."""
    for name, what, is_same in (
        ("dtype", "in dtype", _is_same_method),
        ("quantization", "with the quantization", _is_same_method),
        ("kv_cache_dtype", "with the KV cache dtype", _is_same_cache),
    ):
        stated, own = (
            _resolved(numerics, name, other) for numerics, other in ((theirs, ours), (ours, theirs))
        )
        if {stated, own} & _UNTOLD:
            continue
        if not is_same(str(stated), str(own)):
            raise StateError(f"the batch was computed {what} {stated!r}, it would be judged {what} {own!r}")


def _resolved(numerics: Numerics, name: str, other: Numerics) -> object:
    """Return an entry, of a KV cache that is `auto` the model's dtype, the same on both sides by then."""
    stated = numerics.get(name)
    return (
        numerics.get("dtype", other.get("dtype")) if (name, stated) == ("kv_cache_dtype", "auto") else stated
    )


def _is_same_method(stated: str, own: str) -> bool:
    return _method(stated) == _method(own)


def _method(name: str) -> str:
    """Return the method of quantisation behind vLLM's name, which tells the device and the kernel too."""
    return name.removeprefix("auto_").removeprefix("cpu_").removesuffix("_marlin")


def _is_same_cache(stated: str, own: str) -> bool:
    """Return whether caches of all layers, in any order, have the same dtypes."""
    found = [
        frozenset("fp8_e4m3" if name == "fp8" else name for name in side.split()) for side in (stated, own)
    ]
    if any("uint8" in names for names in found):
        # So servers have called all of FP8 before they told its kinds apart.
        found = [frozenset("uint8" if name.startswith("fp8") else name for name in names) for names in found]
    return found[0] == found[1]


def _as_json(value: object) -> object:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def _check_protocol(value: object) -> None:
    if value not in (None, PROTOCOL):
        raise FieldError("protocol", value, PROTOCOL)
