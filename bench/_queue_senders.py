"""Senders that deliver as a server's outbox does: until it is acknowledged, to whichever receiver answers."""

import random
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import httpx
from _queue_batches import Delivery
from _queue_progress import Part, Progress
from ordered_batches import SETTINGS

from hallmark.poc.core.errors import DatabaseError
from hallmark.server.receiver.store import BatchStore
from hallmark.server.verification.order import Draw
from hallmark.server.verification.orders import OrderBook

__all__ = ["DRAWN", "Senders"]

DRAWN: Final = 4
"""Nonces of each batch."""

_THREADS: Final = 4
_ANSWER_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_BACKOFF: Final = (0.05, 0.3)


class Senders(Part):
    """Threads that deliver, and order a block as soon as all of its batches are acknowledged.

    Args:
        batches: What they deliver, block by block.
        urls: Of the receivers.
        database: Where they keep batches.
        progress: Told of each that is acknowledged.
        seed: Decides where each goes first, and pauses.

    Attributes:
        acknowledged: The ids that were answered, by webhook-id.
        answers_lost: Batches that were there when they were acknowledged: their first answer was lost.
        sent_again: Posts that nobody answered, or not by 200.
    """

    def __init__(
        self, batches: Sequence[Delivery], urls: Sequence[str], database: str, progress: Progress, seed: int
    ) -> None:
        super().__init__("senders")
        self.acknowledged: dict[str, set[int]] = {}
        self.answers_lost = self.sent_again = 0
        self._urls, self._database, self._progress, self._seed = urls, database, progress, seed
        self._lock = threading.Lock()
        self._left = iter(batches)
        self._left_of_block = Counter(batch.block for batch in batches)
        self._under_way: Counter[str] = Counter()
        self._answered: set[str] = set()

    def is_posting_to(self, url: str) -> bool:
        """Return whether a post is under way to a receiver that has answered since it was started."""
        with self._lock:
            return url in self._answered and self._under_way[url] > 0

    def has_answered(self, url: str) -> bool:
        """Return whether a receiver has answered since it was started."""
        with self._lock:
            return url in self._answered

    def forget(self, url: str) -> None:
        """Take note that a receiver was killed."""
        with self._lock:
            self._answered.discard(url)

    def _run(self) -> None:
        store = BatchStore(self._database)
        try:
            with ThreadPoolExecutor(_THREADS) as threads:
                for sender in [
                    threads.submit(self._send, n, OrderBook(store.database)) for n in range(_THREADS)
                ]:
                    sender.result()
        finally:
            store.close()

    def _send(self, number: int, orders: OrderBook) -> None:
        chance = random.Random(f"{self._seed} {number}")  # noqa: S311
        try:
            with httpx.Client(trust_env=False, timeout=_ANSWER_SECONDS) as client:
                while not self._over.wait(chance.uniform(0, _LONGEST_PAUSE)):
                    while not self._progress.may_deliver():
                        if self._over.wait(_POLL_SECONDS):
                            return
                    with self._lock:
                        batch = next(self._left, None)
                    if batch is None:
                        return
                    self._deliver(batch, client, orders, chance)
        except BaseException:
            self._over.set()
            raise

    def _deliver(
        self, batch: Delivery, client: httpx.Client, orders: OrderBook, chance: random.Random
    ) -> None:
        place = chance.randrange(len(self._urls))
        while not self._post(batch, client, self._urls[place]):
            # The other one, and it may be the same batch: the answer may have been lost.
            place = (place + 1) % len(self._urls)
            if self._over.wait(chance.uniform(*_BACKOFF)):
                return
        self._progress.acknowledge()
        with self._lock:
            self._left_of_block[batch.block] -= 1
            is_last = not self._left_of_block[batch.block]
        while is_last and not self._order(batch.block, orders):
            if self._over.wait(_POLL_SECONDS):
                return

    def _post(self, batch: Delivery, client: httpx.Client, url: str) -> bool:
        with self._lock:
            self._under_way[url] += 1
        try:
            headers = {"Content-Type": "application/json", "webhook-id": batch.webhook_id}
            answer = client.post(f"{url}/generated", content=batch.content, headers=headers)
        except httpx.TransportError:
            answer = None
        with self._lock:
            self._under_way[url] -= 1
            if answer is None or answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
                self.sent_again += 1
                return False
            assert answer.status_code == httpx.codes.OK, f"{answer.status_code} {answer.text}"
            self._answered.add(url)
            told = answer.json()
            self.acknowledged.setdefault(batch.webhook_id, set()).add(told["id"])
            self.answers_lost += told["duplicate"]
            return True

    def _order(self, block: str, orders: OrderBook) -> bool:
        """Order a block; return whether it is."""
        try:
            orders.place(block, SETTINGS, Draw(randomness=f"the block after {block}", nonces=DRAWN))
        except DatabaseError:
            return False
        return True
