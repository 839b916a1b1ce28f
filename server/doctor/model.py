"""Whether a model could be served with proof of compute, as vLLM itself says."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hallmark.poc.core.errors import UnsupportedError
from hallmark.server.cli.serve.checks import check_model
from hallmark.server.cli.serve.plan import plan
from hallmark.server.doctor.finding import Finding

if TYPE_CHECKING:
    from hallmark.poc.engine.inspection import Inspected

__all__ = ["examine_model", "inspect", "weight_bytes"]

_PROGRAM: Final = "hallmark.poc.engine.launch"
_WEIGHTS: Final = ("model*.safetensors", "*.safetensors", "*.gguf", "*.bin")
"""Of several kinds vLLM loads one."""

_INSPECTION: Final = "hallmark.poc.engine.inspection"


def inspect(model: str, flags: Sequence[str], environment: Mapping[str, str]) -> "Inspected":
    """Let vLLM read a model's configuration and the flags as a start would, in a process of its own.

    Args:
        model: As vLLM takes it.
        flags: vLLM's.
        environment: The environment that the server would have.

    Raises:
        FieldError: The model is a path where nothing is, or a flag has a value that is not allowed.
        UnsupportedError: It could not be served with proof of compute, or not at all.
    """
    check_model(model)
    planned = plan(model, [*flags, "--host", "127.0.0.1"], environment)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "inspected.json"
        command = [_INSPECTION if each == _PROGRAM else each for each in planned.command]
        command.insert(command.index(_INSPECTION) + 1, str(output))
        done = subprocess.run(  # noqa: S603  # this Python, no shell in between
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment, **planned.environment},
        )
        if not output.exists():
            # Above it stands a traceback.
            [*_, last] = done.stdout.decode(errors="replace").strip().splitlines() or [""]
            raise UnsupportedError(f"vLLM ends early: {last or f'exit code {done.returncode}'}")
        found: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    if "refusal" in found:
        raise UnsupportedError(found["refusal"])
    inspected: Inspected = found["server"]
    return inspected


def weight_bytes(model: str) -> int:
    """Return the bytes of a model's weights on this disk; 0 where it is the name of a model in a hub."""
    path = Path(model)
    if path.is_file():
        return path.stat().st_size
    kinds = ([file.stat().st_size for file in path.glob(kind) if file.is_file()] for kind in _WEIGHTS)
    return sum(next(filter(None, kinds), []))


def examine_model(inspected: "Inspected") -> Iterator[Finding]:
    """Tell what a server of the model would be."""
    of_weights = "" if inspected["quantization"] is None else f", weights {inspected['quantization']}"
    yield Finding.ok(
        "model",
        f"{inspected['architecture']}, {inspected['dtype']}{of_weights}, width {inspected['hidden_size']:,}",
    )
    if not inspected["has_methods"]:
        yield Finding.problem(
            "plugin",
            "vLLM has loaded Hallmark's plugin, and its workers lack the methods",
            f"look whether VLLM_PLUGINS names hallmark, and whether {sys.executable} is vLLM's Python",
        )
        return
    batch = inspected["max_batch_size"] * inspected["seq_len"]
    yield Finding.ok(
        "batch",
        f"{inspected['max_batch_size']} x {inspected['seq_len']} = {batch:,} tokens fit into a step of "
        f"{inspected['max_num_batched_tokens']:,}",
    )
