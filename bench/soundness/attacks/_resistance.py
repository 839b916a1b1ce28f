"""What an attacker who has read the protocol sends, and what has to become of it: a table, a row an attack.

A row is data: what is sent, in which round, what the server has to answer to the last batch, for which
reason, and, where only several batches show it, what `hallmark verify` has to say of all of them. Batches
before the last one have to pass, or to be answered as the last one is.

Rounds have rate 1, six numbers a nonce and a σ of 0.05 s with Gaussian tails, and honest provers a noise of
0.04 s, unless a row says otherwise.
"""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from _altered import Floats
from _prover import Prover
from _validators import Body, as_bytes

N = 32
"""Nonces of a batch."""

WALK = 192
"""Nonces of a walk below rate 1."""

ROUND: Mapping[str, Any] = {
    "block_hash": "00000000000000000001f8a2c5d3",
    "block_height": 812_345,
    "public_key": "the validator's own",
    "node_count": 1,
    "batch_size": 16,
    "seq_len": 32,
    "fraud_threshold": 1e-7,
    "honest_sigma": 0.05,
    "honest_kurtosis": 3.0,
}
"""What a round is set with."""

ABSENT: Any = object()
"""In the place of a setting of `ROUND` that a row's round leaves out."""

KEY = "02ab64c1f0"
NOISE = 0.04
"""Of honest provers, in units of s."""

LIMIT = 3.5 * 0.05
"""How far an error counts, in units of s."""

_LAST = 2**63 - 1

HASH, HEIGHT = str(ROUND["block_hash"]), int(ROUND["block_height"])

