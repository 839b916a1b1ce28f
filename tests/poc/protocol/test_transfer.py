"""Copies between host and device; what a GPU adds is in tests/kernels/test_gpu.py."""

import torch

from hallmark.poc.protocol.transfer import HostCopy, to_device


def test_on_the_cpu_nothing_is_copied_up() -> None:
    tensor = torch.arange(4)
    assert to_device(tensor, torch.device("cpu")) is tensor


def test_on_the_cpu_a_result_is_there_at_once() -> None:
    tensor = torch.arange(4.0)
    copy = HostCopy(tensor)
    assert copy.has_arrived()
    assert torch.equal(copy.tensor, tensor)
