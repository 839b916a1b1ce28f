"""What `hallmark serve` is going to run: decided from the flags and the environment, nothing started yet."""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hallmark.poc.core.errors import FieldError
from hallmark.poc.core.json_logs import json_logging
from hallmark.poc.engine.unsupported import check_developer_mode, check_flags
from hallmark.poc.outbox.store import outbox_path
from hallmark.poc.settings.settings import NO_PAGE_VARIABLE, SECTION, Settings
from hallmark.server.cli.serve.vllm_flags import VllmFlags
from hallmark.server.http.auth import check_exposure

__all__ = ["OUR_PLUGINS", "ServePlan", "plan", "plugin_names"]

OUR_PLUGINS = ("hallmark", "hallmark_api")
"""Names of our entry points in the groups `vllm.general_plugins` and `vllm.endpoint_plugins`."""

_ENDPOINT_GROUP = "vllm.endpoint_plugins"

# vLLM turns this one on only where VLLM_PLUGINS names it, since it lets requests download adapters.
_OPT_IN_PLUGINS = frozenset({"lora_hf_hub_resolver"})

# vLLM's smallest defaults on CPUs and GPUs: what fits into them needs no flag of ours.
_MIN_BATCHED_TOKENS = 2048
_MIN_SEQUENCES = 128

_DEFAULT_PORT = 8000


@dataclass(frozen=True, kw_only=True)
class ServePlan:
    """A server to start.

    Attributes:
        model: The model as vLLM takes it.
        settings: The server's settings.
        command: The program and its arguments.
        environment: Variables to set beside the present ones.
        is_help: Whether it only prints vLLM's help.
        is_headless: Whether it is a node of a server that answers on another node.
        address: The host and the port it will bind; None where it listens on a socket, answers nowhere, or
            only prints help.
        url: Where it will answer from this machine.
        socket: The Unix socket it listens on instead of a port.
        outbox: The file of its outbox; None where that is kept in memory, or it delivers nothing.
        logging: How its processes log, for `dictConfig`; None leaves it to vLLM.
        notes: What was decided for the user, a sentence each.
    """

    model: str
    settings: Settings = field(repr=False)
    command: tuple[str, ...]
    environment: Mapping[str, str]
    is_help: bool
    is_headless: bool
    address: tuple[str | None, int] | None
    url: str
    socket: str | None
    outbox: Path | None
    logging: dict[str, Any] | None
    notes: tuple[str, ...]

    @property
    def has_page(self) -> bool:
        """Whether it serves the live page, where a browser finds it."""
        return self.settings.page and self.socket is None

    @property
    def api_key(self) -> str | None:
        """The token of its control routes."""
        key = self.settings.api_key
        return None if key is None else key.get_secret_value()


def plan(
    model: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    has_page: bool = True,
    json_logs: bool = False,
) -> ServePlan:
    """Decide how to start vLLM's API server with our plugins.

    Args:
        model: The model as vLLM takes it.
        arguments: vLLM's flags as the user wrote them; they are passed on as they are.
        environment: The present environment.
        has_page: Whether to serve the live page, where the settings do not say otherwise.
        json_logs: Whether to log lines of JSON.

    Raises:
        FieldError: A setting, or a flag that PoC depends on, has a value that is not allowed.
        UnsupportedError: PoC does not work with a feature that is asked for, or the server would be open to
            a network without a token.
    """
    flags = VllmFlags(arguments)
    without_page = {} if has_page else {NO_PAGE_VARIABLE: "1"}
    environment = {**environment, **without_page}
    settings = Settings.from_additional_config(flags.get_mapping("additional-config"), environment)
    host = flags.get("host")
    socket = flags.get("uds")
    port = flags.get_integer("port")
    port = _DEFAULT_PORT if port is None else port
    is_help = flags.get("help") is not None
    is_headless = flags.get_value("headless") is True
    if not is_help:
        check_developer_mode(environment, is_allowed=settings.allow_developer_mode)
        check_flags(flags.get_value, environment)
        if not is_headless:
            check_exposure(settings, host, socket)
    added, notes = _sizes(flags, settings)
    if is_headless:
        notes.append("no server answers on this node: proof of compute does at the node of rank 0")
    plugins = plugin_names(environment.get("VLLM_PLUGINS"))
    scheme = "https" if flags.get("ssl-certfile") else "http"
    return ServePlan(
        model=model,
        settings=settings,
        # Ours come first: of two equal flags vLLM takes the later one.
        command=(
            sys.executable,
            "-P",
            "-m",
            "hallmark.poc.engine.launch",
            "serve",
            model,
            *added,
            *arguments,
        ),
        # The engine's processes must not find the working directory's modules either.
        environment={"VLLM_PLUGINS": ",".join(plugins), "PYTHONSAFEPATH": "1", **without_page},
        is_help=is_help,
        is_headless=is_headless,
        address=None if is_help or is_headless or socket else (host, port),
        url=f"{scheme}://{_reachable(host)}:{port}",
        socket=socket,
        outbox=None if is_headless else outbox_path(settings, port, socket),
        logging=_json_logging(flags, environment) if json_logs else None,
        notes=tuple(notes),
    )


