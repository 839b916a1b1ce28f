"""A receiver of callbacks: takes what servers send, keeps it, and lets it be read.

It commits a batch to disk before it answers 200, since the sender forgets what was acknowledged. Deliveries
may repeat (at least once is what senders promise): a batch that is here already is acknowledged again and
stored once. With secrets it takes only what is signed with one of them.
"""

import json
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from fastapi import FastAPI, Query, Request
from fastapi import Path as PathParameter
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse

from hallmark.poc.core.checks import check_bool, check_float, check_integer
from hallmark.poc.core.errors import DatabaseError, FieldError, SignatureError, StateError
from hallmark.poc.core.models import json_schema
from hallmark.poc.core.request_id import REQUEST_ID, REQUEST_ID_HEADER, usable_id
from hallmark.poc.core.strict_json import parse_json
from hallmark.poc.protocol.bodies import ValidatedBody
from hallmark.poc.protocol.config import DEFAULT_THRESHOLD
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.verdict_body import claimed_batch, recomputed_batch
from hallmark.poc.webhooks.signature import verify
from hallmark.server.receiver.database import Address, Kind
from hallmark.server.receiver.metrics import CONTENT_TYPE, ReceiverMetrics
from hallmark.server.receiver.page_routes import ReceiverPage
from hallmark.server.receiver.store import BatchStore

__all__ = ["ERRORS", "create_app"]

logger = logging.getLogger(__name__)

_MAX_BODY_BYTES = 64 * 2**20

ERRORS: Final = MappingProxyType(
    {
        400: "a field or a parameter is wrong or missing",
        401: "the signature is missing or wrong",
        404: "no batch has the id",
        409: "the `webhook-id` was used for another batch",
        413: "the body is too long",
        503: "the database cannot be read or written",
    }
)
"""What a route answers where it does not do what it was asked."""

_ERRORS: Final[dict[str, Any]] = {
    "description": " ".join(f"{status}: {what}." for status, what in ERRORS.items()),
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "detail": {"type": "string", "description": "What is wrong, as a sentence."},
                },
                "required": ["detail"],
            }
        }
    },
}

_KIND: Final = Query(description="Only of this callback.")
_PUBLIC_KEY: Final = Query(description="Only of this key.")
_BLOCK_HASH: Final = Query(description="Only of this block.")
_LIMIT: Final = Query(ge=1, le=1000, description="The most to answer with.")


class _TooLargeError(Exception):
    """The body is longer than `_MAX_BODY_BYTES`."""


def create_app(database: Address, secrets: Sequence[bytes] = (), *, has_page: bool = True) -> FastAPI:
    """Return the receiver as an ASGI app.

    - `POST /generated` and `POST /validated` take callbacks, and HEAD of them says that it is there.
    - `GET /batches`, `GET /batches/{id}` and `GET /stats` read what came.
    - `GET /provers` reads what the verdicts about each prover show together.
    - `GET /export` reads matching batches with their bodies, a JSON object a line.
    - `GET /poc` is a live page of all that.
    - `GET /health` says whether the database can be read, `GET /metrics` what came since the start.

    Args:
        database: What keeps the batches.
        secrets: The keys that callbacks may be signed with; with none, they need no signature.
        has_page: Whether there is the page.

    Raises:
        DatabaseError: The database cannot be used.
        UnsupportedError: It is PostgreSQL, and psycopg is not installed.
    """
    store = BatchStore(database)
    metrics = ReceiverMetrics(store.free_bytes)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with nullcontext() if page is None else page.running():
            yield
        store.close()

    app = FastAPI(title="Hallmark receiver", lifespan=lifespan, responses={"default": _ERRORS})
    page = ReceiverPage(app, store) if has_page else None
    _answer_errors(app, metrics)
    _answer_heads(app)
    _let_read(app, store)
    _let_watch(app, store, metrics)

    async def take(kind: Kind, check: Callable[[Any], ProofBatch], request: Request) -> dict[str, Any]:
        # One that no log may repeat is none.
        request_id = usable_id(request.headers.getlist(REQUEST_ID_HEADER))
        REQUEST_ID.set(request_id)
        received = await _read(request)
        if secrets:
            verify(secrets, request.headers, received)
        body = _parse(received)
        proof = check(body)
        # As the server reads it: older provers state no node, or -1.
        body = {**body, "node_id": proof.node_id}
        webhook_id = request.headers.get("webhook-id")
        identifier, duplicate = await run_in_threadpool(store.add, kind, body, webhook_id, request_id)
        if duplicate:
            metrics.repeat(kind)
        else:
            is_fraud = kind == "validated" and body["fraud_detected"]
            metrics.take(kind, len(body["nonces"]), time.time(), is_fraud=is_fraud)
        return {"id": identifier, "duplicate": duplicate}

    @app.post("/generated", openapi_extra=_json_body(ProofBatch.request_schema()))
    async def generated(request: Request) -> dict[str, Any]:
        """Take what a prover found: one batch, which is on disk before the answer.

        Answers with the `id` that it is stored under, and `duplicate`: whether it was there already.
        """
        return await take("generated", _check_generated, request)

    @app.post("/validated", openapi_extra=_json_body(json_schema(ValidatedBody)))
    async def validated(request: Request) -> dict[str, Any]:
        """Take a verdict, with the batch that it is about; it continues the record of the batch's prover.

        Answers as `/generated` does.
        """
        return await take("validated", _check_validated, request)

    return app


