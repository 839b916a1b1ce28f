"""The outbox's file: whose it is, which version it has, and what is said where it cannot be used."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from hallmark.poc.core.errors import OutboxError
from hallmark.poc.outbox import database as outbox_database
from hallmark.poc.outbox.database import OutboxDatabase, default_path
from hallmark.poc.outbox.delivery_queue import DeliveryQueue

KNOWN = outbox_database._SCHEMA.migrations

_NOBODY = 65534

_HOLDER = """
import sys
from pathlib import Path
from hallmark.poc.outbox.delivery_queue import DeliveryQueue
from hallmark.poc.core.errors import OutboxError
from hallmark.poc.outbox.database import OutboxDatabase

try:
    database = OutboxDatabase(Path(sys.argv[1]))
except OutboxError as exc:
    sys.exit(str(exc))
DeliveryQueue(database).add("http://a.example", "generated", [b"{}"], now=1e9, max_queued=5, )
print("open", flush=True)
sys.stdin.read()
"""


@contextmanager
def opened(path: Path | None, *, for_server: bool = True) -> Iterator[OutboxDatabase]:
    with closing(OutboxDatabase(path, for_server=for_server)) as database:
        yield database


def fill(path: Path, count: int = 1, size: int = 2) -> None:
    """Make an outbox with callbacks in it."""
    with opened(path) as database:
        body = b'"' + b"x" * (size - 2) + b'"'
        DeliveryQueue(database).add(
            "http://a.example", "generated", [body] * count, now=1e9, max_queued=count
        )


def count(path: Path) -> int:
    """How many callbacks the file has."""
    with opened(path) as database:
        return len(DeliveryQueue(database).listed())


def refusal(path: Path, *, for_server: bool = True) -> str:
    """What is said about a file that cannot be used: one sentence that names it; nothing is left open."""
    with pytest.raises(OutboxError) as error:
        OutboxDatabase(path, for_server=for_server)
    text = str(error.value)
    assert str(path) in text
    assert len(text.splitlines()) == 1
    return text


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        version: int = database.execute("PRAGMA user_version").fetchone()[0]
        return version


def migrate_by(monkeypatch: pytest.MonkeyPatch, *scripts: str) -> None:
    """Let these be the versions that there are."""
    monkeypatch.setattr(outbox_database, "_SCHEMA", replace(outbox_database._SCHEMA, migrations=scripts))


class TestOpening:
    """A file that is new, or was left in order."""

    def test_directories_and_the_file_are_made_and_are_nobody_elses(self, tmp_path: Path) -> None:
        path = tmp_path / "a" / "b" / "outbox.db"
        with opened(path) as database:
            DeliveryQueue(database).add("http://a.example", "generated", [b"{}"], now=1e9, max_queued=5)
            modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
        assert modes.keys() == {f"outbox.db{end}" for end in ("", "-wal", "-shm", ".lock")}
        assert set(modes.values()) == {0o600}
        assert path.parent.stat().st_mode & 0o777 == 0o700

    def test_what_was_written_is_there_again(self, path: Path) -> None:
        fill(path, 3)
        assert count(path) == 3
        assert version_of(path) == len(KNOWN)

    def test_an_empty_file_is_a_new_one(self, path: Path) -> None:
        path.touch()
        assert count(path) == 0

    def test_in_memory_nothing_is_kept(self) -> None:
        with opened(None) as first, opened(None) as second:
            DeliveryQueue(first).add("http://a.example", "generated", [b"{}"], now=1e9, max_queued=5)
            assert len(DeliveryQueue(first).listed()) == 1
            assert DeliveryQueue(second).listed() == []
            assert str(first) == "memory"

    def test_a_name_with_the_signs_of_urls_is_a_name_like_another(self, tmp_path: Path) -> None:
        path = tmp_path / "50% of it?mode=memory#1 é.db"
        fill(path, 2)
        assert path.exists()
        assert count(path) == 2

    def test_space_that_is_free_again_is_given_back(self, path: Path) -> None:
        fill(path, 100, 10_000)
        before = path.stat().st_size
        with opened(path) as database:
            assert DeliveryQueue(database).drop() == 100
        assert count(path) == 0
        assert before > 1_000_000
        assert path.stat().st_size < 100_000

    def test_a_commit_is_on_the_disk_when_it_returns(self, path: Path) -> None:
        with opened(path) as database, database.transaction() as connection:
            assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2, "FULL"
            assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


class TestVersions:
    """The schema of older and of newer Hallmarks."""

    def test_an_older_files_content_is_kept(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fill(path, 3)
        later = (
            "ALTER TABLE deliveries ADD COLUMN note TEXT NOT NULL DEFAULT 'none'",
            "CREATE TABLE more (x INTEGER) STRICT; INSERT INTO more SELECT id FROM deliveries",
        )
        migrate_by(monkeypatch, *KNOWN, *later)
        before = version_of(path)
        with opened(path) as database, database.reading() as connection:
            assert connection.execute("SELECT note FROM deliveries").fetchall() == [("none",)] * 3
            assert connection.execute("SELECT x FROM more ORDER BY x").fetchall() == [(1,), (2,), (3,)]
        assert version_of(path) == before + 2
        assert count(path) == 3, "and nothing is done twice"

    def test_a_step_that_fails_leaves_the_file_as_it_was(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(path, 3)
        wrong = "CREATE TABLE more (x INTEGER) STRICT; DROP TABLE deliveries; DROP TABLE missing"
        migrate_by(monkeypatch, *KNOWN, wrong)
        assert "no such table: missing" in refusal(path)
        migrate_by(monkeypatch, *KNOWN)
        assert version_of(path) == len(KNOWN)
        assert count(path) == 3

    @pytest.mark.parametrize("for_server", [True, False])
    def test_a_newer_ones_is_left_alone(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, for_server: bool
    ) -> None:
        with monkeypatch.context() as newer:
            migrate_by(newer, *KNOWN, "DROP TABLE findings", "DROP TABLE rounds")
            fill(path)
        before = path.read_bytes()
        assert refusal(path, for_server=for_server) == (
            f"the outbox {path} was written by a newer Hallmark: its schema is {len(KNOWN) + 2}, "
            f"this one knows those up to {len(KNOWN)}"
        )
        assert path.read_bytes() == before


class TestWrongFiles:
    """What is no outbox, or has been one."""

    @pytest.mark.parametrize("for_server", [True, False])
    def test_another_programs_database_is_left_alone(self, path: Path, for_server: bool) -> None:
        with closing(sqlite3.connect(path)) as foreign:
            foreign.executescript("CREATE TABLE bookmarks (url TEXT); PRAGMA user_version = 1")
        before = path.read_bytes()
        text = refusal(path, for_server=for_server)
        assert text == f"{path} is a database, but no outbox of Hallmark's"
        assert path.read_bytes() == before

    def test_nor_is_one_with_its_name_on_it_and_nothing_in_it(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as foreign:
            foreign.executescript("PRAGMA application_id = 7; VACUUM")
        assert "no outbox of Hallmark's" in refusal(path)

    @pytest.mark.parametrize("for_server", [True, False])
    def test_a_text_is_left_alone(self, path: Path, for_server: bool) -> None:
        path.write_text("some notes, longer than the header that a database begins with" * 9)
        before = path.read_bytes()
        assert "is damaged: file is not a database; move it away, or repair it" in refusal(
            path, for_server=for_server
        )
        assert path.read_bytes() == before

    def test_a_directory_is_no_file(self, path: Path) -> None:
        path.mkdir()
        refusal(path)
        assert list(path.iterdir()) == []

    @pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
    def test_one_that_is_cut_off_is_left_alone(self, path: Path, share: float) -> None:
        fill(path, 200, 1_000)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])
        before = path.read_bytes()
        assert "is damaged: " in refusal(path)
        assert path.read_bytes() == before

    def test_a_flipped_bit_is_found_or_does_no_harm(self, path: Path) -> None:
        """Bodies have no checksum; but a file that is refused is not changed, and nothing else is raised."""
        fill(path, 40, 300)
        whole = path.read_bytes()
        draw = random.Random(1)  # noqa: S311
        refusals = []
        for _ in range(300):
            place = draw.choice([draw.randrange(100), draw.randrange(len(whole))])
            flipped = bytearray(whole)
            flipped[place] ^= 1 << draw.randrange(8)
            path.write_bytes(flipped)
            try:
                database = OutboxDatabase(path)
            except OutboxError as exc:
                refusals.append(str(exc))
                assert path.read_bytes() == flipped
                continue
            with closing(database), suppress(OutboxError):
                assert len(DeliveryQueue(database).listed()) <= 40
        assert len(refusals) > 30
        assert {(str(path) in text, len(text.splitlines())) for text in refusals} == {(True, 1)}


class TestOneServer:
    """A file has one server at a time, and any number of tools."""

    def test_a_second_one_of_this_process_is_refused(self, path: Path) -> None:
        expected = f"another server has the outbox {path}: give this one its own with the setting outbox_path"
        with opened(path):
            assert refusal(path) == expected
            # The refused one has not let go of the first one's hold.
            assert refusal(path) == expected
        assert count(path) == 0

    def test_nor_by_another_name(self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fill(path)
        link, folder = tmp_path / "link.db", tmp_path / "folder"
        link.symlink_to(path)
        folder.symlink_to(tmp_path)
        monkeypatch.chdir(tmp_path)
        with opened(path):
            for other in (link, folder / path.name, Path(path.name)):
                assert "another server has the outbox" in refusal(other)

    def test_a_second_process_is_refused_until_the_first_is_gone(self, path: Path) -> None:
        command = [sys.executable, "-P", "-c", _HOLDER, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "open\n"
            assert "another server has the outbox" in refusal(path)
            other = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            assert other.returncode == 1
            assert other.stderr.startswith(f"another server has the outbox {path}")
            holder.send_signal(signal.SIGKILL)
            holder.wait()
        assert count(path) == 1, "nor is anything of what it had committed"

    def test_a_start_that_fails_lets_the_file_go(self, path: Path) -> None:
        path.write_text("some notes, longer than the header that a database begins with" * 9)
        for _ in range(2):
            assert "is damaged" in refusal(path)

    def test_tools_read_and_write_beside_a_server(self, path: Path) -> None:
        fill(path, 2)
        with opened(path) as server, opened(path, for_server=False) as tool, opened(path, for_server=False):
            queue = DeliveryQueue(server)
            queue.add("http://b.example", "generated", [b"{}"], now=1e9, max_queued=5)
            assert DeliveryQueue(tool).drop([1]) == 1
            assert [delivery.id for delivery in queue.listed()] == [2, 3]
            assert [delivery.id for delivery in DeliveryQueue(tool).listed()] == [2, 3]
        assert count(path) == 2

    def test_a_tool_reads_what_was_committed_while_the_server_writes(self, path: Path) -> None:
        fill(path, 2)
        with opened(path) as server, opened(path, for_server=False) as tool, server.transaction() as writing:
            writing.execute("DELETE FROM deliveries")
            assert len(DeliveryQueue(tool).listed()) == 2

    def test_a_tool_makes_and_upgrades_nothing(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "cannot be opened" in refusal(path, for_server=False)
        assert list(path.parent.iterdir()) == []
        path.touch()
        assert "is not up to date: start the server with it once" in refusal(path, for_server=False)
        assert path.stat().st_size == 0
        fill(path)
        before = path.read_bytes()
        migrate_by(monkeypatch, *KNOWN, "SELECT 1")
        assert "is not up to date: start the server with it once" in refusal(path, for_server=False)
        assert path.read_bytes() == before


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """A directory that other users reach, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


