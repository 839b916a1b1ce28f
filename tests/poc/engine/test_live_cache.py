"""What is found out about a forward that does not keep to the private cache."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hallmark.poc.core.errors import UnsupportedError
from hallmark.poc.engine.live_cache import LiveCacheGuard
from hallmark.poc.engine.private_layers import UsedCache
from hallmark.poc.engine.scratch import allocate_scratch, used_blocks

BLOCK, HEADS, HEAD = 16, 2, 8
TOKENS = 40  # two blocks and a half
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn]


class Layer(nn.Module):
    def __init__(self, kv_cache: Tensor) -> None:
        super().__init__()
        self.kv_cache = kv_cache


class Attention:
    """Inference's layers and the private ones, as far as the guard looks at them.

    Keys and values are written where vLLM's layers write them; the layout is that of vLLM's backends.
    """

    def __init__(self, layers: int, dtype: torch.dtype, sharing: dict[str, str]) -> None:
        names = [f"layers.{index}" for index in range(layers)]
        shape = (8, HEADS, BLOCK, 2 * HEAD)
        self.live: dict[str, Any] = {name: Layer(random(shape, dtype)) for name in names}
        self.model = nn.ModuleList(self.live.values())
        used = used_blocks(1, TOKENS, BLOCK)
        self.sharing_targets = sharing
        self.scratch = allocate_scratch(
            {name: (layer.kv_cache,) for name, layer in self.live.items()},
            sharing,
            dict.fromkeys(names, used.stop - used.start),
        )
        self.observer: Callable[[str], None] | None = None
        self.finish_state = lambda: None
        self._item = torch.empty((), dtype=dtype).element_size()

    def used_caches(self, batch_size: int, seq_len: int) -> dict[str, UsedCache]:
        kv_bytes = batch_size * seq_len * HEADS * 2 * HEAD * self._item
        return dict.fromkeys(self.live, UsedCache(used_blocks(batch_size, seq_len, BLOCK), kv_bytes))

    def guard(self) -> LiveCacheGuard:
        return LiveCacheGuard("the model X", self.model, self.live, self)  # type: ignore[arg-type]

    def forward(self, write: Callable[[str, Tensor, Tensor], None]) -> None:
        """Call `write(layer, its private cache, its live cache)`, and then its attention, for every layer."""
        for name in self.live:
            if self.live[name] not in set(self.model):
                continue
            write(name, self.scratch[name][0], self.live[name].kv_cache)
            assert self.observer is not None
            self.observer(name)


def random(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def put(cache: Tensor, columns: slice = slice(None)) -> None:
    """Write the keys and values of a sequence into its blocks, or some columns of them only."""
    for token in range(TOKENS):
        row = cache[1 + token // BLOCK, :, token % BLOCK, columns]
        row.copy_(random((*row.shape, token + 1), torch.float32)[..., 0])


def told(
    write: Callable[[str, Tensor, Tensor], None],
    *,
    layers: int = 3,
    dtype: torch.dtype = torch.bfloat16,
    sharing: dict[str, str] | None = None,
) -> str | None:
    """What the guard says of a forward; None where it lets it pass."""
    attention = Attention(layers, dtype, sharing or {})
    guard = attention.guard()
    guard.watch(lambda: attention.forward(write), 1, TOKENS)
    assert attention.observer is None
    try:
        guard.check()
    except UnsupportedError as refusal:
        return str(refusal)
    return None


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_that_keeps_to_the_private_cache_passes(dtype: torch.dtype) -> None:
    assert told(lambda _, private, live: put(private), dtype=dtype) is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("also_privately", [True, False])
def test_a_model_that_writes_inferences_cache_is_refused(dtype: torch.dtype, also_privately: bool) -> None:
    def write(name: str, private: Tensor, live: Tensor) -> None:
        if also_privately or name != "layers.1":
            put(private)
        if name == "layers.1":
            put(live)

    assert told(write, dtype=dtype) == (
        "PoC does not work with the model X yet: it writes keys and values, or states, into inference's KV "
        "cache by itself, past PoC's private one, and would overwrite those of live requests (layer "
        "'layers.1')"
    )


def test_one_overwritten_number_is_enough() -> None:
    def write(name: str, private: Tensor, live: Tensor) -> None:
        put(private)
        live[2, 1, 3, 5] += 1

    refusal = told(write)
    assert refusal is not None
    assert "(layer 'layers.0' and 2 more)" in refusal


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "columns", [slice(0), slice(HEAD), slice(HEAD, None)], ids=["nothing", "keys", "values"]
)
def test_keys_and_values_that_do_not_arrive_are_missed(dtype: torch.dtype, columns: slice) -> None:
    """Of every layer, although all of them take turns on one private cache."""

    def write(name: str, private: Tensor, live: Tensor) -> None:
        put(private, columns if name == "layers.2" else slice(None))

    assert told(write, dtype=dtype) == (
        "PoC does not work with the model X yet: keys and values, or states, do not reach PoC's private "
        "cache (layer 'layers.2')"
    )


def test_a_layer_whose_attention_is_not_called_is_missed() -> None:
    attention = Attention(2, torch.bfloat16, {})
    guard = attention.guard()
    guard.watch(lambda: None, 1, TOKENS)
    with pytest.raises(UnsupportedError, match=r"do not reach .* \(layer 'layers\.0' and 1 more\)"):
        guard.check()


def test_a_layer_that_reads_another_ones_cache_writes_nothing_and_finds_what_it_reads() -> None:
    found: list[Tensor] = []

    def write(name: str, private: Tensor, live: Tensor) -> None:
        if name == "layers.2":
            found.append(private.clone())
        else:
            put(private)

    assert told(write, sharing={"layers.2": "layers.0"}) is None
    [read] = found
    written = torch.zeros_like(read)
    put(written)
    assert torch.equal(read[1], written[1])


def test_what_a_failing_forward_leaves_behind_is_no_observer() -> None:
    attention = Attention(1, torch.bfloat16, {})
    guard = attention.guard()

    def fail() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        guard.watch(fail, 1, TOKENS)
    assert attention.observer is None


def test_a_draft_models_layers_are_not_waited_for_and_watched_all_the_same() -> None:
    """They are among inference's layers, and a PoC batch does not run them."""
    attention = Attention(3, torch.bfloat16, {})
    attention.model = nn.ModuleList(list(attention.live.values())[:2])
    guard = attention.guard()
    guard.watch(lambda: attention.forward(lambda _, private, live: put(private)), 1, TOKENS)
    guard.check()
    guard.watch(lambda: put(attention.live["layers.2"].kv_cache), 1, TOKENS)
    with pytest.raises(UnsupportedError, match=r"inference's KV cache by itself.*\(layer 'layers\.2'\)"):
        guard.check()
