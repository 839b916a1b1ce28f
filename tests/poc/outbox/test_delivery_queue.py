"""The queue of callbacks: its order, its bounds, its counts, against a plain list of what should be there."""

import json
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hallmark.poc.outbox.database import OutboxDatabase
from hallmark.poc.outbox.delivery_queue import Delivery, DeliveryQueue, Dropped, ReceiverTotals

A, B, C = "http://a.example", "http://b.example", "http://c.example"
MANY = 1_000


@pytest.fixture
def database() -> Iterator[OutboxDatabase]:
    with closing(OutboxDatabase(None)) as database:
        yield database


@pytest.fixture
def queue(database: OutboxDatabase) -> DeliveryQueue:
    return DeliveryQueue(database)


def body(number: int, size: int = 0) -> bytes:
    """A body that says a number, of so many bytes at least."""
    return json.dumps({"n": number}, separators=(",", ":")).encode().ljust(size)


def add(queue: DeliveryQueue, url: str, *bodies: bytes, **options: Any) -> tuple[list[int], list[Dropped]]:
    return queue.add(url, "generated", bodies, **{"now": 1e9, "max_queued": MANY, **options})


def ids(queue: DeliveryQueue) -> list[int]:
    return [delivery.id for delivery in queue.listed()]


def next_of(queue: DeliveryQueue, url: str) -> int | None:
    """The number of the body that is to be delivered next."""
    found = queue.oldest(url)
    return None if found is None else json.loads(found[1])["n"]


class TestOrder:
    """First in, first out, for each receiver."""

    def test_the_oldest_comes_first_however_receivers_alternate(self, queue: DeliveryQueue) -> None:
        for number in range(6):
            add(queue, (A, B)[number % 2], body(number))
        for url, numbers in ((A, (0, 2, 4)), (B, (1, 3, 5))):
            for number in numbers:
                assert next_of(queue, url) == number
                found = queue.oldest(url)
                assert found is not None
                queue.delivered(found[0].id)
            assert queue.oldest(url) is None

    def test_several_bodies_keep_their_order(self, queue: DeliveryQueue) -> None:
        added, dropped = add(queue, A, *(body(number) for number in range(5)))
        assert (added, dropped) == ([1, 2, 3, 4, 5], [])
        assert [json.loads(found)["n"] for _, found in bodies(queue)] == list(range(5))

    def test_a_clock_that_is_set_back_changes_no_order(self, queue: DeliveryQueue) -> None:
        add(queue, A, body(1), now=2e9)
        add(queue, A, body(2), now=1e9)
        assert next_of(queue, A) == 1

    def test_one_that_failed_stays_the_first(self, queue: DeliveryQueue) -> None:
        add(queue, A, body(1), body(2))
        queue.failed(1, "HTTP 503", 1e9 + 60)
        found = queue.oldest(A)
        assert found is not None
        delivery = found[0]
        assert (delivery.id, delivery.attempts, delivery.last_error, delivery.not_before) == (
            *(1, 1, "HTTP 503"),
            1e9 + 60,
        )

    def test_one_that_is_tried_again_takes_its_old_place(self, queue: DeliveryQueue) -> None:
        add(queue, A, body(1), body(2))
        queue.bury(1, "rejected", "HTTP 404")
        assert next_of(queue, A) == 2
        queue.retry([1])
        assert next_of(queue, A) == 1

    def test_ids_and_webhook_ids_are_never_used_again(self, queue: DeliveryQueue) -> None:
        add(queue, A, body(1), body(2))
        before = {delivery.webhook_id for delivery in queue.listed()}
        queue.drop()
        added, _ = add(queue, A, body(3))
        assert added == [3]
        assert not before & {delivery.webhook_id for delivery in queue.listed()}


def bodies(queue: DeliveryQueue) -> list[tuple[Delivery, bytes]]:
    return [(delivery, json.dumps(found).encode()) for delivery, found in queue.exported()]


