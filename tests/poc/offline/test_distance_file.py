"""The file of recomputed distances: what is found again, what is cut off, what is refused."""

import json
import math
import os
from pathlib import Path

import pytest

from hallmark.poc.core.errors import FieldError
from hallmark.poc.offline.distance_file import Arithmetic, DistanceFile

HERE: Arithmetic = {"model": "a", "dtype": "bfloat16", "round.seq_len": 8, "round.projection": True}
KEYS = [("key", 0), ("key", 2**63 - 1), ("clé 🗝", 0)]
DISTANCES = [1.4142135623730951, 0.0, math.nan]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state.jsonl"
    with DistanceFile(path) as file:
        file.add(HERE, KEYS, DISTANCES)
    return path


def read(path: Path, arithmetic: Arithmetic = HERE) -> dict[tuple[str, int], float]:
    with DistanceFile(path) as file:
        return dict(file.known(arithmetic))


def test_what_was_added_is_found_again_to_the_last_bit(path: Path) -> None:
    found = read(path)
    assert [*found] == KEYS
    assert [repr(distance) for distance in found.values()] == [repr(distance) for distance in DISTANCES]


@pytest.mark.parametrize("name", HERE)
def test_another_arithmetic_finds_nothing(path: Path, name: str) -> None:
    assert read(path, {**HERE, name: "other"}) == {}
    assert read(path, {key: value for key, value in HERE.items() if key != name}) == {}


def test_several_arithmetics_in_one_file(path: Path) -> None:
    other = {**HERE, "dtype": "float32"}
    with DistanceFile(path) as file:
        file.add(other, KEYS[:1], [0.5])
        file.add(other, KEYS[1:2], [0.25])
    assert read(path, other) == {KEYS[0]: 0.5, KEYS[1]: 0.25}
    assert len(read(path)) == 3


def test_a_line_that_was_being_written_is_lost_and_nothing_else(path: Path) -> None:
    """Whatever the length at which the process was killed, the file goes on."""
    with DistanceFile(path) as file:
        file.add(HERE, [("key", 5)], [1.5])
    whole = path.read_bytes()
    first_batch = whole[:-1].rindex(b"\n") + 1
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with DistanceFile(path) as file:
            if length >= first_batch:
                assert len(file.known(HERE)) == 3
            assert ("key", 5) not in file.known(HERE)
            file.add(HERE, [("key", 6)], [1.25])
        assert read(path)["key", 6] == 1.25


@pytest.mark.parametrize(
    "content",
    [b"notes of mine", b"{}\n", b"\x00" * 50, b'{"hallmark":"recomputed distances","format":2}\n'],
)
def test_a_foreign_file_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine"
    path.write_bytes(content)
    with pytest.raises(FieldError, match="--state"):
        DistanceFile(path)
    assert path.read_bytes() == content


def test_a_newer_ones_file_is_left_alone(path: Path) -> None:
    content = path.read_bytes().replace(b'"format":1', b'"format":3', 1)
    path.write_bytes(content)
    with pytest.raises(FieldError) as refused:
        DistanceFile(path)
    assert str(refused.value) == (
        f"--state: '{path}' is not allowed; allowed: a file of formats up to 1; a newer Hallmark wrote this "
        "one, in format 3"
    )
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[:20],
        lambda line: b"",
        lambda line: line.replace(b"0.0", b"2.5"),
        lambda line: line.replace(b"1.4142135623730951", b"NaN"),
        lambda line: line.replace(b'["key",0', b'["key","0"'),
        lambda line: line.replace(b'"name":"', b'"name":"0'),
    ],
)
def test_a_line_that_is_damaged_in_the_middle_is_refused(path: Path, damage: "object") -> None:
    with DistanceFile(path) as file:
        file.add(HERE, [("key", 5)], [1.5])
    lines = path.read_bytes().splitlines(keepends=True)
    assert callable(damage)
    content = b"".join([*lines[:2], damage(lines[2].rstrip(b"\n")) + b"\n", *lines[3:]])
    path.write_bytes(content)
    with pytest.raises(FieldError, match="line 3 is damaged"):
        DistanceFile(path)
    assert path.read_bytes() == content


def test_an_arithmetic_that_was_altered_is_refused(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    described = json.loads(lines[1])
    described["arithmetic"]["model"] = "b"
    path.write_bytes(b"".join([lines[0], json.dumps(described).encode() + b"\n", *lines[2:]]))
    with pytest.raises(FieldError, match="line 2 is damaged"):
        DistanceFile(path)


def test_two_at_a_time_are_refused(path: Path) -> None:
    with DistanceFile(path), pytest.raises(FieldError, match="no other hallmark command is using"):
        DistanceFile(path)
    assert len(read(path)) == 3


def test_a_folder_a_pipe_and_a_place_that_is_not_there(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "absent" / "state"):
        with pytest.raises(FieldError, match="--state"):
            DistanceFile(path)
