"""Delivery against receivers that fail on the wire, each of them a real process.

What holds whatever happens: nothing is lost, the order is kept, and what comes again has the id of the first
time.
"""

import asyncio
import datetime
import ipaddress
import itertools
import json
import os
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from outbox_sender import payload
from runtime import eventually

from hallmark.poc.core.compact_json import compact_json
from hallmark.poc.outbox.outbox import Outbox
from hallmark.poc.outbox.sender import backoff
from hallmark.poc.outbox.store import OutboxStore
from hallmark.poc.settings.settings import Settings
from hallmark.poc.specification import CallbackSender
from hallmark.poc.webhooks.signature import generate_secret, parse_secret, verify
from hallmark.poc.webhooks.transport import callback_client
from hallmark.server.processes.child import ChildProcess, free_port

SUPPORT = Path(__file__).parents[2] / "support"
CAP = 0.2
SETTINGS: dict[str, Any] = {
    "callback_backoff_base": 0.02,
    "callback_backoff_cap": CAP,
    "callback_timeout": 4.0,
    "callback_max_retries": None,
}
NUMBERS = list(range(6))


class FaultyReceiver:
    """A running `faulty_receiver.py`, as often as it is started on one port and one database."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._directory = directory
        self._options = options
        self.port = free_port()
        scheme = "https" if options else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.process: ChildProcess | None = None
        self._http = httpx.Client(base_url=self.url, verify=False, timeout=30, trust_env=False)  # noqa: S501

    def start(self, *options: str) -> None:
        command = [sys.executable, "-P", str(SUPPORT / "faulty_receiver.py"), "--port", str(self.port)]
        command += ["--database", str(self._directory / "faulty.db"), *(options or self._options)]
        self.process = ChildProcess("the faulty receiver", command, log=self._directory / "faulty.out")
        self.process.wait_until(self._answers, seconds=60)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()

    def close(self) -> None:
        self._http.close()
        self.stop()

    def script(self, name: str, *steps: dict[str, Any]) -> None:
        self._http.post(f"/{name}/script", content=json.dumps(steps)).raise_for_status()

    def log(self, name: str) -> list[Any]:
        """Every callback that came, in the order of its arrival, with its `number`."""
        entries: list[Any] = self._http.get(f"/{name}/log").raise_for_status().json()
        return [{**entry, "number": json.loads(entry["body"])["nonces"][0]} for entry in entries]

    def stored(self, name: str) -> list[int]:
        """The numbers of what is stored, in the order of its arrival."""
        batches = self._http.get(f"/{name}/batches").raise_for_status().json()
        return [batch["body"]["nonces"][0] for batch in batches]

    def check(self, name: str, numbers: list[int]) -> list[Any]:
        """What holds after any fault; returns the log."""
        assert self.stored(name) == numbers
        log = self.log(name)
        assert [entry["number"] for entry in log] == sorted(entry["number"] for entry in log)
        pairs = {(entry["webhook_id"], entry["digest"]) for entry in log}
        ids, digests = zip(*pairs, strict=True)
        assert len(set(ids)) == len(set(digests)) == len(pairs), "an id is one body's, and a body has one id"
        return log

    def _answers(self) -> bool:
        try:
            return self._http.get("/nobody/log").status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyReceiver]:
    """One process for all the tests that do not end it; each has a name of its own there."""
    yield from running(tmp_path_factory.mktemp("receiver"))


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[FaultyReceiver]:
    """A receiver that may be stopped and started."""
    yield from running(tmp_path)


def running(directory: Path) -> Iterator[FaultyReceiver]:
    receiver = FaultyReceiver(directory)
    try:
        receiver.start()
        yield receiver
    finally:
        receiver.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Of the receiver in the process, different for each test."""
    return "".join(character if character.isalnum() else "-" for character in request.node.name)


