"""Ways of running one model over the nonces of `_noise_inputs.py`, and the numbers that each way gives.

A way gives all rows of what the final norm returns. What is made of them is made on the host, by the same
code for all ways.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from _environment import enter_one_process
from _noise_inputs import Batch, Inputs
from _vllm import engine_on
from torch import Tensor

from hallmark.kernels import project_residual

Forward = Callable[[Tensor, Tensor], Tensor]
"""From X, bf16 [n, rows, D], and P, bf16 [D, D], to H on the host, [n, rows, D] in the model's dtype."""

Numbers = npt.NDArray[np.float32]
READOUTS = ("last", "groups")

TRANSFORMERS = {
    "transformers-sdpa": (torch.bfloat16, "sdpa"),
    "transformers-eager": (torch.bfloat16, "eager"),
    "transformers-fp32": (torch.float32, "sdpa"),
}
VLLM = "vllm"
"""vLLM with the attention that it picks itself; `vllm-FLASH_ATTN` names one."""


def compute(forward: Forward, inputs: Inputs) -> dict[str, Numbers]:
    """Return the numbers of all nonces, [nonces, k], by `kind/rows/readout`."""
    found: dict[str, list[Tensor]] = {}
    for batch in inputs.batches():
        hidden = forward(batch.inputs, batch.p_pre)
        for readout in READOUTS:
            key = f"{batch.kind}/{batch.size.rows}/{readout}"
            found.setdefault(key, []).append(numbers(hidden, batch, readout))
    return {key: torch.cat(parts).to(torch.float32).numpy() for key, parts in found.items()}


def numbers(hidden: Tensor, batch: Batch, readout: str) -> Tensor:
    """Return the numbers c of a batch by hallmark/2's steps 3 to 5, or those of its last rows.

    Args:
        hidden: H on the host, [n, rows, D] in the model's dtype.
        batch: Whose nonces they are.
        readout: `last` or `groups`.

    Returns:
        float64 [n, k]; k is 1 for `last`.
    """
    if readout == "last":
        sums, targets = hidden[:, -1:], batch.targets[:, :1]
    else:
        # Sums of so few bf16 numbers are exact in float64, so that no machine's order of adding shows.
        sums = (batch.signs @ hidden.double()).to(torch.float32).to(hidden.dtype)
        targets = batch.targets
    rows = sums.reshape(-1, sums.shape[-1]).float()
    projected = torch.addmm(rows, rows, batch.p_post.float()).double().view(targets.shape)
    norms = projected.norm(dim=-1) * targets.norm(dim=-1)
    found: Tensor = (projected * targets).sum(-1) / norms * projected.shape[-1] ** 0.5
    return found


@contextmanager
def running(way: str, folder: Path, inputs: Inputs) -> Iterator[tuple[Forward, Any]]:
    """Load the model for a way.

    Args:
        way: One of `TRANSFORMERS`, `vllm`, or `vllm-` and the name of an attention backend.
        folder: Where the model has been written.
        inputs: The nonces, for the shape of the largest batch.

    Yields:
        The forward, and what the engine says of its arithmetic.
    """
    if way in TRANSFORMERS:
        with _transformers(way, folder) as forward:
            yield forward, TRANSFORMERS[way][1]
    elif way.partition("-")[0] == VLLM:
        with _vllm(way.partition("-")[2], folder, inputs) as (forward, numerics):
            yield forward, numerics
    else:
        raise ValueError(f"way: {way!r} is not known; known: {', '.join(TRANSFORMERS)}, vllm, vllm-BACKEND")


def load(folder: Path, dtype: torch.dtype, attention: str) -> Any:
    """Load a folder as transformers' LlamaForCausalLM, on the CPU; the rotary frequencies stay in fp32.

    Raises:
        ValueError: The folder lacks weights of the model, or has others.
    """
    from transformers import LlamaForCausalLM

    model, info = LlamaForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation=attention,
        local_files_only=True,
        output_loading_info=True,
    )
    wrong = {name: keys for name, keys in info.items() if keys}
    if wrong:
        raise ValueError(f"{folder}: does not hold the whole model and nothing else: {wrong}")
    return model.eval()


@contextmanager
def _transformers(way: str, folder: Path) -> Iterator[Forward]:
    dtype, attention = TRANSFORMERS[way]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # fp32 is the truth: no TF32, no bf16
    model = load(folder, dtype, attention).to(device)

    @torch.inference_mode()
    def forward(inputs: Tensor, projection: Tensor) -> Tensor:
        projected = project_residual(inputs.to(device), projection.to(device), torch.bfloat16)
        n, rows, _ = projected.shape
        # As the offline verifier calls a model. Without a mask sdpa takes its causal kernel, as in use; that
        # costs one question to the device, which is not timed here.
        positions = torch.arange(rows, device=device).expand(n, -1)
        output = model.base_model(inputs_embeds=projected.to(dtype), position_ids=positions, use_cache=False)
        hidden: Tensor = output.last_hidden_state.cpu()
        return hidden

    try:
        yield forward
    finally:
        torch.set_float32_matmul_precision(precision)


@contextmanager
def _vllm(attention: str, folder: Path, inputs: Inputs) -> Iterator[tuple[Forward, Any]]:
    """Load the model into vLLM, in this process and with PoC in it; run it with its own norm."""
    enter_one_process()
    options: dict[str, object] = {"attention_backend": attention} if attention else {}
    if torch.cuda.is_available():
        options["gpu_memory_utilization"] = 0.3
    with engine_on(
        folder,
        batch_size=inputs.batch_size,
        seq_len=max(size.rows for size in inputs.sizes),
        dtype="bfloat16",
        skip_tokenizer_init=True,
        **options,
    ) as engine:

        def forward(drawn: Tensor, projection: Tensor) -> Tensor:
            hidden: Tensor = engine.call("bench_final_hidden", drawn, projection)
            return hidden

        yield forward, engine.warm["numerics"]
