"""A release of vLLM as a wheel: fetched by pip, read without being installed."""

import re
import subprocess
import sys
import tempfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

__all__ = ["Release", "fetch"]

WHEELS = Path(__file__).resolve().parents[1] / ".cache" / "wheels"


class Release:
    """A wheel of vLLM.

    Args:
        path: The wheel.

    Attributes:
        version: Its version.
        metadata: Its core metadata.
    """

    def __init__(self, path: Path) -> None:
        self.wheel = zipfile.ZipFile(path)
        self._names = frozenset(self.wheel.namelist())
        [name] = [name for name in self._names if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
        self.metadata: Message = Parser().parsestr(self.wheel.read(name).decode())
        self.version: str = self.metadata["Version"]

    def read(self, file: str) -> str:
        """Return the text of a file below `vllm/`.

        Raises:
            FileNotFoundError: The release has none of this name.
        """
        name = f"vllm/{file}"
        if name not in self._names:
            raise FileNotFoundError(name)
        return self.wheel.read(name).decode()

    def files(self, *folders: str) -> list[str]:
        """Return the paths below `vllm/` of the Python files in some folders."""
        prefixes = tuple(f"vllm/{folder}/" for folder in folders)
        return sorted(
            name.removeprefix("vllm/")
            for name in self._names
            if name.startswith(prefixes) and name.endswith(".py")
        )

    def requirement(self, package: str) -> str:
        """Return the versions of a package that the release asks for; empty where it asks for none."""
        for line in self.metadata.get_all("Requires-Dist") or []:
            match = re.match(rf"{re.escape(package)}(?![\w.-])([^;]*)", line)
            if match:
                return match[1].strip() or "any"
        return ""


def fetch(version: str | None) -> Release:
    """Download a release by pip, once.

    Args:
        version: The release; None is the newest one.

    Raises:
        SystemExit: There is no such release, or it cannot be had; what pip said is printed, the code is 2.
    """
    if version is not None and (found := sorted(WHEELS.glob(f"vllm-{version}-*.whl"))):
        return Release(found[0])
    wanted = "vllm" if version is None else f"vllm=={version}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    WHEELS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WHEELS) as folder:
        download = subprocess.run(
            [*pip, "--only-binary", ":all:", "--dest", folder, wanted], capture_output=True, text=True
        )
        if download.returncode:
            print(f"cannot download {wanted}: {download.stderr.strip()}", file=sys.stderr)
            raise SystemExit(2)
        [wheel] = Path(folder).glob("*.whl")
        return Release(wheel.replace(WHEELS / wheel.name))
