"""A cluster of Ray's: one that is there already, or one that is started on this machine and ends with it."""

import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, Self

from hallmark.poc.core.errors import EngineError, FieldError, UnsupportedError

__all__ = ["ActorNeeds", "RayCluster", "import_ray", "reason"]

_SMALLEST_STORE: Final = 80 * 2**20
"""Bytes for objects: batches and numbers are sent with the calls themselves."""

_LONGEST_PARENT: Final = 18
"""Characters of the folder for temporary files: names of sockets below it have 107 at most."""

_SHORT_PARENT: Final = "/tmp"  # noqa: S108  # what is made there is made by mkdtemp

_PROBE_SECONDS: Final = 20.0
_CONNECT_SECONDS: Final = 5.0
_SECONDS_BETWEEN_LOOKS: Final = 5.0
_LONGEST_SILENCE: Final = 30.0
"""Seconds; after 60 without its head, Ray ends this process with exit code 1, which is a verdict."""

_LONGEST_REASON: Final = 300

_ENVIRONMENT: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A GPU that was not asked for is not seen.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}


def import_ray() -> Any:
    """Return the ray package.

    Raises:
        UnsupportedError: It is not installed.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        return import_module("ray")
    except ModuleNotFoundError as exc:
        error = UnsupportedError("recomputing on several devices or machines needs Ray")
        error.add_note("pip install '.[ray]' in the checkout brings it")
        raise error from exc


@dataclass(frozen=True)
class ActorNeeds:
    """What an actor takes of the node that it runs on.

    Attributes:
        gpus: How many GPUs.
        cpus: How many CPUs; PyTorch runs as many threads.
    """

    gpus: int
    cpus: int

    def in_words(self) -> str:
        """2 GPUs and 1 CPU."""
        return f"{_several(self.gpus, 'GPU')} and {_several(self.cpus, 'CPU')}"

    def fit(self, node: Mapping[str, float]) -> int:
        """Return how many such actors a node has room for."""
        needed = {"GPU": self.gpus, "CPU": self.cpus}
        return min(int(node.get(name, 0) // count) for name, count in needed.items() if count)


class RayCluster:
    """A cluster that this process is connected to.

    Attributes:
        address: HOST:PORT of its head.
    """

    def __init__(self, ray: Any, address: str, warden: "subprocess.Popen[bytes] | None" = None) -> None:
        """Take the cluster that Ray is connected to.

        Args:
            ray: The package.
            address: HOST:PORT of the cluster's head.
            warden: What ends it where it was started here.
        """
        self.address = address
        self._ray = ray
        self._warden = warden
        self._last_answer = self._last_look = time.monotonic()

    @classmethod
    def connect(cls, address: str | None) -> Self:
        """Connect to a cluster, or start one on this machine.

        Args:
            address: HOST:PORT of the cluster's head, or `auto` for one that this machine is part of; None
                starts one, which ends with this process.

        Raises:
            FieldError: Nothing of Ray's answers at the address, or it is of another version.
            EngineError: Ray does not start, or takes nobody from this machine.
            UnsupportedError: Ray is not installed.
        """
        ray = import_ray()
        # Standard output is for verdicts; Ray writes there what becomes of its nodes and actors.
        ray._private.worker._worker_logs_enabled = False
        if ray.is_initialized():
            raise EngineError("this process is connected to Ray already")
        return cls._start(ray) if address is None else cls._join(ray, address)

    @classmethod
    def _start(cls, ray: Any) -> Self:
        # In a folder of its own, Ray leaves no trace in the one where others look for a cluster.
        parent = tempfile.gettempdir()
        if len(parent) > _LONGEST_PARENT:
            parent = _SHORT_PARENT
        folder = tempfile.mkdtemp(prefix="hallmark-ray-", dir=parent)
        command = [sys.executable, "-P", "-m", "hallmark.poc.actors.warden", folder]
        # In a session of its own: what ends this process need not end it.
        warden = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603
        try:
            context = ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                object_store_memory=_SMALLEST_STORE,
                _temp_dir=folder,
                _system_config={"prestart_worker_first_driver": False},
            )
        except Exception as exc:
            _dismiss(warden)
            raise EngineError(f"Ray does not start on this machine: {reason(exc)}") from exc
        except BaseException:
            _dismiss(warden)
            raise
        return cls(ray, str(context.address_info["gcs_address"]), warden)

    @classmethod
    def _join(cls, ray: Any, stated: str) -> Self:
        address = _probed(stated, str(ray.__version__))
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except Exception as exc:
            ray.shutdown()
            error = EngineError(f"the Ray cluster at {address} takes nobody from this machine: {reason(exc)}")
            error.add_note("run it on a machine that `ray start` has made a part of the cluster")
            raise error from exc
        return cls(ray, address)

    def needs(self, devices: int, gpus: int | None, cpus: int | None) -> ActorNeeds:
        """Return what an actor takes, where that is not stated.

        Its devices are GPUs where the cluster has any.

        Args:
            devices: How many its engine runs on; 0: it takes its own, and the actor one CPU.
            gpus: How many it is to have; None is not stated.
            cpus: The same of CPUs.

        Raises:
            FieldError: No node has so many, or none of either is asked for.
        """
        nodes = self._nodes()
        if gpus is None:
            gpus = devices if any(node.get("GPU", 0) >= 1 for node in nodes) else 0
        needs = ActorNeeds(gpus, cpus if cpus is not None else 0 if gpus else max(1, devices))
        if not (needs.gpus or needs.cpus):
            raise FieldError("cpus", needs.cpus, "1 or more where a model takes no GPU")
        if not any(map(needs.fit, nodes)):
            resource, field = ("GPU", "gpus") if gpus else ("CPU", "cpus")
            most = max((node.get(resource, 0) for node in nodes), default=0)
            wanted = gpus or needs.cpus
            if wanted <= most:
                field, wanted = "cpus", needs.cpus
            raise FieldError(
                field, wanted, f"what one node has; the cluster's nodes have {_described(nodes)}"
            )
        return needs

    def room(self, needs: ActorNeeds) -> int:
        """Return how many actors its nodes can hold, whoever else uses them now."""
        return sum(map(needs.fit, self._nodes()))

    def look(self) -> None:
        """See every few seconds whether its head still answers.

        Raises:
            EngineError: It has not for a while.
        """
        now = time.monotonic()
        if now - self._last_look < _SECONDS_BETWEEN_LOOKS or self.look_now():
            return
        if now - self._last_answer > _LONGEST_SILENCE:
            raise EngineError(f"the head of the Ray cluster, {self.address}, does not answer any more")

    def look_now(self) -> bool:
        """Return whether its head answers."""
        answers = _is_listened_at(self.address)
        self._last_look = time.monotonic()
        if answers:
            self._last_answer = self._last_look
        return answers

    def close(self) -> None:
        """Leave it; one that was started here ends."""
        self._ray.shutdown()
        if self._warden is not None:
            _dismiss(self._warden)

    def _nodes(self) -> list[Mapping[str, float]]:
        """Return what each node that is up has of everything."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]


