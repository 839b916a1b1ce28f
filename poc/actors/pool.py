"""A pool of Ray's actors that recompute numbers, each with a model of its own, on one machine or on many."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final, NamedTuple, Self

from hallmark.poc.actors.actor import ActorIdentity, actor_class
from hallmark.poc.actors.cluster import ActorNeeds, RayCluster, import_ray, reason
from hallmark.poc.actors.work import Actor, Job, Work
from hallmark.poc.core.errors import EngineError, HallmarkError
from hallmark.poc.offline.engine import Batch, Computed, EngineLoader
from hallmark.poc.protocol.config import DeployedModel
from hallmark.poc.protocol.proof import Numerics

__all__ = ["ActorPool", "PoolLoader", "PoolStatus"]

logger = logging.getLogger(__name__)

_IN_FLIGHT: Final = 2
"""Batches that an actor has: the next one is there when one is done."""

_MOST_DEATHS: Final = 3
"""Times that an actor may die of a batch, or of loading its model, in a row."""

_WAIT_SECONDS: Final = 1.0
_SECONDS_BETWEEN_COUNTS: Final = 10.0
_PATIENCE: Final = 30.0
"""Seconds without an actor that has a place until somebody is told."""

_LOADING_PATIENCE: Final = 600.0
"""The same without one that has loaded the model, which takes as long as that is large."""


class PoolStatus(NamedTuple):
    """How a pool is.

    Attributes:
        at_work: Actors that have loaded their model and are alive, as far as is known.
        actors: Actors that there are, those among them that wait for a place.
    """

    at_work: int
    actors: int


class ActorPool:
    """An engine made of engines in Ray's actors.

    An actor that dies is started again by Ray wherever there is room, and loads its model again; what it was
    computing is given to whoever is free. At the end idle actors compute what others still have, so that none
    that is slow or lost holds up the rest.

    Args:
        cluster: Where actors run. The pool leaves it when it is closed.
        loader: Loads the engine of each.
        needs: What each takes of its node.
        most: How many there may be; None is as many as the cluster has room for, nodes that join among it.
        batches: How many batches will be asked for, as far as is known: more actors than that are of no use.
        tell: Told what whoever waits should know.

    Raises:
        HallmarkError: As the loader's `load` does.
        EngineError: No actor has loaded the model, or the first that have do not agree.
    """

    def __init__(
        self,
        cluster: RayCluster,
        loader: EngineLoader,
        needs: ActorNeeds,
        *,
        most: int | None = None,
        batches: int = 1,
        tell: Callable[[str], None] = logger.warning,
    ) -> None:
        self._ray = import_ray()
        self._cluster = cluster
        self._loader = self._ray.cloudpickle.dumps(loader)
        self._needs = needs
        self._most = most
        self._tell = tell
        self._hallmark = version("hallmark-poc")
        self._class = self._ray.remote(actor_class())
        self._actors: list[Actor] = []
        self._expected: tuple[ActorIdentity, str] | None = None
        self._counted = -_SECONDS_BETWEEN_COUNTS
        self._room = 0
        self._given_up = 0
        self._alone_since: float | None = time.monotonic()
        self._add_actors(batches)
        while self._expected is None:
            for _ in self._step():
                pass

    @classmethod
    def connect(
        cls,
        loader: EngineLoader,
        address: str | None,
        *,
        actors: int | None = None,
        gpus: int | None = None,
        cpus: int | None = None,
        batches: int = 1,
        tell: Callable[[str], None] = logger.warning,
    ) -> Self:
        """Make a pool on a cluster, and wait until the first actor is at work.

        Args:
            loader: Loads the engine of each actor.
            address: HOST:PORT of the cluster's head, or `auto`; None starts Ray on this machine.
            actors: How many there may be; None is as many as the cluster has room for.
            gpus: How many GPUs each takes; None is as many as its engine runs on, where the cluster has
                any.
            cpus: How many CPUs each takes; None is as many where it takes no GPU.
            batches: How many batches will be asked for, as far as is known.
            tell: Told what whoever waits should know.

        Raises:
            FieldError: Named `ray`, `gpus` or `cpus`: no such cluster, or none of its nodes has so many.
            UnsupportedError: Ray is not installed.
            HallmarkError: As the loader's `load` does.
            EngineError: No actor has loaded the model, or they do not agree.
        """
        cluster = RayCluster.connect(address)
        try:
            needs = cluster.needs(loader.devices, gpus, cpus)
            if actors is None and not loader.devices:
                actors = 1  # how many there is room for depends on what its engine takes
            return cls(cluster, loader, needs, most=actors, batches=batches, tell=tell)
        except BaseException:
            cluster.close()
            raise

    @property
    def facts(self) -> DeployedModel:
        """What a round has to know of the model."""
        return self._identity.facts

    @property
    def numerics(self) -> Numerics:
        """The fingerprint of all actors' arithmetic."""
        return self._identity.numerics

    @property
    def fingerprint(self) -> str:
        """That of the model's files, the same on all nodes."""
        return self._identity.fingerprint

    @property
    def status(self) -> PoolStatus:
        """How many actors are at work, and how many there are."""
        return PoolStatus(sum(actor.is_at_work for actor in self._actors), len(self._actors))

    @property
    def _identity(self) -> ActorIdentity:
        if self._expected is None:
            raise RuntimeError("no actor has said who it is")
        return self._expected[0]

    def compute(self, batches: Iterable[Batch]) -> Iterator[Computed]:
        """Compute batches, each once, in the order in which they are done.

        Raises:
            HallmarkError: As in an engine's `compute`, in the words of the actor's.
            EngineError: A batch has ended its actor again and again, actors do not agree, or the cluster is
                gone.
        """
        work = Work(batches)
        try:
            while True:
                work.read(_IN_FLIGHT * max(1, self._room))
                if not len(work):
                    return
                self._add_actors(len(work))
                for actor in self._actors:
                    while actor.is_at_work and len(actor.jobs) < _IN_FLIGHT:
                        job = work.job_for(actor)
                        if job is None:
                            break
                        self._give(actor, job)
                for job, numbers in self._step(work):
                    work.done(job)
                    yield Computed(job.batch, numbers)
        finally:
            work.abandon()

    def close(self) -> None:
        """End the actors and leave the cluster; one that was started for them ends."""
        try:
            if self._cluster.look_now():
                for actor in self._actors:
                    self._end(actor)
        finally:
            self._actors.clear()
            self._cluster.close()

    def _add_actors(self, n_batches: int) -> None:
        """Start actors until there are as many as there is room and work for."""
        now = time.monotonic()
        # Asked of a head that has gone, Ray waits, and in the end ends this process.
        if now - self._counted > _SECONDS_BETWEEN_COUNTS and self._cluster.look_now():
            self._counted = now
            self._room = self._cluster.room(self._needs)
        most = self._room if self._most is None else self._most
        useful = min(max(1, n_batches), most - self._given_up)
        while len(self._actors) < useful:
            handle = self._started()
            self._actors.append(Actor(handle, self._placed(handle)))

    def _started(self) -> Any:
        """Return a new actor of Ray's, which starts it again as often as it dies."""
        options = self._class.options(
            num_gpus=self._needs.gpus,
            num_cpus=self._needs.cpus,
            max_restarts=-1,
            scheduling_strategy="SPREAD",
        )
        return options.remote(self._hallmark, self._loader)

    def _end(self, actor: Actor) -> None:
        # What cannot be ended has ended already, or ends with this process, whose actor it is.
        with suppress(Exception):
            self._ray.kill(actor.handle)

    def _placed(self, handle: Any) -> Any:
        """Return what answers once an actor has a place, however often Ray has to look for one."""
        return handle.place.options(max_task_retries=-1).remote()

    def _give(self, actor: Actor, job: Job) -> None:
        actor.jobs[self._asked(actor, self._ray.cloudpickle.dumps(job.batch))] = job
        job.holders.append(actor)

    def _asked(self, actor: Actor, batch: bytes | None) -> Any:
        """Ask an actor for a batch, or only to load its model."""
        # Not retried by Ray, which would wait for this actor's next place, however long that takes.
        return actor.handle.answer.options(max_task_retries=0).remote(batch)

    def _step(self, work: Work | None = None) -> Iterator[tuple[Job, list[list[float]]]]:
        """Wait a moment for answers; yields what has been computed of the work."""
        self._cluster.look()
        self._look_alone()
        askers = {
            answer: actor
            for actor in self._actors
            for answer in ([*actor.jobs] if actor.starting is None else [actor.starting])
        }
        # Waking up regularly, it can be interrupted.
        ready, _ = self._ray.wait([*askers], num_returns=1, timeout=_WAIT_SECONDS)
        for answer in ready:
            actor = askers[answer]
            try:
                said = self._ray.get(answer)
            except self._ray.exceptions.RayTaskError as exc:
                if isinstance(exc.cause, HallmarkError):
                    raise exc.cause from None
                raise EngineError(f"the actor on {actor.node} failed: {reason(exc.cause)}") from exc
            except self._ray.exceptions.RayError as exc:
                self._lost(actor, exc, work)
                continue
            if actor.starting is not None and not actor.is_loading:
                actor.node, hallmark = said
                self._check_version(actor.node, hallmark)
                actor.starting, actor.is_loading = self._asked(actor, None), True
                continue
            self._check(said)
            actor.node, actor.deaths = said["node"], 0
            if actor.starting is not None:
                actor.starting, actor.is_loading = None, False
                continue
            job = actor.jobs.pop(answer)
            job.holders.remove(actor)
            if not job.is_done:
                yield job, said["numbers"]

    def _lost(self, actor: Actor, exc: Exception, work: Work | None) -> None:
        """Take back what an actor that has died was given, and wait for it to come again.

        Raises:
            EngineError: It has died too often of the same, or no actor is left.
        """
        why = reason(exc)
        jobs, actor.jobs = [*actor.jobs.values()], {}
        if jobs:
            # It was computing the first; the others were in its queue.
            jobs[0].deaths += 1
            if jobs[0].deaths >= _MOST_DEATHS and not jobs[0].is_done:
                keys = jobs[0].batch.keys
                public_key, nonce = keys[0]
                raise EngineError(
                    f"the batch of {len(keys)} nonces that begins with nonce {nonce} of {public_key} has "
                    f"ended its actor {_MOST_DEATHS} times, the last on {actor.node}: {why}"
                )
        for job in reversed(jobs):
            job.holders.remove(actor)
            if work is not None:
                work.take_back(job)
        had_place = actor.starting is None or actor.is_loading
        actor.deaths += actor.starting is not None
        if actor.deaths < _MOST_DEATHS:
            if not had_place:
                # Ray looks for a place as often as it takes: it has given this one up.
                self._end(actor)
                actor.handle = self._started()
            actor.starting, actor.is_loading = self._placed(actor.handle), False
            return
        self._actors.remove(actor)
        self._end(actor)
        sentence = (
            f"an actor on {actor.node} has died {actor.deaths} times while it loaded its model: {why}"
            if had_place
            else f"an actor has not started {actor.deaths} times: {why}"
        )
        if not self._actors:
            raise EngineError(sentence)
        self._given_up += 1
        self._tell(f"{sentence}; going on without it")

    def _check(self, said: dict[str, Any]) -> None:
        """Compare what an actor computes with and what the first one did.

        Raises:
            EngineError: They differ: numbers of another model would convict the honest.
        """
        self._check_version(said["node"], said["hallmark"])
        if self._expected is None:
            self._expected = said["identity"], said["node"]
        expected, first = self._expected
        differences = said["identity"].differences(expected)
        if differences:
            raise EngineError(
                f"actors compute different things: {said['node']} has {', '.join(differences)} as {first} has"
            )

    def _check_version(self, node: str, hallmark: str | None) -> None:
        """Compare the version of Hallmark on a node with this process's.

        Raises:
            EngineError: They differ.
        """
        if hallmark != self._hallmark:
            found = "no Hallmark" if hallmark is None else f"Hallmark {hallmark}"
            raise EngineError(f"{node} has {found}, and not {self._hallmark} as this process has")

    def _look_alone(self) -> None:
        """Tell once, each time no actor has been at work for a while."""
        now = time.monotonic()
        if any(actor.is_at_work for actor in self._actors):
            self._alone_since = now
            return
        alone = 0.0 if self._alone_since is None else now - self._alone_since
        loading = [actor.node for actor in self._actors if actor.is_loading]
        if loading and alone > _LOADING_PATIENCE:
            self._alone_since = None
            self._tell(f"no actor is at work yet: the model is being loaded on {', '.join(loading)}")
        elif not loading and alone > _PATIENCE:
            self._alone_since = None
            which = "no actor has a place yet" if self._expected is None else "no actor has a place any more"
            self._tell(
                f"{which}: waiting until the cluster has room for one that takes {self._needs.in_words()}"
            )


