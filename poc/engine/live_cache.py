"""The proof, at each start, that a model leaves inference's KV cache and states alone.

A PoC batch has layers of its own, found by name in the forward context. A model may reach past them: one that
writes keys and values by itself, into the cache of the layer that it holds, would overwrite the blocks of
live requests in silence. So the first forward of a start is watched, before there is any request.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from hallmark.poc.core.errors import UnsupportedError
from hallmark.poc.engine.private_layers import PrivateLayers, UsedCache
from hallmark.poc.engine.support import PrivateLayer, cache_of

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
        live: Inference's layers that keep a cache or a state, by name; a draft model's are among them.
        private: The private ones.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        live: Mapping[str, PrivateLayer],
        private: PrivateLayers,
    ) -> None:
        self._name = name
        self._live = live
        self._private = private
        own = set(model.modules())
        # Layers that read another one's cache write none.
        self._writers = {
            layer for layer, module in live.items() if module in own and layer not in private.sharing_targets
        }
        self._written: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}
        self._after: dict[str, Tensor] = {}
        self._expected: dict[str, float] = {}

    def watch(self, forward: Callable[[], Any], batch_size: int, seq_len: int) -> None:
        """Run a forward of `batch_size` sequences of `seq_len` tokens, and note what it writes.

        What it computes is of no use: layers that read another one's cache may find the pattern there.
        """
        used = self._private.used_caches(batch_size, seq_len)
        scratch = {
            name: [_bits(part[used[name].blocks]) for part in self._private.scratch[name]]
            for name in self._live
        }
        # A layer that others read from has a scratch of its own; the rest take turns on one.
        kept = set(self._private.sharing_targets.values())
        for parts in scratch.values():
            _erase(parts)

        def note(layer: str) -> None:
            if layer not in self._writers:
                return
            has_states = used[layer].kv_bytes is None
            self._written[layer] = (_written_states if has_states else _written_bytes)(scratch[layer])
            if layer not in kept:
                _erase(scratch[layer])

        self._expected = {
            layer: _expected(used[layer], parts) for layer, parts in scratch.items() if layer in self._writers
        }
        self._before = self._checksums(used)
        self._private.observer = note
        try:
            forward()
            self._private.finish_state()
        finally:
            self._private.observer = None
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
                f"PoC does not work with {self._name} yet: it writes keys and values, or states, into "
                f"inference's KV cache by itself, past PoC's private one, and would overwrite those of live "
                f"requests ({_named(overwritten)})"
            )
        missed = [
            name
            for name, expected in self._expected.items()
            if name not in self._written or int(self._written[name]) < expected
        ]
        if missed:
            raise UnsupportedError(
                f"PoC does not work with {self._name} yet: keys and values, or states, do not reach PoC's "
                f"private cache ({_named(missed)})"
            )

    def _checksums(self, used: Mapping[str, UsedCache]) -> dict[str, Tensor]:
        """Add up the bits of each block that the batch would have in inference's cache, for each layer."""
        sums = {}
        for name, layer in self._live.items():
            parts = [_bits(part[used[name].blocks]).flatten(1) for part in cache_of(layer)]
            sums[name] = torch.stack([bits.sum(dim=1, dtype=torch.int64) for bits in parts])
        return sums


def _bits(cache: Tensor) -> Tensor:
    """View a cache as integers of the same size."""
    return cache.view(_INTEGERS[cache.element_size()])


def _erase(parts: Iterable[Tensor]) -> None:
    for bits in parts:
        bits.fill_(_UNTOUCHED[bits.element_size()])


def _is_written(bits: Tensor) -> Tensor:
    return bits != _UNTOUCHED[bits.element_size()]


def _written_bytes(parts: Iterable[Tensor]) -> Tensor:
    """Count the bytes of a cache that are something else than they were before."""
    return torch.stack([_is_written(bits).sum() * bits.element_size() for bits in parts]).sum()


def _written_states(parts: Iterable[Tensor]) -> Tensor:
    """Count the states of sequences that have changed: for drafted tokens they have room beside them."""
    return torch.stack([_is_written(bits).flatten(1).any(dim=1).sum() for bits in parts]).sum()


def _expected(used: UsedCache, parts: Collection[Tensor]) -> float:
    """Return what has to be written of a layer's cache: bytes, or states of sequences."""
    if used.kv_bytes is None:
        return sum(len(states) for states in parts)
    return _MIN_SHARE * used.kv_bytes


def _named(layers: list[str]) -> str:
    more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
    return f"layer {layers[0]!r}{more}"