def _json_body(schema: dict[str, Any]) -> dict[str, Any]:
    """Return what OpenAPI says of a body that the route reads itself."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _let_read(app: FastAPI, store: BatchStore) -> None:
    """Answer those who read what came."""

    @app.get("/batches")
    def batches(
        kind: Annotated[Kind | None, _KIND] = None,
        public_key: Annotated[str | None, _PUBLIC_KEY] = None,
        block_hash: Annotated[str | None, _BLOCK_HASH] = None,
        after: Annotated[int, Query(ge=0, lt=2**63, description="Only ids above this one.")] = 0,
        limit: Annotated[int, _LIMIT] = 100,
    ) -> list[dict[str, Any]]:
        """List the batches that match, in the order of their arrival.

        Answers with a list of summaries: `id`, `kind`, `webhook_id`, `request_id`, `received_at` in seconds
        since the epoch, `deliveries`, `public_key`, `block_hash`, `block_height`, `node_id` and `n_nonces`.
        """
        return store.find(kind=kind, public_key=public_key, block_hash=block_hash, after=after, limit=limit)

    @app.get("/batches/{identifier}")
    def batch(identifier: Annotated[int, PathParameter(description="The batch's id.")]) -> JSONResponse:
        """Give one batch: its summary with its `body` as it came."""
        found = store.get(identifier) if 0 < identifier < 2**63 else None
        if found is None:
            return JSONResponse({"detail": f"no batch has the id {identifier}"}, 404)
        return JSONResponse(found)

    @app.get("/export", response_class=StreamingResponse)
    def export(
        # A form sends what was left empty as well.
        kind: Annotated[Kind | Literal[""], _KIND] = "",
        public_key: Annotated[str, _PUBLIC_KEY] = "",
        block_hash: Annotated[str, _BLOCK_HASH] = "",
    ) -> StreamingResponse:
        """Give all batches that match with their bodies, a JSON object a line, for `hallmark verify`.

        Empty parameters are as none. The lines are those of `GET /batches/{identifier}`.
        """
        lines = _lines(store, kind=kind or None, public_key=public_key or None, block_hash=block_hash or None)
        headers = {"Content-Disposition": 'attachment; filename="batches.jsonl"'}
        return StreamingResponse(lines, media_type="application/x-ndjson", headers=headers)

    @app.get("/stats")
    def stats(
        public_key: Annotated[str | None, _PUBLIC_KEY] = None,
        block_hash: Annotated[str | None, _BLOCK_HASH] = None,
    ) -> dict[str, Any]:
        """Tell the totals, for `generated` and `validated` each: `batches`, `nonces` and `duplicates`.

        A nonce counts once for its block and key, in however many batches it stands. `duplicates` are
        deliveries beyond a batch's first.
        """
        return store.stats(public_key=public_key, block_hash=block_hash)

    @app.get("/provers")
    def provers(
        public_key: Annotated[str | None, _PUBLIC_KEY] = None,
        fraud_threshold: Annotated[
            float, Query(ge=0, le=1, description="A prover is convicted where its p-value is below this.")
        ] = DEFAULT_THRESHOLD,
        after: Annotated[str, Query(description="Only keys behind this one.")] = "",
        limit: Annotated[int, _LIMIT] = 100,
    ) -> list[dict[str, Any]]:
        """Tell what the verdicts about each prover show together, in the order of their keys.

        Answers with a list of records: `public_key`, `rounds`, `batches`, `nonces`, `uncounted` by reason,
        `log10_wealth`, `log10_largest_wealth`, `p_value`, `fraud_threshold` and `fraud_detected`.
        """
        found = store.provers(public_key=public_key, after=after, limit=limit)
        return [record.as_dict(fraud_threshold) for record in found]


def _lines(store: BatchStore, **wanted: str | None) -> Iterator[str]:
    """Yield each batch that matches, with its body, as a line of JSON."""
    for summary in store.summaries(**wanted):
        yield json.dumps(store.get(summary["id"])) + "\n"


def _let_watch(app: FastAPI, store: BatchStore, metrics: ReceiverMetrics) -> None:
    """Answer those who watch over the receiver."""

    @app.get("/health")
    def health() -> dict[str, str]:
        """Say that the database can be read; a probe's answer."""
        store.check()
        return {"status": "ok"}

    # On the event loop, where they are counted.
    @app.get("/metrics", response_class=Response)
    async def show_metrics() -> Response:
        """Tell Prometheus what was taken and refused since the start."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)


def _answer_heads(app: FastAPI) -> None:
    """Let a server that asks whether anybody is here have an answer."""

    async def reached() -> None:
        pass

    for path in ("/generated", "/validated"):
        app.add_api_route(path, reached, methods=["HEAD"], status_code=204, include_in_schema=False)


async def _read(request: Request) -> bytes:
    """Return the body, up to its limit; it need not say its length or type."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise _TooLargeError(f"the body is longer than {_MAX_BODY_BYTES} bytes")
    return bytes(body)


