"""Delivery to one receiver. The transport is httpx's own test seam; no test waits for a backoff."""

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest
from clock import Clock
from runtime import eventually, running_receiver
from virtual_time import VirtualTimeLoop

from hallmark.poc.core.compact_json import compact_json
from hallmark.poc.outbox.outbox import Outbox
from hallmark.poc.outbox.sender import DROP_REASONS, Backoff, backoff
from hallmark.poc.outbox.store import OutboxStore
from hallmark.poc.settings.settings import Settings
from hallmark.poc.specification import CallbackSender
from hallmark.poc.webhooks.signature import verify
from hallmark.poc.webhooks.transport import callback_client

URL = "http://receiver.example/v1/poc-batches"


def after(seconds: float) -> Backoff:
    """Wait the same time after every failure."""
    return lambda _: seconds


NO_WAIT = after(0)

Answer = int | Exception | httpx.Response


@pytest.fixture(autouse=True)
def _close_what_senders_make_for_themselves(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Python warns of databases that are left open, from 3.13 on."""
    made: list[OutboxStore] = []

    def make() -> OutboxStore:
        made.append(OutboxStore())
        return made[-1]

    monkeypatch.setattr("hallmark.poc.outbox.sender.OutboxStore", make)
    yield
    for store in made:
        store._database.close()


@pytest.fixture
def store() -> Iterator[OutboxStore]:
    """A store that a test looks into."""
    store = OutboxStore()
    yield store
    store._database.close()


class Receiver:
    """A transport that answers what it is told, then 200, and keeps what came."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer: Answer = self.answers.pop(0) if self.answers else 200
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(answer)

    @property
    def numbers(self) -> list[int]:
        """The `n` of every body that came."""
        return [json.loads(request.content)["n"] for request in self.requests]

    def sender(self, *limits: Any, wait: Any = NO_WAIT, **options: Any) -> CallbackSender:
        return CallbackSender(URL, *limits, client=self.client(), wait=wait, **options)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self))


def waits(sender: CallbackSender) -> float:
    """In how many seconds the next attempt is due."""
    next_attempt = sender.stats["next_attempt"]
    assert next_attempt is not None
    return next_attempt


async def test_a_delivery_is_a_post_of_json_below_the_url() -> None:
    receiver = Receiver()
    assert await receiver.sender().send({"n": 1, "dist": [1.5]})
    assert await receiver.sender().send({"n": 2}, "validated")
    generated, validated = receiver.requests
    assert (generated.method, str(generated.url)) == ("POST", URL)
    assert generated.headers["Content-Type"] == "application/json"
    assert generated.content == b'{"n":1,"dist":[1.5]}'
    # What goes on the wire in place of the URL's path.
    assert generated.extensions["target"] == b"/v1/poc-batches/generated"
    assert validated.extensions["target"] == b"/v1/poc-batches/validated"


async def test_a_failed_batch_is_queued_for_retry() -> None:
    """Specification 6.3: failed batches queued for retry."""
    receiver = Receiver(503, httpx.ConnectError("refused"))
    sender = receiver.sender()
    assert not await sender.send({"n": 1})
    assert sender.stats["queued"] == 1
    await sender.retry_pending()
    assert sender.stats["last_error"] == "ConnectError: refused"
    await sender.retry_pending()
    assert receiver.numbers == [1, 1, 1]
    assert sender.stats == {
        "queued": 0,
        "in_flight": 0,
        "delivered": 1,
        "retried": 2,
        "dropped": 0,
        "dropped_by_reason": dict.fromkeys(DROP_REASONS, 0),
        "dead_letters": 0,
        "kept": 0,
        "bytes": 0,
        "oldest_age": None,
        "next_attempt": None,
        "last_error": "ConnectError: refused",
    }


