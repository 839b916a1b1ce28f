"""The private KV scratch: layout, sharing, and blocks that no sequence may name."""

import pytest
import torch

from hallmark.poc.engine.scratch import FIRST_BLOCK, allocate_scratch, block_tables, scratch_bytes


def cache(order: tuple[int, ...] = (0, 1, 2, 3)) -> torch.Tensor:
    """A cache of 8 blocks, [8, 2, 16, 32], whose dimensions lie in memory in the given order."""
    shape = (8, 2, 16, 32)
    dense = torch.zeros([shape[dimension] for dimension in order], dtype=torch.bfloat16)
    return dense.permute([order.index(dimension) for dimension in range(4)])


def test_layers_of_one_shape_share_one_tensor() -> None:
    scratch = allocate_scratch({"a": [cache()], "b": [cache()]}, {}, {"a": 5, "b": 5})
    [first], [second] = scratch["a"], scratch["b"]
    assert first is second
    assert first.shape == (FIRST_BLOCK + 5 + 1, 2, 16, 32)
    assert scratch_bytes(scratch.values()) == 7 * 2 * 16 * 32 * 2


def test_layers_share_all_of_their_states_or_none() -> None:
    def states(width: int) -> list[torch.Tensor]:
        return [torch.zeros(8, 3, width), torch.zeros(8, 4, 5, dtype=torch.bfloat16)]

    scratch = allocate_scratch({"a": states(6), "b": states(6), "c": states(7)}, {}, dict.fromkeys("abc", 2))
    assert [part.shape for part in scratch["a"]] == [(4, 3, 6), (4, 4, 5)]
    assert [part.dtype for part in scratch["a"]] == [torch.float32, torch.bfloat16]
    assert all(one is other for one, other in zip(scratch["a"], scratch["b"], strict=True))
    assert all(one is not other for one, other in zip(scratch["a"], scratch["c"], strict=True))
    assert scratch_bytes(scratch[name] for name in "ab") == 4 * (3 * 6 * 4 + 4 * 5 * 2)


def test_what_is_planned_takes_no_memory_and_says_how_much_it_would_take() -> None:
    planned = allocate_scratch({"a": [cache()], "b": [cache()]}, {}, {"a": 5, "b": 5}, torch.device("meta"))
    assert planned["a"][0].is_meta
    assert scratch_bytes(planned.values()) == 7 * 2 * 16 * 32 * 2


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (1, 0, 2, 3), (0, 2, 1, 3)])
def test_scratch_keeps_the_order_of_strides_and_is_dense(order: tuple[int, ...]) -> None:
    live = cache(order)
    # Two blocks of a larger allocation: the strides of a cache are not those of a tensor of its shape.
    [scratch] = allocate_scratch({"a": [live[2:4]]}, {}, {"a": 5})["a"]
    assert scratch.permute(order).is_contiguous()
    assert scratch.dtype == live.dtype


def test_a_layer_that_reads_another_layers_cache_gets_that_layers_scratch_alone() -> None:
    caches = {name: [cache()] for name in ("a", "b", "c")}
    scratch = allocate_scratch(caches, {"c": "a"}, dict.fromkeys(caches, 5))
    assert scratch["c"][0] is scratch["a"][0]
    assert scratch["b"][0] is not scratch["a"][0], "b would overwrite what c reads"


@pytest.mark.parametrize(
    ("batch_size", "seq_len", "block_size"), [(1, 1, 16), (3, 16, 16), (5, 123, 16), (2, 5, 128)]
)
def test_tables_and_slots_name_each_place_once_and_never_the_null_block(
    batch_size: int, seq_len: int, block_size: int
) -> None:
    table, slots = block_tables(batch_size, seq_len, block_size)
    assert table.dtype == torch.int32
    assert slots.dtype == torch.int64
    assert table.shape == (batch_size, -(-seq_len // block_size))
    assert int(table.min()) == FIRST_BLOCK
    assert table.unique().numel() == table.numel()
    assert slots.unique().numel() == batch_size * seq_len
    for sequence in range(batch_size):
        for position in {0, seq_len // 2, seq_len - 1}:
            block = int(table[sequence, position // block_size])
            assert int(slots[sequence * seq_len + position]) == block * block_size + position % block_size
