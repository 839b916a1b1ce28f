"""A model that writes inference's KV cache itself, as some of vLLM's own do for CUDA, and its plugin.

Its attention layers are plain `Attention`, but keys and values go into the cache of the layer that the model
holds, at the slots of the forward context, and the layer is given queries alone.
"""

import json
import shutil
from pathlib import Path

ARCHITECTURE = "LiveCacheWriterForCausalLM"


def register() -> None:
    """Make the architecture known to vLLM; a plugin of the group `vllm.general_plugins`."""
    from vllm import ModelRegistry

    ModelRegistry.register_model(ARCHITECTURE, f"live_cache_writer_model:{ARCHITECTURE}")


def make_model(model: Path, copy: Path) -> Path:
    """Copy a Qwen3 and name this architecture as its own."""
    shutil.copytree(model, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "architectures": [ARCHITECTURE]}))
    return copy