async def test_the_log_says_once_that_a_receiver_is_down_and_once_that_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "hallmark.poc.outbox.sender")
    clock = Clock()
    sender = Receiver(*[503] * 5).sender(10, wait=after(7), clock=clock)
    for outage in (1, 2):
        for n in range(8):
            clock.advance(10)
            await sender.send({"n": n})
        assert sender.stats["queued"] == 0
        lines = [(record.levelname, record.getMessage()) for record in caplog.records]
        [(_, down), (_, back)] = lines[-2:]
        assert [level for level, _ in lines] == ["WARNING", "INFO"] * outage
        assert f"Callback {URL}/generated (msg_" in down
        assert down.endswith(" failed: HTTP 503; retry 1 of 10 in 7.0 s")
        assert back == f"The receiver {URL} takes callbacks again"
        if outage == 1:
            sender._client = httpx.AsyncClient(transport=httpx.MockTransport(Receiver(503)))


async def test_every_attempt_carries_the_same_id_and_body_and_its_own_timestamp() -> None:
    receiver = Receiver(500, 502, 200)
    sender = receiver.sender()
    await sender.send({"n": 1})
    await sender.retry_pending()
    await sender.retry_pending()
    await sender.send({"n": 2})
    ids = [request.headers["webhook-id"] for request in receiver.requests]
    assert len(set(ids[:3])) == 1
    assert ids[3] != ids[0]
    assert len({request.content for request in receiver.requests[:3]}) == 1
    assert all(
        abs(int(request.headers["webhook-timestamp"]) - time.time()) < 3600 for request in receiver.requests
    )


async def test_the_wait_grows_exponentially_between_base_and_cap() -> None:
    """Specification 6.3: exponential backoff between retries."""
    wait = backoff(2, 20)
    for attempt, (least, most) in enumerate([(2, 4), (2, 8), (2, 16), (2, 20), (2, 20), (2, 20)]):
        pauses = []
        for _ in range(200):
            clock = Clock()
            sender = Receiver(*[503] * 6).sender(10, wait=wait, clock=clock)
            await sender.send({"n": 1})
            for _ in range(attempt):
                clock.advance(100)
                await sender.retry_pending()
            pauses.append(waits(sender))
        assert least <= min(pauses) <= max(pauses) <= most
        assert max(pauses) - min(pauses) > (most - least) / 2, "without jitter receivers are hit in step"


async def test_nothing_is_sent_before_it_is_due() -> None:
    clock, receiver = Clock(), Receiver(503)
    sender = receiver.sender(wait=after(10), clock=clock)
    await sender.send({"n": 1})
    clock.advance(9.9)
    await sender.retry_pending()
    assert not await sender.send({"n": 2}), "a later batch must not overtake"
    assert receiver.numbers == [1]
    assert sender.stats["oldest_age"] == pytest.approx(9.9)
    clock.advance(0.1)
    await sender.retry_pending()
    assert receiver.numbers == [1, 1, 2]


@pytest.mark.parametrize("max_retries", [0, 1, 3])
async def test_the_number_of_retries_is_configurable(
    max_retries: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Specification 6.3: max retry count configurable."""
    receiver = Receiver(*[500] * 10)
    sender = receiver.sender(max_retries)
    await sender.send({"n": 1})
    for _ in range(max_retries + 2):
        await sender.retry_pending()
    assert len(receiver.requests) == 1 + max_retries
    assert sender.stats["dropped"] == 1
    assert sender.stats["queued"] == 0
    dropped = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(dropped) == 1
    assert "dropped: HTTP 500" in dropped[0].getMessage()


async def test_a_full_queue_drops_the_oldest_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Specification 6.3: bounded queue size (oldest dropped if full)."""
    receiver = Receiver(*[500] * 5)
    sender = receiver.sender(100, 3)
    for n in range(5):
        assert not await sender.send({"n": n})
    assert sender.stats["queued"] == 3
    assert sender.stats["dropped"] == 2
    assert caplog.text.count("dropped: the queue is full") == 2
    await sender.retry_pending()
    assert receiver.numbers[-3:] == [2, 3, 4], "the oldest two are gone, the others kept their order"


async def test_the_defaults_are_those_of_the_specification() -> None:
    sender = CallbackSender(URL)
    assert (sender.callback_url, sender.max_retries, sender.max_queue_size) == (URL, 3, 100)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 422])
