"""A Hallmark server that recomputes what a worker asks for."""

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, NamedTuple

import httpx

from hallmark.poc.core.errors import EngineError, FieldError, HallmarkError, StateError, UnsupportedError
from hallmark.poc.protocol.config import DeployedModel, PoCConfig, PoCState
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.proof import Numerics, ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.vectors import check_encoding, decode
from hallmark.server.cli.client import PREFIX, PoCClient, ServerError, no_answer, read_answer

__all__ = ["ServerEngine"]

_OWNER: Final = "verification by "
_BATCH_SHAPE: Final = ("batch_size", "seq_len")
# Enough single nonces to fill batches, and fewer than the connections that a client opens.
_AT_ONCE: Final = 64
_PAUSE: Final = 1.0


@dataclass(frozen=True)
class _SetRound:
    """What the server was asked to set, and what it made of it."""

    config: PoCConfig
    facts: DeployedModel


class _Refused(NamedTuple):
    """A batch that the server did not take, or gave up, by the state of its round."""

    claim: ProofBatch
    error: ServerError


class ServerEngine:
    """A Hallmark server that recomputes what a worker asks for.

    The server validates a round under the worker's name, and serves chat meanwhile. A round of anybody else
    is not disturbed; one of another worker is replaced once nothing of it is queued.

    Args:
        client: A connection to the server. Its timeout is the longest to wait for the numbers of one batch.
        name: Of the worker; no other worker beside the server has it.

    Attributes:
        fingerprint: None: a server does not tell the files of its model.
    """

    fingerprint: str | None = None

    def __init__(self, client: PoCClient, name: str) -> None:
        self._client = client
        self._public_key = f"{_OWNER}{name}"
        self._set: _SetRound | None = None
        self._numerics: Numerics | None = None

    @property
    def numerics(self) -> Numerics:
        """The fingerprint of the server's arithmetic when it was last asked, here or for a round.

        Raises:
            ServerError: The server refuses to tell it.
            UnreachableError: There is no answer.
        """
        if self._numerics is None:
            self._numerics = _of_the_engine(self._client.get("/status"))
        return self._numerics

    def facts_of(self, body: Mapping[str, Any]) -> DeployedModel:
        """Have the server validate a round; return what the round has to know of the model.

        The same round again asks nothing of the server, unless `numbers` has failed meanwhile.

        Args:
            body: As for `/init`. Whose nonces, on which nodes and where to deliver them is passed over.

        Raises:
            FieldError: The body is not one of a round.
            UnsupportedError: The server cannot compute the round.
            StateError: The server has a round of its own, or resolves this one otherwise;
                or its arithmetic is another one than `numerics` said, which then says the new one.
            ServerError: The server fails, or refuses the client.
            UnreachableError: There is no answer.
        """
        return self._validating(self._own(PoCConfig.parse({**body, "public_key": self._public_key})))

    def numbers(self, round_: Round, claims: Sequence[ProofBatch]) -> dict[NonceKey, list[float]]:
        """Return the recomputed numbers of nonces, each rounded to a half; NaN in all where one failed.

        All batches are sent at once, so that the server fills its batches with nonces of several.

        Args:
            round_: Resolved against what `facts_of` has returned.
            claims: Batches of its block hash, of any public keys; only what is to be recomputed. A call with
                several batches' worth of nonces keeps the server's batches full.

        Raises:
            EngineError: The server refuses a batch, its engine failed, or it tells no numbers.
            StateError: The server has a round of its own, or another model or arithmetic since `facts_of`.
            ServerError: The server fails, refuses the client, or has no room within the client's timeout.
            UnreachableError: There is no answer.
        """
        try:
            self._get_ready(round_)
            found, refused = self._ask(round_, claims)
            if refused and not self._is_validating(round_):
                self._set = None
                self._get_ready(round_)
                more, refused = self._ask(round_, [claim for claim, _ in refused])
                found |= more
            for claim, error in refused:
                raise _refusal(claim, error) from error
        except HallmarkError:
            # Whatever it was, the server is asked for its round before anything else is asked of it.
            self._set = None
            raise
        return found

    def close(self) -> None:
        """Stop the round of this worker where the server still has it.

        Raises:
            ServerError: The server refuses.
            UnreachableError: There is no answer.
        """
        self._set = None
        if _owner(self._client.get("/status")) == self._public_key:
            self._client.post("/stop")

    def _own(self, config: PoCConfig) -> PoCConfig:
        """Return the worker's own round of the same computation: of every prover, node and batch."""
        return replace(
            config,
            public_key=self._public_key,
            node_id=None,
            node_count=None,
            group_id=0,
            n_groups=1,
            callback_url=None,
            vectors="optional",
        )

    def _get_ready(self, round_: Round) -> None:
        """Have the server validate a round that has been resolved already, by the same model."""
        config = self._own(round_.config)
        digest = Round.resolve(config, self._validating(config)).digest
        if digest != round_.digest:
            raise StateError(
                f"the server resolves the round to the settings {digest!r}, it was resolved to "
                f"{round_.digest!r}: the server has been started anew with another model"
            )

    def _validating(self, config: PoCConfig) -> DeployedModel:
        """Have the server validate a round where it was not the last one."""
        if self._set is not None and self._set.config == config:
            return self._set.facts
        self._set = None
        self._check_free()
        try:
            status = self._client.post("/init/validate", asdict(config))["pow_status"]
        except ServerError as exc:
            if exc.status in (httpx.codes.BAD_REQUEST, httpx.codes.CONFLICT):
                raise UnsupportedError(f"the server cannot compute the round: {exc.detail}") from exc
            raise
        facts = _facts(config, status)
        ours, theirs = Round.resolve(config, facts).digest, status["config"]["round"]
        if ours != theirs:
            raise StateError(
                f"the server resolves the round to the settings {theirs!r}, here they would be {ours!r}: "
                "it has another version of Hallmark, or has just been given another round"
            )
        told, self._numerics = self._numerics, _of_the_engine(status)
        if told is not None and told != self._numerics:
            names = sorted(name for name, _ in told.items() ^ self._numerics.items())
            raise StateError(
                f"the server has been started anew with another {', '.join(dict.fromkeys(names))}"
            )
        self._set = _SetRound(config, facts)
        return facts

    def _check_free(self) -> None:
        """Refuse to disturb a round of anybody else.

        Raises:
            StateError: There is one, or one waits to be gone on with.
        """
        status = self._client.get("/status")
        owner = _owner(status)
        is_workers = owner is not None and owner.startswith(_OWNER)
        is_idle = is_workers and not status["validation"]["queued_jobs"]
        if owner not in (None, self._public_key) and not is_idle:
            raise StateError(
                f"the server has a round of its own ({status['state']}, block "
                f"{status['config']['block_hash']!r}, public key {owner!r})"
            )
        interrupted = status["interrupted_round"]
        if owner is None and interrupted is not None and not interrupted["public_key"].startswith(_OWNER):
            raise StateError(
                f"the server has a round of its own (interrupted in {interrupted['phase']}, block "
                f"{interrupted['block_hash']!r}, public key {interrupted['public_key']!r}), which another "
                "one would give up: go on with it, or stop it"
            )

    def _is_validating(self, round_: Round) -> bool:
        """Return whether the server has the round that was set."""
        status = self._client.get("/status")
        shown, config = status["config"], round_.config
        return (
            status["state"] == PoCState.VALIDATING
            and _owner(status) == self._public_key
            and shown["round"] == round_.digest
            and (shown["block_hash"], shown["block_height"]) == (config.block_hash, config.block_height)
        )

    def _ask(
        self, round_: Round, claims: Sequence[ProofBatch]
    ) -> tuple[dict[NonceKey, list[float]], list[_Refused]]:
        """Return the numbers of batches, and the batches that the server's state did not allow."""
        found: dict[NonceKey, list[float]] = {}
        refused = []
        claims = [claim for claim in claims if claim.nonces]
        with ThreadPoolExecutor(_AT_ONCE, "hallmark verification") as threads:
            asked = [threads.submit(self._validate, round_, claim) for claim in claims]
            try:
                for claim, answer in zip(claims, asked, strict=True):
                    try:
                        found |= _numbers(round_, claim, answer.result())
                    except ServerError as exc:
                        if exc.status == httpx.codes.BAD_REQUEST:
                            raise _refusal(claim, exc) from exc
                        if exc.status != httpx.codes.CONFLICT:
                            raise
                        refused.append(_Refused(claim, exc))
            finally:
                threads.shutdown(wait=False, cancel_futures=True)
        return found, refused

    def _validate(self, round_: Round, claim: ProofBatch) -> dict[str, Any]:
        """Return the server's answer to a batch, once its queue has room."""
        # By the digest the server refuses it where another round of the block has taken this one's place. A
        # height seeds nothing.
        asked = replace(
            claim,
            block_height=round_.config.block_height,
            vectors=None,
            encoding=None,
            covered=None,
            failed_nonces=(),
            round_digest=round_.digest,
            round_settings=round_.settings,
        ).as_dict()
        patience = self._client.http.timeout.read
        deadline = math.inf if patience is None else time.monotonic() + patience
        while True:
            try:
                response = self._client.http.post(
                    f"{PREFIX}/validate", params={"wait": "true", "vectors": "true"}, json=asked
                )
            except (httpx.TransportError, httpx.InvalidURL) as exc:
                raise no_answer(self._client.url, exc) from exc
            if response.status_code != httpx.codes.TOO_MANY_REQUESTS:
                return read_answer(self._client.url, response)
            pause = float(response.headers.get("Retry-After", _PAUSE))
            if time.monotonic() + pause > deadline:
                return read_answer(self._client.url, response)
            time.sleep(pause)


