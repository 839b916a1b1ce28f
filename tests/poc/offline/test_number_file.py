"""The file of recomputed numbers: what is found again, what is cut off, what is refused."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from older_files import written_by_734b105

from hallmark.poc.core.errors import FieldError
from hallmark.poc.offline.number_file import Arithmetic, NumberFile
from hallmark.poc.protocol.nonces import NonceKey

HERE: Arithmetic = {"model": "a", "dtype": "bfloat16", "round.seq_len": 8, "round.projection": True}
KEYS = [("key", 0), ("key", 2**63 - 1), ("clé 🗝", 0)]
NUMBERS = [(1.4142135623730951, -2.5), (0.0, 1e-3), (math.nan, math.nan)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state.jsonl"
    with NumberFile(path) as file:
        file.add(HERE, KEYS, NUMBERS)
    return path


def read(path: Path, arithmetic: Arithmetic = HERE) -> dict[NonceKey, Sequence[float]]:
    with NumberFile(path) as file:
        return dict(file.known(arithmetic))


def test_what_was_added_is_found_again_to_the_last_bit(path: Path) -> None:
    found = read(path)
    assert [*found] == KEYS
    assert [*found.values()][:2] == NUMBERS[:2]
    assert all(map(math.isnan, found[KEYS[2]]))


@pytest.mark.parametrize("name", HERE)
def test_another_arithmetic_finds_nothing(path: Path, name: str) -> None:
    assert read(path, {**HERE, name: "other"}) == {}
    assert read(path, {key: value for key, value in HERE.items() if key != name}) == {}


def test_several_arithmetics_in_one_file(path: Path) -> None:
    other = {**HERE, "dtype": "float32"}
    with NumberFile(path) as file:
        file.add(other, KEYS[:1], [(0.5,)])
        file.add(other, KEYS[1:2], [(0.25,)])
    assert read(path, other) == {KEYS[0]: (0.5,), KEYS[1]: (0.25,)}
    assert len(read(path)) == 3


def test_a_line_that_was_being_written_is_lost_and_nothing_else(path: Path) -> None:
    """Whatever the length at which the process was killed, the file goes on."""
    with NumberFile(path) as file:
        file.add(HERE, [("key", 5)], [(1.5, -0.5)])
    whole = path.read_bytes()
    first_batch = whole[:-1].rindex(b"\n") + 1
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with NumberFile(path) as file:
            if length >= first_batch:
                assert len(file.known(HERE)) == 3
            assert ("key", 5) not in file.known(HERE)
            file.add(HERE, [("key", 6)], [(1.25, 0.5)])
        assert read(path)["key", 6] == (1.25, 0.5)


@pytest.mark.parametrize(
    "content",
    [b"notes of mine", b"{}\n", b"\x00" * 50, b'{"hallmark":"recomputed distances","format":0}\n'],
)
def test_a_foreign_file_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine"
    path.write_bytes(content)
    with pytest.raises(FieldError, match="--state"):
        NumberFile(path)
    assert path.read_bytes() == content


def test_a_newer_ones_file_is_left_alone(path: Path) -> None:
    content = path.read_bytes().replace(b'"format":2', b'"format":3', 1)
    path.write_bytes(content)
    with pytest.raises(FieldError) as refused:
        NumberFile(path)
    assert str(refused.value) == (
        f"--state: '{path}' is not allowed; allowed: a file of formats up to 2; a newer Hallmark wrote this "
        "one, in format 3"
    )
    assert path.read_bytes() == content


def test_distances_of_an_earlier_protocol_are_refused_in_a_sentence(tmp_path: Path) -> None:
    path = written_by_734b105("proofs.json.verified.jsonl", tmp_path)
    content = path.read_bytes()
    with pytest.raises(FieldError, match="distances of the protocol hallmark/1, which is no longer computed"):
        NumberFile(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[:20],
        lambda line: b"",
        lambda line: line.replace(b"[0.0,0.001]", b"[]"),
        lambda line: line.replace(b"[0.0,0.001]", b"0.0"),
        lambda line: line.replace(b"1.4142135623730951", b"NaN"),
        lambda line: line.replace(b'["key",0', b'["key","0"'),
        lambda line: line.replace(b'"name":"', b'"name":"0'),
    ],
)
def test_a_line_that_is_damaged_in_the_middle_is_refused(path: Path, damage: "object") -> None:
    with NumberFile(path) as file:
        file.add(HERE, [("key", 5)], [(1.5, -0.5)])
    lines = path.read_bytes().splitlines(keepends=True)
    assert callable(damage)
    content = b"".join([*lines[:2], damage(lines[2].rstrip(b"\n")) + b"\n", *lines[3:]])
    path.write_bytes(content)
    with pytest.raises(FieldError, match="line 3 is damaged"):
        NumberFile(path)
    assert path.read_bytes() == content


def test_an_arithmetic_that_was_altered_is_refused(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    described = json.loads(lines[1])
    described["arithmetic"]["model"] = "b"
    path.write_bytes(b"".join([lines[0], json.dumps(described).encode() + b"\n", *lines[2:]]))
    with pytest.raises(FieldError, match="line 2 is damaged"):
        NumberFile(path)


def test_two_at_a_time_are_refused(path: Path) -> None:
    with NumberFile(path), pytest.raises(FieldError, match="no other hallmark command is using"):
        NumberFile(path)
    assert len(read(path)) == 3


def test_a_folder_a_pipe_and_a_place_that_is_not_there(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "absent" / "state"):
        with pytest.raises(FieldError, match="--state"):
            NumberFile(path)