async def test_a_client_error_is_final(status: int) -> None:
    receiver = Receiver(status)
    sender = receiver.sender()
    assert not await sender.send({"n": 1})
    assert sender.stats["queued"] == 0
    assert sender.stats["dropped"] == 1
    assert sender.stats["last_error"] == f"HTTP {status}"
    assert await sender.send({"n": 2}), "what comes after it is not held up"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 300, 301, 302, 303, 304, 307, 308])
async def test_other_failures_are_retried_and_redirects_not_followed(status: int) -> None:
    receiver = Receiver(httpx.Response(status, headers={"Location": "http://elsewhere.example/"}))
    sender = receiver.sender()
    assert not await sender.send({"n": 1})
    told = ": redirects are not followed: http://elsewhere.example/" if status < 400 else ""
    assert sender.stats["last_error"] == f"HTTP {status}{told}"
    await sender.retry_pending()
    assert sender.stats["delivered"] == 1
    assert {request.url.host for request in receiver.requests} == {"receiver.example"}


@pytest.mark.parametrize(
    "exception", [httpx.ReadTimeout("slow"), httpx.RemoteProtocolError("cut"), KeyError("odd")]
)
async def test_an_exception_of_the_transport_is_a_failure_like_another(exception: Exception) -> None:
    sender = Receiver(exception).sender()
    assert not await sender.send({"n": 1})
    assert type(exception).__name__ in str(sender.stats["last_error"])
    await sender.retry_pending()
    assert sender.stats["delivered"] == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("30", 30),
        (formatdate(1090, usegmt=True), 90),
        (formatdate(1090), 90),
        ("Thu Jan  1 00:18:10 1970", 90),
        (formatdate(910, usegmt=True), 5),
        ("1000000", 600),
        ("9" * 5000, 600),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 600),
        *(
            (header, 5)
            for header in (
                "0",
                "3",
                "soon",
                "-3",
                "-1000000",
                "",
                "1e9",
                "inf",
                "nan",
                "30.5",
                "30, 60",
                "\u00b2",
            )
        ),
    ],
)
async def test_retry_after_is_obeyed_where_it_is_longer(header: str, seconds: float) -> None:
    answer = httpx.Response(429, headers={b"Retry-After": header.encode("latin-1")})
    sender = Receiver(answer).sender(wait=after(5), clock=Clock())
    await sender.send({"n": 1})
    assert waits(sender) == seconds


@pytest.mark.parametrize(("date", "seconds"), [(formatdate(1e9, usegmt=True), 90), ("now", 600)])
async def test_a_date_to_retry_after_is_read_by_the_receivers_clock(date: str, seconds: float) -> None:
    """Ours says 1000; where the receiver's is not told, the date counts from there."""
    headers = {"Retry-After": formatdate(1e9 + 90, usegmt=True), "Date": date}
    sender = Receiver(httpx.Response(503, headers=headers)).sender(wait=after(5), clock=Clock())
    await sender.send({"n": 1})
    assert waits(sender) == seconds


async def test_a_receiver_that_does_not_answer_is_left_after_the_timeout() -> None:
    client = httpx.AsyncClient(transport=httpx.MockTransport(never))
    sender = CallbackSender(URL, client=client, wait=NO_WAIT, timeout=0.01)
    assert not await sender.send({"n": 1})
    assert sender.stats["last_error"] == "no answer within 0.01 s"