def _dismiss(warden: "subprocess.Popen[bytes]") -> None:
    if warden.stdin is not None:
        warden.stdin.close()
    warden.wait()


def _probed(stated: str, ours: str) -> str:
    """Return the address of a cluster's head, once it has said that it is one and of these versions.

    Raises:
        FieldError: Nothing of Ray's answers there, or it is of another version.
    """
    if stated != "auto" and not _is_listened_at(stated):
        raise FieldError("ray", stated, "HOST:PORT of a Ray cluster's head; nobody listens there")
    command = [sys.executable, "-P", "-m", "hallmark.poc.actors.probe", stated]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=False, timeout=_PROBE_SECONDS
        )
    except subprocess.TimeoutExpired as exc:
        raise FieldError(
            "ray", stated, "HOST:PORT of a Ray cluster's head; nothing of Ray's answers there"
        ) from exc
    if done.returncode:
        said = " ".join(done.stderr.split()[-40:]) or f"exit code {done.returncode}"
        raise FieldError("ray", stated, f"HOST:PORT of a Ray cluster's head ({said})")
    found = json.loads(done.stdout.splitlines()[-1])
    if found["address"] is None:
        raise FieldError(
            "ray",
            stated,
            "HOST:PORT of a Ray cluster's head; this machine is part of none that is found",
        )
    for what, theirs, own in (
        ("Ray", found["ray"], ours),
        ("Python", found["python"], platform.python_version()),
    ):
        if theirs != own:
            raise FieldError("ray", stated, f"a cluster with {what} {own}, as here; it has {theirs}")
    return str(found["address"])


def _is_listened_at(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS):
            return True
    except (OSError, OverflowError, ValueError):  # the last one of what is no port, or no name
        return False


def _described(nodes: list[Mapping[str, float]]) -> str:
    """Return in words what nodes have: 1 CPU and 2 GPUs (3 nodes)."""
    shapes = Counter((int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes)
    return ", ".join(
        f"{_several(cpus, 'CPU')} and {_several(gpus, 'GPU')} ({_several(count, 'node')})"
        for (cpus, gpus), count in sorted(shapes.items())
    )


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def reason(exc: BaseException) -> str:
    """Return what an error of Ray's says, on one line, cut where it goes on for long."""
    text = " ".join(str(exc).split()) or type(exc).__name__
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}…"