def _owner(status: Mapping[str, Any]) -> str | None:
    """Whose round a server has, be it started or only set; None where it has none."""
    if status["config"] is None or status["state"] == PoCState.STOPPED:
        return None
    return str(status["config"]["public_key"])


def _of_the_engine(status: Mapping[str, Any]) -> Numerics:
    """Return the fingerprint of a server's arithmetic without the shape of its round's batches."""
    return {name: value for name, value in status["numerics"].items() if name not in _BATCH_SHAPE}


def _facts(config: PoCConfig, status: Mapping[str, Any]) -> DeployedModel:
    """Return facts by which a request is resolved to what a server has resolved it to.

    A server shows what it has decided, and not all of what it has decided it by: of a model whose tokens the
    round does not use nothing is known but that there are as many as the request states.

    Args:
        config: The request.
        status: The server's, with the round of the request.
    """
    shown = status["config"]
    vocabulary: int = shown["vocabulary"] or config.vocabulary or 0
    first: int | None = None if shown["first"] == "none" else shown["first"]
    return DeployedModel(
        hidden_size=shown["hidden_size"],
        dtype=str(status["numerics"]["dtype"]),
        vocabulary=vocabulary,
        table_rows=vocabulary if first is None else max(vocabulary, first + 1),
        first=first,
        served_names=(config.model,) if config.model else (),
        max_batched_tokens=shown["batch_size"] * config.seq_len,
        max_sequences=shown["batch_size"],
        max_model_len=config.seq_len,
    )