@asynccontextmanager
async def running_outbox(
    path: Path, connect: Any = callback_client, deadline: float = 5.0, **settings: Any
) -> AsyncIterator[Outbox]:
    outbox = Outbox(Settings(**{**SETTINGS, **settings}), OutboxStore(path), connect=connect)
    await outbox.recover()
    try:
        yield outbox
    finally:
        await outbox.close(deadline)


async def emptied(outbox: Outbox) -> None:
    """Wait until nothing is queued, and what was is counted."""
    await eventually(lambda: (stats := outbox.stats())["queued"] + stats["in_flight"] == 0)


async def delivered(outbox: Outbox, count: int) -> None:
    """Wait until so many are delivered, or more."""
    await eventually(lambda: outbox.stats()["delivered"] >= count)


async def retried(outbox: Outbox) -> None:
    """Wait until two attempts have been made again."""
    await eventually(lambda: outbox.stats()["retried"] >= 2)


async def deliver(outbox: Outbox, url: str, name: str, numbers: list[int] = NUMBERS) -> None:
    """Post numbers, and wait until they are out of the queue."""
    for number in numbers:
        await outbox.post(f"{url}/{name}", "generated", compact_json(payload(name, number)))
    await emptied(outbox)


class TestFaultsOfAnAnswer:
    """The first callbacks meet faults, and all arrive."""

    @pytest.mark.parametrize(
        ("step", "repeats"),
        [
            ({"fault": "status", "status": 500, "times": 4}, 4),
            ({"fault": "status", "status": 502}, 1),
            ({"fault": "status", "status": 503, "headers": {"Retry-After": "0"}}, 1),
            ({"fault": "status", "status": 503, "headers": {"Retry-After": "soon"}}, 1),
            ({"fault": "status", "status": 408}, 1),
            ({"fault": "status", "status": 425}, 1),
            ({"fault": "status", "status": 429}, 1),
            ({"fault": "status", "status": 302, "headers": {"Location": "/elsewhere/generated"}}, 1),
            ({"fault": "slow", "seconds": 0.1}, 0),
            ({"fault": "slow", "seconds": 8.0}, 1),
            ({"fault": "slow head", "seconds": 0.1}, 1),
            ({"fault": "cut before", "times": 3}, 3),
            ({"fault": "cut head", "times": 3}, 3),
            ({"fault": "cut stored", "times": 3}, 3),
            ({"fault": "reset", "times": 3}, 3),
            ({"fault": "garbage", "times": 3}, 3),
            # What counts is the status: it says that the callback is stored.
            ({"fault": "cut body", "times": 3}, 0),
            ({"fault": "slow body", "seconds": 0.05}, 0),
            ({"fault": "close", "times": 6}, 0),
        ],
        ids=lambda value: (
            str(value) if isinstance(value, int) else f"{value['fault']}{value.get('status', '')}"
        ),
    )
    async def test_all_arrive_in_order_once(
        self, receiver: FaultyReceiver, name: str, tmp_path: Path, step: dict[str, Any], repeats: int
    ) -> None:
        receiver.script(name, {"fault": "none"}, step)
        async with running_outbox(tmp_path / "outbox.db") as outbox:
            await deliver(outbox, receiver.url, name)
            stats: Any = outbox.stats()
        assert (stats["delivered"], stats["dropped"], stats["retried"]) == (len(NUMBERS), 0, repeats)
        log = receiver.check(name, NUMBERS)
        assert len(log) == len(NUMBERS) + repeats
        assert receiver.log("elsewhere") == [], "redirects are not followed"

    async def test_flapping(self, receiver: FaultyReceiver, name: str, tmp_path: Path) -> None:
        """Every second request fails, each time in another way."""
        faults = ["cut before", "cut stored", "garbage", "status", "reset", "cut head", "close"]
        steps: list[list[dict[str, Any]]] = [
            [{"fault": fault, "status": 503}, {"fault": "none"}] for fault in faults * 3
        ]
        receiver.script(name, *itertools.chain.from_iterable(steps))
        numbers = list(range(30))
        async with running_outbox(tmp_path / "outbox.db") as outbox:
            await deliver(outbox, receiver.url, name, numbers)
            assert outbox.stats()["dropped"] == 0
        receiver.check(name, numbers)

    @pytest.mark.parametrize("form", ["seconds", "date"])
    async def test_retry_after_is_waited_for_though_longer_than_the_cap(
        self, receiver: FaultyReceiver, name: str, tmp_path: Path, form: str
    ) -> None:
        date = int(time.time()) + 2
        header = "1" if form == "seconds" else formatdate(date, usegmt=True)
        receiver.script(name, {"fault": "status", "status": 503, "headers": {"Retry-After": header}})
        async with running_outbox(tmp_path / "outbox.db") as outbox:
            await deliver(outbox, receiver.url, name)
        refused, taken, *_ = receiver.check(name, NUMBERS)
        assert taken["time"] >= (refused["time"] + 0.95 if form == "seconds" else date)

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 422, 451])
    async def test_a_final_refusal_costs_that_callback_alone(
        self, receiver: FaultyReceiver, name: str, tmp_path: Path, status: int
    ) -> None:
        receiver.script(name, {"fault": "none"}, {"fault": "status", "status": status})
        async with running_outbox(tmp_path / "outbox.db") as outbox:
            await deliver(outbox, receiver.url, name)
            stats: Any = outbox.stats()
        assert (stats["delivered"], stats["dropped_by_reason"]["rejected"]) == (len(NUMBERS) - 1, 1)
        assert stats["kept"] == 1, "for the operator"
        log = receiver.check(name, [number for number in NUMBERS if number != 1])
        assert len(log) == len(NUMBERS)

    async def test_every_attempt_is_signed_anew(
        self, receiver: FaultyReceiver, name: str, tmp_path: Path
    ) -> None:
        """Two secrets; the retry comes in another second, and its signature is of that one."""
        texts = generate_secret(), generate_secret()
        secrets = [parse_secret(text) for text in texts]
        receiver.script(name, {"fault": "status", "status": 503, "headers": {"Retry-After": "1"}})
        async with running_outbox(tmp_path / "outbox.db", webhook_secrets=texts) as outbox:
            await deliver(outbox, receiver.url, name, [0])
        log = receiver.check(name, [0])
        assert len({entry["headers"]["webhook-timestamp"] for entry in log}) == 2
        for entry, secret in itertools.product(log, secrets):
            verify([secret], entry["headers"], entry["body"].encode(), now=entry["time"], tolerance=2)

    async def test_a_sender_alone_gives_up_after_its_retries_and_goes_on(
        self, receiver: FaultyReceiver, name: str
    ) -> None:
        receiver.script(name, {"fault": "cut before", "times": 3}, {"fault": "none"}, {"fault": "garbage"})
        sender = CallbackSender(f"{receiver.url}/{name}", max_retries=2, wait=backoff(0.01, 0.02), timeout=5)
        for number in NUMBERS:
            await sender.send(payload(name, number))
        sender.wake()
        await eventually(lambda: not (sender.stats["queued"] or sender.stats["in_flight"]))
        assert (sender.stats["delivered"], sender.stats["dropped_by_reason"]["retries"]) == (5, 1)
        await sender.close(1)
        assert len(receiver.check(name, NUMBERS[1:])) == len(NUMBERS) + 3


