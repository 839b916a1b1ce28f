"""What the launcher refuses once vLLM has read the arguments and made its configuration of them."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from hallmark.poc.engine import launch

# vLLM warns about its own affairs while a configuration is made.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the launcher; what it says, for people, where it ends with code 2 and starts nothing."""
    from vllm.entrypoints.cli.serve import ServeSubcommand

    started: list[object] = []
    monkeypatch.setattr(ServeSubcommand, "cmd", staticmethod(started.append))
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["launch", "serve", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            launch.main()
        assert (ended.value.code, started) == (2, [])
        return capsys.readouterr().err.splitlines()[-1]

    return run


@pytest.mark.parametrize(
    ("flags", "feature"),
    [
        (["--decode-context-par", "2"], "decode context parallelism (--decode-context-parallel-size > 1)"),
        (["--enable-lor"], "LoRA (--enable-lora)"),
        (["--headl"], "engines without an API server (--headless without --nnodes > 1)"),
        (["--api-server-c=0"], "several API server processes, or none (--api-server-count)"),
    ],
)
def test_flags_that_are_cut_short(refusal: Any, small_model: Path, flags: list[str], feature: str) -> None:
    """Which only vLLM's parser understands."""
    assert refusal(small_model, *flags) == f"hallmark: PoC does not work with {feature} yet."


def test_a_model_whose_configuration_shows_it_to_be_unfit(
    refusal: Any, small_model: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(small_model, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "hidden_size_per_layer_input": 256}))
    told = "hallmark: PoC does not work with per-layer inputs (as in Gemma 3n) yet."
    assert refusal(model, "--max-num-batched-tokens", "8192") == told


def test_a_batch_that_does_not_fit(refusal: Any, small_model: Path) -> None:
    told = refusal(small_model, "--max-num-batched-tokens", "4096")
    assert told.startswith(
        "hallmark: a PoC batch of max_batch_size 32 x seq_len 256 is 8192 tokens, more than"
    )
    assert "--max-num-batched-tokens of 4096" in told


def test_a_wrong_setting(refusal: Any, small_model: Path) -> None:
    settings = ("--additional-config.hallmark.max_batch_size", "0")
    told = refusal(small_model, "--max-num-batched-tokens", "8192", *settings)
    assert told.startswith("hallmark: hallmark.max_batch_size: 0 is not allowed; allowed: ")


def test_what_is_allowed_goes_to_vllm_as_it_was_written(
    monkeypatch: pytest.MonkeyPatch, small_model: Path
) -> None:
    from vllm.entrypoints.cli.serve import ServeSubcommand

    started: list[Any] = []
    monkeypatch.setattr(ServeSubcommand, "cmd", staticmethod(started.append))
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    flags = ["--max-num-batched-tokens", "8192", "-tp", "2", "--port", "8123"]
    monkeypatch.setattr(sys, "argv", ["launch", "serve", str(small_model), *flags])
    launch.main()
    [args] = started
    assert args.model_tag == str(small_model)
    assert (args.max_num_batched_tokens, args.tensor_parallel_size, args.port) == (8192, 2, 8123)
