"""What vLLM reads from the environment where there is no network and nothing beyond its own kernels."""

import os

__all__ = ["OFFLINE", "enter_one_process"]

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    # They would be compiled or fetched first, where they are installed at all.
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_USE_DEEP_GEMM": "0",
}
"""What holds where the caller's environment says nothing else."""


def enter_one_process(runner: str = "1") -> None:
    """Let vLLM run in this process, so that every traceback is seen; before vLLM starts.

    Args:
        runner: the version of vLLM's model runner.
    """
    for name, value in OFFLINE.items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = str(int(runner == "2"))
