"""Who computes what: the batches of a computation, and the actors that have been given some."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from hallmark.poc.offline.engine import Batch

__all__ = ["Actor", "Job", "Work"]

_MOST_COPIES: Final = 2
"""Actors that compute the same batch at the end, the first of which counts."""


@dataclass(eq=False)
class Job:
    """A batch on its way.

    Attributes:
        batch: The batch.
        holders: Actors that have been given it and have not died since.
        deaths: How many actors have died of it.
        is_done: Whether its numbers are there, or nobody wants them any more.
    """

    batch: Batch
    holders: "list[Actor]" = field(default_factory=list)
    deaths: int = 0
    is_done: bool = False


@dataclass(eq=False)
class Actor:
    """An actor as this process knows it.

    Attributes:
        handle: Ray's.
        starting: What answers once it has a place, and then once it has loaded its model; None while it is at
            work.
        is_loading: Whether it has a place and loads its model.
        jobs: What it has been given, in the order in which it computes it, by what answers.
        node: Where it was last.
        deaths: How often it has died in a row without computing anything.
    """

    handle: Any
    starting: Any
    is_loading: bool = False
    jobs: dict[Any, Job] = field(default_factory=dict)
    node: str = "a node of the cluster"
    deaths: int = 0

    @property
    def is_at_work(self) -> bool:
        """Whether it has loaded its model, and has not died since as far as is known."""
        return self.starting is None


class Work:
    """The batches of one computation."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._source: Iterator[Batch] | None = iter(batches)
        self._waiting: deque[Job] = deque()
        self._open: dict[Job, None] = {}
        """In the order in which they were given away first."""

    def __len__(self) -> int:
        """Return how many batches are known that are not done."""
        return len(self._waiting) + len(self._open)

    def read(self, count: int) -> None:
        """Take batches from their source until so many are known that are not done."""
        while self._source is not None and len(self) < count:
            batch = next(self._source, None)
            if batch is None:
                self._source = None
            else:
                self._waiting.append(Job(batch))

    def job_for(self, actor: Actor) -> Job | None:
        """Return what an actor is to compute next: something new, or at the end what others have."""
        self.read(1 + len(self._open))
        if self._waiting:
            job = self._waiting.popleft()
            self._open[job] = None
            return job
        if actor.jobs:
            return None
        copyable = (job for job in self._open if actor not in job.holders and len(job.holders) < _MOST_COPIES)
        # The last ones wait in the queues of their actors.
        return min(reversed([*copyable]), key=lambda job: len(job.holders), default=None)

    def take_back(self, job: Job) -> None:
        """Give a job away again, before others: nobody has it any more."""
        if job in self._open and not job.holders:
            del self._open[job]
            self._waiting.appendleft(job)

    def done(self, job: Job) -> None:
        """Note that a job has been computed."""
        job.is_done = True
        del self._open[job]

    def abandon(self) -> None:
        """Note that nobody wants what is still open."""
        for job in self._open:
            job.is_done = True