async def test_concurrent_senders_of_one_receiver_deliver_each_batch_once() -> None:
    receiver = Receiver(500, 200, 503, 200)
    sender = receiver.sender(10)
    await asyncio.gather(*(sender.send({"n": n}) for n in range(20)), sender.retry_pending())
    await sender.retry_pending()
    await sender.retry_pending()
    assert sorted(set(receiver.numbers)) == list(range(20))
    assert len(receiver.numbers) == 22
    assert sender.stats["delivered"] == 20


async def never(_: httpx.Request) -> httpx.Response:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def test_a_cancelled_attempt_leaves_the_delivery_queued() -> None:
    asked = asyncio.Event()

    async def hang(request: httpx.Request) -> httpx.Response:
        asked.set()
        return await never(request)

    sender = CallbackSender(URL, client=httpx.AsyncClient(transport=httpx.MockTransport(hang)))
    attempt = asyncio.create_task(sender.send({"n": 1}))
    await asked.wait()
    assert (sender.stats["queued"], sender.stats["in_flight"]) == (1, 1), "in flight is not delivered"
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    assert (sender.stats["queued"], sender.stats["in_flight"]) == (1, 0)


async def test_numbers_that_json_does_not_have_are_refused_before_they_are_queued() -> None:
    sender = Receiver().sender()
    with pytest.raises(ValueError, match="JSON"):
        await sender.send({"dist": [float("nan")]})
    assert sender.stats["queued"] == 0


async def test_what_is_too_old_is_dropped_and_what_comes_after_it_delivered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, receiver = Clock(), Receiver(503)
    sender = receiver.sender(None, max_age=60, wait=after(1), clock=clock)
    await sender.send({"n": 1})
    clock.advance(60)
    await sender.send({"n": 2})
    assert receiver.numbers == [1, 1, 2], "an age of just so much is not too old"
    receiver.answers = [503]
    await sender.send({"n": 3})
    clock.advance(60.1)
    assert await sender.send({"n": 4})
    assert receiver.numbers[3:] == [3, 4]
    assert sender.stats["dropped_by_reason"]["expired"] == 1
    assert "dropped: it is too old" in caplog.text


@pytest.mark.parametrize(
    ("status", "chosen", "attempts", "reason"),
    [
        (500, {"callback_max_retries": 3}, 4, "retries"),
        (500, {"callback_max_age": 605.0}, 61, "expired"),
        (422, {}, 1, "rejected"),
    ],
)
def test_a_callback_that_is_never_taken_holds_the_others_up_by_the_rules_and_no_longer(
    status: int, chosen: dict[str, Any], attempts: int, reason: str
) -> None:
    """Nothing overtakes it, and what comes after it keeps its order."""
    numbers: list[int] = []

    def answer(asked: httpx.Request) -> httpx.Response:
        numbers.append(json.loads(asked.content)["n"])
        return httpx.Response(status if numbers[-1] == 1 else 200)

    async def test() -> None:
        time_ = asyncio.get_running_loop().time
        client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
        outbox = Outbox(Settings(**chosen), connect=lambda: client, wait=after(10), clock=time_, steady=time_)
        for n in range(2):
            await outbox.post(URL, "generated", compact_json({"n": n}))
        await asyncio.sleep(5)
        for n in range(2, 6):
            await outbox.post(URL, "generated", compact_json({"n": n}))
        await asyncio.sleep(700)
        stats: Any = outbox.stats()
        assert numbers == [0, *[1] * attempts, 2, 3, 4, 5]
        assert (stats["delivered"], stats["dropped"], stats["dropped_by_reason"][reason]) == (5, 1, 1)
        assert stats["dead_letters"] == (reason != "expired"), "it is kept for the operator"
        await outbox.close(1)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(test())


async def test_without_a_number_of_retries_only_the_age_ends_them() -> None:
    clock, receiver = Clock(), Receiver(*[503] * 500)
    sender = receiver.sender(None, max_age=1e6, clock=clock)
    await sender.send({"n": 1})
    for _ in range(499):
        clock.advance(100)
        await sender.retry_pending()
    assert len(receiver.requests) == 500
    assert sender.stats["queued"] == 1
    clock.advance(100)
    await sender.retry_pending()
    assert sender.stats["delivered"] == 1


