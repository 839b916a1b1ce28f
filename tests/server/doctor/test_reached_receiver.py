"""A receiver that callbacks do not get to, or whose clock is off, on a real server where there is one."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from findings import only
from runtime import running_receiver

from hallmark.server.doctor.finding import Finding, examine
from hallmark.server.doctor.receiver import examine_receiver

REMEDY = "give another URL, or allow its host with the setting callback_allowed_hosts"
START = "start it, or look at what lies between: firewall, name, TLS"


def asked(url: str, hosts: tuple[str, ...] | None = None) -> list[Finding]:
    return examine("receiver", lambda: examine_receiver(url, hosts), REMEDY)


@contextmanager
def receiver_of(date: str | None) -> Iterator[str]:
    """A receiver that says of each answer when it was given."""

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(405)
            if date is not None:
                self.send_header("Date", date)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def shifted(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


async def test_it_answers_and_nothing_is_sent_to_it() -> None:
    async with running_receiver() as receiver:
        assert only(await asyncio.to_thread(asked, receiver.url)) == ("ok", f"{receiver.url} answers", None)
    assert not receiver.requests


@pytest.mark.parametrize("allowed", [("127.0.0.1",), ("receiver.example", "127.0.0.1")])
def test_its_host_is_allowed(allowed: tuple[str, ...]) -> None:
    with receiver_of(shifted(0)) as url:
        assert only(asked(url, allowed))[0] == "ok"


def test_it_is_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    outcome, says, remedy = only(asked(url))
    assert (outcome, remedy) == ("problem", START)
    assert says.startswith(f"{url}: ")
    assert "ConnectError" in says


def test_it_takes_the_connection_and_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hallmark.poc.webhooks.reach._SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert only(asked(url)) == ("problem", f"{url}: no answer within 0.2 s", START)


def test_it_speaks_no_tls() -> None:
    with receiver_of(None) as url:
        secure = url.replace("http", "https")
        outcome, says, remedy = only(asked(secure))
    assert (outcome, remedy) == ("problem", START)
    assert "SSL" in says


def test_its_name_is_not_known() -> None:
    outcome, says, remedy = only(asked("http://no-such-host.invalid/v1"))
    assert (outcome, remedy) == ("problem", START)
    assert says.startswith("http://no-such-host.invalid/v1: ")


@pytest.mark.parametrize(
    ("url", "allowed", "told"),
    [
        ("http://127.0.0.1:8099", ("receiver.example",), "the hosts receiver.example"),
        ("http://169.254.169.254/latest", None, "a host that is no link-local or metadata address"),
        ("http://metadata.google.internal/", None, "a host that is no link-local or metadata address"),
        ("http://127.0.0.1:8099/generated", None, "the base that /generated and /validated are appended to"),
        ("http://user:pw-of-it@127.0.0.1:8099", None, "without credentials"),
        ("http://127.0.0.1:8099?token=pw-of-it", None, "without credentials, query and fragment"),
        ("127.0.0.1:8099", None, "an http or https URL"),
    ],
)
def test_callbacks_would_not_be_sent_there(url: str, allowed: tuple[str, ...] | None, told: str) -> None:
    outcome, says, remedy = only(asked(url, allowed))
    assert (outcome, remedy) == ("problem", REMEDY)
    assert told in says
    assert "pw-of-it" not in says


@pytest.mark.parametrize("seconds", [-3600, 400])
def test_its_clock_is_off(seconds: float) -> None:
    with receiver_of(shifted(seconds)) as url:
        answers, clock = asked(url)
    assert only([answers])[0] == "ok"
    assert clock.name == "clock of the receiver"
    outcome, says, remedy = only([clock])
    assert (outcome, remedy) == ("problem", "run a time service on both machines")
    assert says.endswith(" from this one: signatures are refused from 5 min on")


@pytest.mark.parametrize("date", [None, "yesterday", "Sat, 99 Nov 2026 08:00:00 GMT"])
def test_it_says_nothing_of_its_clock(date: str | None) -> None:
    with receiver_of(date) as url:
        assert only(asked(url))[0] == "ok"