Outcome = Literal["honest", "refused", "fraud", "no_verdict"]
Sends = Callable[[Prover], Sequence[Body]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """What `hallmark verify` has to say of all batches.

    Attributes:
        code: Its exit code.
        credited: How many distinct nonces it credits; None: how many turn out to be valid.
        says: A sentence that it prints.
        states_round: Whether the validator states the round, block and r_target included.
    """

    code: int
    credited: int | None
    says: str = ""
    states_round: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """A row.

    Attributes:
        kind: What it plays with.
        sent: What is sent, in words.
        sends: The batches.
        expected: The server's answer to the last of them.
        field_name: Of a refusal: the field that it names; empty where a batch belongs elsewhere.
        reason: Of a refusal: words of it. Of fraud: a test that convicts.
        round: The round's settings where they differ from `ROUND`.
        together: What all batches come to, where that is to be seen.
        remedy: What has to be done about it, where it passes.
        judged_by_itself: Whether it is the prover's own server, with the prover's model, that answers.
    """

    kind: str
    sent: str
    sends: Sends
    expected: Outcome
    field_name: str = ""
    reason: str = ""
    round: Mapping[str, Any] = field(default_factory=dict)
    together: Together | None = None
    remedy: str = ""
    judged_by_itself: bool = False

    @property
    def is_control(self) -> bool:
        """Whether it is an honest prover's, which has to pass."""
        return self.kind == CONTROL

    @property
    def says(self) -> str:
        """What `hallmark verify` has to say; empty where it is not asked, or says nothing of it."""
        return "" if self.together is None else self.together.says


CONTROL = "honest"
FRESHNESS = "freshness"
FORM = "form"
COVERAGE = "coverage"
NUMBERS = "numbers"
BELOW = "rate 0.5"
SEVERAL = "several batches"


def changed(**members: Any) -> Sends:
    """Return an honest batch with other members; None leaves one out."""
    return lambda prover: [prover.honest(0, N, **members)]


def element(member: str, value: object) -> Sends:
    """Return an honest batch with another last element of a member."""

    def sends(prover: Prover) -> Sequence[Body]:
        honest = prover.honest(0, N)
        return [{**honest, member: [*honest[member][:-1], value]}]

    return sends


def written(sends: Sends, old: str, new: str) -> Sends:
    """Return the same batch, in whose bytes a text is replaced once."""

    def rewritten(prover: Prover) -> Sequence[Body]:
        [batch] = map(as_bytes, sends(prover))
        assert old.encode() in batch
        return [batch.replace(old.encode(), new.encode(), 1)]

    return rewritten


def foreign(**settings: Any) -> Sends:
    """Return an honest batch of another round, which says so."""
    return lambda prover: [prover.elsewhere(**settings).honest(0, N)]


def relabelled(members: Mapping[str, Any] | None = None, **settings: Any) -> Sends:
    """Honest numbers of another round, or of another key, in a batch that says that it is of this one."""
    return lambda prover: [
        prover.claim(range(N), prover.elsewhere(**settings).numbers(range(N)), (0, N - 1), **(members or {}))
    ]


def forged(forge: Callable[[Floats, Prover], Floats], **members: Any) -> Sends:
    """Return a batch of numbers that are made of honest ones, [n, k]."""
    return lambda prover: [
        prover.claim(range(N), forge(prover.numbers(range(N)), prover), (0, N - 1), **members)
    ]


def half(place: int, value: float) -> Sends:
    """Return an honest batch with another half at a place of its last vector.

    Number 0 and the distance left.
    """

    def sends(prover: Prover) -> Sequence[Body]:
        honest = prover.honest(0, N)
        halves = np.frombuffer(base64.b64decode(honest["vectors"][-1]), dtype="<f2").copy()
        halves[place] = value
        packed = base64.b64encode(halves.tobytes()).decode()
        return [{**honest, "vectors": [*honest["vectors"][:-1], packed]}]

    return sends


def beside_its_vector(by: float) -> Sends:
    """Return an honest batch whose last distance is so much, in units of s, above that of its number 0."""

    def sends(prover: Prover) -> Sequence[Body]:
        honest = prover.honest(0, N)
        first = np.frombuffer(base64.b64decode(honest["vectors"][-1]), dtype="<f2")[:1].astype(np.float64)
        [distance] = prover.distances(first[:, None])
        return [{**honest, "dist": [*honest["dist"][:-1], distance + by * prover.s]}]

    return sends


def of_nonces(nonces: Sequence[int], covered: tuple[int, int] | None, **members: Any) -> Sends:
    """Honest numbers of any nonces, and any coverage."""
    return lambda prover: [prover.claim(nonces, prover.numbers(nonces), covered, **members)]


def together(*several: Sends) -> Sends:
    """Return the batches of several, one after the other."""
    return lambda prover: [batch for sends in several for batch in sends(prover)]


def one_by_one(**members: Any) -> Sends:
    """Eight batches of one nonce each, of numbers that nobody computed."""
    return lambda prover: [
        prover.claim([nonce], prover.from_the_law(1), (nonce, nonce), **members) for nonce in range(8)
    ]


def twice(sends: Sends, lowered: float = 0.0) -> Sends:
    """Return one batch that has each claim of another a second time, the distance then lower by so many s."""

    def doubled(prover: Prover) -> Sequence[Body]:
        [batch] = sends(prover)
        assert isinstance(batch, Mapping)
        again = [distance - lowered * prover.s for distance in batch["dist"]]
        return [{**batch, "nonces": batch["nonces"] * 2, "dist": [*batch["dist"], *again]}]

    return doubled


NO_VECTORS: Mapping[str, Any] = {"vectors": None, "encoding": None}
UNNAMED: Mapping[str, Any] = {"round": None, "round_settings": None}
"""A batch that does not say by which settings it was computed."""


def _found(prover: Prover, first: int, last: int) -> tuple[list[int], Floats]:
    """Return the valid nonces of a stretch of the walk, and their numbers."""
    walked = [*range(first, last + 1)]
    numbers = prover.numbers(walked)
    counts = prover.is_valid(numbers)
    return [nonce for nonce, each in zip(walked, counts, strict=True) if each], numbers[counts]


def found(first: int, last: int, covered: tuple[int, int] | None, **members: Any) -> Sends:
    """Return the valid nonces of a stretch, in a batch that says that it covers another one, or nothing."""

    def sends(prover: Prover) -> Sequence[Body]:
        return [prover.claim(*_found(prover, first, last), covered, **members)]

    return sends


def thinned(*, overlap: int = 0, left_out: int | None = None, **members: Any) -> Sends:
    """Half of the valid nonces of a walk, in twelve batches too short for the test of density.

    Args:
        overlap: By how many indices each batch says that it begins before the end of the one before.
        left_out: A batch that is not sent.
        **members: Of every batch.
    """

    def sends(prover: Prover) -> Sequence[Body]:
        batches = []
        for first in range(0, WALK, 16):
            nonces, numbers = _found(prover, first, first + 15)
            kept = slice(None, None, 2)
            covered = (max(0, first - overlap), first + 15)
            if first // 16 != left_out:
                batches.append(prover.claim(nonces[kept], numbers[kept], covered, **members))
        return batches

    return sends


def of_two_nodes(prover: Prover) -> Sequence[Body]:
    """Return the same of two nodes of one key, each in batches of its own walk."""
    batches = []
    for first in range(0, WALK // 2, 16):
        for node in (0, 1):
            walked = [node + 2 * index for index in range(first, first + 16)]
            numbers = prover.numbers(walked)
            counts = np.flatnonzero(prover.is_valid(numbers))[::2]
            nonces = [walked[place] for place in counts]
            batches.append(prover.claim(nonces, numbers[counts], (first, first + 15), node_id=node))
    return batches


def _permuted(honest: Floats, _: Prover) -> Floats:
    return np.roll(honest, 1, axis=1)


def _first_kept(honest: Floats, prover: Prover) -> Floats:
    return np.concatenate([honest[:, :1], prover.from_the_law(len(honest))[:, 1:]], axis=1)


def _first_forged(honest: Floats, prover: Prover) -> Floats:
    return np.concatenate([prover.from_the_law(len(honest))[:, :1], honest[:, 1:]], axis=1)


def _others_kept(honest: Floats, _: Prover) -> Floats:
    return np.concatenate([honest[:, :1], np.roll(honest[:, 1:], 1, axis=1)], axis=1)


def _one_in(every: int) -> Callable[[Floats, Prover], Floats]:
    """Return one nonce of so many from the law."""

    def forge(honest: Floats, prover: Prover) -> Floats:
        is_forged = np.arange(len(honest))[:, None] % every == 0
        return np.where(is_forged, prover.from_the_law(len(honest)), honest)

    return forge


def _raised(by: float) -> Callable[[Floats, Prover], Floats]:
    """Number 0 larger by so much: the distance is lower by as much, in units of s."""
    return lambda honest, _: honest + by * (np.arange(honest.shape[1]) == 0)


def _off_by(by: float) -> Callable[[Floats, Prover], Floats]:
    """Return all numbers off by so much, up and down by turns."""

    def forge(honest: Floats, _: Prover) -> Floats:
        return honest + by * np.where(np.arange(honest.size).reshape(honest.shape) % 2, 1.0, -1.0)

    return forge


def _from_the_law(honest: Floats, prover: Prover) -> Floats:
    return prover.from_the_law(len(honest))


def _lowered_where_it_pays(by: float) -> Sends:
    """Return the valid nonces of a walk, and those that come to count when lowered by less than so many s."""

    def sends(prover: Prover) -> Sequence[Body]:
        numbers = prover.numbers(range(WALK))
        least = prover.least_that_counts
        missing = least - numbers[:, 0]
        numbers[:, 0] = np.where((missing >= 0) & (missing < by), least + 0.01, numbers[:, 0])
        counts = np.flatnonzero(prover.is_valid(numbers))
        return [prover.claim(counts.tolist(), numbers[counts], (0, WALK - 1))]

    return sends


def _worst_declared_failed(prover: Prover) -> Sequence[Body]:
    numbers = prover.numbers(range(WALK))
    worst = np.argsort(numbers[:, 0])[: WALK // 4]
    counts = np.flatnonzero(prover.is_valid(numbers))
    return [
        prover.claim(counts.tolist(), numbers[counts], (0, WALK - 1), failed_nonces=sorted(worst.tolist()))
    ]


def _failed_in_batches_of_their_own(prover: Prover) -> Sequence[Body]:
    batches = []
    for first in range(0, WALK, 32):
        batches.append(prover.claim(*_found(prover, first, first + 15), (first, first + 15)))
        failed = [*range(first + 16, first + 32)]
        nothing = np.empty((0, prover.round.numbers))
        batches.append(prover.claim([], nothing, (first + 16, first + 31), failed_nonces=failed))
    return batches


def _with_one_drawn(prover: Prover, first: int) -> Body:
    nonces = range(first, first + 8)
    return prover.claim(nonces, _one_in(8)(prover.numbers(nonces), prover), (first, first + 7))


def _under_many_keys(prover: Prover) -> Sequence[Body]:
    return [
        prover.claim([0], prover.from_the_law(1), (0, 0), **NO_VECTORS, public_key=f"{KEY}{number}")
        for number in range(8)
    ]


def _validated(prover: Prover) -> Sequence[Body]:
    """Return a forgery as the body of `/validated`, with a verdict that the prover gave itself."""
    claim = prover.claim(range(N), prover.from_the_law(N), (0, N - 1))
    return [
        {
            **claim,
            "request_id": "1",
            "received_dist": claim["dist"],
            "received_vectors": claim["vectors"],
            "computed_distances": claim["dist"],
            "verdict": "honest",
            "fraud_detected": False,
            "probability_honest": 1.0,
        }
    ]


def _row(
    kind: str,
    sent: str,
    sends: Sends,
    expected: Outcome,
    reason: str = "",
    settled: Together | None = None,
    *,
    field: str = "",
    remedy: str = "",
    judged_by_itself: bool = False,
    **settings: Any,
) -> Attack:
    """Return a row, in whose round the settings are others than in `ROUND`.

    The rest is as `Attack` has it.
    """
    return Attack(
        kind=kind,
        sent=sent,
        sends=sends,
        expected=expected,
        field_name=field,
        reason=reason,
        round=settings,
        together=settled,
        remedy=remedy,
        judged_by_itself=judged_by_itself,
    )


def _refused(kind: str, sent: str, sends: Sends, field: str, reason: str, **settings: Any) -> Attack:
    """Return a row whose batch is refused for a field of it."""
    return _row(kind, sent, sends, "refused", reason, field=field, **settings)


def _controls() -> Iterator[Attack]:
    def control(sent: str, sends: Sends, settled: Together | None = None, **settings: Any) -> Attack:
        return _row(CONTROL, sent, sends, "honest", settled=settled, **settings)

    yield control("a batch", changed())
    yield control("a batch, where vectors are required", changed(), vectors="required")
    yield control("a batch without vectors", changed(**NO_VECTORS))
    yield control(
        "a batch of the oldest clients' six fields",
        changed(
            **NO_VECTORS,
            **UNNAMED,
            **dict.fromkeys(("protocol", "numerics", "r_target", "covered", "failed_nonces")),
        ),
    )
    yield control("a batch of plain PoC 2.0", changed(), use_random_projection=False)
    yield control("a batch of last rows", changed(), readout="last", inputs="tokens")
    yield control("its nonces in another order", of_nonces(range(N)[::-1], (0, N - 1)))
    yield control("each nonce twice, as clients join batches", twice(changed(**NO_VECTORS)))
    yield control(
        "the last nonces of all, up to 2^63 − 1",
        of_nonces(range(_LAST - N + 1, _LAST + 1), (_LAST - N + 1, _LAST)),
    )
    yield control(
        "what the second engine of a node walks",
        of_nonces(range(3, 3 + 4 * N, 4), (0, N - 1), node_id=1),
        node_count=2,
        n_groups=2,
    )
    yield control("1 % of its nonces declared failed", of_nonces(range(99), (0, 99), failed_nonces=[99]))
    yield control("a distance 0.004 s from its vector's, as halves round", beside_its_vector(0.004))
    yield control("the valid nonces of a walk at rate 0.5", found(0, WALK - 1, (0, WALK - 1)), valid_rate=0.5)
    yield control(
        "the same in twelve batches, one of them twice",
        together(*(found(at, at + 15, (at, at + 15)) for at in (0, *range(0, WALK, 16)))),
        Together(code=0, credited=None, says="claimed by an earlier batch and count once"),
        valid_rate=0.5,
    )


def _of_freshness() -> Iterator[Attack]:
    attack = partial(_row, FRESHNESS)

    elder: dict[str, Any] = {"block_hash": "0000000000000000000earlier", "block_height": HEIGHT - 1}
    yield attack(
        "an honest batch of an earlier block",
        foreign(**elder),
        "refused",
        "the batch is about block '0000000000000000000earlier' at height 812344, the round about block",
    )
    yield attack("the same, relabelled", relabelled(**elder), "fraud", "nonces")
    yield attack(
        "one of another hash at the same height",
        foreign(block_hash="fork"),
        "refused",
        "the batch is about block 'fork' at height 812345",
    )
    yield attack("that one relabelled", relabelled(block_hash="fork"), "fraud", "nonces")
    yield attack(
        "one of the same hash at another height",
        changed(block_height=HEIGHT + 1),
        "refused",
        "at height 812346, the round about block",
    )
    yield attack(
        "one whose hash is written in capitals",
        foreign(block_hash=HASH.upper()),
        "refused",
        f"the batch is about block '{HASH.upper()}'",
    )
    yield attack(
        "another prover's batch under one's own key", relabelled(public_key="03c5"), "fraud", "nonces"
    )
    yield attack(
        "one of a round of another seq_len, its digest told",
        foreign(seq_len=34),
        "refused",
        "seq_len '34' and not '32'",
    )
    yield attack(
        "one of a round of another model name, its digest told",
        foreign(model="tiny"),
        "refused",
        "model 'tiny' and not ''",
    )
    yield attack(
        "another digest over the round's own settings",
        changed(round="0" * 64),
        "refused",
        "it follows another version of the protocol",
    )
    for words, settings in (
        ("seq_len", {"seq_len": 34}),
        ("model name", {"model": "tiny"}),
        ("first token", {"first": 7}),
        ("scale of projections", {"projection_scale": 0.01}),
    ):
        yield attack(
            f"numbers of a round of another {words}, under this round's digest",
            relabelled(**settings),
            "fraud",
            "nonces",
        )
    yield attack(
        "the same of another seq_len, under no digest",
        relabelled(UNNAMED, seq_len=34),
        "fraud",
        "nonces",
    )
    yield attack(
        "a batch in another dtype", changed(numerics={"dtype": "float16"}), "refused", "in dtype 'float16'"
    )
    yield attack(
        "a batch of quantised weights",
        changed(numerics={"quantization": "fp8"}),
        "refused",
        "with the quantization 'fp8'",
    )
    yield attack(
        "a batch of an earlier round of the same block, key and settings",
        lambda prover: [prover.honest(0, N)] * 2,
        "honest",
        settled=Together(
            code=0, credited=N, says=f"{N} nonces were claimed by an earlier batch and count once"
        ),
        remedy="start one round a block, or keep which nonces of a block and key were paid",
    )
    yield attack(
        "a batch of an earlier block, to a validator who does not say which block the round has",
        foreign(**elder),
        "refused",
        "the batch is about block",
        Together(code=0, credited=N, states_round=False),
        remedy="give `hallmark verify` the round's body by `--round`",
    )
    yield attack(
        "one batch under several heights, to such a validator",
        lambda prover: [prover.honest(0, N, block_height=HEIGHT + at) for at in range(3)],
        "refused",
        "the batch is about block",
        Together(code=2, credited=N, says="a block has one height", states_round=False),
    )


def _of_form() -> Iterator[Attack]:
    refused = partial(_refused, FORM)

    last = N - 1
    nonce = "an integer from 0 to 9223372036854775807"
    for words, value in (
        ("−1", -1),
        ("2^63", 2**63),
        ("2^64", 2**64),
        ("1.0", 1.0),
        ("true", True),
        ('"1"', "1"),
    ):
        yield refused(f"the nonce {words}", element("nonces", value), f"nonces[{last}]", nonce)
    distance = "a finite number from 0 to 2"
    for value in (-0.1, 2.1, "1.4"):
        yield refused(f"the distance {value!r}", element("dist", value), f"dist[{last}]", distance)
    for value in (float("nan"), float("inf")):
        yield refused(
            f"the distance {value}",
            element("dist", value),
            f"dist[{last}]",
            "a finite number, since JSON has no",
        )
    yield refused(
        "the distance 1e999",
        written(element("dist", "here"), '"here"', "1e999"),
        f"dist[{last}]",
        distance,
    )
    yield _row(
        FORM,
        "an r_target that no nonce is below",
        changed(r_target=0.01),
        "honest",
        settled=Together(code=2, credited=0, says="a bound that some nonces are below", states_round=False),
    )
    yield refused(
        "fewer distances than nonces",
        lambda prover: [{**(honest := prover.honest(0, N)), "dist": honest["dist"][1:]}],
        "dist",
        f"one for each of the {N} nonces",
    )
    yield refused(
        "a member of the JSON twice", written(changed(), '{"', '{"node_id": 1, "'), "node_id", "one value"
    )
    yield refused("a misspelt member", changed(vector=[]), "vector", "'vectors', if that was meant")
    yield refused("another protocol", changed(protocol="hallmark/1"), "protocol", "hallmark/2")
    yield refused("no nonce", changed(nonces=[], dist=[], vectors=[]), "nonces", "at least one nonce")
    yield refused(
        "failed nonces alone",
        changed(nonces=[], dist=[], vectors=[], failed_nonces=[*range(N)]),
        "nonces",
        "nonces to judge, repetitions and failed ones included",
    )
    yield refused(
        "a nonce claimed and failed",
        changed(failed_nonces=[3]),
        "failed_nonces",
        "nonces that the batch does not claim as well",
    )
    yield refused(
        "no vectors, where they are required",
        changed(**NO_VECTORS),
        "vectors",
        "one for each nonce: the round requires them",
        vectors="required",
    )
    yield refused(
        "vectors of number 0 alone, where they are required",
        lambda prover: [prover.claim(range(N), prover.numbers(range(N))[:, :1], (0, N - 1))],
        "encoding.k_dim",
        "the round's, 6",
        vectors="required",
    )
    yield refused(
        "vectors of seven numbers",
        lambda prover: [prover.claim(range(N), prover.elsewhere(numbers=7).numbers(range(N)), (0, N - 1))],
        "encoding.k_dim",
        "the round's, 6",
    )
    yield refused(
        "fewer vectors than nonces",
        lambda prover: [{**(honest := prover.honest(0, N)), "vectors": honest["vectors"][1:]}],
        "vectors",
        f"one for each of the {N} nonces",
    )
    yield refused("a vector of another length", element("vectors", "AAAA"), f"vectors[{last}]", "12 bytes")
    yield refused("a vector that is not base64", element("vectors", "?"), f"vectors[{last}]", "base64")
    for name, value, allowed in (("dtype", "f32", "'f16'"), ("endian", "be", "'le'")):
        encoding = {"dtype": "f16", "k_dim": 6, "endian": "le", name: value}
        yield refused(
            f"vectors whose {name} is {value}", changed(encoding=encoding), f"encoding.{name}", allowed
        )
    yield refused("vectors without an encoding", changed(encoding=None), "encoding", "what the vectors are")
    yield refused("an encoding without vectors", changed(vectors=None), "vectors", "no encoding either")
    for value in (float("nan"), float("inf")):
        yield refused(f"the number {value}", half(3, value), f"vectors[{last}][3]", "a finite number")
    yield refused(
        "a number beyond √D",
        half(3, -16.5),
        f"vectors[{last}][3]",
        "a number from -16 to 16, the width's root",
    )
    yield refused(
        "a distance 0.01 s from its vector's",
        beside_its_vector(0.01),
        f"dist[{last}]",
        "the distance of its vector's first number",
    )
    yield refused(
        "forged vectors beside honest distances",
        lambda prover: [
            {**prover.honest(0, N), "vectors": prover.claim(range(N), -prover.numbers(range(N)))["vectors"]}
        ],
        "dist[0]",
        "the distance of its vector's first number",
    )


def _of_coverage() -> Iterator[Attack]:
    refused = partial(_refused, COVERAGE)

    def passing(sent: str, sends: Sends, settled: Together, remedy: str = "", **settings: Any) -> Attack:
        return _row(COVERAGE, sent, sends, "honest", settled=settled, remedy=remedy, **settings)

    odd = range(1, 2 * N, 2)
    yield refused("every other nonce of what it covers", of_nonces(odd, (0, 2 * N - 1)), "nonces", "64 to 64")
    yield refused("more than it covers", changed(covered=(0, 15)), "nonces", "0 to 15 in steps of 1, by")
    yield refused("less than it covers", changed(covered=(0, N)), "nonces", "33 to 33, by `covered`")
    yield refused(
        "all of the walk covered",
        changed(covered=(0, _LAST)),
        "nonces",
        "9223372036854775808 to 9223372036854775808, by",
    )
    yield refused("a stretch that ends before it begins", changed(covered=(5, 3)), "covered", "two indices")
    yield refused("half a stretch", changed(covered=[0]), "covered", "two indices")
    yield refused(
        "sparse nonces, the powers of two",
        of_nonces([2**at for at in range(N)], (0, 2**31)),
        "nonces",
        "2147483649 to 2147483649, by `covered`",
    )
    yield refused(
        "another node's nonces", of_nonces(odd, (0, N - 1)), "nonces", "in steps of 2, by", node_count=2
    )
    yield refused(
        "nonces of both engines of a node",
        of_nonces(range(0, 2 * N, 2), (0, N - 1)),
        "nonces",
        "in steps of 4, by",
        node_count=2,
        n_groups=2,
    )
    yield refused(
        "failed nonces of another stretch",
        changed(failed_nonces=[N + 5]),
        "nonces",
        "0 to 31 in steps of 1, by `covered`",
    )
    for words, failed in (("2 of its 32", 2), ("half of its", 16)):
        yield _row(
            COVERAGE,
            f"{words} nonces declared failed",
            of_nonces(range(failed, N), (0, N - 1), failed_nonces=[*range(failed)]),
            "no_verdict",
        )
    yield _row(
        COVERAGE,
        "2 of its 32 nonces declared failed, `covered` left out",
        of_nonces(range(2, N), None, failed_nonces=[0, 1]),
        "no_verdict",
    )
    yield passing(
        "every other nonce, in batches of one",
        together(*(of_nonces([nonce], (nonce, nonce)) for nonce in range(1, 16, 2))),
        Together(code=0, credited=8, says="nothing here covers numbers 2 to 2 of the walk of node 0 of"),
    )
    insist = "insist on `covered`; at rate 1 no nonce is worth more than another"
    yield passing(
        "every other nonce, `covered` left out", of_nonces(odd, None), Together(code=0, credited=N), insist
    )
    yield passing(
        "sparse nonces, `covered` left out",
        of_nonces([2**at for at in range(N)], None),
        Together(code=0, credited=N),
        insist,
    )
    yield passing(
        "any nonces, in a round without node_count",
        of_nonces([2**at for at in range(N)], (0, N - 1)),
        Together(code=0, credited=N),
        "state node_count",
        node_count=ABSENT,
    )
    again = Together(code=0, credited=N, says=f"{N} nonces were claimed by an earlier batch and count once")
    even, third = range(0, 2 * N, 2), range(2, 2 * N + 2, 2)
    yield refused(
        "one node's nonces again, by the other node",
        together(of_nonces(even, (0, N - 1)), of_nonces(even, (0, N - 1), node_id=1)),
        "nonces",
        "1 to 63 in steps of 2, by `covered`",
        node_count=2,
    )
    yield passing(
        "the same, `covered` left out",
        together(of_nonces(even, None), of_nonces(even, None, node_id=1)),
        again,
        node_count=2,
    )
    yield passing(
        "one node's nonces again, by a third node of two",
        together(of_nonces(third, (1, N)), of_nonces(third, (0, N - 1), node_id=2)),
        again,
        node_count=2,
    )


def _of_numbers() -> Iterator[Attack]:
    def fraud(sent: str, sends: Sends, test: str, **settings: Any) -> Attack:
        return _row(NUMBERS, sent, sends, "fraud", test, **settings)

    yield fraud("zeros", forged(lambda honest, _: 0 * honest), "nonces")
    yield fraud("zeros, without vectors", forged(lambda honest, _: 0 * honest, **NO_VECTORS), "nonces")
    yield fraud("numbers drawn from the law", forged(_from_the_law), "nonces")
    yield fraud("the same, without vectors", forged(_from_the_law, **NO_VECTORS), "nonces")
    yield fraud("the largest numbers that are allowed", forged(lambda honest, _: 0 * honest + 16), "nonces")
    yield fraud("one honest nonce's for all", forged(lambda honest, _: honest[[0] * len(honest)]), "nonces")
    yield fraud("each nonce's for the next", forged(lambda honest, _: np.roll(honest, 1, axis=0)), "nonces")
    yield fraud("a nonce's own in another order", forged(_permuted), "nonces")
    yield fraud("the same, number 0 in its place", forged(_others_kept), "nonces")
    yield fraud("signs flipped", forged(lambda honest, _: -honest), "nonces")
    yield fraud(
        "mean hidden states instead of work", forged(lambda _, prover: prover.of_the_mean(range(N))), "nonces"
    )
    yield fraud("another third layer", forged(lambda _, prover: prover.of_another_model(range(N))), "nonces")
    yield fraud(
        "a model that is off by 0.12 s",
        forged(lambda honest, prover: honest + 0.12 * prover.draw.standard_normal(honest.shape)),
        "rms",
    )
    yield fraud("each number off by just less than counts", forged(_off_by(0.97 * LIMIT)), "rms")
    yield fraud("each distance lower by just less than counts", forged(_raised(0.97 * LIMIT)), "signed_mean")
    yield fraud("number 0 honest, the others drawn", forged(_first_kept), "nonces")
    yield fraud("number 0 drawn, the others honest", forged(_first_forged), "rms")
    yield fraud("half of the nonces drawn", forged(_one_in(2)), "nonces")
    yield fraud(
        "numbers drawn from the law, in a round of last rows",
        forged(_from_the_law),
        "nonces",
        readout="last",
        inputs="tokens",
    )


def _below_rate_one() -> Iterator[Attack]:
    attack = partial(_row, BELOW, valid_rate=0.5)
    whole = (0, WALK - 1)
    yield attack("a third of the walk that it covers", found(0, WALK // 3 - 1, whole), "fraud", "density")
    yield attack(
        "all of the walk covered", found(0, WALK - 1, (0, _LAST)), "fraud", "density", node_count=ABSENT
    )
    yield attack(
        "more than it covers",
        found(0, WALK - 1, (0, 95)),
        "refused",
        "0 to 95 in steps of 1, by",
        field="nonces",
    )
    yield attack(
        "more than it covers, in a round without node_count",
        found(0, 175, (0, 95)),
        "fraud",
        "density",
        node_count=ABSENT,
    )
    yield attack(
        "nonces that do not count",
        forged(lambda honest, prover: np.where(np.arange(honest.shape[1]) == 0, -abs(honest), honest)),
        "fraud",
        "nonces",
    )
    yield attack(
        "nonces that do not count, lowered until they do",
        forged(lambda honest, prover: np.where(np.arange(honest.shape[1]) == 0, abs(honest) + 0.1, honest)),
        "fraud",
        "signed_mean",
    )
    yield attack(
        "distances lowered by less than counts, where they come to count",
        _lowered_where_it_pays(0.97 * LIMIT),
        "honest",
        settled=Together(code=0, credited=None),
        remedy="judge more nonces together: the table on shaving says how many",
    )
    yield attack("the least promising quarter declared failed", _worst_declared_failed, "no_verdict")
    yield attack(
        "half of what is valid, `covered` left out",
        found(0, WALK - 1, None),
        "honest",
        settled=Together(code=0, credited=None),
        remedy="insist on `covered`: without it nothing is known of the nonces that were not run",
    )
    density = Together(code=1, credited=0, says="rejected by density")
    yield attack("half of what is valid, in short batches", thinned(), "honest", settled=density)
    yield attack("the same, in batches that overlap by one", thinned(overlap=1), "honest", settled=density)
    yield attack(
        "the same, with one batch left out",
        thinned(left_out=5),
        "honest",
        settled=Together(code=0, credited=None, says="nothing here covers numbers 80 to 95 of the walk of"),
        remedy="credit nothing of a prover with a gap that no callback fills",
    )
    yield attack("the same, by two nodes", of_two_nodes, "honest", settled=density, node_count=2)
    yield attack(
        "every other stretch in a batch of failed nonces alone",
        _failed_in_batches_of_their_own,
        "refused",
        "nonces to judge",
        density,
        field="nonces",
    )


def _of_several() -> Iterator[Attack]:
    attack = partial(_row, SEVERAL)
    convicted = Together(code=1, credited=0, says="rejected by nonces")
    yield attack(
        "each nonce twice in a batch, the second time 0.5 s lower",
        twice(changed(**NO_VECTORS), lowered=0.5),
        "fraud",
        "nonces",
    )
    yield attack(
        "the same batch again, 0.5 s lower",
        together(changed(), forged(_raised(0.5))),
        "fraud",
        "signed_mean",
        Together(code=1, credited=0, says=f"{N} nonces were claimed by an earlier batch and count once"),
    )
    yield attack("one drawn nonce alone", lambda prover: one_by_one()(prover)[:1], "fraud", "rms")
    yield attack(
        "one drawn nonce in each batch of eight",
        lambda prover: [_with_one_drawn(prover, first) for first in range(0, 64, 8)],
        "honest",
        settled=convicted,
    )
    yield attack(
        "batches of one drawn nonce, without vectors", one_by_one(**NO_VECTORS), "honest", settled=convicted
    )
    wide: dict[str, Any] = {"honest_sigma": 0.1, "honest_kurtosis": 5.0}
    yield attack(
        "batches of one drawn nonce, with σ and κ by default",
        one_by_one(),
        "honest",
        settled=convicted,
        **wide,
    )
    yield attack(
        "the same of honest numbers 0, one more batch without vectors",
        together(
            lambda prover: [
                prover.claim([nonce], _first_kept(prover.numbers([nonce]), prover), (nonce, nonce))
                for nonce in range(8)
            ],
            of_nonces([8], (8, 8), **NO_VECTORS),
        ),
        "honest",
        settled=Together(code=1, credited=0, says="rejected by rms"),
        **wide,
    )
    yield attack(
        "batches of one drawn nonce, each under another r_target",
        lambda prover: [
            {
                **prover.claim([nonce], prover.from_the_law(1), (nonce, nonce), **NO_VECTORS),
                "r_target": 1.9 + nonce / 1000,
            }
            for nonce in range(8)
        ],
        "honest",
        settled=Together(code=2, credited=0, says="a round has one", states_round=False),
    )
    yield attack(
        "one drawn nonce under each of eight keys",
        _under_many_keys,
        "honest",
        settled=Together(code=0, credited=0, says="invalid nonces: 0"),
    )
    yield attack(
        "numbers without work but for number 0, without vectors",
        forged(_first_kept, **NO_VECTORS),
        "honest",
        settled=Together(
            code=0, credited=N, says="the batch brought no vectors: it was judged by the first of"
        ),
        remedy="ask for `vectors: required`",
    )
    yield attack(
        "anything, in a round by the older rule",
        forged(_from_the_law),
        "honest",
        settled=Together(code=0, credited=N),
        remedy="state a σ: `distance_tolerance` null compares nothing at rate 1",
        honest_sigma=ABSENT,
        distance_tolerance=None,
    )
    yield attack(
        "another third layer, judged by the prover's own server",
        forged(lambda _, prover: prover.of_another_model(range(N))),
        "honest",
        settled=Together(code=1, credited=0, says="rejected by nonces, rms"),
        judged_by_itself=True,
    )
    yield attack(
        "a forgery with a verdict that its prover gave itself",
        _validated,
        "fraud",
        "nonces",
        Together(code=1, credited=0, says="rejected by nonces, rms"),
    )


ATTACKS: Sequence[Attack] = tuple(
    attack
    for rows in (
        _controls,
        _of_freshness,
        _of_form,
        _of_coverage,
        _of_numbers,
        _below_rate_one,
        _of_several,
    )
    for attack in rows()
)
"""The table."""
