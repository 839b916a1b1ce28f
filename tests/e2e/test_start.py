"""Servers that must not start: each ends with a plain sentence, none runs on without proof of compute."""

import os
import sys
from pathlib import Path

import live_cache_writer
import pytest
import vllm_plugin
from models import build_opt
from node import HALLMARK, running_node

from hallmark.server.processes.child import ChildProcess, free_port

pytestmark = [pytest.mark.server, pytest.mark.timeout(1200)]

VLLM = (sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server", "--model")


def run_to_its_end(command: tuple[str, ...], log: Path, **environment: str) -> tuple[int, str]:
    """The exit code and the log of a server that is expected to end by itself."""
    flags = [
        *("--host", "127.0.0.1", "--port", str(free_port()), "--enforce-eager", "--max-model-len", "2048"),
        *("--additional-config.hallmark.outbox_path", "memory"),
    ]
    with ChildProcess("server", [*command, *flags], log=log, environment=environment) as process:
        code = process.wait(600)
    assert code is not None, log.read_text()[-4000:]
    return code, log.read_text()


def test_a_model_that_writes_inferences_cache_itself_ends_the_start(
    small_model: Path, tmp_path: Path
) -> None:
    """As some of vLLM 0.33's for CUDA do; no setting lets it through."""
    model = live_cache_writer.make_model(small_model, tmp_path / "model")
    path = vllm_plugin.install(tmp_path / "plugin", "vllm.general_plugins", "live_cache_writer")
    insisting = ("--additional-config.hallmark.allow_unsupported_vllm", "true")
    code, log = run_to_its_end(
        (*HALLMARK, "serve", str(model), *insisting),
        tmp_path / "server.log",
        PYTHONPATH=path,
    )
    assert code == 2
    told = (
        f"hallmark: PoC does not work with the model {model} ({live_cache_writer.ARCHITECTURE}) yet: it "
        "writes keys and values, or states, into inference's KV cache by itself, past PoC's private one, and "
        "would overwrite those of live requests (layer 'model.layers.0.self_attn.attn' and 3 more)"
    )
    assert told in log.splitlines()


@pytest.mark.slow
def test_a_model_whose_embeddings_are_narrower_ends_the_start(tmp_path: Path) -> None:
    """A forward from inputs as wide as its hidden states would read past its weights."""
    model = build_opt(tmp_path / "model")
    code, log = run_to_its_end((*HALLMARK, "serve", str(model)), tmp_path / "server.log")
    assert code == 2
    told = (
        f"hallmark: PoC does not work with the model {model} (OPTForCausalLM): its embedding function "
        "returns torch.bfloat16 of shape (1, 128) for 1 tokens, not torch.bfloat16 of the width 256"
    )
    assert told in log.splitlines()


@pytest.mark.slow
def test_a_batch_that_vllm_was_not_sized_for_ends_the_start_with_both_numbers(
    small_model: Path, tmp_path: Path
) -> None:
    """Started by vLLM's own command, so that nothing raises the limit."""
    code, log = run_to_its_end(
        (*VLLM, str(small_model), "--max-num-batched-tokens", "4096"),
        tmp_path / "server.log",
        VLLM_PLUGINS="hallmark,hallmark_api",
        PYTHONSAFEPATH="1",
    )
    assert code != 0
    assert "8192 tokens" in log
    assert "--max-num-batched-tokens of 4096" in log


@pytest.mark.slow
def test_workers_without_the_general_plugin_end_the_start(small_model: Path, tmp_path: Path) -> None:
    code, log = run_to_its_end(
        (*VLLM, str(small_model), "--max-num-batched-tokens", "8192"),
        tmp_path / "server.log",
        VLLM_PLUGINS="hallmark_api",
        PYTHONSAFEPATH="1",
    )
    assert code != 0
    assert "the general plugin 'hallmark' is not loaded there" in log


@pytest.mark.slow
def test_a_token_is_asked_for_on_every_control_route(small_model: Path, tmp_path: Path) -> None:
    with running_node(
        small_model, tmp_path / "server.log", "--enforce-eager", HALLMARK_API_KEY="a token"
    ) as node:
        node.http.headers["Authorization"] = "Bearer another"
        for method, path in (
            ("GET", "/api/v1/pow/status"),
            ("POST", "/api/v1/pow/init/generate"),
            ("POST", "/api/v1/pow/stop"),
            ("GET", "/api/v1/state"),
            ("POST", "/api/v1/stop"),
        ):
            response = node.http.request(method, path)
            assert response.status_code == 401, path
            assert "a token" not in response.text
        assert node.chat().status_code == 200
    assert "a token" not in (tmp_path / "server.log").read_text()
    assert os.environ.get("HALLMARK_API_KEY") is None
