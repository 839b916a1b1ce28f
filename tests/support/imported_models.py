"""vLLM's classes of models, imported in this process."""

import json
from pathlib import Path

from vllm import ModelRegistry


def import_model(directory: Path) -> None:
    """Import the classes that a model's configuration names.

    To look at a class that is not imported vLLM starts a process that imports vLLM anew, 10 s for each.
    """
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    for name in config["architectures"]:
        ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())
