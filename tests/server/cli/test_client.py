"""What errors of a server become."""

import httpx
import pytest

from hallmark.poc.core.errors import FieldError
from hallmark.server.cli.client import PoCClient, ServerError, UnreachableError, explain


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ('{"detail": "r_target: 3 is not allowed"}', "r_target: 3 is not allowed"),
        ('{"detail": [{"loc": ["body"]}]}', '[{"loc": ["body"]}]'),
        ('{"error": {"message": "PoC generation is active"}}', "PoC generation is active"),
        ('{"error": "Unauthorized"}', "Unauthorized"),
        ('{"other": 1}', '{"other": 1}'),
        ("plain text\n", "plain text"),
        ("", "Bad Request"),
    ],
)
def test_errors_are_read_in_every_form(body: str, sentence: str) -> None:
    assert explain(httpx.Response(400, text=body)) == sentence


@pytest.mark.parametrize(
    "url", ["http://node:8000", "node:8000", "http://node:8000/", "http://node:8000/api/v1/pow"]
)
def test_urls_may_be_short_or_long(url: str) -> None:
    with PoCClient(url) as client:
        assert client.url == "http://node:8000"


def test_a_url_that_is_none_is_named() -> None:
    with pytest.raises(UnreachableError, match=r"^http://node:port is not a URL"):
        PoCClient("http://node:port")


ASKED_FOR = "set HALLMARK_API_KEY or --api-key"
LOG = "the server's log may say more about request 0d1c1ab4"
URL = "is this the URL of a server that was started by hallmark serve?"


@pytest.mark.parametrize(
    ("status", "hints"), [(400, []), (401, [ASKED_FOR]), (404, [URL]), (409, []), (500, [LOG]), (503, [LOG])]
)
def test_an_error_says_what_the_server_said_and_hints_at_what_to_do(status: int, hints: list[str]) -> None:
    error = ServerError("POST /stop", status, "it broke", "0d1c1ab4")
    assert error.request_id == "0d1c1ab4"
    assert str(error) == f"POST /stop: {status}: it broke"
    assert getattr(error, "__notes__", []) == hints


def test_a_log_is_not_spoken_of_where_nothing_can_be_looked_for() -> None:
    assert not hasattr(ServerError("POST /stop", 500, "it broke"), "__notes__")


def test_a_port_that_is_none_reaches_no_other_server() -> None:
    with pytest.raises(FieldError, match="a port from 1 to 65535"):
        PoCClient("http://127.0.0.1:83635")


def test_a_page_for_browsers_is_no_sentence() -> None:
    response = httpx.Response(404, html="<html>a page</html>")
    assert explain(response) == "Not Found"


def test_a_token_goes_out_in_utf_8_as_the_server_compares_it() -> None:
    with PoCClient("node:8000", "tökén") as client:
        sent = client.http.build_request("GET", "/").headers
    assert dict(sent.raw)[b"Authorization"] == "Bearer tökén".encode()
