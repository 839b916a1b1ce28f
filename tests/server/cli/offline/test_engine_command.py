"""`--ray [ADDRESS]`, the options that go with it, and vLLM's flags after `--`."""

from pathlib import Path
from typing import Annotated

import pytest
import typer
from builders import make_batch
from command_line import Cli
from offline_proofs import write
from typer.testing import CliRunner

from hallmark.poc.actors.pool import PoolLoader
from hallmark.poc.offline.model import TransformersLoader
from hallmark.server.cli.offline.engine_command import EngineCommand, vllm_flags
from hallmark.server.cli.offline.pool_options import Ray, pooled

app = typer.Typer(add_completion=False)


@app.command(cls=EngineCommand)
def read(
    context: typer.Context, proofs: list[Path], ray: Ray = None, loud: Annotated[bool, typer.Option()] = False
) -> None:
    print([str(path) for path in proofs], ray, loud, vllm_flags(context))


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be where there is a file of proofs."""
    (tmp_path / "p.json").touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "ray"),
    [
        ("p.json", None),
        ("--ray p.json", ""),
        ("p.json --ray", ""),
        ("--ray --loud p.json", ""),
        ("--ray=10.0.0.1:6379 p.json", "10.0.0.1:6379"),
        ("--ray 10.0.0.1:6379 p.json", "10.0.0.1:6379"),
        ("p.json --ray head.example:6379", "head.example:6379"),
        ("--ray [fd00::1]:6379 p.json", "[fd00::1]:6379"),
        ("--ray auto p.json", "auto"),
        ("--ray= p.json", ""),
        ("p.json -- --ray auto", None),
    ],
)
def test_an_address_is_what_looks_like_one(words: str, ray: str | None, in_folder: None) -> None:
    result = CliRunner().invoke(app, words.split())
    assert result.exit_code == 0, result.output
    flags = ("--ray", "auto") if words.endswith("-- --ray auto") else ()
    assert result.output == f"{['p.json']} {ray} {'--loud' in words} {flags}\n"


def test_a_file_with_the_name_of_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "auto").touch()
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["--ray", "./auto"]).output == f"{['auto']}  False ()\n"


@pytest.mark.parametrize("word", ["10.0.0.1", "node1", "http://10.0.0.1:6379", "missing.json"])
def test_neither_an_address_nor_a_file(word: str) -> None:
    result = CliRunner().invoke(app, ["--ray", word, "p.json"])
    assert result.exit_code == 2
    said = " ".join(result.output.replace("│", " ").split())
    assert "behind --ray is neither HOST:PORT, nor auto, nor a file of proofs" in said


def test_what_is_after_two_dashes_is_vllms() -> None:
    result = CliRunner().invoke(app, ["p.json", "--ray", "--", "--quantization", "fp8", "--", "--help"])
    assert result.output == f"{['p.json']}  False {('--quantization', 'fp8', '--', '--help')}\n"


@pytest.mark.parametrize("option", ["--actors", "--gpus", "--cpus"])
@pytest.mark.parametrize("command", ["verify", "calibrate"])
def test_a_pool_is_asked_for_by_ray(cli: Cli, tmp_path: Path, command: str, option: str) -> None:
    proofs = write(tmp_path / "proofs.json", make_batch([0]).as_dict())
    result = cli(command, proofs, "--model", tmp_path, option, 2)
    assert (result.code, result.out) == (2, "")
    assert f"{option} is of use with --ray only" in " ".join(result.err.split())


def test_what_is_computed_on_a_cpu_takes_no_gpu() -> None:
    loader = TransformersLoader(Path("model"), "cpu")
    assert pooled(loader, None, None, None, None) is loader
    made = pooled(loader, "", None, None, None, batches=7)
    assert isinstance(made, PoolLoader)
    assert (made.address, made.gpus, made.cpus, made.batches) == (None, 0, None, 7)
    elsewhere = pooled(TransformersLoader(Path("model"), "cuda"), "auto", 4, None, 8)
    assert isinstance(elsewhere, PoolLoader)
    assert (elsewhere.address, elsewhere.actors, elsewhere.gpus, elsewhere.cpus) == ("auto", 4, None, 8)
