"""Whether a model can be served, as vLLM itself says: models that it refuses, flags that do not fit."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli
from findings import by_name, only

from hallmark.poc.core.errors import HallmarkError, UnsupportedError
from hallmark.poc.engine import inspection
from hallmark.poc.engine.inspection import Inspected
from hallmark.server.doctor.model import examine_model, inspect

# vLLM warns about its own affairs while a configuration is made.
pytestmark = pytest.mark.filterwarnings("default")

Inspect = Callable[..., dict[str, Any]]


@pytest.fixture
def inspected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Inspect:
    """Inspects a model and flags in this process, which has imported vLLM by the second one."""
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    monkeypatch.setenv("VLLM_PLUGINS", "hallmark,hallmark_api")

    def run(*arguments: object) -> dict[str, Any]:
        output = tmp_path / "inspected.json"
        monkeypatch.setattr(sys, "argv", ["inspection", str(output), "serve", *map(str, arguments)])
        inspection.main()
        found: dict[str, Any] = json.loads(output.read_text())
        return found

    return run


@pytest.fixture
def changed(small_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a copy of the small model that differs in its configuration."""

    def change(**values: object) -> Path:
        model = tmp_path / "model"
        model.mkdir()
        for file in small_model.iterdir():
            if file.suffix != ".safetensors":
                shutil.copy(file, model)
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, **values}))
        return model

    return change


def test_a_model_that_can_be_served(inspected: Inspect, small_model: Path) -> None:
    found = inspected(small_model, "--max-num-batched-tokens", "8192", "--dtype", "float32")
    assert found == {
        "server": {
            "architecture": "Qwen3ForCausalLM",
            "dtype": "float32",
            "hidden_size": 256,
            "quantization": None,
            "max_model_len": 2048,
            "max_num_batched_tokens": 8192,
            "max_batch_size": 32,
            "seq_len": 256,
            "ranks": 1,
            "has_methods": True,
        }
    }


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            ["--max-model-len", "128"],
            "seq_len 256 is more than vLLM's --max-model-len of 128: raise that flag",
        ),
        (["--max-num-batched-tokens", "4096"], "is 8192 tokens, more than"),
        (["--api-kye", "a-token", "--also=a-token"], "unrecognized arguments: --api-kye --also"),
        (["--max-model-len", "many"], "vLLM refuses it: argument --max-model-len: "),
        (["--quantization", "fp9"], "vLLM refuses it: Value error, Unknown quantization method: fp9."),
        (
            ["--gpu-memory-utilization", "7"],
            "vLLM refuses it: gpu_memory_utilization: Input should be less than or equal to 1",
        ),
    ],
)
def test_flags_that_do_not_fit(inspected: Inspect, small_model: Path, flags: list[str], told: str) -> None:
    """What pydantic repeats of all arguments is left out: one of them may be a secret."""
    enough = ["--max-num-batched-tokens", "8192", "--hf-token", "hf_of-nobody"]
    refusal = inspected(small_model, *enough, *flags)["refusal"]
    assert told in refusal
    for repeated in ("a-token", "hf_of-nobody", "input_value", "errors.pydantic.dev", "\n"):
        assert repeated not in refusal


def test_an_architecture_that_vllm_does_not_know(inspected: Inspect, changed: Callable[..., Path]) -> None:
    refusal = inspected(changed(architectures=["NoSuchForCausalLM"]))["refusal"]
    assert refusal.startswith("vLLM refuses it: ")
    assert "NoSuchForCausalLM" in refusal


def test_a_model_that_poc_does_not_work_with(inspected: Inspect, changed: Callable[..., Path]) -> None:
    refusal = inspected(changed(hidden_size_per_layer_input=256), "--max-num-batched-tokens", "8192")[
        "refusal"
    ]
    assert refusal == "PoC does not work with per-layer inputs (as in Gemma 3n) yet."


def test_a_folder_that_holds_no_model(inspected: Inspect, tmp_path: Path) -> None:
    refusal = inspected(tmp_path)["refusal"]
    assert refusal.startswith("vLLM refuses it: ")
    assert "config" in refusal


@pytest.mark.parametrize(
    ("model", "flags", "told"),
    [
        ("/no/such/model", [], "a directory that exists"),
        ("m", ["--max-num-batched-tokens", "16"], "8192 or more"),
        ("m", ["--enable-lora"], "LoRA"),
    ],
)
def test_what_is_refused_before_vllm_is_asked(model: str, flags: list[str], told: str) -> None:
    with pytest.raises(HallmarkError, match=told):
        inspect(model, flags, {})


INSPECTED = Inspected(
    architecture="LlamaForCausalLM",
    dtype="bfloat16",
    hidden_size=4096,
    quantization="fp8",
    max_model_len=8192,
    max_num_batched_tokens=8192,
    max_batch_size=16,
    seq_len=256,
    ranks=1,
    has_methods=True,
)


def test_what_is_told_of_a_model() -> None:
    model, batch = examine_model(INSPECTED)
    assert only([model]) == ("ok", "LlamaForCausalLM, bfloat16, weights fp8, width 4,096", None)
    assert only([batch]) == ("ok", "16 x 256 = 4,096 tokens fit into a step of 8,192", None)


def test_workers_that_lack_the_methods() -> None:
    _, plugin = examine_model({**INSPECTED, "has_methods": False})
    outcome, says, remedy = only([plugin])
    assert (outcome, says) == (
        "problem",
        "vLLM has loaded Hallmark's plugin, and its workers lack the methods",
    )
    assert remedy is not None
    assert remedy.startswith("look whether VLLM_PLUGINS names hallmark")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "vLLM refuses it: ModuleNotFoundError: No module named 'vllm.entrypoints'"),
        (
            "import os\nos.write(2, b'Illegal instruction\\n')\nos._exit(7)\n",
            "vLLM ends early: Illegal instruction",
        ),
        ("import os\nos._exit(7)\n", "vLLM ends early: exit code 7"),
    ],
)
def test_a_vllm_that_cannot_be_started(small_model: Path, tmp_path: Path, content: str, told: str) -> None:
    """One that lacks most of its files, or does not live for long."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text(content)
    with pytest.raises(UnsupportedError) as refused:
        inspect(str(small_model), [], {"PYTHONPATH": str(tmp_path)})
    assert str(refused.value) == told


def test_a_healthy_one_by_the_command_line(cli: Cli, small_model: Path, tmp_path: Path) -> None:
    """By a vLLM of its own. What depends on this machine is no more than a warning."""
    (tmp_path / "home").mkdir()
    before = {*tmp_path.iterdir()}, {*small_model.iterdir()}
    flags = ("--host", "127.0.0.1", "--port", "8123", "--dtype", "float32", "-tp", "1")
    result = cli("doctor", "--json", "--model", small_model, "--", *flags)
    found = by_name(result)
    assert [*found] == [
        "hallmark",
        "vllm",
        "plugins",
        "device",
        "model",
        "batch",
        "kernels",
        "memory",
        "triton cache",
        "vllm cache",
        "clock",
        "token",
        "secrets",
        "outbox",
        "receiver",
    ]
    assert result.code == 0
    assert found["model"]["says"] == "Qwen3ForCausalLM, float32, width 256"
    assert found["batch"]["says"] == "32 x 256 = 8,192 tokens fit into a step of 8,192"
    assert found["kernels"]["says"].endswith("for float32 of width 256")
    assert found["outbox"]["says"].startswith(f"{tmp_path}/state/hallmark/outbox-port-8123.db, to be made, ")
    assert ({*tmp_path.iterdir()}, {*small_model.iterdir()}) == before
