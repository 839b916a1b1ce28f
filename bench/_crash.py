"""A server that is killed again and again and started each time on the same outbox, and what it showed."""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import psutil
from _leftovers import counted, left_in
from _status_history import StatusHistory

from hallmark.server.cli.client import PoCClient, UnreachableError
from hallmark.server.models.small import fast_dtype
from hallmark.server.processes.child import ChildProcess, free_port

Target = Literal["API server", "engine"]
Moment = Literal["start-up", "ready", "later", "commit", "delivery", "shutdown"]

TARGETS: Final[tuple[Target, ...]] = get_args(Target)
MOMENTS: Final[tuple[Moment, ...]] = get_args(Moment)
"""The last one is of an API server whose engine has been killed, and which ends by itself."""

BATCH_SIZE, SEQ_LEN = 8, 32

_START_SECONDS: Final = 300.0
_END_SECONDS: Final = 120.0
_ANSWER_SECONDS: Final = 120.0
_POLL_SECONDS: Final = 0.05
_MAX_WAIT_FOR_A_WRITE: Final = 3.0

# What keeps starts short: no tokenizer, and the worker in the engine's process, as vLLM has it on one GPU.
_FLAGS: Final = (
    *("--host", "127.0.0.1", "--enforce-eager", "--skip-tokenizer-init", "--max-model-len", "256"),
    *("--max-num-seqs", str(BATCH_SIZE), "--uvicorn-log-level", "warning"),
    *("--distributed-executor-backend", "vllm.v1.executor.uniproc_executor.UniProcExecutor"),
)
_ENVIRONMENT: Final = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # several servers at the same time would share one core
    "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRITON_INTERPRET": "0",
}
# Imports are most of a start, and looking for garbage in them a sixth of it.
_SITE: Final = "import gc\n\ngc.set_threshold(100_000, 50, 50)\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """A kill, and what it left.

    Attributes:
        target: What was killed.
        moment: When.
        was_ready: Whether the server had answered before.
        exit_code: Of `hallmark serve`; None of an engine whose API server was killed too.
        undelivered: Callbacks in the outbox at the kill.
        unmerged: Findings in the journal at the kill that are in no callback yet.
        start_seconds: From the start to the first answer; None where there was none.
        end_seconds: From the kill to the end of the last of its processes; None as with the exit code.
    """

    target: Target
    moment: Moment
    was_ready: bool
    exit_code: int | None
    undelivered: int
    unmerged: int
    start_seconds: float | None
    end_seconds: float | None


class Victim:
    """One node: a model, an outbox and a round, and a server of them that may be killed.

    Args:
        model: The model's directory.
        directory: Where the outbox and the log lie.
        receiver_url: Where the round's callbacks go.
        received: The receiver's log of writes, which is looked at to kill in mid-delivery.
        node_id: Of the round.
        node_count: Of the round.
        valid_rate: Of the round.
        settings: Further settings of Hallmark's.

    Attributes:
        request: The round.
        shown: What its status has shown.
        starts: How often a server of it was started.
        outbox: Its file.
        log: What all its servers wrote.
    """

    def __init__(
        self,
        model: Path,
        directory: Path,
        receiver_url: str,
        received: Path,
        *,
        node_id: int,
        node_count: int,
        valid_rate: float,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self.request: dict[str, Any] = {
            "block_hash": "a block with crashes",
            "block_height": 1,
            "public_key": f"node {node_id}",
            "node_id": node_id,
            "node_count": node_count,
            "valid_rate": valid_rate,
            "batch_size": BATCH_SIZE,
            "seq_len": SEQ_LEN,
            "callback_url": receiver_url,
        }
        self.shown = StatusHistory()
        self.starts = 0
        self.outbox = directory / f"outbox-{node_id}.db"
        self.log = directory / f"server-{node_id}.log"
        self._model = model
        self._received = received
        self._settings = {
            "outbox_path": str(self.outbox),
            "resume_on_start": True,
            "batch_size": BATCH_SIZE,
            "seq_len": SEQ_LEN,
            "callback_interval": 0.5,
            "callback_timeout": 2.0,
            "callback_backoff_base": 0.1,
            "callback_backoff_cap": 1.0,
            "shutdown_timeout": 1.0,
            # One batch a call instead of many: commits follow each other closely, and are killed in.
            "inference_while_generating": True,
            **(settings or {}),
        }
        self._site = directory / "site"
        self._site.mkdir(exist_ok=True)
        (self._site / "sitecustomize.py").write_text(_SITE, encoding="utf-8")
        self._process: ChildProcess | None = None
        self._started_at = 0.0
        self._start_seconds = 20.0
        self._began = False

    def start(self) -> PoCClient:
        """Start a server on the outbox; the client is to be closed by the caller."""
        port = free_port()
        command = [
            *(sys.executable, "-P", "-m", "hallmark.server", "serve", str(self._model)),
            *("--port", str(port), "--dtype", fast_dtype(), *_FLAGS),
            *("--additional-config", json.dumps({"hallmark": self._settings})),
        ]
        environment = {**_ENVIRONMENT, "PYTHONPATH": _with(self._site)}
        self._process = ChildProcess("hallmark serve", command, log=self.log, environment=environment)
        self._started_at = time.monotonic()
        self.starts += 1
        return PoCClient(f"http://127.0.0.1:{port}", use_proxies=False, timeout=_ANSWER_SECONDS)

    def run_until_killed(
        self, target: Target, moment: Moment, chance: random.Random, *, twice: bool = False
    ) -> list[Kill]:
        """Start a server, let it go on with the round, and kill it.

        Args:
            target: What is killed; the API server where there is no engine yet.
            moment: When: while it starts, as soon as it answers, a few seconds later, or when its outbox, or
                the receiver's file, has just been written.
            chance: Decides how long exactly.
            twice: Whether the API server is killed while it ends for want of the engine.
        """
        with self.start() as poc:
            try:
                start_seconds = self._wait_for(moment, poc, chance)
                return self._kill(target, moment, start_seconds, poc, chance.uniform(0, 6) if twice else None)
            except BaseException:
                self.process.kill()
                raise

    @property
    def process(self) -> ChildProcess:
        """The server's."""
        assert self._process is not None
        return self._process

    def _wait_for(self, moment: Moment, poc: PoCClient, chance: random.Random) -> float | None:
        if moment == "start-up":
            until = self._started_at + chance.uniform(0, self._start_seconds)
            while time.monotonic() < until:
                if self._is_ready(poc):
                    break
                time.sleep(_POLL_SECONDS)
            else:
                return None
        start_seconds = self.wait_until_ready(poc)
        if moment == "ready":
            self.watch(poc, chance.uniform(0, 0.3))
        else:
            self.watch(poc, chance.uniform(0, 4 if moment == "later" else 2))
        if moment == "commit":
            _wait_for_a_write(Path(f"{self.outbox}-wal"))
        elif moment == "delivery":
            _wait_for_a_write(self._received)
        return start_seconds

    def wait_until_ready(self, poc: PoCClient) -> float:
        """Wait for the first answer, and see that the round goes on, or begin it.

        Returns:
            How long the start has taken, in seconds.
        """
        self.process.wait_until(lambda: self._is_ready(poc), seconds=_START_SECONDS)
        self._start_seconds = time.monotonic() - self._started_at
        status = poc.get("/status")
        if self._began:
            resumed = status["interrupted_round"]
            if status["state"] != "GENERATING" or not resumed["is_resumed"]:
                self.shown.problems.append(f"the round is not gone on with: {status}")
        else:
            poc.post("/init/generate", self.request)
            self._began = True
        return self._start_seconds

    def watch(self, poc: PoCClient, seconds: float) -> None:
        """Note what the status shows for so long, or until there is none any more."""
        until = time.monotonic() + seconds
        while self._look(poc) and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)

    def finish(self, poc: PoCClient, arrived: Callable[[], int]) -> None:
        """Let the round go on once more, stop it, and wait until all that was found has been delivered.

        Args:
            poc: A client of a server that has been started.
            arrived: How many nonces the receiver has.
        """
        self.wait_until_ready(poc)
        self.watch(poc, 1.0)
        poc.post("/stop")
        until = time.monotonic() + _END_SECONDS
        while True:
            status = poc.get("/status")
            self.shown.note(status)
            # The engine holds nothing any more once the batch in flight is counted.
            is_over = status["state"] == "STOPPED" and not status["projection"]["bytes"]
            if is_over and not status["callbacks"]["queued"] and arrived() == status["total_valid"]:
                return
            if time.monotonic() > until:
                self.shown.problems.append(f"{arrived()} nonces arrived: {status}")
                return
            time.sleep(_POLL_SECONDS)

    def _look(self, poc: PoCClient) -> bool:
        try:
            status = poc.get("/status")
        except UnreachableError:
            return False
        self.shown.note(status)
        return True

    def _is_ready(self, poc: PoCClient) -> bool:
        try:
            return bool(poc.get("/status"))
        except UnreachableError:
            return False

    def _kill(
        self,
        target: Target,
        moment: Moment,
        start_seconds: float | None,
        poc: PoCClient,
        again_after: float | None,
    ) -> list[Kill]:
        server, engine = self._processes()
        if engine is None:
            target = "API server"
        everyone = psutil.Process(self.process.pid).children(recursive=True)
        (engine if engine is not None and target == "engine" else server).send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        kills = []
        if target == "engine":
            undelivered, unmerged = counted(self.outbox)
            # The API server is still there, and ends by itself.
            self.watch(poc, _END_SECONDS if again_after is None else again_after)
            if again_after is not None and _runs(server):
                server.send_signal(signal.SIGKILL)
                kills.append(
                    Kill(
                        target=target,
                        moment=moment,
                        was_ready=start_seconds is not None,
                        exit_code=None,
                        undelivered=undelivered,
                        unmerged=unmerged,
                        start_seconds=start_seconds,
                        end_seconds=None,
                    )
                )
                target, moment, killed_at = "API server", "shutdown", time.monotonic()
        code = self.process.wait(_END_SECONDS)
        assert code is not None, f"hallmark serve lives on after its {target} was killed"
        while any(map(_runs, everyone)):
            assert time.monotonic() < killed_at + _END_SECONDS, "a process of a killed server lives on"
            time.sleep(_POLL_SECONDS)
        end_seconds = time.monotonic() - killed_at
        left = left_in(self.outbox)
        if target == "API server":
            undelivered, unmerged = left
        last = Kill(
            target=target,
            moment=moment,
            was_ready=start_seconds is not None,
            exit_code=code,
            undelivered=undelivered,
            unmerged=unmerged,
            start_seconds=None if kills else start_seconds,
            end_seconds=end_seconds,
        )
        return [*kills, last]

    def _processes(self) -> tuple[psutil.Process, psutil.Process | None]:
        """Return the API server, and its engine where there is one yet."""
        serve = psutil.Process(self.process.pid)
        until = time.monotonic() + _START_SECONDS
        while not (children := serve.children()):
            assert time.monotonic() < until
            time.sleep(0.01)
        engines = [child for child in children[0].children() if _is_engine(child)]
        return children[0], engines[0] if engines else None


def _wait_for_a_write(path: Path) -> None:
    """Return as soon as a file has changed; after a while in any case."""
    before, until = _changed_at(path), time.monotonic() + _MAX_WAIT_FOR_A_WRITE
    while _changed_at(path) == before and time.monotonic() < until:
        time.sleep(0.0002)


def _changed_at(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _with(site: Path) -> str:
    return os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))


def _is_engine(process: psutil.Process) -> bool:
    try:
        # Its name comes a while after its start.
        return process.name().startswith("VLLM::EngineCore") or "spawn_main" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