def _refusal(claim: ProofBatch, error: ServerError) -> EngineError:
    return EngineError(f"the server computes no batch of {claim.public_key!r}: {error.detail}")


def _numbers(round_: Round, claim: ProofBatch, answer: Mapping[str, Any]) -> dict[NonceKey, list[float]]:
    """Return the numbers of a batch's nonces by the server's answer.

    Raises:
        EngineError: It has none, or none of this round's.
    """
    vectors = answer.get("vectors")
    if vectors is None:
        raise EngineError("the server tells no recomputed numbers: its Hallmark is older than the worker's")
    known = [vector for vector in vectors if vector is not None]
    try:
        numbers = decode(known, check_encoding(answer["encoding"], has_vectors=True)).tolist()
    except FieldError as exc:
        raise EngineError(f"the server tells numbers that are none: {exc}") from exc
    told = (len(vectors), answer["encoding"]["k_dim"])
    if told != (len(claim.nonces), round_.numbers):
        raise EngineError(
            f"the server tells {told[1]} numbers of each of {told[0]} nonces, not {round_.numbers} of "
            f"{len(claim.nonces)}"
        )
    of_known = iter(numbers)
    failed = [math.nan] * round_.numbers
    return {
        (claim.public_key, nonce): failed if vector is None else next(of_known)
        for nonce, vector in zip(claim.nonces, vectors, strict=True)
    }
