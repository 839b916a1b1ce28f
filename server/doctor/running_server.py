"""How a running server is: what its own routes say, and what they should not."""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from importlib.metadata import version
from typing import Any, Final

import httpx

from hallmark.poc.core.errors import FieldError, HallmarkError
from hallmark.poc.protocol.streams import PROTOCOL
from hallmark.poc.settings.settings import API_KEY_VARIABLE
from hallmark.poc.webhooks.url import without_secrets
from hallmark.server.cli.client import PREFIX, PoCClient, ServerError, UnreachableError
from hallmark.server.cli.words import counted, size, span
from hallmark.server.doctor.clocks import problem_of_clock
from hallmark.server.doctor.finding import Finding, Outcome, examine
from hallmark.server.doctor.folders import MIN_FREE

__all__ = ["RunningServer", "examine_server"]

_MAX_AGE: Final = 600.0
_NEARLY_FULL: Final = 0.8
_PATIENCE: Final = 10.0
_CLOCK: Final = re.compile(r"^hallmark_clock_seconds (\S+)$", re.MULTILINE)


class RunningServer:
    """A server that answers, and what it says of itself.

    Args:
        url: Where it is.
        api_key: The token of its control routes.

    Raises:
        FieldError: It is no URL. Credentials in it are not repeated.
    """

    def __init__(self, url: str, api_key: str | None) -> None:
        try:
            self._client = PoCClient(url, api_key, timeout=_PATIENCE)
        except HallmarkError:
            problem = FieldError("URL", without_secrets(url), "http://HOST:PORT with a port from 1 to 65535")
            raise problem from None
        # What errors call it; the connection itself has what a proxy in between may ask for.
        self._client.url = without_secrets(self._client.url)
        self._has_token = api_key is not None
        self._status: Mapping[str, Any] | None = None

    def close(self) -> None:
        """Close the connection."""
        self._client.http.close()

    def examine_engine(self) -> Iterator[Finding]:
        """Look whether it answers, and its engine does."""
        try:
            health = self._client.http.get("/health")
        except httpx.TransportError as exc:
            raise UnreachableError(
                f"no answer from {self._client.url}: {str(exc) or type(exc).__name__}"
            ) from exc
        if health.status_code != httpx.codes.OK:
            yield Finding.problem(
                "server",
                f"{self._client.url} answers GET /health with {health.status_code}",
                "its engine has died or is starting: look at its log",
            )
            return
        yield Finding.ok("server", f"{self._client.url} answers")

    def examine_plugin(self) -> Iterator[Finding]:
        """Look whether it has proof of compute, and takes the token."""
        try:
            versions = self._client.get("/versions")
            self._status = self._client.get("/status")
        except ServerError as exc:
            if exc.status == httpx.codes.NOT_FOUND:
                yield Finding.problem(
                    "plugin",
                    "the server is up without proof of compute",
                    "start it by hallmark serve, and look for 'Failed to load plugin' in its log",
                )
                return
            if exc.status == httpx.codes.UNAUTHORIZED:
                given = "refuses the token" if self._has_token else "asks for a token"
                yield Finding.problem(
                    "token of the server", f"it {given}", f"set {API_KEY_VARIABLE} to its token"
                )
                return
            raise
        ours = (version("hallmark-poc"), PROTOCOL)
        theirs = (versions["hallmark_version"], versions["protocol"])
        if ours != theirs:
            yield Finding.warning(
                "plugin",
                f"it has Hallmark {' with '.join(theirs)}, here is {' with '.join(ours)}",
                "upgrade the older one: provers and validators need the same protocol",
            )
            # Another version's status has other fields.
            self._status = None
        else:
            yield Finding.ok("plugin", f"loaded, vLLM {versions['vllm_version']}")
        if self._has_token and self._is_open():
            yield Finding.problem(
                "token of the server",
                "it answers without a token too: whoever reaches it can start and stop rounds",
                f"start it with {API_KEY_VARIABLE} or the setting api_key_file",
            )

    def _is_open(self) -> bool:
        with httpx.Client(base_url=self._client.http.base_url, timeout=_PATIENCE) as stranger:
            return stranger.get(f"{PREFIX}/versions").is_success

    def examine_round(self) -> Iterator[Finding]:
        """Look whether its round goes on, and its engine with it."""
        status = self._status
        if status is None:
            return  # why there is none is the plugin's finding
        state = status["state"]
        if status["is_stuck"]:
            yield Finding.problem(
                "round",
                f"the engine has not answered for {span(status['seconds_since_progress'])}",
                "look at vLLM's log and at the device",
            )
        elif status["has_failed"]:
            yield Finding.problem(
                "round", f"it ended by a failure: {status['reason']}", "mend that, then start a round again"
            )
        elif (interrupted := status["interrupted_round"]) is not None and not interrupted["is_resumed"]:
            yield Finding.warning(
                "round",
                f"block {interrupted['block_height']} was interrupted by the server's end",
                "start it again, stop it, or set resume_on_start",
            )
        elif status["total_failed"]:
            yield Finding.warning(
                "round",
                f"{state}, {counted(status['total_failed'], 'nonce')} could not be computed: NaN or infinity",
                "check the model's weights and its dtype",
            )
        else:
            yield Finding.ok("round", f"{state}, {counted(status['total_checked'], 'nonce')} checked")
        validation = status["validation"]
        if validation["max_stall_is_met"] is False:
            yield Finding.warning(
                "stall",
                f"a layer takes {validation['layer_ms']:.3g} ms, and max_stall_ms is "
                f"{validation['max_stall_ms']:g}: chat waits longer than you set",
                "raise max_stall_ms, or start rounds of a smaller batch_size or seq_len",
            )

    def examine_numerics(self) -> Iterator[Finding]:
        """Tell which kernels it runs on what."""
        status = self._status
        if status is None:
            return  # why there is none is the plugin's finding
        numerics = status["numerics"]
        said = [str(numerics[name]) for name in ("device", "dtype", "forward", "kernels") if name in numerics]
        yield Finding.ok("numerics", ", ".join(said) or "not told")

    def examine_callbacks(self) -> Iterator[Finding]:
        """Look whether what it finds is delivered, and is kept until then."""
        status = self._status
        if status is None:
            return  # why there is none is the plugin's finding
        callbacks = status["callbacks"]
        waiting = f"{counted(callbacks['queued'], 'callback')} waiting"
        error = f": {callbacks['last_error']}" if callbacks["last_error"] else ""
        reasons = [f"{name} {count}" for name, count in callbacks["dropped_by_reason"].items() if count]
        given_up = f" ({', '.join(reasons)})" if reasons else ""
        if callbacks["dead_letters"]:
            yield Finding.problem(
                "callbacks",
                f"{counted(callbacks['dead_letters'], 'dead letter')}{given_up}{error}",
                "mend the cause, then run hallmark outbox retry --all on the server's machine",
            )
        elif callbacks["dropped"]:
            # Those that were retried since, or are gone; the count is of this server's whole life.
            yield Finding.warning(
                "callbacks",
                f"{callbacks['dropped']} given up since the server's start{given_up}, none can be retried",
                "look in the server's log for what was lost, and why",
            )
        elif callbacks["oldest_age"] is not None and callbacks["oldest_age"] > _MAX_AGE:
            yield Finding.warning(
                "callbacks",
                f"{waiting}, the oldest for {span(callbacks['oldest_age'])}{error}",
                "see that the receiver is up and answers with 2xx",
            )
        elif callbacks["last_error"] and callbacks["queued"]:
            yield Finding.warning(
                "callbacks", f"{waiting}{error}", "see that the receiver is up and answers 2xx"
            )
        else:
            yield Finding.ok("callbacks", f"{callbacks['delivered']} delivered, {waiting}")
        if callbacks["used_ratio"] > _NEARLY_FULL:
            yield Finding.problem(
                "outbox of the server",
                f"{callbacks['used_ratio']:.0%} full: at 100% the oldest proofs are dropped",
                "bring the receiver back, or raise outbox_max_bytes and callback_max_queue",
            )
        elif callbacks["free_bytes"] is not None and callbacks["free_bytes"] < MIN_FREE:
            yield Finding.problem(
                "outbox of the server",
                f"its disk has {size(callbacks['free_bytes'])} free: a round ends where it cannot be written",
                "make room on that disk",
            )

    def examine_metrics(self) -> Iterator[Finding]:
        """Look whether Prometheus would see it, and whether its clock agrees with this one."""
        before = time.time()
        text = self._client.http.get("/metrics").text
        after = time.time()
        clock = _CLOCK.search(text)
        if clock is None:
            yield Finding.warning(
                "metrics",
                "GET /metrics has none of Hallmark",
                "start the server by hallmark serve, without PROMETHEUS_MULTIPROC_DIR",
            )
            return
        theirs = float(clock[1])
        difference = max(before - theirs, theirs - after, 0.0)
        yield problem_of_clock("server", difference) or Finding.ok(
            "metrics", "GET /metrics has Hallmark's, and its clock agrees with this one"
        )


def examine_server(server: RunningServer) -> list[Finding]:
    """Look at a server in all ways, and close the connection to it; nothing more where it does not answer."""
    start = "start it by hallmark serve MODEL, or give the URL of one that runs"
    with closing(server):
        findings = examine("server", server.examine_engine, start)
        if findings[0].outcome is Outcome.PROBLEM:
            return findings
        for name, examination in (
            ("plugin", server.examine_plugin),
            ("round", server.examine_round),
            ("numerics", server.examine_numerics),
            ("callbacks", server.examine_callbacks),
            ("metrics", server.examine_metrics),
        ):
            findings += examine(name, examination, "look at the server's log")
    return findings
