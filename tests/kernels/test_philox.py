"""Philox4x32-10 against its published answers and against plain integers."""

import independent_verifier
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hallmark.kernels.philox import philox4x32

ONES = 0xFFFFFFFF
WORDS = st.integers(0, ONES)

# Random123's kat_vectors.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def one(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    c0, c1, c2, c3 = (torch.tensor([word]) for word in counter)
    k0, k1 = (torch.tensor([word]) for word in key)
    return tuple(int(word) for word in philox4x32((c0, c1, c2, c3), (k0, k1)))


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_gives_the_published_answers(counter: tuple[int, ...], key: tuple[int, ...], expected: str) -> None:
    assert " ".join(f"{word:08x}" for word in one(counter, key)) == expected


@settings(max_examples=300, deadline=None)
@given(counter=st.tuples(WORDS, WORDS, WORDS, WORDS), key=st.tuples(WORDS, WORDS))
def test_agrees_with_plain_integers(counter: tuple[int, int, int, int], key: tuple[int, int]) -> None:
    assert one(counter, key) == independent_verifier.philox(counter, key)


def test_broadcasts_counters_and_keys() -> None:
    calls = torch.tensor([0, 1, 2**31, 2**32 - 1])
    zero = torch.zeros(2, 1, dtype=torch.int64)
    c2, c3, k0, k1 = torch.tensor([[7, ONES], [8, 0], [2**31, 9], [1, ONES - 1]]).unsqueeze(2)
    words = philox4x32((calls, zero, c2, c3), (k0, k1))
    for row in range(2):
        for column, call in enumerate(calls.tolist()):
            counter = (call, 0, int(c2[row]), int(c3[row]))
            expected = independent_verifier.philox(counter, (int(k0[row]), int(k1[row])))
            assert tuple(int(word[row, column]) for word in words) == expected


def test_leaves_its_arguments_alone() -> None:
    c0, c1, c2, c3 = (torch.full((3,), word) for word in (1, 2, 3, 4))
    counter = (c0, c1, c2, c3)
    key = (torch.tensor([5]), torch.tensor([6]))
    philox4x32(counter, key)
    assert [int(word[0]) for word in (*counter, *key)] == [1, 2, 3, 4, 5, 6]
