"""What every test may use."""

import os
import signal
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest
import torch

# Triton decides when it is imported whether kernels are compiled, for a GPU, or interpreted, on CPU tensors.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Before vLLM or transformers is imported anywhere: no look-ups outside, and a small cache.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

# The keys of Inductor's cache leave out the instruction set: what it generated for AVX-512 it compiles for
# AVX2 as well (under ATEN_CPU_CAPABILITY=avx2), and half of each vector is garbage.
os.environ.setdefault("TORCH_COMPILE_CACHE_KEY_TAG", torch.backends.cpu.get_cpu_capability())

# The same examples each time, so that a failure is of the change at hand; `make test-all` looks for new ones.
# How long an example takes is the machine's affair.
hypothesis.settings.register_profile(
    "exploring", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile(
    "repeatable", hypothesis.settings.get_profile("exploring"), derandomize=True
)
hypothesis.settings.load_profile("repeatable")

# Where this runs in the background of a shell, SIGINT is ignored, and every process started from here would
# inherit that. Tests that press Ctrl-C need what a terminal gives.
signal.signal(signal.SIGINT, signal.default_int_handler)

_PLUGIN_OPTIONS = {
    "pytest_asyncio": ("asyncio_mode", "asyncio_default_fixture_loop_scope"),
    "pytest_timeout": ("timeout",),
}
"""What pyproject.toml sets for plugins; without them pytest would stop at options that nobody knows."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Know the options of plugins that are not installed: the kernels' tests do without them."""
    for plugin, options in _PLUGIN_OPTIONS.items():
        if find_spec(plugin) is None:
            for option in options:
                parser.addini(option, f"of {plugin}, which is not installed")


def pytest_report_header() -> str:
    """Say what the numbers of this run come from."""
    from _report import machine

    from hallmark.server.models.small import fast_dtype

    described = machine()
    processor = "{cpu}, {cores} cores, {instructions}, instructions for bf16: {bf16_instructions}"
    where = described.get("gpu") or processor.format_map(described)
    return f"hallmark: {where}; models in {fast_dtype()}, in both dtypes where it matters"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the GPU tests, with the reason, where there is no GPU."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu") is not None:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds the small model."""
    from hallmark.server.models.small import build_small_model

    path = tmp_path_factory.mktemp("small-model")
    build_small_model(path)
    return path
