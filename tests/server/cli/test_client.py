"""What errors of a server become."""

import httpx
import pytest

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


@pytest.mark.parametrize(("status", "is_named"), [(400, False), (409, False), (500, True), (503, True)])
def test_errors_of_the_server_itself_name_the_request_to_look_for(status: int, is_named: bool) -> None:
    error = ServerError("POST /stop", status, "it broke", "0d1c1ab4")
    assert error.request_id == "0d1c1ab4"
    assert str(error).startswith(f"POST /stop: {status}: it broke")
    assert str(error).endswith("log may say more about request 0d1c1ab4") is is_named