def plugin_names(present: str | None) -> list[str]:
    """Return the names for `VLLM_PLUGINS` with which ours load, and all that would load without it.

    The variable filters every group of vLLM's plugins, and endpoint plugins load only when named in it. So a
    list that the user made gets ours added; where there is none, everything that is installed is named, but
    for other endpoint plugins and those that vLLM wants asked for.

    Args:
        present: The variable's value; None where it is not set.
    """
    if present is not None:
        names = [name for name in present.split(",") if name]
    else:
        installed = entry_points()
        groups = {group for group in installed.groups if group.startswith("vllm.")} - {_ENDPOINT_GROUP}
        names = sorted({entry.name for group in groups for entry in installed.select(group=group)})
        names = [name for name in names if name not in _OPT_IN_PLUGINS]
    return names + [name for name in OUR_PLUGINS if name not in names]


def _json_logging(flags: VllmFlags, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration of logs of JSON, at vLLM's level and where vLLM logs to.

    Raises:
        FieldError: Another configuration is asked for too.
    """
    given = [
        f"--{name}" for name in ("logging-config", "log-config-file") if flags.get_value(name) is not None
    ]
    given += ["VLLM_LOGGING_CONFIG_PATH"] if environment.get("VLLM_LOGGING_CONFIG_PATH") else []
    given += ["VLLM_CONFIGURE_LOGGING=0"] if environment.get("VLLM_CONFIGURE_LOGGING") == "0" else []
    if given:
        raise FieldError("--json-logs", f"beside {' and '.join(given)}", "one way to say how logs look")
    if flags.get("distributed-executor-backend") == "ray":
        raise FieldError("--json-logs", "beside Ray", "one machine: Ray's workers would not find how to log")
    level = (flags.get("log-level") or environment.get("VLLM_LOGGING_LEVEL") or "INFO").upper()
    if level not in logging.getLevelNamesMapping():
        raise FieldError("VLLM_LOGGING_LEVEL", level, ", ".join(logging.getLevelNamesMapping()))
    return json_logging(level, environment.get("VLLM_LOGGING_STREAM") or "ext://sys.stdout")


def _sizes(flags: VllmFlags, settings: Settings) -> tuple[list[str], list[str]]:
    """Return the flags to add so that a batch fits into an engine step, and a sentence about each."""
    added: list[str] = []
    notes: list[str] = []
    tokens = settings.max_batch_size * settings.seq_len
    for flag, needed, default, why in (
        (
            "max-num-batched-tokens",
            tokens,
            _MIN_BATCHED_TOKENS,
            f"{SECTION}.max_batch_size {settings.max_batch_size} x {SECTION}.seq_len {settings.seq_len} "
            f"= {tokens}",
        ),
        (
            "max-num-seqs",
            settings.max_batch_size,
            _MIN_SEQUENCES,
            f"{SECTION}.max_batch_size {settings.max_batch_size}",
        ),
    ):
        given = flags.get_integer(flag)
        if given is None and needed > default:
            added += [f"--{flag}", str(needed)]
            notes.append(f"--{flag} is set to {needed}, for {why}")
        elif given is not None and given < needed:
            raise FieldError(f"--{flag}", given, f"{needed} or more, for {why}; or lower the settings")
    return added, notes


def _reachable(host: str | None) -> str:
    """Return an address of a server that listens on `host`, as a URL has it."""
    if host in (None, "", "0.0.0.0"):  # noqa: S104  # compared, not bound
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in str(host) else str(host)
