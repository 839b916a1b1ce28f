"""The proof, at each start, that a model leaves inference's KV cache alone.

A PoC batch has attention layers of its own, found by name in the forward context. A model may reach past
them: one that writes keys and values by itself, into the cache of the layer that it holds, would overwrite
the blocks of live requests in silence. So the first forward of a start is watched, before there is any
request.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from hallmark.poc.core.errors import UnsupportedError
from hallmark.poc.engine.attention import PrivateAttention, UsedCache
from hallmark.poc.engine.support import AttentionLayer

__all__ = ["LiveCacheGuard"]

_INTEGERS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

# What the scratch holds where nothing has been written: a number near zero in every format of a cache.
_UNTOUCHED: Final = {1: 0x25, 2: 0x2525, 4: 0x25252525, 8: 0x2525252525252525}

# A value may happen to be the pattern, and a layout may have room for more than keys and values. Where one is
# twice as wide as the other, keys or values alone are two thirds.
_MIN_SHARE: Final = 0.75


class LiveCacheGuard:
    """Watches one forward of a model, and says whether it kept to the private cache.

    Args:
        name: What to call the model in a refusal.
        model: The model that a PoC batch runs.
        live: Inference's attention layers, by name; those of a draft model are among them.
        attention: The private ones.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        live: Mapping[str, AttentionLayer],
        attention: PrivateAttention,
    ) -> None:
        self._name = name
        self._live = live
        self._attention = attention
        own = set(model.modules())
        # Layers that read another one's cache write none.
        self._writers = {
            layer
            for layer, module in live.items()
            if module in own and layer not in attention.sharing_targets
        }
        self._written: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}
        self._after: dict[str, Tensor] = {}
        self._expected: dict[str, int] = {}

    def watch(self, forward: Callable[[], Any], batch_size: int, seq_len: int) -> None:
        """Run a forward of `batch_size` sequences of `seq_len` tokens, and note what it writes.

        What it computes is of no use: layers that read another one's cache may find the pattern there.
        """
        used = self._attention.used_caches(batch_size, seq_len)
        scratch = {name: _bits(self._attention.scratch[name][used[name].blocks]) for name in self._live}
        # A layer that others read from has a scratch of its own; the rest take turns on one.
        kept = set(self._attention.sharing_targets.values())
        for bits in scratch.values():
            bits.fill_(_UNTOUCHED[bits.element_size()])

        def note(layer: str) -> None:
            if layer not in self._writers:
                return
            bits = scratch[layer]
            pattern = _UNTOUCHED[bits.element_size()]
            self._written[layer] = (bits != pattern).sum() * bits.element_size()
            if layer not in kept:
                bits.fill_(pattern)

        self._expected = {layer: used[layer].kv_bytes for layer in self._live if layer in self._writers}
        self._before = self._checksums(used)
        self._attention.observer = note
        try:
            forward()
        finally:
            self._attention.observer = None
        self._after = self._checksums(used)

    def check(self) -> None:
        """Refuse the model if it did not keep to the private cache.

        Raises:
            UnsupportedError: With the model's name and the first layer that was found out.
        """
        overwritten = [
            name for name, before in self._before.items() if not torch.equal(before, self._after[name])
        ]
        if overwritten:
            raise UnsupportedError(
                f"PoC does not work with {self._name} yet: it writes keys and values into inference's KV "
                f"cache by itself, past PoC's private one, and would overwrite those of live requests "
                f"({_named(overwritten)})"
            )
        missed = [
            name
            for name, expected in self._expected.items()
            if name not in self._written or int(self._written[name]) < _MIN_SHARE * expected
        ]
        if missed:
            raise UnsupportedError(
                f"PoC does not work with {self._name} yet: keys and values do not reach PoC's private cache "
                f"({_named(missed)})"
            )

    def _checksums(self, used: Mapping[str, UsedCache]) -> dict[str, Tensor]:
        """Add up the bits of each block that the batch would have in inference's cache, for each layer."""
        sums = {}
        for name, layer in self._live.items():
            bits = _bits(layer.kv_cache[used[name].blocks])
            sums[name] = bits.sum(dim=tuple(range(1, bits.dim())), dtype=torch.int64)
        return sums


def _bits(cache: Tensor) -> Tensor:
    """View a cache as integers of the same size."""
    return cache.view(_INTEGERS[cache.element_size()])


def _named(layers: list[str]) -> str:
    more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
    return f"layer {layers[0]!r}{more}"