class TestAReceiverThatIsAway:
    async def test_one_that_is_down_for_longer_than_the_cap_gets_everything_soon_after(
        self, mortal: FaultyReceiver, name: str, tmp_path: Path
    ) -> None:
        async with running_outbox(tmp_path / "outbox.db") as outbox:
            await deliver(outbox, mortal.url, name, [0, 1])
            mortal.stop()
            for number in (2, 3, 4):
                await outbox.post(f"{mortal.url}/{name}", "generated", compact_json(payload(name, number)))
            await asyncio.sleep(5 * CAP)
            stats: Any = outbox.stats()
            assert stats["queued"] == 3
            assert "ConnectError" in stats["last_error"]
            # Between base and cap; without a bound on the exponent's growth it would be far beyond.
            assert stats["next_attempt"] is not None
            assert stats["next_attempt"] <= CAP
            await asyncio.to_thread(mortal.start)
            await emptied(outbox)
            assert outbox.stats()["dropped"] == 0
        mortal.check(name, [0, 1, 2, 3, 4])

    async def test_one_that_comes_and_goes_in_mid_delivery(
        self, mortal: FaultyReceiver, name: str, tmp_path: Path
    ) -> None:
        """Killed while callbacks come: what it has answered is there, what it has not comes again."""
        numbers = list(range(90))
        async with running_outbox(tmp_path / "outbox.db") as outbox:

            async def post() -> None:
                for number in numbers:
                    await outbox.post(
                        f"{mortal.url}/{name}", "generated", compact_json(payload(name, number))
                    )
                    await asyncio.sleep(0.01)

            posting = asyncio.create_task(post())
            for seen in (10, 40):
                await delivered(outbox, seen)
                mortal.stop()
                await asyncio.to_thread(mortal.start)
            await posting
            await emptied(outbox)
            stats: Any = outbox.stats()
        assert (stats["delivered"], stats["dropped"]) == (len(numbers), 0)
        mortal.check(name, numbers)

    async def test_what_is_not_delivered_at_the_end_is_delivered_by_the_next_one(
        self, mortal: FaultyReceiver, name: str, tmp_path: Path
    ) -> None:
        mortal.stop()
        async with running_outbox(tmp_path / "outbox.db") as outbox:
            for number in NUMBERS:
                await outbox.post(f"{mortal.url}/{name}", "generated", compact_json(payload(name, number)))
        await asyncio.to_thread(mortal.start)
        async with running_outbox(tmp_path / "outbox.db") as outbox:
            await emptied(outbox)
            assert outbox.stats()["delivered"] == len(NUMBERS)
        mortal.check(name, NUMBERS)

    @pytest.mark.parametrize("kind", ["dead", "silent", "dripping"])
    async def test_one_that_is_dead_delays_no_other(
        self, receiver: FaultyReceiver, name: str, tmp_path: Path, kind: str
    ) -> None:
        """Each kind of dead one holds what it is sent for an hour, and the other one has everything soon."""
        bad = f"http://127.0.0.1:{free_port()}" if kind == "dead" else f"{receiver.url}/bad-{name}"
        fault = {"silent": "slow", "dripping": "slow head"}.get(kind, "none")
        receiver.script(f"bad-{name}", {"fault": fault, "seconds": 3600.0, "times": 100})
        async with running_outbox(tmp_path / "outbox.db", deadline=0.1, callback_timeout=3600.0) as outbox:
            for number in NUMBERS:
                await outbox.post(bad, "generated", compact_json(payload("bad", number)))
            good = f"{receiver.url}/{name}"
            for number in NUMBERS:
                await outbox.post(good, "generated", compact_json(payload(name, number)))
            # A delivery leaves the file before it is counted.
            await eventually(lambda: outbox.stats()["delivered"] >= len(NUMBERS))
            each = outbox.stats()["receivers"]
            assert (each[bad]["queued"], each[bad]["delivered"]) == (len(NUMBERS), 0)
            assert (each[good]["delivered"], each[good]["retried"]) == (len(NUMBERS), 0)
        receiver.check(name, NUMBERS)


