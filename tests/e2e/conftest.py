"""Fixtures of the end-to-end tests."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from node import HALLMARK, TIGHT, Node, Receiver, running_node

from hallmark.server.processes import ChildProcess, free_port


@pytest.fixture(scope="session")
def node(demo_model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A server that runs eagerly; shared, so each test leaves it stopped and healthy."""
    log = tmp_path_factory.mktemp("node") / "server.log"
    with running_node(demo_model_directory, log, "--enforce-eager", *TIGHT) as node:
        yield node


@pytest.fixture(scope="session")
def compiled(demo_model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A server that compiles its model for embeddings too, so that PoC's forward is compiled."""
    log = tmp_path_factory.mktemp("compiled") / "server.log"
    with running_node(demo_model_directory, log, "--enable-prompt-embeds", *TIGHT) as node:
        yield node


@pytest.fixture(scope="session")
def pair(demo_model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A server of two tensor-parallel ranks; the last test that uses it ends it."""
    log = tmp_path_factory.mktemp("pair") / "server.log"
    flags = ("--enforce-eager", "--tensor-parallel-size", "2", *TIGHT)
    with running_node(demo_model_directory, log, *flags, VLLM_CPU_OMP_THREADS_BIND="0|1") as node:
        yield node


@pytest.fixture(autouse=True)
def _leave_the_node_stopped_and_healthy(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "node" in request.fixturenames:
        node: Node = request.getfixturevalue("node")
        node.poc("/stop")
        assert node.chat().status_code == 200, "after the test the server must answer chat"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """A receiver with a database of its own."""
    port = free_port()
    command = [
        *(*HALLMARK, "receiver", "--host", "127.0.0.1", "--port", str(port)),
        *("--database", str(tmp_path / "receiver.sqlite3")),
    ]
    with (
        ChildProcess("hallmark receiver", command, log=tmp_path / "receiver.log") as process,
        closing(Receiver(f"http://127.0.0.1:{port}")) as receiver,
    ):

        def ready() -> bool:
            try:
                return receiver.http.get("/stats").status_code == 200
            except httpx.TransportError:
                return False

        process.wait_until(ready, seconds=60)
        yield receiver
