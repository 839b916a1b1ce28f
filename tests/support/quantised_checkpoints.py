"""Checkpoints with quantised weights, as vLLM loads them, each beside a plain one of what it means."""

import json
import shutil
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_MOST: Final = 127


def _quantised(bits: int, **more: Any) -> dict[str, Any]:
    return {"num_bits": bits, "type": "int", "symmetric": True, **more}


_INT8: Final = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": _quantised(8, strategy="channel", dynamic=False),
            "input_activations": _quantised(8, strategy="token", dynamic=True),
        }
    },
}


def quantise_to_int8(plain: Path, quantised: Path, meant: Path) -> None:
    """Write a checkpoint anew, all projections of its layers in INT8 and to be run on activations in INT8.

    Args:
        plain: The checkpoint, one file of weights.
        quantised: Where the quantised one goes.
        meant: Where one goes whose weights are what these mean.
    """
    levels: dict[str, Tensor] = {}
    values: dict[str, Tensor] = {}
    for name, weight in load_file(plain / "model.safetensors").items():
        levels[name] = values[name] = weight
        if name.endswith("_proj.weight"):
            scale = weight.float().abs().amax(1, keepdim=True) / _MOST
            rounded = (weight.float() / scale).round()
            levels[name], levels[f"{name}_scale"] = rounded.to(torch.int8), scale
            values[name] = (rounded * scale).to(weight.dtype)
    for directory, weights in ((quantised, levels), (meant, values)):
        shutil.copytree(plain, directory)
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((quantised / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = _INT8
    (quantised / "config.json").write_text(json.dumps(config), encoding="utf-8")
