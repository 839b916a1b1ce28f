"""The process that runs model after model on vLLM, and what it found of each."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from python_path import with_support

_SCRIPT: Final = Path(__file__).with_name("model_zygote.py")
_LAST_LINES: Final = 30


class Zygote:
    """A process that has imported vLLM and forks for each model. It has one thread of torch's.

    Args:
        directory: For its log and for what it found.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._log = directory / "zygote.log"
        environment = {
            **os.environ,
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_PLUGINS": "hallmark",
            "OMP_NUM_THREADS": "1",
            # `python -P` adds no folder, and workers of an engine import the script too.
            "PYTHONPATH": with_support(),
        }
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )

    def close(self) -> None:
        """End it."""
        self._process.communicate()
        assert self._process.returncode == 0, self._tail(0)

    def run(
        self,
        model: Path,
        arguments: Mapping[str, Any],
        request: Mapping[str, Any],
        *,
        has_one_scale: bool = False,
        failures: Sequence[tuple[int, int]] = (),
        **environment: str,
    ) -> dict[str, Any]:
        """What it finds of one model.

        Args:
            model: The directory.
            arguments: What vLLM is started with beside it.
            request: The round.
            has_one_scale: Whether its MLPs are to round what they are given, by one scale for a whole batch.
            failures: Ranks whose layer fails after so many batches; the model needs `probe.Probe` for them.
            environment: Variables for this model alone.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        result = self._directory / "result.json"
        case = {
            "model": str(model),
            "arguments": arguments,
            "request": request,
            "environment": environment,
            "has_one_scale": has_one_scale,
            "failures": failures,
            "result": str(result),
        }
        logged = self._log.stat().st_size
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        status = self._process.stdout.readline().strip()
        assert status == "0", f"the fork ended with {status or 'its parent'}:\n{self._tail(logged)}"
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return found

    def _tail(self, start: int) -> str:
        with self._log.open("rb") as log:
            log.seek(start)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-_LAST_LINES:])
