"""Plugins of vLLM's that only tests have."""

from pathlib import Path

from python_path import with_support


def install(folder: Path, group: str, module: str) -> str:
    """Write a distribution whose one entry point is the function `register` of one of these modules.

    Args:
        folder: Where to.
        group: Of vLLM's entry points.
        module: The module, whose name the plugin has too.

    Returns:
        A `PYTHONPATH` with the folder and these modules, in front of the present one.
    """
    metadata = folder / f"{module}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{module} = {module}:register\n")
    return with_support(folder)
