"""Where the kernels of a test run: in Triton's interpreter on the CPU, or compiled on a GPU."""

import pytest
import torch

from hallmark.kernels.launch import kernels_are_interpreted


@pytest.fixture(params=[pytest.param("cpu"), pytest.param("cuda", marks=pytest.mark.gpu)])
def kernel_device(request: pytest.FixtureRequest) -> torch.device:
    """A device on which the launches of kernels run."""
    if request.param == "cpu":
        return _interpreter()
    return torch.device(request.param)


@pytest.fixture
def interpreter() -> torch.device:
    """The CPU, on which kernels are interpreted."""
    return _interpreter()


def _interpreter() -> torch.device:
    if not kernels_are_interpreted():
        pytest.skip("kernels are compiled in this process, for the GPU, and not interpreted")
    return torch.device("cpu")
