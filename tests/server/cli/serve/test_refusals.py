"""What `hallmark serve` refuses before it starts anything: one sentence, code 2, no process."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Cli

from hallmark.poc.outbox.database import OutboxDatabase
from hallmark.server.cli.serve.checks import check_plan
from hallmark.server.cli.serve.plan import plan

_STARTED: list[str] | None = None


def _note_processes(event: str, arguments: tuple[object, ...]) -> None:
    if _STARTED is not None and event in ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.exec"):
        _STARTED.append(f"{event} {arguments}")


sys.addaudithook(_note_processes)  # which cannot be taken away again


@pytest.fixture(autouse=True)
def no_process_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    started: list[str] = []
    monkeypatch.setattr(sys.modules[__name__], "_STARTED", started)
    yield
    assert not started


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    return path


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number: int = server.getsockname()[1]
    return number


def refusal(cli: Cli, model: object, *flags: object, hint: str | None = None) -> str:
    """What is said, without the name of the command; a hint below it is the one that is expected."""
    result = cli("serve", model, "--host", "127.0.0.1", *flags)
    assert (result.code, result.out) == (2, "")
    line, *hints = result.err.splitlines()
    assert hints == ([] if hint is None else [f"hint: {hint}"])
    assert line.startswith("hallmark: ")
    return line.removeprefix("hallmark: ")


def test_a_port_in_use(cli: Cli, model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        told = refusal(cli, model, "--port", port, hint="choose another with --port")
    assert told == f"port {port} on 127.0.0.1 is in use"


REFUSED = [
    (["--decode-context-parallel-size", "2"], "decode context parallelism"),
    (["--decode_context_parallel_size=2"], "decode context parallelism"),
    (["-dcp", "2"], "decode context parallelism"),
    (["-dcp=2"], "decode context parallelism"),
    (["--data-parallel-size", "2"], "data parallelism"),
    (["-dp", "2"], "data parallelism"),
    (["-dpn", "0"], "data parallelism"),
    (["-dph"], "data parallelism"),
    (["--data-parallel-external-lb"], "data parallelism"),
    (["-pcp", "2"], "prefill context parallelism"),
    (["-dcp", "2"], "decode context parallelism"),
    (["--headless"], "engines without an API server"),
    (["-n", "2", "-r", "1"], "an API server on another node than the first"),
    (["--api-server-count", "2"], "several API server processes"),
    (["-asc", "0"], "several API server processes"),
    (["--grpc"], "gRPC front end"),
    (["--grpc-port", "50051"], "gRPC front end"),
    (["--enable-dbo"], "dual batch overlap"),
    (["--enable-eplb"], "expert load balancing"),
    (["--offload-group-size", "4"], "weight offloading"),
    (["--cpu-offload-gb", "1.5"], "weight offloading"),
    (["--enable-lora"], "LoRA"),
    (["--enable-lora", "-tp", "2"], "LoRA"),
    (["--no-enable-lora", "--enable-lora"], "LoRA"),
    (["--enable-sleep-mode"], "sleep mode"),
    (["--calculate-kv-scales"], "computed KV scales"),
    (["--kv-sharing-fast-prefill"], "fast prefill"),
]


@pytest.mark.parametrize(("flags", "feature"), REFUSED, ids=lambda value: " ".join(value)[:40])
def test_a_feature_that_poc_does_not_work_with(cli: Cli, model: Path, flags: list[str], feature: str) -> None:
    told = refusal(cli, model, *flags)
    assert told.startswith("PoC does not work with ")
    assert feature in told
    assert told.endswith(" yet.")


@pytest.mark.parametrize(
    "path",
    ["/no/such/model", "./model", "../model", "no/such/model", "~/model", "a/b/c/model.gguf"],
)
def test_a_model_path_that_does_not_exist(cli: Cli, path: str) -> None:
    assert refusal(cli, path) == (
        f"MODEL: {path!r} is not allowed; allowed: a directory that exists, or a model's name such as "
        "Qwen/Qwen3-8B"
    )


def test_a_vllm_that_is_too_old(cli: Cli, model: Path, other_vllm: Path) -> None:
    (other_vllm / "_version.py").write_text("__version__ = version = '0.25.1'\n")
    told = "vLLM 0.25.1 is too old: it has no endpoint plugins. Hallmark is tested with 0.26 to 0.33"
    assert refusal(cli, model) == told


def test_a_newer_vllm_that_lacks_what_is_needed(cli: Cli, model: Path, other_vllm: Path) -> None:
    (other_vllm / "_version.py").write_text("__version__ = version = '0.34.0'\n")
    told = refusal(cli, model)
    assert told.startswith("vLLM 0.34.0 is not tested: Hallmark is tested with 0.26 to 0.33")
    assert "plugin.register needs WorkerBase in vllm/v1/worker/worker_base.py, which is not there" in told


def test_an_outbox_that_cannot_be_made(cli: Cli, model: Path, port: int, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, reason in (
        (Path("/proc/x.db"), "No such file or directory"),
        (tmp_path / "file" / "x.db", "File exists"),
        (tmp_path, "Is a directory"),
    ):
        told = refusal(cli, model, "--port", port, "--additional-config.hallmark.outbox_path", path)
        assert told.startswith(f"the outbox {path} cannot be opened: ")
        assert reason in told


def test_an_outbox_that_another_server_has(cli: Cli, model: Path, port: int, tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    other = OutboxDatabase(path)
    told = refusal(cli, model, "--port", port, "--additional-config.hallmark.outbox_path", path)
    other.close()
    assert told == (
        f"another server has the outbox {path}: give this one its own with the setting outbox_path"
    )


def test_a_setting_that_is_given_as_a_flag_of_its_own(cli: Cli, model: Path, tmp_path: Path) -> None:
    assert refusal(cli, model, "--hallmark.seqlen", "9") == (
        "--hallmark.seqlen: 'a flag of its own' is not allowed; allowed: --additional-config.hallmark.seqlen"
    )
    assert not (tmp_path / "state").exists()


def test_an_outbox_is_left_to_the_server_to_make(model: Path, port: int, tmp_path: Path) -> None:
    """What vLLM refuses to start must not leave one behind."""
    path = tmp_path / "outbox.db"
    flags = ("--host", "127.0.0.1", "--port", str(port), f"--additional-config.hallmark.outbox_path={path}")
    planned = plan(str(model), flags, {})
    check_plan(planned)
    assert [file.name for file in tmp_path.glob("outbox*")] == ["outbox.db.lock"]  # empty
    OutboxDatabase(path).close()
    check_plan(planned)
    assert path.exists()
