"""Fixtures of the engine side's tests."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def configure(small_model: Path) -> Any:
    from vllm.engine.arg_utils import EngineArgs

    def configure(**arguments: Any) -> Any:
        return EngineArgs(
            **{
                "model": str(small_model),
                "max_model_len": 2048,
                "max_num_batched_tokens": 8192,
                "max_num_seqs": 32,
                "enforce_eager": True,
                **arguments,
            }
        ).create_engine_config()

    return configure
