"""Orders: what they are about, that nobody can choose what is drawn, and that they are given once."""

import threading
import time
from contextlib import closing
from itertools import count

import pytest
from builders import BATCH, BLOCK
from offline_proofs import Prover
from ordered_batches import SETTINGS, deliver, give_order

from hallmark.poc.core.errors import StateError
from hallmark.server.receiver.store import BatchStore
from hallmark.server.verification.order import Draw, Order
from hallmark.server.verification.orders import OrderBook
from hallmark.server.verification.planning import make_plan


def plan(store: BatchStore, prover: Prover, order: Order) -> bool:
    book = OrderBook(store.database)
    made = make_plan(order, book.waiting(order), prover.model.facts, prover.model.numerics)
    return book.enter(order, made, "a model", "{}")


def waiting(store: BatchStore, order: Order) -> list[int]:
    return [batch.id for batch in OrderBook(store.database).waiting(order)]


def test_the_same_order_is_given_once(store: BatchStore, prover: Prover) -> None:
    deliver(store, prover, "a")
    book, draw = OrderBook(store.database), Draw(randomness="r", power=0.9, cheat=0.5)
    first, is_new = book.place(BLOCK, SETTINGS, draw)
    assert is_new
    assert book.place(BLOCK, SETTINGS, draw) == (first, False)
    assert (first.draw, first.settings, first.last_batch) == (draw, SETTINGS, 2)
    assert book.unplanned() == [first]


def test_it_is_about_what_had_come_and_no_more(store: BatchStore, prover: Prover) -> None:
    deliver(store, prover, "a")
    store.add("generated", {**BATCH, "block_hash": "another block"}, None)
    order = give_order(store)
    deliver(store, prover, "b")
    assert waiting(store, order) == [1, 2]


def test_what_came_too_late_is_left_to_an_order_with_another_randomness(
    store: BatchStore, prover: Prover
) -> None:
    deliver(store, prover, "a")
    first = give_order(store)
    book = OrderBook(store.database)
    with pytest.raises(StateError, match="is not planned yet: start a worker"):
        book.place(BLOCK, SETTINGS, Draw(randomness="another"))
    assert plan(store, prover, first)
    with pytest.raises(StateError, match="no batch of block '0x8d3f2a' waits for a verdict"):
        book.place(BLOCK, SETTINGS, Draw(randomness="another"))
    deliver(store, prover, "b")
    assert book.place(BLOCK, SETTINGS, first.draw)[1] is False, "which changes nothing"
    with pytest.raises(StateError, match="order 1 has stated the randomness 'a later block' for this block"):
        book.place(BLOCK, SETTINGS, Draw(randomness="a later block", nonces=3))
    second, _ = book.place(BLOCK, SETTINGS, Draw(randomness="another"))
    assert waiting(store, second) == [3, 4]


def test_what_was_received_after_a_time_is_not_in_it(store: BatchStore, prover: Prover) -> None:
    deliver(store, prover, "a")
    before = time.time()
    deliver(store, prover, "b")
    order, _ = OrderBook(store.database).place(BLOCK, SETTINGS, Draw(randomness="r"), delivered_before=before)
    assert waiting(store, order) == [1, 2]
    with pytest.raises(StateError, match="no batch"):
        OrderBook(store.database).place("no block", SETTINGS, Draw(randomness="r"))


def test_a_plan_is_entered_once_and_whoever_makes_it_makes_the_same(
    store: BatchStore, url: str, prover: Prover
) -> None:
    deliver(store, prover, "abc")
    order = give_order(store, Draw(randomness="r", nonces=3))
    with closing(BatchStore(url)) as other:
        book = OrderBook(other.database)
        mine, theirs = (
            make_plan(order, each.waiting(order), prover.model.facts, prover.model.numerics)
            for each in (OrderBook(store.database), book)
        )
        assert mine == theirs
        assert [len(job) for job in mine.jobs] == [8, 8, 2], "packed across provers"
        assert book.enter(order, theirs, "a model", "{}")
        assert not OrderBook(store.database).enter(order, mine, "another", "{}")
        assert book.unplanned() == []


def test_the_same_randomness_with_another_time_is_another_order(store: BatchStore, prover: Prover) -> None:
    deliver(store, prover, "a")
    book, draw = OrderBook(store.database), Draw(randomness="r")
    book.place(BLOCK, SETTINGS, draw, delivered_before=time.time())
    with pytest.raises(StateError, match="order 1 has stated the randomness"):
        book.place(BLOCK, SETTINGS, draw, delivered_before=time.time() + 1)


def test_what_is_on_its_way_is_waited_for(store: BatchStore, url: str, prover: Prover) -> None:
    """A batch that is acknowledged is in the order, though one with a lower id is not committed yet."""
    [body] = deliver(store, prover, "a", batches=1)
    ordered: list[Order] = []
    with closing(BatchStore(url)) as other:
        with other.database.transaction() as connection:
            other.add_within(connection, "generated", {**body, "public_key": "b"}, None)
            store.add("generated", {**body, "public_key": "c"}, None)
            thread = threading.Thread(target=lambda: ordered.append(give_order(other)))
            thread.start()
            time.sleep(0.5)
        thread.join()
    assert waiting(store, ordered[0]) == [1, 2, 3]


def test_what_is_on_its_way_for_ever_is_waited_for_ten_seconds(
    store: BatchStore, url: str, prover: Prover
) -> None:
    [body] = deliver(store, prover, "a", batches=1)
    with closing(BatchStore(url)) as other, other.database.transaction() as connection:
        other.add_within(connection, "generated", {**body, "public_key": "b"}, None)
        store.add("generated", {**body, "public_key": "c"}, None)
        looks = count(0.0, 4.0)  # each look at the clock is four seconds after the last
        book = OrderBook(store.database, clock=looks.__next__)
        order, _ = book.place(BLOCK, SETTINGS, Draw(randomness="r"))
        assert next(looks) == 16.0, "it has looked at 4 and 8 s whether there is more to come"
        assert waiting(store, order) == [1], "what came after it is left to the next order"


def test_a_dtype_is_the_one_that_most_provers_state(store: BatchStore, prover: Prover) -> None:
    [body] = deliver(store, prover, "a", batches=1)
    for key, dtype in (("b", "float64"), ("b", "float64"), ("c", None)):
        numerics = None if dtype is None else {**body["numerics"], "dtype": dtype}
        store.add("generated", {**body, "public_key": key, "numerics": numerics, "more": time.time()}, None)
    store.add("generated", {**body, "public_key": "d"}, None)
    assert give_order(store).dtype == prover.model.numerics["dtype"]
