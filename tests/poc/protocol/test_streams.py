"""Names of streams: unambiguous, exact, and picky about what has no single meaning."""

import hashlib
from typing import Any, get_args

import independent_verifier
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hallmark.kernels.draw_normals import streams_tensor
from hallmark.poc.core.errors import FieldError
from hallmark.poc.protocol.streams import (
    PROTOCOL,
    NoncePurpose,
    Stream,
    embeds_stream,
    length_prefixed,
    nonce_streams,
    post_stream,
    pre_stream,
    stream_digest,
    target_stream,
)

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
FIELD = TEXT | st.integers(0, 2**63 - 1)


def test_digest_is_the_one_of_the_protocol() -> None:
    """Written out once, byte by byte."""
    encoded = b"hallmark/2" + b"\0\0\0\x06embeds" + b"\0\0\0\x01r" + b"\0\0\0\x02\xc3\xa9" + b"\0\0\0\x00"
    encoded += b"\0\0\0\x0242"
    assert stream_digest("embeds", "r", "é", "", 42) == hashlib.sha256(encoded).digest()
    assert PROTOCOL == "hallmark/2"


@settings(max_examples=300, deadline=None)
@given(fields=st.lists(FIELD, max_size=6))
def test_digest_agrees_with_the_independent_verifier(fields: list[str | int]) -> None:
    assert stream_digest("target", *fields) == independent_verifier.digest("target", *map(str, fields))


@settings(max_examples=500, deadline=None)
@given(one=st.lists(TEXT, max_size=5), other=st.lists(TEXT, max_size=5))
def test_different_fields_have_different_encodings(one: list[str], other: list[str]) -> None:
    assert (length_prefixed(*one) == length_prefixed(*other)) == (one == other)


@settings(max_examples=200, deadline=None)
@given(text=TEXT, cut=st.integers(0, 20))
def test_moving_text_between_neighbouring_fields_changes_the_encoding(text: str, cut: int) -> None:
    moved = length_prefixed(text[:cut], text[cut:])
    assert moved != length_prefixed(text, "") or cut >= len(text)
    assert moved != length_prefixed(text)


@settings(max_examples=200, deadline=None)
@given(fields=st.lists(TEXT, min_size=1, max_size=5))
def test_the_encoding_can_be_read_back(fields: list[str]) -> None:
    rest = length_prefixed(*fields)
    read = []
    while rest:
        length = int.from_bytes(rest[:4], "big")
        read.append(rest[4 : 4 + length].decode("utf-8"))
        rest = rest[4 + length :]
    assert read == fields


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0xABCD", "0xabcd"),
        ("0xabcd", "abcd"),
        ("é", "e\u0301"),  # two normal forms
        ("key", "key "),
        ("key", "key\n"),
    ],
)
def test_text_is_used_as_received(one: str, other: str) -> None:
    assert pre_stream(one) != pre_stream(other)


def test_text_beyond_ascii_and_the_basic_plane_is_used() -> None:
    name = embeds_stream("r", "блок", "ключ🗝", 1)
    assert name == independent_verifier.stream("embeds", "r", "блок", "ключ🗝", "1")


@pytest.mark.parametrize("text", ["\ud800", "key\udfff", "\udc00\ud800"])
def test_lone_surrogates_are_refused(text: str) -> None:
    with pytest.raises(FieldError, match="lone surrogates"):
        embeds_stream("r", "block", text, 0)


@pytest.mark.parametrize("nonce", [-1, 2**63, 2**64, True, 1.0, None])
def test_what_is_no_integer_of_the_protocol_is_refused(nonce: Any) -> None:
    with pytest.raises(FieldError, match="an integer from 0 to 9223372036854775807"):
        embeds_stream("r", "block", "key", nonce)


def test_the_largest_nonce_is_used() -> None:
    largest = str(2**63 - 1)
    assert target_stream("r", "b", "k", 2**63 - 1) == independent_verifier.stream(
        "target", "r", "b", "k", largest
    )


def test_purposes_and_fields_separate_streams() -> None:
    names = {
        pre_stream("b"),
        post_stream("b"),
        embeds_stream("r", "b", "k", 1),
        target_stream("r", "b", "k", 1),
        embeds_stream("s", "b", "k", 1),
        embeds_stream("r", "c", "k", 1),
        embeds_stream("r", "b", "l", 1),
        embeds_stream("r", "b", "k", 2),
        embeds_stream("r", "bk", "", 1),
    }
    nonce = [("k", 1)]
    names |= {nonce_streams(purpose, "r", "b", nonce)[0] for purpose in get_args(NoncePurpose)}
    assert len(names) == 9 + 2, "tokens and rows are new, embeds and target were there already"


@pytest.mark.parametrize("purpose", get_args(NoncePurpose))
def test_a_nonce_has_a_stream_for_each_purpose(purpose: NoncePurpose) -> None:
    keys = [("key", 0), ("клю\u0447", 2**63 - 1)]
    assert nonce_streams(purpose, "r", "block", keys) == [
        independent_verifier.stream(purpose, "r", "block", key, str(nonce)) for key, nonce in keys
    ]
    assert nonce_streams(purpose, "r", "block", []) == []


def test_no_two_of_many_nonces_share_a_stream() -> None:
    """With 32-bit seeds, 300,000 nonces gave 14 pairs of equal inputs."""
    names = {embeds_stream("r", "block", "key", nonce) for nonce in range(100_000)}
    assert len(names) == 100_000


def test_streams_tensor_has_one_row_for_each() -> None:
    names = [Stream(1, 2, 3, 4), Stream(2**32 - 1, 0, 5, 2**31)]
    assert streams_tensor(iter(names)).tolist() == [list(name) for name in names]
    assert streams_tensor(names).dtype == torch.int64
    assert streams_tensor([]).shape == (0, 4)


@given(
    purpose=st.sampled_from(get_args(NoncePurpose)),
    texts=st.tuples(TEXT, TEXT),
    keys=st.lists(st.tuples(TEXT, st.integers(0, 2**63 - 1)), max_size=5),
)
def test_what_nonces_have_in_common_is_hashed_once_for_the_same_names(
    purpose: NoncePurpose, texts: tuple[str, str], keys: list[tuple[str, int]]
) -> None:
    expected = [Stream.from_digest(stream_digest(purpose, *texts, key, nonce)) for key, nonce in keys]
    assert nonce_streams(purpose, *texts, keys) == expected
