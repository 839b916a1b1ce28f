"""What is wrong with settings, each made wrong for real: token, secrets and outbox."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from findings import only
from older_files import written_by_734b105
from other_user import as_nobody
from small_disk import small_file_system

from hallmark.poc.core.errors import FieldError
from hallmark.poc.outbox.database import OutboxDatabase
from hallmark.poc.settings.settings import API_KEY_VARIABLE, WEBHOOK_SECRETS_VARIABLE
from hallmark.poc.webhooks.signature import generate_secret
from hallmark.server.doctor.configuration import (
    Configuration,
    examine_outbox,
    examine_secrets,
    examine_token,
)
from hallmark.server.doctor.finding import Finding, examine

TOKEN = "a-token-of-24-characters"  # noqa: S105  # of no server
SECRET = generate_secret()
ADDITIONAL = "--additional-config.hallmark."


def token(*flags: str, **environment: str) -> tuple[str, str, str | None]:
    return only(examine_token(Configuration(flags, environment)))


class TestToken:
    def test_there_is_one(self) -> None:
        assert token(**{API_KEY_VARIABLE: TOKEN}) == ("ok", "set", None)

    @pytest.mark.parametrize(
        ("flags", "where"),
        [((), "every address"), (("--host", "::"), "::"), (("--host=10.0.0.1",), "10.0.0.1")],
    )
    def test_there_is_none_and_the_server_would_be_open(self, flags: tuple[str, ...], where: str) -> None:
        assert token(*flags) == (
            "warning",
            f"none is set, and hallmark serve refuses to listen on {where} without one",
            "set HALLMARK_API_KEY or the setting api_key_file, or give --host 127.0.0.1",
        )

    @pytest.mark.parametrize("flags", [("--host", "127.0.0.1"), ("--uds", "/run/vllm.sock")])
    def test_there_is_none_and_none_is_needed(self, flags: tuple[str, ...]) -> None:
        for allowed in ("false", "true"):
            said = token(*flags, f"{ADDITIONAL}allow_unauthenticated", allowed)
            assert said == ("ok", "none is set, and none is needed there", None)

    def test_there_is_none_by_permission(self) -> None:
        outcome, says, _ = token(f"{ADDITIONAL}allow_unauthenticated", "true")
        assert (outcome, says) == (
            "warning",
            "none is set, and allow_unauthenticated lets whoever reaches every address start and stop rounds",
        )

    def test_it_is_short(self) -> None:
        outcome, says, _ = token(**{API_KEY_VARIABLE: "hunter2"})
        assert (outcome, says) == ("warning", "it has fewer than 16 characters, so it can be guessed")

    def test_its_file_is_for_all_to_read(self, tmp_path: Path) -> None:
        file = tmp_path / "token"
        file.write_text(TOKEN)
        file.chmod(0o604)
        told = ("warning", f"every user can read {file}", f"chmod o= {file}")
        assert token(f"{ADDITIONAL}api_key_file", str(file)) == told
        file.chmod(0o640)
        assert token(f"{ADDITIONAL}api_key_file", str(file)) == ("ok", "set", None)


class TestSecrets:
    def test_callbacks_are_signed(self) -> None:
        configuration = Configuration((), {WEBHOOK_SECRETS_VARIABLE: f"{SECRET} {generate_secret()}"})
        assert only(examine_secrets(configuration)) == ("ok", "callbacks are signed with 2 secrets", None)

    def test_callbacks_are_not_signed(self) -> None:
        outcome, says, remedy = only(examine_secrets(Configuration((), {})))
        assert (outcome, remedy) == (
            "warning",
            "make a secret with hallmark secret, and give it to server and receiver",
        )
        assert says == "callbacks are not signed: a receiver cannot tell them from others'"

    def test_their_file_is_for_all_to_read(self, tmp_path: Path) -> None:
        file = tmp_path / "secrets"
        file.write_text(SECRET)
        file.chmod(0o644)
        flags = (f"{ADDITIONAL}webhook_secrets_file", str(file))
        told = ("warning", f"every user can read {file}", f"chmod o= {file}")
        assert only(examine_secrets(Configuration(flags, {}))) == told


def test_settings_of_a_file_count(tmp_path: Path) -> None:
    """The one that vLLM reads too."""
    file = tmp_path / "node.yaml"
    file.write_text(
        "port: 8123\ntensor-parallel-size: 2\npipeline-parallel-size: 3\n"
        f"additional-config: {{hallmark: {{outbox_path: {tmp_path}/o.db}}}}\n"
    )
    configuration = Configuration(("--config", str(file)), {})
    assert configuration.outbox == tmp_path / "o.db"
    assert (configuration.port, configuration.ranks) == (8123, 6)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--config", "missing.yaml"), "--config: 'missing.yaml' is not allowed"),
        ((f"{ADDITIONAL}max_bacth_size", "1"), "max_batch_size"),
        ((f"{ADDITIONAL}api_key_file", "/no/token"), "No such file or directory"),
        ((f"{ADDITIONAL}api_key", TOKEN), "here it would stand in vLLM's log"),
        (("--port", "http"), "a whole number"),
    ],
)
def test_a_setting_that_is_wrong(flags: tuple[str, ...], told: str) -> None:
    with pytest.raises(FieldError) as refused:
        Configuration(flags, {})
    assert told in str(refused.value)
    assert TOKEN not in str(refused.value)


REMEDY = "give it a place on a local disk that this user can write, with the setting outbox_path"
MOVE = "move the file away"


def outbox(path: Path | None) -> tuple[str, str, str | None]:
    return only(found_of(path))


def found_of(path: Path | None) -> list[Finding]:
    return examine("outbox", lambda: examine_outbox(path), MOVE)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An outbox that a server has left."""
    path = tmp_path / "outbox.db"
    OutboxDatabase(path).close()
    return path


