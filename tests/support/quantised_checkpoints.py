"""Checkpoints with quantised weights, as vLLM loads them, each beside a plain one of what it means.

All projections of the layers are quantised. A checkpoint that is read is one file of weights.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from compressed_tensors.compressors.nvfp4 import NVFP4PackedCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import load_file, save_file
from torch import Tensor

_MOST: Final = 127
_GROUP: Final = 64
"""How many neighbours in a row of weights of 4 bits have one scale."""

_MOST_FP4: Final = 6
_DIVISOR: Final = torch.tensor([448.0 * _MOST_FP4])
"""Of all scales in FP8, up to 448 for weights up to 1; one for all, since vLLM joins matrices."""

_IN_ORDER: Final = (0, 1, 2, 3, 4, 5, 6, 7)
_AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)


def _compressed(layout: str, **group: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], **group}},
    }


def _numbers(bits: int, **more: Any) -> dict[str, Any]:
    return {"num_bits": bits, "type": "int", "symmetric": True, **more}


_INT8: Final = _compressed(
    "int-quantized",
    weights=_numbers(8, strategy="channel", dynamic=False),
    input_activations=_numbers(8, strategy="token", dynamic=True),
)
_INT4: Final = _compressed(
    "pack-quantized", weights=_numbers(4, strategy="group", group_size=_GROUP, dynamic=False)
)
_FP4_WEIGHTS: Final = _numbers(4, strategy="tensor_group", group_size=16, dynamic=False) | {"type": "float"}
_NVFP4: Final = _compressed("nvfp4-pack-quantized", weights=_FP4_WEIGHTS)
_GPTQ: Final = {"quant_method": "gptq", "bits": 4, "group_size": _GROUP, "desc_act": False, "sym": True}
_AWQ: Final = {"quant_method": "awq", "bits": 4, "group_size": _GROUP, "zero_point": True, "version": "gemm"}


def quantise_to_int8(plain: Path, quantised: Path, meant: Path) -> None:
    """Write a checkpoint anew, its weights in INT8 and to be run on activations in INT8.

    Args:
        plain: The checkpoint.
        quantised: Where the quantised one goes.
        meant: Where one goes whose weights are what these mean.
    """

    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        scale = weight.float().abs().amax(1, keepdim=True) / _MOST
        rounded = (weight.float() / scale).round()
        return {"weight": rounded.to(torch.int8), "weight_scale": scale}, rounded * scale

    _write(plain, quantised, meant, _INT8, quantise)


def quantise_to_int4(plain: Path, quantised: Path, meant: Path) -> None:
    """Write a checkpoint anew, its weights in 4 bits packed by compressed-tensors; see quantise_to_int8."""

    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        found = _Groups.of(weight, symmetric=True)
        stored = {
            "weight_packed": _packed(found.levels, _IN_ORDER),
            "weight_scale": found.scales,
            "weight_shape": torch.tensor(weight.shape),
        }
        return stored, found.meaning

    _write(plain, quantised, meant, _INT4, quantise)


def quantise_to_nvfp4(plain: Path, quantised: Path, meant: Path) -> None:
    """Write a checkpoint anew, its weights in NVFP4 packed by compressed-tensors; see quantise_to_int8."""
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**_FP4_WEIGHTS))

    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        most = weight.float().reshape(len(weight), -1, 16).abs().amax(2)
        # Rounded first: what is stored says what the levels mean.
        scale = (most / _MOST_FP4 * _DIVISOR).to(torch.float8_e4m3fn).float()
        plain = {"weight": weight.float(), "weight_scale": scale, "weight_global_scale": _DIVISOR.clone()}
        stored = NVFP4PackedCompressor.compress(plain, scheme)
        meaning: Tensor = NVFP4PackedCompressor.decompress(dict(stored), scheme)["weight"]
        return dict(stored), meaning

    _write(plain, quantised, meant, _NVFP4, quantise)


def quantise_to_gptq(plain: Path, quantised: Path, meant: Path) -> None:
    """Write a checkpoint anew, its weights in 4 bits in GPTQ's format; see quantise_to_int8."""

    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        found = _Groups.of(weight, symmetric=True)
        stored = {
            "qweight": _packed(found.levels, _IN_ORDER).t(),
            "qzeros": _packed(found.zeros.t() - 1, _IN_ORDER),  # the format is one off
            "scales": found.scales.t(),
            "g_idx": torch.arange(weight.shape[1], dtype=torch.int32) // _GROUP,
        }
        return stored, found.meaning

    _write(plain, quantised, meant, _GPTQ, quantise)