@dataclass(frozen=True)
class PoolLoader:
    """Makes a pool.

    Attributes:
        loader: Loads the engine of each actor.
        address: HOST:PORT of the cluster's head, or `auto`; None starts Ray on this machine.
        actors: How many there may be; None is as many as the cluster has room for.
        gpus: How many GPUs each takes; None is as many as its engine runs on, where the cluster has any.
        cpus: How many CPUs each takes; None is as many where it takes no GPU.
        batches: How many batches will be asked for, as far as is known.
        tell: Told what whoever waits should know.
    """

    loader: EngineLoader
    address: str | None = None
    actors: int | None = None
    gpus: int | None = None
    cpus: int | None = None
    batches: int = 1
    tell: Callable[[str], None] = logger.warning

    @property
    def devices(self) -> int:
        """Those of one actor."""
        return self.loader.devices

    def fingerprint(self) -> str:
        """Return what this machine's folder would have an actor say."""
        return self.loader.fingerprint()

    def load(self) -> ActorPool:
        """Make the pool, and wait until its first actor is at work; raises what `ActorPool.connect` does."""
        return ActorPool.connect(
            self.loader,
            self.address,
            actors=self.actors,
            gpus=self.gpus,
            cpus=self.cpus,
            batches=self.batches,
            tell=self.tell,
        )
