"""A round that has been set, and the one task that drives the engine for it."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

from hallmark.poc.core.compact_json import compact_json
from hallmark.poc.core.errors import (
    EngineError,
    FieldError,
    HallmarkError,
    OutboxError,
    RoundCancelledError,
)
from hallmark.poc.core.request_id import REQUEST_ID
from hallmark.poc.outbox.outbox import Outbox
from hallmark.poc.outbox.round_journal import InterruptedRound
from hallmark.poc.protocol.config import PoCConfig, PoCState
from hallmark.poc.protocol.generated import ComputedSpan
from hallmark.poc.protocol.nonces import NonceKey, NonceSchedule, NonceSpan
from hallmark.poc.protocol.proof import Numerics, ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.status import CallbackReach
from hallmark.poc.rounds.engine_protocol import PoCEngine
from hallmark.poc.rounds.engine_watch import EngineWatch
from hallmark.poc.rounds.inference_activity import InferenceActivity
from hallmark.poc.rounds.loop_holds import LoopHolds
from hallmark.poc.rounds.offload import Offload
from hallmark.poc.rounds.payloads import generated_template, validated_payload
from hallmark.poc.rounds.round_log import RoundLog
from hallmark.poc.rounds.scheduler import Scheduler
from hallmark.poc.rounds.statistics import RoundStatistics
from hallmark.poc.rounds.validation import ValidationQueue
from hallmark.poc.rounds.validation_job import ValidationJob
from hallmark.poc.settings.settings import Settings
from hallmark.poc.verdict.judge import Verdict

__all__ = ["ActiveRound"]

logger = logging.getLogger(__name__)

_MAX_REASON = 500


class ActiveRound:
    """A round from its start to its end.

    Its owner task, `drive`, is the only caller of the engine: it opens the round there, computes batches or
    validations by the state of the moment, and closes it. Nobody cancels it while the engine lives, so a call
    of the engine always runs to its end. `enter` and `end` change the state without an await in between. A
    change of phase lets the batch in flight be finished and counted; the end gives up a suspended one.

    Attributes:
        round: The round.
        state: Where it stands; STOPPED once it has ended.
        reason: Why it has ended.
        has_failed: Whether it ended by itself, with an error.
        statistics: Its counters.
        watch: Whether the engine gets on with it.
        loop_holds: How long the event loop was held beside inference.
        scheduler: What computes them, beside inference.
        memory_bytes: What the engine holds for it; None while it is not open there.
        engine_is_gone: Whether the engine must not be called any more.
        owner: The task that runs `drive`.
        receiver: Whether the receiver of callbacks answers, once it is known; None: there is no callback URL.
        resumes: Where the last server left it; None: its walk begins here.

    Raises:
        FieldError: The node's first nonce is out of range, or the state is GENERATING and `node_id` or
            `node_count` is missing.
    """

    def __init__(
        self,
        round_: Round,
        state: PoCState,
        *,
        engine: PoCEngine,
        activity: InferenceActivity,
        settings: Settings,
        queue: ValidationQueue,
        outbox: Outbox,
        offload: Offload,
        clock: Callable[[], float],
        now: Callable[[], float],
        resumes: InterruptedRound | None = None,
    ) -> None:
        self.round = round_
        self.state = state
        self.reason: str | None = None
        self.has_failed = False
        self.statistics = RoundStatistics(clock)
        self._log = RoundLog(round_, self.statistics)
        self.watch = EngineWatch(round_.config.block_hash, settings.stuck_after, clock)
        self.memory_bytes: int | None = None
        self.engine_is_gone = False
        self.owner: asyncio.Task[None] | None = None
        self.loop_holds = LoopHolds(activity)
        self.receiver: asyncio.Task[CallbackReach] | None = None
        self.scheduler = Scheduler(engine, activity, settings, lambda: self.refuses_inference, clock)
        self._engine = engine
        self._settings = settings
        self._queue = queue
        self._outbox = outbox
        self._offload = offload
        self._clock = clock
        self._now = now
        self._walk = _walk(round_.config)
        self._check(state)
        self._journal_id = None if resumes is None else resumes.id
        self._is_over = False
        self.resumes = resumes
        if resumes is not None and self._walk is not None:
            self._walk.position = resumes.position
            self.statistics.resume(resumes.position, resumes.valid, resumes.failed)
        self._ended = asyncio.Event()
        self._settled = asyncio.Event()
        self._failure: HallmarkError | None = None
        self._wake = asyncio.Event()
        self._batch_waiters: list[asyncio.Future[ProofBatch | None]] = []

    @property
    def ended(self) -> bool:
        """Whether it has been stopped or replaced, or has died."""
        return self.state is PoCState.STOPPED

    @property
    def refuses_inference(self) -> bool:
        """Whether inference is to be refused; derived from the state, never set."""
        return self.state is PoCState.GENERATING and not self._settings.inference_while_generating

    @property
    def is_open(self) -> bool:
        """Whether the engine is ready to compute for it."""
        return self.memory_bytes is not None and not self.ended

    @property
    def numerics(self) -> Numerics:
        """The fingerprint of the engine's arithmetic in this round, whose batch shape is part of it."""
        shape = {"batch_size": self.round.batch_size, "seq_len": self.round.config.seq_len}
        return {**self._engine.numerics, **shape}

    async def started(self) -> None:
        """Wait until the engine has opened the round.

        Raises:
            HallmarkError: It could not, or the round ended before.
        """
        await self._settled.wait()
        if self._failure is not None:
            raise self._failure

    async def next_batch(self) -> ProofBatch | None:
        """Wait for the next batch of the walk, through a pause; None when none of its nonces counts.

        Raises:
            HallmarkError: The round ended before.
        """
        waiter: asyncio.Future[ProofBatch | None] = asyncio.get_running_loop().create_future()
        self._batch_waiters.append(waiter)
        return await waiter

    def enter(self, phase: PoCState) -> None:
        """Change the phase of a round that has not ended; the walk goes on where it was.

        Raises:
            FieldError: `node_id` or `node_count` is missing to generate.
        """
        self._check(phase)
        if phase is self.state:
            return
        self.state = phase
        self._log.enter(phase)
        self.watch.note_progress()
        self.statistics.set_generating(phase is PoCState.GENERATING and self.is_open)
        if phase is PoCState.GENERATING:
            self._queue.release()
        if self._journal_id is not None:
            self._outbox.enter_phase(self._journal_id, phase)
        self._wake.set()

    def job(self, batch: ProofBatch) -> ValidationJob:
        """Make a batch ready to be queued, on any thread.

        Raises:
            StateError: The batch is about another block, or was computed with other settings or in another
                dtype.
            FieldError: It does not fit the round.
        """
        batch.check_against(self.round, self._engine.numerics)
        return ValidationJob(batch, self.round, self.numerics, self._now)

    def submit(self, job: ValidationJob) -> None:
        """Queue a batch for the time when the state is VALIDATING.

        Raises:
            FieldError: It claims no nonce.
            QueueFullError: There is no room for it now.
        """
        had_work = self.state is PoCState.GENERATING or self._queue.stats["queued_jobs"] > 0
        job.asked_by = REQUEST_ID.get()
        self._queue.submit(job)
        if not had_work:
            self.watch.note_progress()
        self._wake.set()

    def end(self, reason: str, failure: HallmarkError | None = None, *, is_over: bool = True) -> None:
        """End the round at once; what it has found is delivered in the background.

        Args:
            reason: Why, for people.
            failure: What `started` raises where the round was not open yet; None: that it was cancelled.
            is_over: Whether it is not to be gone on with after a restart.
        """
        self._is_over |= is_over
        if self.ended:
            # It had failed, and now it is given up.
            self._note_end()
            return
        cancelled = self.cancelled(reason)
        self.state, self.reason = PoCState.STOPPED, reason[:_MAX_REASON]
        self._ended.set()
        self.statistics.end()
        self._note_end()
        self._queue.cancel(cancelled)
        if not self._settled.is_set():
            self._failure = failure or cancelled
            self._settled.set()
        for waiter in self._batch_waiters:
            if not waiter.done():
                waiter.set_exception(failure or cancelled)
        self._batch_waiters.clear()
        self._wake.set()

    def cancelled(self, reason: str) -> RoundCancelledError:
        """Return what those get who wait for something of a round that has ended."""
        return RoundCancelledError(
            f"the round for block {self.round.config.block_hash!r} has ended: {reason}"
        )

    async def wait_until_over(self, seconds: float) -> None:
        """Wait, once it has ended, until the batch in flight is counted and its finds are delivered.

        Args:
            seconds: The longest to wait for receiver and journal, after the batch.
        """
        if self.owner is not None:
            await asyncio.wait({self.owner})
        await self._outbox.flush(self.round.config.callback_url, seconds)

    async def drive(self, previous: asyncio.Task[None] | None) -> None:
        """Drive the engine from the round's opening to its closing, once the previous owner has ended."""
        if previous is not None:
            await asyncio.wait({previous})
        if self.ended:
            self._log.end(self.reason)
            return
        measuring = asyncio.create_task(self.loop_holds.measure(), name="hallmark loop holds")
        try:
            await self._open()
            while not self.ended:
                if self.state is PoCState.GENERATING:
                    await self._generate()
                elif self.state is PoCState.VALIDATING and self._queue.has_waiting:
                    await self._validate()
                else:
                    self.scheduler.rest()
                    self._wake.clear()
                    await self._wake.wait()
        except HallmarkError as exc:
            self.has_failed = not self.ended
            self._log.fail(exc)
            # An engine or a disk may be in order after a restart; a walk at its end stays there.
            self.end(str(exc), exc, is_over=not isinstance(exc, EngineError | OutboxError))
        except Exception as exc:  # noqa: BLE001  # logged with its traceback
            # Whatever it was, the gate must not stay shut with nobody at work behind it.
            reason = f"{type(exc).__name__}: {exc}"
            self.has_failed = not self.ended
            self._log.fail(reason, with_traceback=True)
            self.end(reason, EngineError(reason), is_over=False)
        finally:
            # A server that ends cancels the closing of an engine that does not answer.
            measuring.cancel()
            self._note_end()
            try:
                if not self.engine_is_gone:
                    await self._close()
            finally:
                self._log.end(self.reason)

    def _check(self, phase: PoCState) -> None:
        if phase is PoCState.GENERATING and self._walk is None:
            field = "node_id" if self.round.config.node_id is None else "node_count"
            raise FieldError(field, None, "an integer; Node ID and node count must be set to generate")

    @property
    def _journal_number(self) -> int:
        if self._journal_id is None:
            raise RuntimeError("a round that is not open has no journal")
        return self._journal_id

    def _note_end(self) -> None:
        """Tell the outbox that nothing more is coming; again, where something came after all."""
        if self._journal_id is not None:
            url = self.round.config.callback_url
            self._outbox.end_round(self._journal_id, url, None if self._is_over else self.reason)

    async def _open(self) -> None:
        self.memory_bytes = await self.watch.wait_for(self._engine.open_round(self.round.spec()))
        await self._begin_journal()
        self.watch.note_progress()
        if not self.ended:
            self.statistics.set_generating(self.state is PoCState.GENERATING)
            self._log.start(self.state)
        self._settled.set()

    async def _begin_journal(self) -> None:
        if self.ended:
            return
        template = generated_template(self.round, self.numerics)
        if self.resumes is not None:
            await self._outbox.resume_round(self.resumes.id, template)
        else:
            phase = self.state
            self._journal_id = await self._outbox.begin_round(
                self.round.config, self.round.digest, template, phase
            )
            if self.state not in (phase, PoCState.STOPPED):
                self._outbox.enter_phase(self._journal_id, self.state)

    async def _close(self) -> None:
        block = self.round.config.block_hash
        try:
            await self._engine.close_round()
        except HallmarkError as exc:
            logger.error("The engine did not close the round for block %r: %s", block, exc)
        except Exception:
            # The round is over either way; the next one's opening will tell whether the engine lives.
            logger.exception("The engine did not close the round for block %r", block)
        self.memory_bytes = None

    async def _generate(self) -> None:
        """Compute the next batches of the walk: several in one call where that keeps nobody waiting."""
        walk, public_key = self._walk, self.round.config.public_key
        if walk is None:
            raise RuntimeError("generating without a walk")
        spans: list[NonceSpan] = []

        def choose() -> list[list[NonceKey]]:
            several = 1
            if self.scheduler.has_the_engine_to_itself:
                stages = int(self._engine.numerics.get("pipeline_parallel_size", 1))
                # A worker that is at a call for `engine_timeout` is taken for stuck.
                longest = self._settings.engine_timeout / 4
                several = self.watch.times.batches_per_call(stages, longest)
            spans.extend(walk.take_several(several, self.round.batch_size))
            return [[(public_key, nonce) for nonce in span.nonces] for span in spans]

        computed = await self._compute(choose)
        if computed is None:
            return
        walked = [
            ComputedSpan.sort_out(span, numbers, self.round)
            for span, numbers in zip(spans, computed, strict=True)
        ]
        # What is told, by the status or to those who wait, is kept already.
        await self._outbox.record(self._journal_number, self.round.config.callback_url, walked)
        for batch, numbers in zip(walked, computed, strict=True):
            self.statistics.record(batch)
            self.statistics.first_numbers.add(of_nonce[0] for of_nonce in numbers)
            self._log.compute(batch)
            for waiter in self._batch_waiters:
                if not waiter.done():
                    waiter.set_result(batch.proof(self.round, self.numerics))
            self._batch_waiters.clear()

    async def _validate(self) -> None:
        """Compute the next nonces that wait for validation, and report the verdicts this brings."""
        taken = self._queue.take(self.round.batch_size)
        begun = self._clock()
        computed = await self._compute(lambda: [[(job.proof.public_key, nonce) for job, nonce in taken]])
        if computed is not None:
            await self._settle(self._queue.record(taken, computed[0], self._clock() - begun))

    async def _settle(self, jobs: Sequence[ValidationJob]) -> None:
        """Judge jobs and report their verdicts. Each is settled, whatever becomes of it and of the others.

        Raises:
            HallmarkError: The first one that could not be judged for the engine's sake, or not be reported.
        """
        failure: HallmarkError | None = None
        given_up: HallmarkError = self.cancelled("it was given up in the middle of a verdict")
        unsettled = deque(jobs)
        try:
            while unsettled:
                job, error = unsettled[0], given_up
                # What is logged of it is about the request that brought it, and not the round's.
                of_round = REQUEST_ID.set(job.asked_by)
                try:
                    await self._offload.run(job.size, job.judge)
                    await self._report_verdict(job)
                except FieldError as exc:
                    # A value that a test of the verdict does not take is about this batch alone.
                    logger.error("No verdict on request %s: %s", job.request_id, exc)
                    error = exc
                except HallmarkError as exc:
                    error, failure = exc, failure or exc
                finally:
                    REQUEST_ID.reset(of_round)
                self._queue.settle(unsettled.popleft(), error)
        finally:
            for job in unsettled:
                self._queue.settle(job, given_up)
        if failure is not None:
            raise failure

    async def _compute(self, choose: Callable[[], list[list[NonceKey]]]) -> list[list[list[float]]] | None:
        """Return the numbers of each nonce of batches; None where the round has ended before."""
        computed = await self.watch.wait_for_batches(
            self.scheduler.compute(choose, ended=self._ended, on_slice=self.watch.note_progress)
        )
        return None if computed is None else [batch.numbers for batch in computed]

    async def _report_verdict(self, job: ValidationJob) -> None:
        validated, url = job.outcome(), self.round.config.callback_url
        if validated.verdict is Verdict.NO_VERDICT:
            # Receivers of the older generations would read "no fraud" as a vote for the prover.
            logger.error(
                "No verdict on request %s: %d of %d nonces could not be recomputed; no callback is sent",
                job.request_id,
                len(validated.failed_nonces),
                len(validated.nonces),
            )
        elif url is not None:
            body = await self._offload.run(
                job.size, lambda: compact_json(validated_payload(validated, job.request_id))
            )
            await self._outbox.post(url, "validated", body)


def _walk(config: PoCConfig) -> NonceSchedule | None:
    if config.node_id is None or config.node_count is None:
        return None
    return NonceSchedule(config.node_id, config.node_count, config.group_id, config.n_groups)