def quantise_to_awq(plain: Path, quantised: Path, meant: Path) -> None:
    """Write a checkpoint anew, its weights in 4 bits in AWQ's format; see quantise_to_int8."""

    def quantise(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        found = _Groups.of(weight, symmetric=False)
        stored = {
            "qweight": _packed(found.levels.t(), _AWQ_ORDER),
            "qzeros": _packed(found.zeros.t(), _AWQ_ORDER),
            "scales": found.scales.t(),
        }
        return stored, found.meaning

    _write(plain, quantised, meant, _AWQ, quantise)


@dataclass(frozen=True, slots=True)
class _Groups:
    """A matrix of weights in 4 bits; all have a row for an output.

    Attributes:
        levels: From 0 to 15, a column for an input.
        zeros: The levels that mean 0, a column for a group.
        scales: From one level to the next, a column for a group, in the type of the weights.
        meaning: The weights that these are, in float32.
    """

    levels: Tensor
    zeros: Tensor
    scales: Tensor
    meaning: Tensor

    @classmethod
    def of(cls, weight: Tensor, *, symmetric: bool) -> "_Groups":
        """Quantise a matrix, level 8 meaning 0, or the levels reaching from a group's least to its most."""
        groups = weight.float().reshape(len(weight), -1, _GROUP)
        if symmetric:
            scales = groups.abs().amax(2, keepdim=True) / 7.5
            zeros = torch.full_like(scales, 8)
        else:
            least, most = groups.aminmax(dim=2, keepdim=True)
            scales = (most - least) / 15
            zeros = (-least / scales).round()
        # Rounded first: what is stored says what the levels mean.
        stored = scales.to(weight.dtype)
        levels = (groups / stored.float() + zeros).round().clamp(0, 15)
        meaning = (levels - zeros) * stored.float()
        return cls(levels.flatten(1), zeros.squeeze(2), stored.squeeze(2), meaning.flatten(1))


def _packed(levels: Tensor, order: Sequence[int]) -> Tensor:
    """Pack each eight of a row into 32 bits, the one that `order` names first in the lowest four."""
    eights = levels.to(torch.int32).reshape(len(levels), -1, len(order))[..., order]
    shifted: Tensor = eights << torch.arange(0, 32, 4, dtype=torch.int32)
    return shifted.sum(2, dtype=torch.int32)


def _write(
    plain: Path,
    quantised: Path,
    meant: Path,
    settings: Mapping[str, Any],
    quantise: Callable[[Tensor], tuple[dict[str, Tensor], Tensor]],
) -> None:
    """Write both checkpoints.

    Args:
        plain: The one that is read.
        quantised: Where the quantised one goes.
        meant: Where one goes whose weights are what these mean.
        settings: What the quantised one's configuration says of the format.
        quantise: What a matrix is stored as, by the ends of the names, and what that means.
    """
    stored: dict[str, Tensor] = {}
    values: dict[str, Tensor] = {}
    for name, weight in load_file(plain / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            parts, meaning = quantise(weight)
            stored |= {name.removesuffix("weight") + end: part.contiguous() for end, part in parts.items()}
            values[name] = meaning.to(weight.dtype)
        else:
            stored[name] = values[name] = weight
    for directory, weights in ((quantised, stored), (meant, values)):
        shutil.copytree(plain, directory)
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((quantised / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = settings
    (quantised / "config.json").write_text(json.dumps(config), encoding="utf-8")
