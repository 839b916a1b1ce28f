"""Every kernel compiled for every chip, without a GPU: it fits, spills nothing, uses what the chip has.

Other processes do it: in this one Triton interprets kernels.
"""

import multiprocessing
import os
import re
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from _compiled import Compiled, compile_round, count, new_compilations

from hallmark.kernels.tiles import ARCHITECTURES, Architecture

SHARED_BYTES: dict[Architecture, int] = {
    # CUDA C++ Programming Guide, "Technical Specifications per Compute Capability": of one block.
    "sm_80": 163 * 1024,
    "sm_90": 227 * 1024,
    "sm_100": 227 * 1024,
    "sm_120": 99 * 1024,
    # CDNA3 Instruction Set Architecture: local data share of a work-group.
    "gfx942": 64 * 1024,
}
# Both shapes of the tile tables, over all with whole tiles and with a part of one at either edge, one width
# of a trained model (Gemma 3), every number of warps that sum a row, and the widest hidden state.
WIDTHS = {"bfloat16": (640, 5136, 16384), "float16": (1040, 4096), "float32": (1040, 4096)}
LAUNCHES = {
    "draw_matrix",
    "draw_embeddings",
    "project_residual",
    "embed_project",
    "embed_project of a shard",
    "norm_sums",
    "sums",
    "project",
    "numbers",
    "project of last rows",
}
LOADS = ("LDG", "global_load", "buffer_load")
PRODUCTS = {"project_residual", "embed_project", "embed_project of a shard"}
TENSOR_CORES = {
    "sm_80": "HMMA",
    "sm_90": "HGMMA",  # wgmma
    "sm_100": "UTCHMMA",  # tcgen05.mma
    "sm_120": "HMMA",
    "gfx942": "v_mfma",
}


# Compilation takes minutes: `make test` has a chip of each vendor and the dtypes that models are served in.
USUAL: set[Architecture] = {"sm_90", "gfx942"}
CHIPS = [
    pytest.param(chip, marks=() if chip in USUAL else pytest.mark.slow) for chip in sorted(ARCHITECTURES)
]


@pytest.fixture(scope="module")
def compilations(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[Architecture, str], "Future[dict[tuple[int, str], Compiled]]"]]:
    """All compilations that are asked for, on their way."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    asked: list[Any] = [
        (item.callspec.params["architecture"], item.callspec.params["dtype"])
        for item in items
        if item.originalname == test_kernels_fit_the_chip.__name__
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "0")
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(len(os.sched_getaffinity(0)), spawn) as pool:
            yield {
                (architecture, dtype): pool.submit(compile_round, architecture, dtype, WIDTHS[dtype])
                for architecture, dtype in asked
            }


# In one process, since each would compile all of them.
@pytest.mark.xdist_group("ahead of time")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", pytest.param("float32", marks=pytest.mark.slow)])
@pytest.mark.parametrize("architecture", CHIPS)
def test_kernels_fit_the_chip(
    compilations: dict[tuple[Architecture, str], "Future[dict[tuple[int, str], Compiled]]"],
    architecture: Architecture,
    dtype: str,
) -> None:
    compiled = compilations[architecture, dtype].result()
    assert {name for _, name in compiled} == LAUNCHES
    for (width, name), kernel in compiled.items():
        where = f"{name} at width {width}"
        assert kernel.spill_bytes == 0, where
        assert count(kernel.instructions, "STL", "LDL", "scratch_") == 0, where
        assert kernel.shared_bytes <= SHARED_BYTES[architecture], where
        if name in PRODUCTS and dtype != "float32":
            assert count(kernel.instructions, TENSOR_CORES[architecture]) > 0, where
            assert copies_are_16_bytes_wide(architecture, kernel), where
        if name in PRODUCTS and dtype == "float16" and architecture == "sm_90":
            assert products_are_awaited(kernel), where
        if name in ("draw_matrix", "draw_embeddings"):
            assert stores_are_16_bytes_wide(kernel), where
        # P is read once, by 16 bytes a thread.
        if name.startswith("project of") or name == "project":
            assert copies_are_16_bytes_wide(architecture, kernel), where
        if name in ("norm_sums", "sums"):
            assert loads_are_16_bytes_wide(kernel), where


def test_one_compilation_serves_every_shape_of_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a round compiles for its own shape or number of numbers would stop inference in its middle."""
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    # Nonces, rows and numbers; few rows and many are of different tiles, and these are all many.
    shapes = [(32, 256, 16), (33, 50, 10), (100, 10, 1), (17, 512, 100)]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        first, *others = pool.submit(new_compilations, "sm_90", 64, shapes).result()
    assert first > 0
    assert others == [0, 0, 0]


def copies_are_16_bytes_wide(architecture: Architecture, kernel: Compiled) -> bool:
    """Whether the operands of products come in by 16 bytes a thread."""
    if architecture == "gfx942":
        return count(kernel.instructions, "global_load_dwordx4", "buffer_load_dwordx4") > 0
    sizes = re.findall(r"cp\.async\.c[ag]\.shared\.global \[[^]]+\], \[[^]]+\], 0x(\w+)", kernel.assembly)
    return bool(sizes) and set(sizes) == {"10"}


def loads_are_16_bytes_wide(kernel: Compiled) -> bool:
    """Whether rows come in by 16 bytes a thread; their places in the order are single numbers."""
    loads = [line.split()[0] for line in kernel.instructions if line.startswith(LOADS)]
    others = [load for load in loads if not load.endswith((".128", "_dwordx4"))]
    return len(loads) > len(others) <= 2


def products_are_awaited(kernel: Compiled) -> bool:
    """Whether a step waits for its last product, whose operand is in registers that the next step writes."""
    code = kernel.instructions
    last = max(place for place, line in enumerate(code) if line.startswith("HGMMA"))
    end = next(place for place in range(last, len(code)) if code[place].startswith("BRA"))
    return any(line.startswith("WARPGROUP.DEPBAR") and line.endswith("0x0") for line in code[last:end])


def stores_are_16_bytes_wide(kernel: Compiled) -> bool:
    """Whether everything is stored by 16 bytes a thread."""
    stores = [
        line.split()[0]
        for line in kernel.instructions
        if line.startswith(("STG", "global_store", "buffer_store"))
    ]
    return bool(stores) and all(store.endswith((".128", "_dwordx4")) for store in stores)
