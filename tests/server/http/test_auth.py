"""Who may use the control routes, and where they may be served."""

from collections.abc import AsyncIterator

import httpx
import pytest
from builders import small_request
from fastapi import FastAPI
from runtime import POC, Engine, application, client_of, running_manager

from hallmark.poc.core.errors import UnsupportedError
from hallmark.poc.settings.settings import Settings
from hallmark.server.http.app import mount
from hallmark.server.http.auth import check_exposure

KEY = "s3cret kéy"
WITH_KEY = Settings.from_additional_config({}, {"HALLMARK_API_KEY": KEY})
ROUTES = [
    ("POST", f"{POC}/init"),
    ("POST", f"{POC}/init/generate"),
    ("POST", f"{POC}/init/validate"),
    ("POST", f"{POC}/phase/generate"),
    ("POST", f"{POC}/phase/validate"),
    ("POST", f"{POC}/validate"),
    ("GET", f"{POC}/validate/some-id"),
    ("GET", f"{POC}/status"),
    ("POST", f"{POC}/stop"),
    ("GET", f"{POC}/versions"),
    ("GET", "/api/v1/state"),
    ("POST", "/api/v1/stop"),
]


@pytest.fixture
async def guarded(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    async with running_manager(engine, WITH_KEY) as manager, client_of(application(manager)) as http:
        yield http


def test_the_list_of_routes_is_complete() -> None:
    served = {
        (method.upper(), path.replace("{request_id}", "some-id"))
        for path, methods in application(None).openapi()["paths"].items()
        if path.startswith("/api/v1/")
        for method in methods
    }
    assert served == set(ROUTES)


def test_the_document_asks_for_the_token_on_our_routes_alone() -> None:
    """So that /docs has a field for it, and sends it."""
    app = FastAPI()
    app.add_api_route("/v1/chat/completions", lambda: None, methods=["POST"])
    mount(app)
    document = app.openapi()
    ((name, scheme),) = document["components"]["securitySchemes"].items()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert "HALLMARK_API_KEY" in scheme["description"]
    asked = {
        path: operation.get("security")
        for path, item in document["paths"].items()
        for operation in item.values()
    }
    assert asked == {path: [{name: []}] if path.startswith("/api/v1/") else None for path in asked}


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_head_needs_the_token_where_get_does(
    guarded: httpx.AsyncClient, method: str, path: str
) -> None:
    if method == "GET":
        assert (await guarded.head(path)).status_code == 401
        headers = {b"Authorization": b"Bearer " + KEY.encode()}
        head, got = [await guarded.request(each, path, headers=headers) for each in ("HEAD", "GET")]
        assert head.status_code == got.status_code != 405


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "authorization",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer wrong",
        b"Basic " + KEY.encode(),
        KEY.encode(),
        b"Bearer " + KEY.encode()[:-1],
        b"Bearer " + KEY.encode() + b"x",
        b"Bearer \xff\xfe",
    ],
)
async def test_without_the_token_every_route_is_a_401(
    guarded: httpx.AsyncClient, engine: Engine, method: str, path: str, authorization: bytes | None
) -> None:
    headers = {} if authorization is None else {b"Authorization": authorization}
    answer = await guarded.request(method, path, json=small_request(), headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    scheme, _, token = (authorization or b"").partition(b" ")
    missing = scheme != b"Bearer" or not token
    told = (
        "this route needs the header `Authorization: Bearer <API key>`"
        if missing
        else "the bearer token is wrong"
    )
    assert answer.json()["detail"] == told
    assert KEY not in answer.text
    assert engine.calls == []


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer "])
async def test_with_the_token_the_routes_work(guarded: httpx.AsyncClient, scheme: bytes) -> None:
    headers = {b"Authorization": scheme + KEY.encode()}
    answer = await guarded.post(f"{POC}/init/generate", json=small_request(), headers=headers)
    assert answer.status_code == 200
    assert (await guarded.get("/api/v1/state", headers=headers)).json()["state"] == "POW"


async def test_inference_needs_no_token_of_ours(guarded: httpx.AsyncClient) -> None:
    assert (await guarded.post("/v1/completions", json=[1])).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST"])
def test_loopback_needs_no_token(host: str) -> None:
    check_exposure(Settings(), host)


@pytest.mark.parametrize("host", [None, "", "0.0.0.0", "::", "192.168.1.7", "node.example"])  # noqa: S104
def test_a_network_does(host: str | None) -> None:
    with pytest.raises(UnsupportedError, match="HALLMARK_API_KEY") as refused:
        check_exposure(Settings(), host)
    assert (host or "every address") in str(refused.value)
    check_exposure(WITH_KEY, host)
    check_exposure(Settings(allow_unauthenticated=True), host)
    check_exposure(Settings(), host, "/run/hallmark.sock")
