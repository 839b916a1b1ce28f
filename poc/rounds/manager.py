"""One round at a time: what clients may ask for, and what that does to the round."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from hallmark.poc.core.errors import HallmarkError, NotReadyError, StateError
from hallmark.poc.outbox.outbox import Outbox
from hallmark.poc.outbox.round_journal import InterruptedRound
from hallmark.poc.protocol.config import PoCConfig, PoCState
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.rounds.active_round import ActiveRound
from hallmark.poc.rounds.engine_protocol import PoCEngine
from hallmark.poc.rounds.inference_activity import InferenceActivity
from hallmark.poc.rounds.offload import Offload
from hallmark.poc.rounds.validation import ValidationQueue
from hallmark.poc.rounds.validation_job import SettledJob, ValidationJob
from hallmark.poc.settings.settings import Settings
from hallmark.poc.webhooks.url import check_callback_url

__all__ = ["PoCManager"]

logger = logging.getLogger(__name__)

_STOP_SECONDS: Final = 2.0


class PoCManager:
    """Runs rounds on an engine: IDLE → GENERATING ⇄ VALIDATING → STOPPED → a new round.

    The state is the round's own. No change of it has an await in its middle, so none interleaves with
    another, and what is derived from it (the inference gate, the status) cannot be out of step: the event
    loop is the lock. The engine is driven by the round's owner task alone, one round after the other.

    Args:
        engine: The engine.
        settings: The server's settings.
        outbox: Where callbacks go; None makes one in memory. Closed by `shutdown`.
        clock: Seconds on a clock that never goes back.
        now: Seconds since the epoch.

    Attributes:
        activity: The inference that is at work; the server's middleware counts in it.
        active: The round that is set, or was last.
        queue: The batches that wait for validation, and the results.
        offload: What takes its time over large batches.
        interrupted: The round in which the last server ended, until another is set or a stop gives it up.
    """

    def __init__(
        self,
        engine: PoCEngine,
        settings: Settings,
        outbox: Outbox | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.outbox = outbox or Outbox(settings, clock=now, steady=clock)
        self.activity = InferenceActivity(engine, clock)
        self.queue = ValidationQueue(settings.max_queued_nonces, clock)
        self.offload = Offload()
        self.active: ActiveRound | None = None
        self.interrupted: InterruptedRound | None = None
        self._clock = clock
        self._now = now
        self._state_without_round = PoCState.IDLE
        self._is_shut_down = False
        # Rounds whose owner may still be at work: the present one, and those it waits for.
        self._driven: list[ActiveRound] = []

    @property
    def state(self) -> PoCState:
        """Where the node stands."""
        return self._state_without_round if self.active is None else self.active.state

    @property
    def gate_closed(self) -> bool:
        """Whether inference is to be refused."""
        return self.active is not None and self.active.refuses_inference

    async def recover(self) -> None:
        """Take up what the last server left: its callbacks and, where the settings say so, its round.

        A round that cannot be gone on with is logged, and shown in the status as one that can.

        Raises:
            OutboxError: The outbox cannot be read or written.
        """
        self.interrupted = interrupted = await self.outbox.recover()
        if interrupted is None:
            return
        block = interrupted.config.block_hash
        logger.warning(
            "The last server ended in %s of block %r, with %d nonces checked",
            interrupted.phase,
            block,
            interrupted.position,
        )
        if not self.settings.resume_on_start:
            return
        try:
            self._check_resumable(interrupted)
            self._begin(interrupted.config, interrupted.phase, interrupted)
        except HallmarkError as exc:
            logger.error("The round of block %r is not gone on with: %s", block, exc)

    def _check_resumable(self, interrupted: InterruptedRound) -> None:
        age = self._now() - interrupted.updated_at
        if age > self.settings.callback_max_age:
            raise StateError(f"it was interrupted {age:.0f} s ago, and callbacks would be too old by now")
        digest = Round.resolve(interrupted.config, self.engine.model).digest
        if digest != interrupted.digest:
            raise StateError(
                f"its settings were {interrupted.digest!r}, with this model they would be {digest!r}"
            )

    async def init(self, config: PoCConfig) -> ActiveRound:
        """Set a round without starting it; a round that is set already is ended.

        Returns:
            The round.

        Raises:
            FieldError: The request is not allowed; the present round goes on.
            StateError: The model does not allow it; the present round goes on.
            EngineError: The engine could not open it; the state is STOPPED.
            RoundCancelledError: It was stopped or replaced before it was open.
        """
        active = self._begin(config, PoCState.IDLE)
        await active.started()
        return active

    async def start_round(self, config: PoCConfig, phase: PoCState = PoCState.GENERATING) -> ActiveRound:
        """Set a round and enter a phase of it.

        The very request of the round that is set changes nothing but the phase. Another one ends that round
        and begins a new one.

        Returns:
            The round.

        Raises:
            FieldError: As in `init`, or `node_id` or `node_count` is missing to generate.
            StateError: As in `init`.
            EngineError: As in `init`.
            RoundCancelledError: As in `init`.
        """
        active = self._round_that_is_set
        if active is not None and active.round.config == config:
            active.enter(phase)
        else:
            active = self._begin(config, phase)
        await active.started()
        return active

    async def switch_phase(self, phase: PoCState) -> None:
        """Enter a phase of the round that is set; its walk and its callback URL stay.

        Raises:
            StateError: No round is set.
            FieldError: `node_id` or `node_count` is missing to generate.
        """
        active = self._round_that_is_set
        if active is None:
            raise StateError(
                f"there is no round to enter {phase} with: the state is {self.state}; "
                "/init, /init/generate or /init/validate sets a round"
            )
        active.enter(phase)
        await active.started()

    async def stop(self, reason: str = "stopped by request") -> None:
        """End the round at once, and return when it is over.

        That is when the batch in flight is counted and, for up to two seconds, what can be delivered at once
        has been; the rest follows in the background. What its counters say then is final.
        """
        self._give_up_interrupted()
        active = self.active
        if active is None:
            self._state_without_round = PoCState.STOPPED
            await self.outbox.flush(None, _STOP_SECONDS)
        else:
            active.end(reason)
            await active.wait_until_over(_STOP_SECONDS)

    async def submit(self, batch: ProofBatch) -> ValidationJob:
        """Queue a batch to be judged; while the state is GENERATING it waits.

        Raises:
            StateError: No round is running, or the batch is about another block, or was computed with other
                settings or in another dtype.
            FieldError: The batch does not fit the round, or claims no nonce.
            QueueFullError: There is no room for it now.
            RoundCancelledError: The round ended while the batch was looked at.
        """
        active = self.active
        if active is None or self.state not in (PoCState.GENERATING, PoCState.VALIDATING):
            raise StateError(
                f"batches are judged in {PoCState.VALIDATING} and queued in {PoCState.GENERATING}; "
                f"the state is {self.state}"
            )
        size = len(batch.nonces) + len(batch.failed_nonces)
        job = await self.offload.run(size, lambda: active.job(batch))
        if active.ended:
            raise active.cancelled(active.reason or "")
        active.submit(job)
        return job

    def abandon(self, job: ValidationJob) -> None:
        """Give up a batch whose client has gone, where no callback would bring anybody its verdict."""
        if job.round.config.callback_url is None:
            gone = StateError("the client that waited for the verdict has gone, and there is no callback URL")
            self.queue.withdraw(job, gone)

    def result(self, request_id: str) -> ValidationJob | SettledJob:
        """Return a submitted batch by its request id, or what is kept of one that has been settled.

        Raises:
            UnknownRequestError: There is none, or its result has expired.
        """
        return self.queue.find(request_id)

    async def shutdown(self) -> None:
        """End the round and flush callbacks, without calling the engine, which may be gone already.

        Once is enough: further calls do nothing.
        """
        if self._is_shut_down:
            return
        self._is_shut_down = True
        for round_ in self._driven:
            round_.engine_is_gone = True
            round_.end("the server is shutting down", is_over=False)
        owners = {round_.owner for round_ in self._driven if round_.owner is not None}
        if owners:
            # A batch in flight gets this long to be counted.
            await asyncio.wait(owners, timeout=self.settings.shutdown_timeout)
            for owner in owners:
                owner.cancel()
            await asyncio.wait(owners)
        self.offload.close()
        await self.outbox.close(self.settings.shutdown_timeout)

    @property
    def _round_that_is_set(self) -> ActiveRound | None:
        return None if self.active is None or self.active.ended else self.active

    def _give_up_interrupted(self) -> None:
        """Let the round in which the last server ended be over, where nobody has gone on with it."""
        if self.interrupted is not None:
            if self.active is None:
                self.outbox.forget_rounds()
            self.interrupted = None

    def _begin(
        self, config: PoCConfig, state: PoCState, resumes: InterruptedRound | None = None
    ) -> ActiveRound:
        """Put a new round in the place of the present one; nothing is changed where it is refused."""
        if self._is_shut_down:
            raise NotReadyError("the server is shutting down")
        if config.callback_url is not None:
            check_callback_url(config.callback_url, self.settings.callback_allowed_hosts)
        active = ActiveRound(
            Round.resolve(config, self.engine.model),
            state,
            engine=self.engine,
            activity=self.activity,
            settings=self.settings,
            queue=self.queue,
            outbox=self.outbox,
            offload=self.offload,
            clock=self._clock,
            now=self._now,
            resumes=resumes,
        )
        if resumes is None:
            self._give_up_interrupted()
        self.interrupted = resumes
        previous, self.active = self.active, active
        if previous is not None:
            previous.end(f"replaced by a round for block {config.block_hash!r}")
        if config.callback_url is not None:
            # Beside the opening in the engine, which it does not delay.
            active.receiver = self.outbox.ask(config.callback_url)
        active.owner = asyncio.create_task(
            active.drive(None if previous is None else previous.owner), name="hallmark round"
        )
        self._driven = [r for r in self._driven if r.owner is not None and not r.owner.done()]
        self._driven.append(active)
        return active