class TestOutbox:
    """Nothing of it is made or changed."""

    def test_it_is_to_be_made(self, tmp_path: Path) -> None:
        outcome, says, _ = outbox(tmp_path / "some" / "folder" / "outbox.db")
        assert outcome == "ok"
        assert says.startswith(f"{tmp_path}/some/folder/outbox.db, to be made, ")
        assert not [*tmp_path.iterdir()]

    def test_it_is_there(self, file: Path) -> None:
        before = file.read_bytes(), file.stat().st_mtime_ns
        outcome, says, _ = outbox(file)
        assert outcome == "ok"
        assert says.startswith(f"{file}, in order, ")
        assert (file.read_bytes(), file.stat().st_mtime_ns) == before
        assert {each.name for each in file.parent.iterdir()} == {"outbox.db", "outbox.db.lock"}

    def test_a_server_has_it(self, file: Path) -> None:
        with closing(OutboxDatabase(file)):
            assert outbox(file)[0] == "ok"

    def test_a_server_was_killed_before_it_was_made(self, file: Path) -> None:
        file.write_bytes(b"")
        assert ", to be made, " in outbox(file)[1]

    def test_it_is_in_memory(self) -> None:
        assert outbox(None) == (
            "warning",
            "it is kept in memory: what is not delivered when the server ends is lost",
            "leave outbox_path out, or give it a file on a local disk",
        )

    def test_it_lies_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        path = tmp_path / "file" / "outbox.db"
        assert outbox(path) == ("problem", f"{path}: {tmp_path}/file is no folder", REMEDY)

    def test_it_is_a_folder(self, tmp_path: Path) -> None:
        outcome, says, remedy = outbox(tmp_path)
        assert (outcome, remedy) == ("problem", MOVE)
        assert says.startswith(f"the outbox {tmp_path} cannot be opened")

    def test_its_folder_is_another_users(self, public: Path) -> None:
        path = public / "outbox.db"
        told = f"{path}: {public} cannot be written by this user"
        assert as_nobody(lambda: outbox(path)) == ("problem", told, REMEDY)

    def test_it_is_another_users(self, public: Path) -> None:
        """As one that root's server has left."""
        path = public / "outbox.db"
        OutboxDatabase(path).close()
        path.chmod(0o444)
        public.chmod(0o777)
        outcome, says, remedy = as_nobody(lambda: outbox(path))
        assert (outcome, says) == ("problem", f"{path} cannot be written by this user")
        assert remedy.startswith("chown it, or ")

    def test_its_folder_takes_no_files(self) -> None:
        told = "/proc/outbox.db cannot be written: No such file or directory"
        if os.geteuid() != 0:
            told = "/proc/outbox.db: /proc cannot be written by this user"
        assert outbox(Path("/proc/outbox.db")) == ("problem", told, REMEDY)

    def test_its_disk_is_full(self, tmp_path: Path) -> None:
        with small_file_system(tmp_path / "disk", 2**16) as disk:
            (disk.path / "others").write_bytes(bytes(2**16))
            path = disk.path / "outbox.db"
            told = f"{path} cannot be written: No space left on device"
            assert outbox(path) == ("problem", told, REMEDY)

    def test_its_disk_has_little_room(self, tmp_path: Path) -> None:
        with small_file_system(tmp_path / "disk", 2**20) as disk:
            path = disk.path / "outbox.db"
            assert outbox(path) == (
                "warning",
                f"{path}: 1.0 MB are free on its disk",
                "make room, or move it",
            )

    def test_its_disk_is_read_only(self, tmp_path: Path) -> None:
        with small_file_system(tmp_path / "disk", 2**20) as disk:
            subprocess.run(["mount", "-o", "remount,ro", disk.path], check=True)
            told = f"{disk.path}/outbox.db: {disk.path} cannot be written by this user"
            assert outbox(disk.path / "outbox.db") == ("problem", told, REMEDY)

    @pytest.mark.parametrize("content", [b"this is text, and no database at all", bytes(4096)])
    def test_it_is_no_database(self, file: Path, content: bytes) -> None:
        file.write_bytes(content)
        outcome, says, remedy = outbox(file)
        assert (outcome, remedy) == ("problem", MOVE)
        assert says.startswith(f"the outbox {file} ")

    def test_it_is_damaged(self, file: Path) -> None:
        """In a page that nobody reads who only opens it."""
        content = bytearray(file.read_bytes())
        content[-4096:] = b"x" * 4096
        file.write_bytes(content)
        outcome, says, remedy = outbox(file)
        assert (outcome, remedy) == ("problem", MOVE)
        assert says.startswith(f"the outbox {file} ")
        assert file.read_bytes() == content

    def test_it_is_another_kind_of_file(self, tmp_path: Path) -> None:
        file = written_by_734b105("receiver.db", tmp_path)
        told = f"{file} is a database, but no outbox of Hallmark's"
        assert outbox(file) == ("problem", told, MOVE)

    def test_an_older_hallmark_has_written_it(self, tmp_path: Path) -> None:
        """Which the next server brings up to date by itself."""
        file = written_by_734b105("outbox.db", tmp_path)
        before = file.read_bytes()
        outcome, says, _ = outbox(file)
        assert outcome == "ok"
        assert ", of an older Hallmark: the next start brings it up to date, " in says
        assert (file.read_bytes(), [*tmp_path.iterdir()]) == (before, [file])

    def test_a_newer_hallmark_has_written_it(self, file: Path) -> None:
        with closing(OutboxDatabase(file)) as database, database.transaction() as connection:
            connection.execute("PRAGMA user_version = 99")
        outcome, says, remedy = outbox(file)
        assert (outcome, remedy) == ("problem", MOVE)
        assert says.startswith(f"the outbox {file} was written by a newer Hallmark: its schema is 99, ")


_EXAMINE_OUTBOX = """
import json, os, sys
from pathlib import Path
from hallmark.server.doctor.configuration import examine_outbox
found = []
for os.environ["BROKEN"] in sys.argv[2:]:
    [finding] = examine_outbox(Path(sys.argv[1]))
    found.append([finding.outcome, finding.says, finding.remedy])
print(json.dumps(found))
"""

BROKEN = {
    "flock=ENOLCK": "has no locks (flock: No locks available)",
    "fcntl=OK": "has locks that keep nobody out (fcntl)",
    "mmap=ENODEV": "does not let files be mapped into memory (No such device)",
}


def test_a_file_system_without_locks(compiled: Callable[[str], Path], tmp_path: Path) -> None:
    """By what a kernel answers that the process is given in the place of this one."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", _EXAMINE_OUTBOX, tmp_path / "outbox.db", *BROKEN],
        env={**os.environ, "LD_PRELOAD": str(compiled("broken_locks"))},
        capture_output=True,
        check=True,
        text=True,
    )
    says = f"{tmp_path}/outbox.db lies on a file system that "
    assert json.loads(done.stdout) == [["problem", says + told, REMEDY] for told in BROKEN.values()]
    assert not [*tmp_path.iterdir()]
