"""vLLM in a verifier's process: what it refuses, and what becomes of its flags."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES, write_configuration

from hallmark.poc.core.errors import FieldError, UnsupportedError
from hallmark.poc.engine.in_process import VllmLoader
from hallmark.poc.offline.model_files import model_fingerprint
from hallmark.server.models.small import build_small_model, fast_dtype

# One process imports vLLM, and loads what each line of its input says.
_LOAD = """
import json, sys
from pathlib import Path
from hallmark.poc.engine.in_process import VllmLoader
from hallmark.poc.offline.model_files import model_fingerprint
from hallmark.poc.engine.launch import parse, serve_subcommand, checked_config

answers = []
for case in json.load(sys.stdin):
    try:
        loader = VllmLoader(Path(case["model"]), 8, case["seq_len"], case["dtype"], tuple(case["flags"]))
        engine = loader.load()
        answers.append({"numerics": dict(engine.numerics), "width": engine.facts.hidden_size})
        engine.close()
    except Exception as error:
        answers.append({"type": type(error).__name__, "text": str(error)})
    if "server" in case:
        sys.argv = ["vllm", "serve", case["model"], *case["flags"]]
        try:
            checked_config(parse(serve_subcommand()))
        except Exception as error:
            answers[-1]["server"] = str(error)
print("this is nobody's answer")
Path("ANSWERS").write_text(json.dumps(answers))
"""


def loaded(tmp_path: Path, *cases: dict[str, Any]) -> list[dict[str, Any]]:
    """What becomes of some loaders in a process of their own, where nobody sizes the cache."""
    answers = tmp_path / "answers.json"
    environment = {name: value for name, value in os.environ.items() if name != "VLLM_CPU_KVCACHE_SPACE"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", _LOAD.replace("ANSWERS", str(answers))],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    # What vLLM and its ranks write while they are at work goes to standard error.
    assert done.stdout == "this is nobody's answer\n"
    found: list[dict[str, Any]] = json.loads(answers.read_text())
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("in process") / "model"
    build_small_model(path)
    return path


def case(model: Path, *flags: str, **changes: Any) -> dict[str, Any]:
    return {"model": str(model), "flags": flags, "seq_len": 16, "dtype": fast_dtype(), **changes}


def test_a_folder_that_is_not_there() -> None:
    """Before vLLM is imported."""
    with pytest.raises(FieldError, match="model: 'nowhere' is not allowed; allowed: a directory"):
        VllmLoader(Path("nowhere"), 8, 16).load()


@pytest.mark.parametrize(
    ("flags", "devices"),
    [
        ((), 1),
        (("--dtype", "bfloat16", "--tensor-parallel-size", "8"), 8),
        (("--tensor_parallel_size=4", "--enforce-eager"), 4),
        (("-tp", "2"), 2),
        (("-tp", "2", "--pipeline_parallel_size", "3"), 6),
        (("--tensor-parallel-size", "many"), 1),
        (("--tensor-parallel-size", "16", "--distributed-executor-backend", "ray"), 0),
    ],
)
def test_how_many_devices_it_takes(flags: tuple[str, ...], devices: int) -> None:
    """Of a node of Ray's, before vLLM is asked."""
    assert VllmLoader(Path("model"), 8, 16, flags=flags).devices == devices


def test_flags_tell_kept_numbers_apart(model: Path) -> None:
    """Some make another model of the same files, as `--hf-overrides` and `--load-format dummy` do."""
    plain, flagged, other = (
        VllmLoader(model, 8, 16, flags=flags).fingerprint()
        for flags in ((), ("--hf-overrides", '{"rms_norm_eps": 0.1}'), ("--hf-overrides", "{}"))
    )
    assert plain == model_fingerprint(model)
    assert len({plain, flagged, other}) == 3


def test_without_vllm(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hallmark.poc.engine.in_process.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match="--engine vllm needs vLLM"):
        VllmLoader(model, 8, 16).load()


@pytest.mark.server
def test_it_refuses_what_a_server_refuses_and_in_the_same_words(model: Path, tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    build_small_model(sparse)
    config = json.loads((sparse / "config.json").read_text())
    (sparse / "config.json").write_text(json.dumps({**config, "index_topk": 4}))
    cases = [
        case(model, "--decode-context-parallel-size", "2", server=True),
        case(model, "--enable-lora", server=True),
        case(model, "--data-parallel-size", "2", server=True),
        case(sparse, server=True),
        # Of a server these are settings; here they are the round's shape.
        case(model, "--max-num-seqs", "2"),
        case(model, "--max-model-len", "8", "--max-num-batched-tokens", "128"),
        case(model, seq_len=4096),
    ]
    found = loaded(tmp_path, *cases)
    assert {answer["type"] for answer in found} == {"UnsupportedError"}
    for answer in found[:4]:
        assert answer["text"] == answer["server"]
        assert answer["text"].startswith("PoC does not work with ")
    assert "max_batch_size 8 is more than vLLM's --max-num-seqs of 2" in found[4]["text"]
    assert "seq_len 16 is more than vLLM's --max-model-len of 8" in found[5]["text"]
    assert "seq_len 4096 is more than vLLM's --max-model-len of 2048" in found[6]["text"]


@pytest.mark.server
def test_flags_that_are_none_and_one_that_is(model: Path, tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        case(model, "--hf-tokne", "a secret"),
        case(model, "--load-format", "nonsense"),
        case(model, "--model", "another"),
        case(tmp_path),
        case(
            model,
            "--kv-cache-dtype",
            "bfloat16",
            "--additional-config",
            '{"hallmark": {"engine_timeout": 9}}',
        ),
    )
    *refused, taken = found
    texts = [answer["text"] for answer in refused]
    assert texts[0] == "vLLM refuses it: unrecognized arguments: --hf-tokne"
    assert (refused[1]["type"], texts[1].partition(": ")[0]) == ("EngineError", "vLLM does not start")
    assert "nonsense" in texts[1]
    assert texts[2] == "--model: 'another' is not allowed; allowed: one model, which stands in front of --"
    assert texts[3].startswith("vLLM refuses it: ")
    assert "input_value" not in texts[3]
    assert taken["width"] == 256
    assert taken["numerics"]["kv_cache_dtype"] == "bfloat16"
    assert taken["numerics"]["forward"] == "eager"


@pytest.mark.server
def test_layers_with_states_larger_than_a_longest_sequence(tmp_path: Path) -> None:
    """Of which vLLM wants several to start at all, whether or not there is attention beside them."""
    cases = []
    for name, size in (("Mamba 2", "state_size"), ("Falcon-H1", "mamba_d_state")):
        model = write_configuration(FAMILIES[name], tmp_path / name)
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, size: 1024}))
        flags = ("--load-format", "dummy", "--max-model-len", "64")
        cases.append(case(model, *flags, dtype="float32"))
    assert [answer.get("width") for answer in loaded(tmp_path, *cases)] == [256, 256]


@pytest.mark.server
def test_with_standard_output_closed(model: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from hallmark.poc.engine.in_process import VllmLoader\n"
        f"engine = VllmLoader(Path({str(model)!r}), 8, 16, {fast_dtype()!r}).load()\n"
        "engine.close(); print(engine.facts.hidden_size, file=sys.stderr)"
    )
    command = [sys.executable, "-P", "-c", code]
    closed = ["bash", "-c", 'exec "$@" >&-', "bash", *command]
    done = subprocess.run(closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "256"), done.stderr