async def test_what_was_refused_is_kept_for_the_operator_and_can_be_tried_again(store: OutboxStore) -> None:
    receiver = Receiver(404)
    sender = receiver.sender(store=store)
    assert not await sender.send({"n": 1})
    [kept] = store.listed()
    assert (kept.dead_reason, kept.last_error, kept.attempts) == ("rejected", "HTTP 404", 1)
    assert sender.stats["dead_letters"] == sender.stats["kept"] == 1
    assert store._queue.retry([kept.id]) == 1
    await sender.retry_pending()
    assert receiver.numbers == [1, 1]
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1
    assert store.listed() == []


async def test_deliveries_are_signed_with_every_secret_anew_at_each_attempt() -> None:
    clock = Clock()
    old, new = b"o" * 32, b"n" * 32
    receiver = Receiver(503)
    sender = receiver.sender(secrets=[old, new], clock=clock)
    await sender.send({"n": 1})
    clock.advance(400)
    await sender.retry_pending()
    for request, now in zip(receiver.requests, (1000, 1400), strict=True):
        for secret in (old, new):
            verify([secret], request.headers, request.content, now=now)
    assert "webhook-signature" not in (await unsigned()).headers


async def unsigned() -> httpx.Request:
    receiver = Receiver()
    await receiver.sender().send({"n": 1})
    return receiver.requests[0]


async def test_a_clock_that_is_set_back_does_not_hold_a_delivery_up_for_ever() -> None:
    clock, receiver = Clock(1e9), Receiver(503)
    sender = receiver.sender(wait=after(60), clock=clock)
    await sender.send({"n": 1})
    clock.now = 1000.0
    await sender.retry_pending()
    assert sender.stats["delivered"] == 1


async def test_connections_are_used_again() -> None:
    async with running_receiver() as receiver:
        sender = CallbackSender(receiver.url, wait=NO_WAIT)
        for n in range(5):
            assert await sender.send({"n": n})
        assert len(receiver.connections) == 1
        await sender.close(1)