class TestDelivery:
    """What is known of each."""

    def test_everything_is_kept_and_the_body_to_the_byte(self, queue: DeliveryQueue) -> None:
        exact = b'{ "dist":[1.40000000000000012345] }'
        queue.add(A, "validated", [exact], now=1234.5, max_queued=1)
        found = queue.oldest(A)
        assert found is not None
        delivery, kept = found
        assert kept == exact
        assert delivery.webhook_id.startswith("msg_")
        assert len(delivery.webhook_id) == 36
        assert delivery == Delivery(
            *(1, delivery.webhook_id, A, "validated", 1234.5, 0, 0.0, None, None), size=len(exact)
        )
        assert queue.listed() == [delivery]

    def test_giving_up_says_why_and_counts_the_attempt_that_ended_it(self, queue: DeliveryQueue) -> None:
        add(queue, A, body(1), body(2))
        queue.failed(1, "HTTP 500", 0)
        queue.bury(1, "retries", "HTTP 502")
        queue.failed(2, "HTTP 500", 0)
        queue.bury(2, "forbidden")
        first, second = queue.listed()
        assert (first.dead_reason, first.attempts, first.last_error) == ("retries", 2, "HTTP 502")
        assert (second.dead_reason, second.attempts, second.last_error) == ("forbidden", 1, "HTTP 500")

    def test_retrying_begins_anew(self, queue: DeliveryQueue) -> None:
        add(queue, A, body(1))
        queue.failed(1, "HTTP 500", 2e9)
        queue.bury(1, "retries", "HTTP 502")
        assert queue.retry([1, 99]) == 1
        [delivery] = queue.listed()
        assert (delivery.dead_reason, delivery.attempts, delivery.not_before) == (None, 0, 0)
        assert queue.retry() == 1

    def test_dropping_says_how_many_there_were(self, queue: DeliveryQueue) -> None:
        add(queue, A, *(body(number) for number in range(5)))
        assert queue.drop([2, 99, 4]) == 2
        assert ids(queue) == [1, 3, 5]
        assert queue.drop([]) == 0
        assert queue.drop() == 3
        assert queue.drop() == 0

    def test_what_is_gone_already_is_no_error(self, queue: DeliveryQueue) -> None:
        queue.delivered(7)
        queue.failed(7, "x", 0)
        queue.bury(7, "rejected", "x")
        assert queue.listed() == []

    def test_export_is_every_callback_with_its_body(self, queue: DeliveryQueue) -> None:
        add(queue, B, body(1))
        add(queue, A, body(2))
        queue.bury(1, "rejected", "x")
        assert [*queue.exported()] == [
            (delivery, {"n": number}) for delivery, number in zip(queue.listed(), (1, 2), strict=True)
        ]


class TestRows:
    """The callbacks that one receiver may have waiting."""

    def test_the_oldest_make_room(self, queue: DeliveryQueue) -> None:
        add(queue, A, *(body(number) for number in range(3)))
        names = {delivery.id: delivery.webhook_id for delivery in queue.listed()}
        added, dropped = add(queue, A, body(3), body(4), max_queued=3)
        assert (added, dropped) == ([4, 5], [Dropped(A, names[1]), Dropped(A, names[2])])
        assert ids(queue) == [3, 4, 5]

    def test_another_receivers_are_left_alone(self, queue: DeliveryQueue) -> None:
        add(queue, A, *(body(number) for number in range(5)))
        _, dropped = add(queue, B, body(5), max_queued=1)
        assert dropped == []
        assert len(queue.listed()) == 6

    def test_the_one_in_flight_is_spared(self, queue: DeliveryQueue) -> None:
        add(queue, A, *(body(number) for number in range(3)))
        added, dropped = add(queue, A, body(3), max_queued=2, in_flight=[1])
        assert (added, len(dropped)) == ([4], 2)
        assert ids(queue) == [1, 4]
        added, dropped = add(queue, A, body(4), max_queued=1, in_flight=[1])
        assert (added, len(dropped)) == ([], 2)
        assert ids(queue) == [1], "it alone is all that may wait"

    def test_what_was_given_up_does_not_wait(self, queue: DeliveryQueue) -> None:
        add(queue, A, *(body(number) for number in range(3)))
        for identifier in (1, 2, 3):
            queue.bury(identifier, "rejected", "x")
        assert add(queue, A, body(3), body(4), max_queued=2) == ([4, 5], [])
        assert ids(queue) == [1, 2, 3, 4, 5]

    def test_more_than_may_wait_at_once_are_the_latest(self, queue: DeliveryQueue) -> None:
        added, dropped = add(queue, A, *(body(number) for number in range(10)), max_queued=3)
        assert (added, len(dropped)) == ([8, 9, 10], 7)


