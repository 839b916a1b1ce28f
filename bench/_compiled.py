"""Kernels compiled ahead of time, without a GPU: what they need, and what they are made of."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from hallmark.kernels.draw_normals import launch_draw_normals
from hallmark.kernels.final_norm import FinalNorm, NormRounding
from hallmark.kernels.launch import Launch
from hallmark.kernels.norm_project import launch_project_numbers
from hallmark.kernels.norm_sums import launch_norm_sums, sum_dtype
from hallmark.kernels.normal_table import signed_table
from hallmark.kernels.project_residual import launch_project_residual
from hallmark.kernels.tiles import Architecture

TARGETS: dict[Architecture, GPUTarget] = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


class _Target:
    """The part of a driver of Triton's that compiling asks for."""

    def __init__(self, target: GPUTarget) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled kernel.

    Attributes:
        name: Of the kernel.
        shared_bytes: Shared memory of a program.
        registers: Of a thread; on AMD vector registers.
        spill_bytes: Of a thread, in local memory; on AMD the number of spilled registers.
        num_warps: Of a program.
        assembly: PTX; on AMD the GPU's own.
        instructions: Machine code, one instruction a line, in order; on AMD as in `assembly`.
    """

    name: str
    shared_bytes: int
    registers: int
    spill_bytes: int
    num_warps: int
    assembly: str
    instructions: tuple[str, ...]


def round_launches(
    dtype: torch.dtype,
    width: int,
    architecture: Architecture,
    *,
    nonces: int = 32,
    seq_len: int = 256,
    numbers: int = 16,
) -> dict[str, Launch]:
    """Return every launch that a batch may have and the draw of a projection, on tensors never touched.

    A batch of tokens on one rank has `embed_project`, on several `embed_project of a shard`; one of normal
    inputs or of a model with an embedding function of its own `project_residual`. Where the model's own final
    norm stays, `sums` takes the place of `norm_sums`, and where the last row is read, `project of last rows`
    that of `project`.
    """
    rows = nonces * seq_len
    streams = torch.empty((nonces, 4), dtype=torch.int64)
    tokens = torch.empty(rows, dtype=torch.int64)
    x = torch.empty((rows, width), dtype=dtype)
    embedding = torch.empty((4096, width), dtype=dtype)
    p = torch.empty((width, width), dtype=torch.bfloat16)
    norm = FinalNorm(
        torch.empty(width, dtype=dtype), 1e-6, torch.empty_like(x), False, NormRounding(True, False)
    )
    order = torch.empty((nonces, seq_len - 8), dtype=torch.int32)
    table = signed_table(1.0)
    sums = torch.empty((nonces, numbers, width), dtype=sum_dtype(dtype))
    found = torch.empty((nonces, numbers), dtype=torch.float64)
    project, number = launch_project_numbers(found, sums, p, streams, table, architecture)
    last, _ = launch_project_numbers(found[:, :1], sums[:, :1], p, streams, table, architecture)
    return {
        "draw_matrix": launch_draw_normals(p.view(1, -1), streams[:1], table),
        "draw_embeddings": launch_draw_normals(x.view(nonces, -1), streams, signed_table(1.0, dtype)),
        "project_residual": launch_project_residual(torch.empty_like(x), x, p, architecture),
        "embed_project": launch_project_residual(x, embedding, p, architecture, gather=tokens),
        "embed_project of a shard": launch_project_residual(
            x, embedding, p, architecture, gather=tokens, scatter=tokens
        ),
        "norm_sums": launch_norm_sums(sums, x, norm, order, numbers),
        "sums": launch_norm_sums(sums, x, None, order, numbers),
        "project": project,
        "numbers": number,
        "project of last rows": last,
    }


def compile_for(architecture: Architecture, launch: Launch) -> Compiled:
    """Compile a launch's kernel for a chip that need not be there.

    Raises:
        RuntimeError: The resource usage could not be read.
    """
    triton.runtime.driver.set_active(_Target(TARGETS[architecture]))
    # Compiled kernels are cached by device, and here one device is every chip in turn.
    launch.kernel.device_caches.clear()
    kernel = launch.compile()
    name = launch.kernel.fn.__name__
    if architecture == "gfx942":
        assembly = kernel.asm["amdgcn"]
        notes = {key: int(value) for key, value in re.findall(r"\.(\w+_count):\s+(\d+)", assembly)}
        return Compiled(
            name=name,
            shared_bytes=kernel.metadata.shared,
            registers=notes["vgpr_count"],
            spill_bytes=notes["vgpr_spill_count"] + notes["sgpr_spill_count"],
            num_warps=launch.num_warps,
            assembly=assembly,
            instructions=tuple(_amd_instructions(assembly)),
        )
    usage, code = _read_cubin(kernel.asm["cubin"])
    return Compiled(
        name=name,
        shared_bytes=kernel.metadata.shared,
        registers=usage["REG"],
        spill_bytes=usage["STACK"] + usage["LOCAL"],
        num_warps=launch.num_warps,
        assembly=kernel.asm["ptx"],
        instructions=code,
    )


def compile_round(
    architecture: Architecture, dtype: str, widths: Sequence[int]
) -> dict[tuple[int, str], Compiled]:
    """Compile every kernel of a batch at each width; the drawing ones, which do not know it, at the first."""
    compiled = {}
    for width in widths:
        for name, launch in round_launches(getattr(torch, dtype), width, architecture).items():
            if not name.startswith("draw") or width == widths[0]:
                compiled[width, name] = compile_for(architecture, launch)
    return compiled


def new_compilations(
    architecture: Architecture, width: int, shapes: Sequence[tuple[int, int, int]]
) -> list[int]:
    """Count how many kernels each shape of a batch compiles that those before it have not.

    Args:
        architecture: the chip.
        width: of the hidden state.
        shapes: nonces, rows and numbers of each.
    """
    triton.runtime.driver.set_active(_Target(TARGETS[architecture]))
    compiled: list[None] = []
    triton.knobs.runtime.jit_post_compile_hook = lambda **_: compiled.append(None)
    counts = []
    for nonces, rows, numbers in shapes:
        before = len(compiled)
        launches = round_launches(
            torch.bfloat16, width, architecture, nonces=nonces, seq_len=rows, numbers=numbers
        )
        for name, launch in launches.items():
            if name != "project of last rows":  # whose rows are few
                launch.compile()
        counts.append(len(compiled) - before)
    return counts


def _read_cubin(cubin: bytes) -> tuple[dict[str, int], tuple[str, ...]]:
    """Resource usage and instructions, by the tools that come with Triton."""
    handle, name = tempfile.mkstemp(suffix=".cubin")
    try:
        os.write(handle, cubin)
        os.close(handle)
        usage = _output(triton.knobs.nvidia.cuobjdump.path, "-res-usage", name)
        code = _output(triton.knobs.nvidia.nvdisasm.path, "-c", name)
    finally:
        Path(name).unlink()
    numbers = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    if not {"REG", "STACK", "LOCAL"} <= numbers.keys():
        raise RuntimeError(f"cuobjdump said no resource usage: {usage!r}")
    # A line of code: /*01f0*/  @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;
    lines = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?([^;]+?)\s*;", code)
    # What follows the endless loop behind the last instruction is padding.
    return numbers, tuple(line for line in lines if line.split()[0] != "NOP")


def _output(program: str, *arguments: str) -> str:
    return subprocess.run([program, *arguments], check=True, capture_output=True, text=True).stdout


def _amd_instructions(assembly: str) -> Iterator[str]:
    for line in assembly.splitlines():
        instruction = line.partition(";")[0].strip()
        if re.match(r"(v|s|ds|global|buffer|flat)_\w+", instruction):
            yield instruction


def count(instructions: tuple[str, ...], *prefixes: str) -> int:
    """Return how many instructions begin with one of the prefixes."""
    return sum(instruction.startswith(prefixes) for instruction in instructions)


def describe(compiled: Compiled) -> dict[str, Any]:
    """Return the numbers of a compiled kernel."""
    return {
        "kernel": compiled.name,
        "registers": compiled.registers,
        "spill_bytes": compiled.spill_bytes,
        "shared_bytes": compiled.shared_bytes,
        "warps": compiled.num_warps,
        "instructions": len(compiled.instructions),
    }