class TestOutbox:
    """All receivers together."""

    SETTINGS = Settings(callback_max_retries=2, callback_max_queue=5)

    def outbox(self, receiver: Any, settings: Settings = SETTINGS, **options: Any) -> Outbox:
        transport = httpx.MockTransport(receiver)
        return Outbox(settings, connect=lambda: httpx.AsyncClient(transport=transport), **options)

    async def test_background_delivery_retries_by_itself_and_keeps_the_order(self) -> None:
        receiver = Receiver(503, httpx.ConnectError("x"), 200, 500, 200, 429)
        outbox = self.outbox(receiver, Settings(), wait=NO_WAIT)
        for n in range(6):
            await outbox.post(URL, "generated", compact_json({"n": n}))
        await eventually(lambda: outbox.stats()["delivered"] == 6)
        assert receiver.numbers == [0, 0, 0, 1, 1, 2, 2, 3, 4, 5]
        await outbox.close(1)

    async def test_a_receiver_that_is_down_does_not_delay_another(self) -> None:
        delivered: list[str] = []

        async def answer(request: httpx.Request) -> httpx.Response:
            if request.url.host == "down.example":
                await never(request)
            delivered.append(request.url.host)
            return httpx.Response(200)

        outbox = self.outbox(answer)
        await outbox.post("http://down.example", "generated", compact_json({"n": 1}))
        for n in range(3):
            await outbox.post("http://up.example", "validated", compact_json({"n": n}))
        await eventually(lambda: outbox.stats()["delivered"] == 3)
        stats: Any = outbox.stats()
        assert (stats["delivered"], stats["queued"], stats["in_flight"]) == (3, 1, 1)
        assert stats["receivers"]["http://down.example"]["queued"] == 1
        assert stats["oldest_age"] >= stats["receivers"]["http://down.example"]["oldest_age"] > 0
        await outbox.close(0.01)

    async def test_no_more_receivers_are_called_at_once_than_is_allowed(self) -> None:
        at_once: list[int] = []
        calls = 0
        are_three = asyncio.Event()

        async def answer(_: httpx.Request) -> httpx.Response:
            nonlocal calls
            calls += 1
            at_once.append(calls)
            if calls == 3:
                are_three.set()
            await are_three.wait()
            await asyncio.sleep(0)
            calls -= 1
            return httpx.Response(200)

        outbox = self.outbox(answer, Settings(callback_max_concurrency=3))
        for n in range(12):
            await outbox.post(f"http://r{n}.example", "generated", compact_json({"n": n}))
        await eventually(lambda: outbox.stats()["delivered"] == 12)
        assert max(at_once) == 3
        await outbox.close(1)

    async def test_the_settings_reach_the_senders_and_the_sums_the_stats(self) -> None:
        """Specification 6.3: retry stats exposed in /status endpoint (the outbox's part)."""
        outbox = self.outbox(lambda _: httpx.Response(500), wait=NO_WAIT)
        await outbox.post("http://a.example", "generated", compact_json({"n": 1}))
        await outbox.post("http://b.example", "generated", compact_json({"n": 1}))
        await eventually(lambda: outbox.stats()["dropped"] == 2)
        stats: Any = outbox.stats()
        assert stats["retried"] == 4
        assert stats["dropped_by_reason"]["retries"] == 2
        assert stats["last_error"] == "HTTP 500"
        await outbox.close(1)

    async def test_old_receivers_are_forgotten_but_not_their_numbers(self) -> None:
        outbox = self.outbox(lambda _: httpx.Response(200), wait=NO_WAIT)

        async def delivered(count: int) -> None:
            await eventually(lambda: outbox.stats()["delivered"] == count)

        for n in range(50):
            await outbox.post(f"http://r{n}.example", "generated", compact_json({"n": n}))
            await delivered(n + 1)
            await eventually(lambda: outbox.stats()["queued"] + outbox.stats()["in_flight"] == 0)
        stats: Any = outbox.stats()
        assert stats["delivered"] == 50
        assert len(stats["receivers"]) <= 17
        assert "http://r49.example" in stats["receivers"]
        await outbox.close(1)

    async def test_closing_tries_once_more_what_is_not_due_and_says_what_is_lost_in_memory(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        receiver = Receiver(503, 200, 500)
        outbox = self.outbox(receiver, Settings(), wait=after(3600))
        for n in range(3):
            await outbox.post(URL, "generated", compact_json({"n": n}))
        await eventually(lambda: outbox.stats()["next_attempt"])
        await outbox.close(deadline=30)
        assert receiver.numbers == [0, 0, 1], "0 is delivered at last, 1 fails, 2 is behind it"
        assert outbox.stats()["delivered"] == 1
        assert outbox.stats()["dropped_by_reason"]["memory"] == 2
        assert caplog.text.count("dropped: the server is stopping, and its outbox is in memory") == 2

    async def test_what_a_file_keeps_is_delivered_by_the_next_server_under_the_same_ids(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "outbox.db"
        first = Receiver(*[503] * 3)
        outbox = self.outbox(first, Settings(), store=OutboxStore(path), wait=after(3600))
        for n in range(3):
            await outbox.post(URL, "generated", compact_json({"n": n}))
        await eventually(lambda: outbox.stats()["next_attempt"])
        await outbox.close(deadline=30)
        assert (outbox.stats()["dropped"], outbox.stats()["queued"]) == (0, 3)

        second = Receiver()
        outbox = self.outbox(second, Settings(), store=OutboxStore(path), wait=NO_WAIT)
        assert await outbox.recover() is None
        # What the last server was told to wait for is not forgotten.
        await eventually(lambda: outbox.stats()["next_attempt"])
        assert second.requests == []
        await outbox.close(deadline=30)
        assert second.numbers == [0, 1, 2]
        first_ids = [request.headers["webhook-id"] for request in first.requests]
        assert second.requests[0].headers["webhook-id"] == first_ids[0] == first_ids[-1]

    async def test_a_receiver_that_is_not_allowed_any_more_gets_nothing(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = OutboxStore(tmp_path / "outbox.db")
        await store.add("http://other.example", "generated", [b"{}"], now=1e9, max_queued=5)
        await store.add(URL, "generated", [b'{"n":1}'], now=time.time(), max_queued=5)
        receiver = Receiver()
        settings = Settings(callback_allowed_hosts=("receiver.example",))
        outbox = self.outbox(receiver, settings, store=store)
        await outbox.recover()
        await eventually(lambda: outbox.stats()["delivered"] == 1)
        assert {request.url.host for request in receiver.requests} == {"receiver.example"}
        assert outbox.stats()["dropped_by_reason"]["forbidden"] == 1
        assert outbox.stats()["dead_letters"] == 1
        assert (
            "1 callbacks of the last server are dropped: callback_url: 'http://other.example'" in caplog.text
        )
        await outbox.close(1)

    async def test_closing_does_not_wait_longer_than_its_deadline(self) -> None:
        outbox = self.outbox(never, Settings(callback_timeout=3600))
        await outbox.post(URL, "generated", compact_json({"n": 1}))
        await outbox.close(deadline=0.01)
        assert outbox.stats()["dropped"] == 1

    async def test_a_receivers_full_queue_drops_its_own_oldest_only(self) -> None:
        asked = asyncio.Event()

        async def hang(request: httpx.Request) -> httpx.Response:
            asked.set()
            return await never(request)

        outbox = self.outbox(hang)
        for n in range(9):
            await outbox.post("http://a.example", "generated", compact_json({"n": n}))
            await asked.wait()
        await outbox.post("http://b.example", "generated", compact_json({"n": 0}))
        receivers = outbox.stats()["receivers"]
        assert receivers["http://a.example"]["queued"] == 5
        assert receivers["http://a.example"]["dropped_by_reason"]["full"] == 4
        assert receivers["http://b.example"]["dropped"] == 0
        await outbox.close(0.01)


async def test_a_real_receiver_that_fails_for_a_while_gets_everything_once_in_order() -> None:
    """Specification 6.3: tests for retry logic, here over real HTTP, escapes in the path untouched."""
    async with running_receiver() as receiver:
        receiver.answers = [503, 200, 500, 429, 200]
        outbox = Outbox(Settings(), wait=NO_WAIT)
        for n in range(4):
            await outbox.post(f"{receiver.url}/v2/org%252Fmodel/a/../b", "generated", compact_json({"n": n}))
        await eventually(lambda: outbox.stats()["delivered"] == 4)
        paths = {path for path, _, _ in receiver.requests}
        assert paths == {"/v2/org%252Fmodel/a/../b/generated"}
        assert [body["n"] for body in receiver.bodies("generated")] == [0, 0, 1, 1, 1, 2, 3]
        ids = [headers["webhook-id"] for _, headers, _ in receiver.requests]
        assert len(set(ids)) == 4
        await outbox.close(1)


async def test_a_receiver_that_is_not_there_is_a_failure_and_its_start_a_delivery(store: OutboxStore) -> None:
    async with callback_client() as client:
        async with running_receiver() as gone:
            pass
        sender = CallbackSender(gone.url, client=client, wait=NO_WAIT)
        assert not await sender.send({"n": 1})
        assert "ConnectError" in str(sender.stats["last_error"])
        async with running_receiver() as receiver:
            sender = CallbackSender(receiver.url, client=client, store=store)
            await store.add(receiver.url, "generated", [b'{"n":1}'], now=time.time(), max_queued=1)
            await sender.retry_pending()
            assert receiver.bodies("generated") == [{"n": 1}]