class TestBytes:
    """The bytes of all bodies."""

    def queue(self, database: OutboxDatabase, max_bytes: int = 1_000) -> DeliveryQueue:
        return DeliveryQueue(database, max_bytes)

    def test_what_was_given_up_makes_room_first_the_oldest_of_it_before(
        self, database: OutboxDatabase
    ) -> None:
        queue = self.queue(database)
        for number, url in enumerate((A, B, A, B, A)):
            add(queue, url, body(number, 200), now=1e9 + number)
        queue.bury(4, "rejected", "x")
        queue.bury(2, "rejected", "x")
        assert add(queue, C, body(5, 200)) == ([6], []), (
            "what was given up has been counted as dropped before"
        )
        assert ids(queue) == [1, 3, 4, 5, 6]
        _, dropped = add(queue, C, body(6, 400))
        assert (ids(queue), len(dropped)) == ([3, 5, 6, 7], 1)

    def test_then_the_oldest_of_all_receivers(self, database: OutboxDatabase) -> None:
        queue = self.queue(database)
        for number, url in enumerate((A, B, A, B, A)):
            add(queue, url, body(number, 200))
        _, dropped = add(queue, C, body(5, 400))
        assert [drop.url for drop in dropped] == [A, B]
        assert ids(queue) == [3, 4, 5, 6]

    def test_what_is_in_flight_is_spared(self, database: OutboxDatabase) -> None:
        queue = self.queue(database)
        for number in range(5):
            add(queue, A, body(number, 200))
        _, dropped = add(queue, A, body(5, 600), in_flight=[1, 3])
        assert (ids(queue), len(dropped)) == ([1, 3, 6], 3)
        added, dropped = add(queue, B, body(6, 700), in_flight=[1, 3, 6])
        assert (added, [drop.url for drop in dropped]) == ([], [B]), "it does not fit beside them"
        assert ids(queue) == [1, 3, 6]

    def test_one_that_is_larger_than_all_may_be_is_dropped_alone(self, database: OutboxDatabase) -> None:
        queue = self.queue(database)
        add(queue, A, body(0, 400), body(1, 400))
        queue.bury(1, "rejected", "x")
        added, dropped = add(queue, B, body(2), body(3, 1_001), body(4))
        assert ([drop.url for drop in dropped], added) == ([B], [3, 4])
        assert ids(queue) == [1, 2, 3, 4]
        assert add(queue, B, body(5, 1_000))[0] == [5]
        assert ids(queue) == [5]

    def test_just_so_many_are_allowed(self, database: OutboxDatabase) -> None:
        queue = self.queue(database)
        assert add(queue, A, body(0, 500), body(1, 500))[1] == []
        assert len(add(queue, A, body(2, 8))[1]) == 1


def test_what_was_given_up_is_kept_for_so_long_and_no_longer(database: OutboxDatabase) -> None:
    queue = DeliveryQueue(database, max_age=100.0)
    add(queue, A, body(0), body(1), now=1_000.0)
    queue.bury(1, "rejected", "x")
    add(queue, B, body(2), now=1_100.0)
    assert ids(queue) == [1, 2, 3], "an age of just so much is not too old"
    add(queue, B, body(3), now=1_100.1)
    assert ids(queue) == [2, 3, 4], "what is queued is for its sender to judge"


def test_a_transaction_of_others_may_be_joined_and_undone(
    database: OutboxDatabase, queue: DeliveryQueue
) -> None:
    add(queue, A, body(0))
    before = (queue.listed(), queue.receivers())

    def fail() -> None:
        with database.transaction() as connection:
            add(queue, A, body(1), max_queued=1, connection=connection)
            raise KeyError("something else")

    with pytest.raises(KeyError):
        fail()
    assert (queue.listed(), queue.receivers()) == before


@dataclass
class Expected:
    """A callback as it should be."""

    id: int
    url: str
    created_at: float
    size: int
    attempts: int = 0
    not_before: float = 0.0
    last_error: str | None = None
    dead_reason: str | None = None


MAX_BYTES, MAX_AGE = 600, 50.0
URLS = st.sampled_from([A, B, C])
SIZES = st.integers(8, 350) | st.integers(590, 610)
FLIGHTS = st.sets(st.integers(1, 40), max_size=3)


