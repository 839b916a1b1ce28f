"""Whether this environment has what a node is made of: vLLM, the plugins, the caches of compilers."""

import os
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Final

from hallmark.poc.core.errors import UnsupportedError
from hallmark.poc.engine.pins import missing_pins, vllm_files
from hallmark.poc.engine.versions import TESTED, version_in
from hallmark.poc.protocol.streams import PROTOCOL
from hallmark.server.cli.serve.checks import check_vllm
from hallmark.server.cli.serve.plan import OUR_PLUGINS
from hallmark.server.cli.words import size
from hallmark.server.doctor.finding import Finding
from hallmark.server.doctor.folders import MIN_FREE, writable_folder

__all__ = ["examine_caches", "examine_hallmark", "examine_plugins", "examine_vllm"]

_GROUPS: Final = ("vllm.general_plugins", "vllm.endpoint_plugins")


def examine_hallmark() -> Iterator[Finding]:
    """Tell which Hallmark this is."""
    yield Finding.ok("hallmark", f"{version('hallmark-poc')}, protocol {PROTOCOL}")


def examine_vllm(*, allow_unsupported: bool) -> Iterator[Finding]:
    """Look whether vLLM is there, and has all that Hallmark uses of it.

    Args:
        allow_unsupported: The setting `allow_unsupported_vllm`.
    """
    remedy = f"install a version that is tested: {TESTED}"
    try:
        warning = check_vllm(allow_unsupported=allow_unsupported)
    except UnsupportedError as exc:
        notes = getattr(exc, "__notes__", ())
        yield Finding.problem("vllm", str(exc), "; ".join(notes) or remedy)
        return
    if warning is not None:
        yield Finding.warning("vllm", warning, f"try it before you rely on it, or {remedy}")
        return
    read = vllm_files()
    missing = missing_pins(read)
    if missing:
        # A start believes a tested version: files that somebody has changed show only here.
        yield Finding.problem(
            "vllm",
            f"{version_in(read)} is tested, and lacks what that release has: {'; '.join(missing[:3])}",
            "install it anew: its files were changed, or its installation was cut off",
        )
        return
    yield Finding.ok("vllm", f"{version_in(read)}, tested with {TESTED}; all that Hallmark uses is there")


def examine_plugins(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Look whether vLLM finds both plugins, can load them, and may.

    Args:
        environment: The environment that the server would have.
    """
    for group, name in zip(_GROUPS, OUR_PLUGINS, strict=True):
        found = [*entry_points(group=group, name=name)]
        if len(found) != 1:
            count = "is not installed" if not found else f"is installed {len(found)} times"
            yield Finding.problem(
                "plugins",
                f"the entry point {name} of {group} {count}",
                "install Hallmark once, into the environment that has vLLM",
            )
            return
        found[0].load()
    allowed = environment.get("VLLM_PLUGINS")
    missing = [] if allowed is None else [name for name in OUR_PLUGINS if name not in allowed.split(",")]
    if missing:
        yield Finding.warning(
            "plugins",
            f"VLLM_PLUGINS leaves out {' and '.join(missing)}",
            f"start by hallmark serve, which adds them; vllm serve needs {','.join(OUR_PLUGINS)} in it",
        )
        return
    yield Finding.ok("plugins", f"{' and '.join(OUR_PLUGINS)} load")


def examine_caches(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Look whether compilers can keep what they make: each start would compile everything anew.

    Args:
        environment: The environment that the server would have.
    """
    home = Path(environment.get("HOME") or os.path.expanduser("~"))
    caches = Path(environment.get("XDG_CACHE_HOME") or home / ".cache")
    for name, variable, default in (
        ("triton cache", "TRITON_CACHE_DIR", Path(environment.get("TRITON_HOME") or home) / ".triton/cache"),
        ("vllm cache", "VLLM_CACHE_ROOT", caches / "vllm"),
    ):
        folder = Path(environment.get(variable) or default)
        held, why = writable_folder(folder)
        if why is not None:
            yield Finding.warning(name, f"{folder}: {why}", f"set {variable} to a folder that is writable")
            continue
        free = shutil.disk_usage(held).free
        if free < MIN_FREE:
            yield Finding.warning(name, f"{folder}: {size(free)} are free", "make room, or move it")
            continue
        yield Finding.ok(name, f"{folder}, {size(free)} free")