def _parse(body: bytes) -> Any:
    try:
        parsed = parse_json(body.decode("utf-8-sig"))
        # What is acknowledged is to be read again: 1e999 and lone surrogates parse, but have no JSON.
        json.dumps(parsed, allow_nan=False, ensure_ascii=False).encode()
    except FieldError:
        raise
    except (ValueError, RecursionError) as exc:
        raise FieldError("body", body[:200].decode(errors="replace"), f"JSON ({_ascii(exc)})") from exc
    return parsed


def _ascii(error: Exception) -> str:
    return str(error).encode("ascii", "backslashreplace").decode()


def _check_object(body: Any) -> None:
    if not isinstance(body, dict):
        raise FieldError("body", body, "a JSON object")


def _check_generated(body: Any) -> ProofBatch:
    _check_object(body)
    return ProofBatch.parse(body)


def _check_validated(body: Any) -> ProofBatch:
    """Check a verdict's fields: `dist` are recomputed distances, `failed_nonces` those that have none.

    Returns:
        The batch as its prover claimed it.
    """
    _check_object(body)
    proof = _check_distances(claimed_batch(body), "received_dist", "received_vectors")
    _check_distances(recomputed_batch(body), "dist", "vectors")
    check_integer("n_invalid", body.get("n_invalid"), most=len(body["nonces"]))
    check_bool("fraud_detected", body.get("fraud_detected"))
    for field, most in (("r_target", math.inf), ("fraud_threshold", 1.0), ("probability_honest", 1.0)):
        check_float(field, body.get(field), least=0.0, most=most, allowed=f"a number from 0 to {most:g}")
    return proof


def _check_distances(batch: Mapping[str, Any], field: str, vectors: str) -> ProofBatch:
    """Check a batch whose distances and vectors stand under these names in the body."""
    try:
        return ProofBatch.parse(batch)
    except FieldError as exc:
        named = re.sub(r"^vectors\b", vectors, re.sub(r"^dist\b", field, exc.field))
        raise FieldError(named, exc.value, exc.allowed) from exc


def _answer_errors(app: FastAPI, metrics: ReceiverMetrics) -> None:
    answers = (
        (FieldError, 400),
        (SignatureError, 401),
        (StateError, 409),
        (_TooLargeError, 413),
    )
    for error, status in answers:
        app.add_exception_handler(error, _refuse_with(status, metrics))
    app.add_exception_handler(RequestValidationError, _answer_invalid_query)

    @app.exception_handler(DatabaseError)
    async def answer_without_database(request: Request, exc: Exception) -> JSONResponse:
        if request.method == "POST":
            metrics.refuse(503)
            logger.error("A batch is not taken: %s", exc)
            problem = "the batch could not be written"
        else:
            logger.error("A request is not answered: %s", exc)
            problem = "the batches could not be read"
        # Where the file is, is nobody else's business.
        return JSONResponse({"detail": f"{problem}; the receiver's log says why"}, 503)


def _refuse_with(
    status: int, metrics: ReceiverMetrics
) -> Callable[[Request, Exception], Awaitable[JSONResponse]]:
    """Answer what is raised of deliveries only."""

    async def refuse(_: Request, exc: Exception) -> JSONResponse:
        metrics.refuse(status)
        return JSONResponse({"detail": str(exc)}, status)

    return refuse


def _answer_invalid_query(_: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)  # noqa: S101  # registered for nothing else
    problems = [f"{error['loc'][-1]}: {error['input']!r}: {error['msg']}" for error in exc.errors()]
    return JSONResponse({"detail": "; ".join(problems)}, 400)
