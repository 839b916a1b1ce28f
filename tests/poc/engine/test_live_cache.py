"""What is found out about a forward that does not keep to the private cache."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from vllm.model_executor.layers.mamba.short_conv import ShortConv

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


SEQUENCES = 3


def state_layer(slots: int) -> Any:
    """A layer with a convolution's state, which has room for drafted tokens, and another one."""
    layer = object.__new__(ShortConv)
    nn.Module.__init__(layer)
    layer.kv_cache = random((slots, 6, 4), torch.bfloat16), random((slots, 2, 5, 3), torch.float32)
    return layer


class States(Attention):
    """The same of layers that keep states, which are told of when the next one begins."""

    def __init__(self) -> None:
        self.live = {f"layers.{index}": state_layer(8) for index in range(3)}
        self.model = nn.ModuleList(self.live.values())
        self.sharing_targets = {}
        self.scratch = allocate_scratch(
            {name: layer.kv_cache for name, layer in self.live.items()},
            {},
            dict.fromkeys(self.live, SEQUENCES),
        )
        self.observer = None
        self._begun: str | None = None

    def used_caches(self, batch_size: int, seq_len: int) -> dict[str, UsedCache]:
        return dict.fromkeys(self.live, UsedCache(used_blocks(batch_size, seq_len, seq_len), None))

    def finish_state(self) -> None:
        name, self._begun = self._begun, None
        if name is not None:
            assert self.observer is not None
            self.observer(name)

    def run(self, write: Callable[[str, Sequence[Tensor], Sequence[Tensor]], None]) -> None:
        for name, layer in self.live.items():
            self.finish_state()
            self._begun = name
            write(name, self.scratch[name], layer.kv_cache)


def put_states(parts: Sequence[Tensor], sequences: int = SEQUENCES) -> None:
    """Write the states of some sequences, without the room for drafted tokens."""
    convolution, other = parts
    convolution[1 : 1 + sequences, :, :2] = random((sequences, 6, 2), torch.float32).to(convolution.dtype)
    other[1 : 1 + sequences] = random((sequences, 2, 5, 3), torch.float32)


def told_of_states(write: Callable[[str, Sequence[Tensor], Sequence[Tensor]], None]) -> str | None:
    """What the guard says of a forward through layers with states; None where it lets it pass."""
    states = States()
    guard = states.guard()
    guard.watch(lambda: states.run(write), SEQUENCES, TOKENS)
    try:
        guard.check()
    except UnsupportedError as refusal:
        return str(refusal)
    return None


def test_layers_that_write_their_private_states_pass() -> None:
    assert told_of_states(lambda _, private, live: put_states(private)) is None


@pytest.mark.parametrize("part", [0, 1])
def test_a_state_of_inferences_that_is_written_is_found_out(part: int) -> None:
    def write(name: str, private: Sequence[Tensor], live: Sequence[Tensor]) -> None:
        put_states(private)
        if name == "layers.1":
            live[part][2] += 1

    refusal = told_of_states(write)
    assert refusal is not None
    assert "writes keys and values, or states, into inference's KV cache" in refusal
    assert "(layer 'layers.1')" in refusal


@pytest.mark.parametrize("last", [False, True])
def test_a_sequence_whose_state_does_not_arrive_is_missed(last: bool) -> None:
    at_fault = "layers.2" if last else "layers.1"

    def write(name: str, private: Sequence[Tensor], live: Sequence[Tensor]) -> None:
        put_states(private, SEQUENCES - 1 if name == at_fault else SEQUENCES)

    refusal = told_of_states(write)
    assert refusal is not None
    assert f"do not reach PoC's private cache (layer '{at_fault}')" in refusal
