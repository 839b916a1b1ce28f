"""Compilation that is no surprise: PoC's set-up compiles its kernels, before the server is ready.

vLLM arms its monitor of late compilation (`--jit-monitor-mode`) at the end of its own warm-up. A plugin's
code runs either before there is a device, or by an RPC after that: no entry point lies between.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from triton import knobs

__all__ = ["expected_compilation"]


@contextmanager
def expected_compilation() -> Iterator[None]:
    """Let nobody be told of what Triton compiles meanwhile in this process."""
    # Triton's own setting, which the monitor sits behind; nothing of vLLM is touched.
    told = knobs.runtime.jit_post_compile_hook
    knobs.runtime.jit_post_compile_hook = None
    try:
        yield
    finally:
        knobs.runtime.jit_post_compile_hook = told