def certificate(directory: Path, name: x509.GeneralName) -> tuple[list[str], ssl.SSLContext]:
    """A receiver's options for a certificate of a name, signed by itself, and what trusts that."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(issuer)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([name]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = built.public_bytes(serialization.Encoding.PEM)
    (directory / "certificate.pem").write_bytes(pem)
    (directory / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    options = ["--certificate", str(directory / "certificate.pem"), "--key", str(directory / "key.pem")]
    return options, ssl.create_default_context(cadata=pem.decode("ascii"))


async def test_a_wrong_certificate_gets_nothing_until_it_is_the_right_one(tmp_path: Path, name: str) -> None:
    for folder in ("right", "wrong"):
        (tmp_path / folder).mkdir()
    right, trusts_right = certificate(tmp_path / "right", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    wrong, trusts_wrong = certificate(tmp_path / "wrong", x509.DNSName("another.example"))
    receiver = FaultyReceiver(tmp_path, *right)
    connect: Callable[[ssl.SSLContext | None], Any]
    connect = lambda verify: lambda: callback_client(verify=verify)  # noqa: E731
    try:
        receiver.start(*wrong)
        # Signed by nobody whom the usual authorities or this one know; and trusted, but of another name.
        for verify_, reason in ((None, "self-signed"), (trusts_wrong, "IP address mismatch")):
            async with running_outbox(tmp_path / f"{reason}.db", connect(verify_)) as outbox:
                await outbox.post(f"{receiver.url}/{name}", "generated", compact_json(payload(name, 0)))
                await retried(outbox)
                assert reason in (outbox.stats()["last_error"] or "")
        assert receiver.log(name) == []
        async with running_outbox(tmp_path / "outbox.db", connect(trusts_right)) as outbox:
            for number in NUMBERS:
                await outbox.post(f"{receiver.url}/{name}", "generated", compact_json(payload(name, number)))
            await retried(outbox)
            receiver.stop()
            await asyncio.to_thread(receiver.start, *right)
            await emptied(outbox)
            assert outbox.stats()["dropped"] == 0
        receiver.check(name, NUMBERS)
    finally:
        receiver.close()


def test_a_sender_killed_again_and_again_loses_nothing_that_it_said_it_has(
    receiver: FaultyReceiver, name: str, tmp_path: Path
) -> None:
    """SIGKILL in mid-delivery, each time at another moment, and a receiver that fails now and then."""
    generations = 4
    faults = ["none", "cut stored", "none", "none", "slow", "status", "none", "cut before"]
    receiver.script(name, *[{"fault": fault, "status": 503, "seconds": 0.02} for fault in faults * 10])
    output = tmp_path / "output"
    command = [sys.executable, "-P", str(SUPPORT / "outbox_sender.py"), "--name", name]
    command += ["--database", str(tmp_path / "outbox.db"), "--url", f"{receiver.url}/{name}"]
    command += ["--generations", str(generations)]

    def lines(word: str) -> list[int]:
        text = output.read_text()
        whole = text[: text.rfind("\n") + 1].splitlines()
        return [int(line.split()[1]) for line in whole if line.startswith(f"{word} ")]

    with ChildProcess("the sender", command, log=output) as sender:

        def posted_at_least(count: int) -> None:
            sender.wait_until(lambda: len(lines("posted")) >= count, seconds=60)

        def begun(generation: int) -> None:
            sender.wait_until(lambda: len(lines("pid")) == generation + 1, seconds=60)

        for generation in range(generations - 1):
            enough = len(lines("posted")) + 15 + 7 * generation
            posted_at_least(enough)
            os.kill(lines("pid")[generation], signal.SIGKILL)
            begun(generation + 1)
        assert sender.wait(60) == 0, output.read_text()[-2000:]
    assert lines("ended") == [-signal.SIGKILL] * (generations - 1) + [0]
    posted = lines("posted")
    stored = receiver.stored(name)
    assert set(posted) - set(stored) == set(), "it said that it had these"
    # Killed between the commit and the word of it, each generation may have had one more.
    assert len(set(stored) - set(posted)) < generations
    receiver.check(name, sorted(stored))
