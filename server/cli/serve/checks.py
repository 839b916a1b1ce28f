"""What `hallmark serve` finds out before it starts anything: each refusal is one sentence, at once."""

import os
import sys
from pathlib import Path

from hallmark.poc.core.errors import FieldError, UnsupportedError
from hallmark.poc.engine.pins import vllm_files
from hallmark.poc.engine.versions import check_version, version_in
from hallmark.poc.outbox.database import OutboxDatabase
from hallmark.server.cli.serve.plan import ServePlan
from hallmark.server.processes.child import check_port

__all__ = ["check_model", "check_plan", "check_vllm"]


def check_vllm(*, allow_unsupported: bool = False) -> str | None:
    """Refuse to go on where there is no vLLM to start, or one that Hallmark cannot run on.

    Args:
        allow_unsupported: The setting `allow_unsupported_vllm`.

    Returns:
        A warning where the version is not a tested one.

    Raises:
        UnsupportedError: This environment has none, or a version that is not supported.
    """
    try:
        read = vllm_files()
    except ModuleNotFoundError as exc:
        error = UnsupportedError(f"vLLM is not installed in the environment of {sys.executable}")
        error.add_note("pip install vllm puts it there")
        raise error from exc
    return check_version(version_in(read), read, allow_unsupported=allow_unsupported)


def check_plan(plan: ServePlan) -> None:
    """Refuse a server that could not come up, or not keep what it finds.

    Args:
        plan: The server; one that only prints help is not looked at.

    Raises:
        FieldError: The model is a path that does not exist.
        OutboxError: The outbox cannot be made, read or written, or another server has it.
        ProcessError: The port is taken.
    """
    if plan.is_help:
        return
    check_model(plan.model)
    if plan.address is not None:
        # Another server on the port would answer in the place of ours, and make it look ready.
        check_port(*plan.address)
    if plan.outbox is not None:
        # vLLM may yet refuse its flags: nothing is left behind then.
        OutboxDatabase(plan.outbox).close_as_found()


def check_model(model: str) -> None:
    """Refuse a path where nothing is; whether a hub has a model of some name is for vLLM to find out.

    Raises:
        FieldError: It is a path, and nothing is there.
    """
    if "://" in model or os.path.exists(model):
        return
    # Hubs' names are `name` or `owner/name`; a file of a model there is `owner/name/file.gguf`.
    parts = Path(model).parts
    is_path = model.startswith(("/", ".", "~")) or len(parts) > (3 if model.endswith(".gguf") else 2)
    if is_path:
        raise FieldError("MODEL", model, "a directory that exists, or a model's name such as Qwen/Qwen3-8B")