class QueueMachine(RuleBasedStateMachine):
    """Any calls in any order, through restarts, against a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = TemporaryDirectory()
        self.model: list[Expected] = []
        self.latest = 0
        self.now = 1_000.0
        self.open()

    def open(self) -> None:
        self.database = OutboxDatabase(Path(self.directory.name) / "outbox.db")
        self.queue = DeliveryQueue(self.database, MAX_BYTES, MAX_AGE)

    def teardown(self) -> None:
        self.database.close()
        self.directory.cleanup()

    def some(self, places: Collection[int]) -> list[int]:
        """Ids of which most exist."""
        known = [expected.id for expected in self.model]
        return [known[place % len(known)] if known and place < 35 else place + 900 for place in places]

    @rule(url=URLS, sizes=st.lists(SIZES, min_size=1, max_size=4), most=st.integers(1, 5), flights=FLIGHTS)
    def add(self, url: str, sizes: list[int], most: int, flights: set[int]) -> None:
        in_flight = [e.id for e in self.model if e.id in self.some(flights) and e.dead_reason is None]
        added, dropped = self.queue.add(
            url,
            "generated",
            [body(0, size) for size in sizes],
            now=self.now,
            max_queued=most,
            in_flight=in_flight,
        )
        self.model = [e for e in self.model if e.dead_reason is None or e.created_at >= self.now - MAX_AGE]
        gone = [url for size in sizes if size > MAX_BYTES]
        fresh = []
        for size in sizes:
            if size <= MAX_BYTES:
                self.latest += 1
                fresh.append(self.latest)
                self.model.append(Expected(self.latest, url, self.now, size))

        def make_room(candidates: list[Expected]) -> None:
            self.model.remove(candidates[0])
            gone.append(candidates[0].url)

        while len(of := [e for e in self.model if e.url == url and e.dead_reason is None]) > most:
            if not (free := [e for e in of if e.id not in in_flight]):
                break
            make_room(free)
        while sum(e.size for e in self.model) > MAX_BYTES:
            if dead := sorted((e for e in self.model if e.dead_reason), key=lambda e: e.created_at):
                self.model.remove(dead[0])
            elif free := [e for e in self.model if e.id not in in_flight]:
                make_room(free)
            else:
                break
        assert added == [identifier for identifier in fresh if any(e.id == identifier for e in self.model)]
        assert [drop.url for drop in dropped] == gone

    @rule(url=URLS)
    def deliver(self, url: str) -> None:
        waiting = [e for e in self.model if e.url == url and e.dead_reason is None]
        found = self.queue.oldest(url)
        assert (None if found is None else found[0].id) == (waiting[0].id if waiting else None)
        if found is not None:
            self.queue.delivered(found[0].id)
            self.model.remove(waiting[0])

    @rule(place=st.integers(0, 40), error=st.sampled_from(["HTTP 503", "é"]), wait=st.floats(0, 1e6))
    def fail(self, place: int, error: str, wait: float) -> None:
        [identifier] = self.some([place])
        self.queue.failed(identifier, error, self.now + wait)
        for e in self.model:
            if e.id == identifier:
                e.attempts, e.last_error, e.not_before = e.attempts + 1, error, self.now + wait

    @rule(place=st.integers(0, 40), error=st.none() | st.just("HTTP 404"))
    def give_up(self, place: int, error: str | None) -> None:
        # It is older than others that were given up later, or not: ids and ages go different ways.
        [identifier] = self.some([place])
        self.queue.bury(identifier, "rejected", error)
        for e in self.model:
            if e.id == identifier:
                e.dead_reason = "rejected"
                e.attempts += error is not None
                e.last_error = error or e.last_error

    @rule(places=st.none() | st.sets(st.integers(0, 40), max_size=3))
    def retry(self, places: set[int] | None) -> None:
        chosen = None if places is None else list(dict.fromkeys(self.some(places)))
        hit = [e for e in self.model if chosen is None or e.id in chosen]
        assert self.queue.retry(chosen) == len(hit)
        for e in hit:
            e.dead_reason, e.attempts, e.not_before = None, 0, 0.0

    @rule(places=st.sets(st.integers(0, 40), max_size=3))
    def drop(self, places: set[int]) -> None:
        chosen = list(dict.fromkeys(self.some(places)))
        hit = [e for e in self.model if e.id in chosen]
        assert self.queue.drop(chosen) == len(hit)
        self.model = [e for e in self.model if e not in hit]

    @rule()
    def drop_all(self) -> None:
        assert self.queue.drop() == len(self.model)
        self.model = []

    @rule(seconds=st.integers(1, 40))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def restart(self) -> None:
        self.database.close()
        self.open()

    @invariant()
    def is_as_expected(self) -> None:
        shown = [
            Expected(d.id, d.url, d.created_at, d.size, d.attempts, d.not_before, d.last_error, d.dead_reason)
            for d in self.queue.listed()
        ]
        assert shown == self.model
        totals = {}
        for url in {e.url for e in self.model}:
            of = [e for e in self.model if e.url == url]
            waiting = [e.created_at for e in of if e.dead_reason is None]
            totals[url] = ReceiverTotals(
                queued=len(waiting),
                dead_letters=len(of) - len(waiting),
                bytes=sum(e.size for e in of),
                oldest=waiting[0] if waiting else None,
            )
        assert self.queue.receivers() == totals


TestModel = QueueMachine.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