@contextmanager
def without_privileges() -> Iterator[None]:
    """Be a user whom permissions bind."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


class TestPermissions:
    """What cannot be written is said at the start, not at the first callback."""

    def test_a_directory_that_cannot_be_written(self, public_directory: Path) -> None:
        public_directory.chmod(0o555)
        with without_privileges():
            for path in (public_directory / "outbox.db", public_directory / "new" / "outbox.db"):
                assert f"the outbox {path} cannot be opened: " in refusal(path)
                assert "Permission denied" in refusal(path)
        assert list(public_directory.iterdir()) == []

    def test_a_directory_that_cannot_be_made(self) -> None:
        for path in (Path("/proc/missing/outbox.db"), Path("/dev/null/outbox.db")):
            assert "cannot be opened: " in refusal(path)

    def test_a_file_that_cannot_be_written(self, public_directory: Path) -> None:
        path = public_directory / "outbox.db"
        fill(path, 2)
        before = path.read_bytes()
        for file in public_directory.iterdir():
            file.chmod(0o444)
        with without_privileges():
            assert "Permission denied" in refusal(path)
        # Somebody else's lock is none, where the file itself is another's too.
        (public_directory / "outbox.db.lock").chmod(0o666)
        public_directory.chmod(0o777)
        with without_privileges():
            assert f"the outbox {path} cannot be " in refusal(path)
        assert path.read_bytes() == before
        for file in public_directory.iterdir():
            file.chmod(0o666)
        assert count(path) == 2


class TestTransactions:
    """All of it or nothing."""

    def test_one_that_fails_leaves_nothing(self, path: Path) -> None:
        with opened(path) as database:
            queue = DeliveryQueue(database)

            def fail() -> None:
                with database.transaction() as connection:
                    queue.add("u", "generated", [b"{}"], now=1e9, max_queued=5, connection=connection)
                    raise KeyError("no error of the database's")

            with pytest.raises(KeyError):
                fail()
            assert queue.listed() == []
            assert queue.receivers() == {}
            queue.add("u", "generated", [b"{}"], now=1e9, max_queued=5)
        assert count(path) == 1

    def test_an_error_of_the_database_says_which_file_it_is(self, path: Path) -> None:
        with opened(path) as database:
            with (
                pytest.raises(OutboxError, match=f"the outbox {path} cannot be written: no such table"),
                database.transaction() as connection,
            ):
                connection.execute("DELETE FROM missing")
            with (
                pytest.raises(OutboxError, match=f"the outbox {path} cannot be read: no such table"),
                database.reading() as connection,
            ):
                connection.execute("SELECT * FROM missing")

    def test_reading_cannot_write(self, path: Path) -> None:
        fill(path)
        with opened(path) as database:
            with (
                pytest.raises(OutboxError, match="cannot be read: attempt to write a readonly database"),
                database.reading() as connection,
            ):
                connection.execute("DELETE FROM deliveries")
            assert len(DeliveryQueue(database).listed()) == 1

    def test_a_full_disk_loses_nothing_of_before_and_does_not_stay_in_the_way(self, path: Path) -> None:
        fill(path, 2)
        with opened(path) as database:
            queue = DeliveryQueue(database)
            with database.transaction() as connection:
                pages = connection.execute("PRAGMA page_count").fetchone()[0]
            database._writer.execute(f"PRAGMA max_page_count = {pages}")
            with pytest.raises(OutboxError, match="cannot be written: database or disk is full"):
                queue.add("u", "generated", [b"x" * 100_000], now=1e9, max_queued=5)
            assert len(queue.listed()) == 2
            database._writer.execute(f"PRAGMA max_page_count = {pages + 100}")
            queue.add("u", "generated", [b"x" * 100_000], now=1e9, max_queued=5)
            assert len(queue.listed()) == 3

    def test_a_closed_one_is_an_error_like_another(self, path: Path) -> None:
        with opened(path) as database:
            pass
        with pytest.raises(OutboxError, match="cannot be written"):
            DeliveryQueue(database).drop()

    def test_one_thread_reads_while_another_writes(self, path: Path) -> None:
        with opened(path) as database:
            queue = DeliveryQueue(database)
            errors: list[BaseException] = []

            def write() -> None:
                try:
                    for _ in range(30):
                        queue.add("u", "generated", [b"{}"] * 2, now=1e9, max_queued=100)
                except BaseException as exc:  # noqa: BLE001  # looked at below
                    errors.append(exc)

            writer = threading.Thread(target=write)
            writer.start()
            seen: list[int] = []
            while not seen or writer.is_alive():
                totals = queue.receivers()
                seen.append(totals["u"].queued if totals else 0)
            writer.join()
            assert errors == []
            assert seen == sorted(seen)
            assert all(number % 2 == 0 for number in seen), "a transaction is seen as a whole"
            assert queue.receivers()["u"].queued == 60


class TestDefaultPath:
    """Where it lies when nobody says."""

    def test_in_the_state_directory_one_for_each_port(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        assert default_path(8000) == tmp_path / "hallmark" / "outbox-port-8000.db"
        assert default_path(8001).name == "outbox-port-8001.db"

    @pytest.mark.parametrize("value", [None, "", "state", "./state"])
    def test_below_home_where_the_variable_is_not_set_or_relative(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        if value is None:
            monkeypatch.delenv("XDG_STATE_HOME", raising=False)
        else:
            monkeypatch.setenv("XDG_STATE_HOME", value)
        assert default_path(8000) == tmp_path / ".local" / "state" / "hallmark" / "outbox-port-8000.db"

    def test_a_socket_names_it_instead_of_the_port(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        monkeypatch.chdir("/usr")
        folder = tmp_path / "hallmark"
        assert default_path(8000, "/run/vllm/a.sock") == folder / "outbox-socket-run-vllm-a.sock.db"
        assert default_path(8000, "a.sock") == folder / "outbox-socket-usr-a.sock.db"
