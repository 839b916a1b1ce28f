"""Fixtures of the end-to-end tests."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from cores import cores_for
from node import HALLMARK, TIGHT, Node, Receiver, running_node

from hallmark.server.models.small import fast_dtype
from hallmark.server.processes.child import ChildProcess, free_port

# The one that is fast here comes first, and is all that `make test` has of these servers: without
# instructions for it a dtype is several times slower.
DTYPES = sorted(("bfloat16", "float32"), key=lambda dtype: dtype != fast_dtype())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Serve the model in both dtypes, one after the other, to the tests that depend on it."""
    if "dtype" in metafunc.fixturenames:
        fast, other = DTYPES
        both = metafunc.definition.get_closest_marker("both_dtypes") is not None
        dtypes = [fast, *([pytest.param(other, marks=pytest.mark.slow)] if both else [])]
        metafunc.parametrize("dtype", dtypes, scope="session")


@pytest.fixture(scope="session")
def node(dtype: str, small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A server that runs eagerly; shared, so each test leaves it stopped and healthy."""
    log = tmp_path_factory.mktemp("node") / "server.log"
    with running_node(small_model, log, "--enforce-eager", *TIGHT, dtype=dtype) as node:
        yield node


@pytest.fixture(scope="session")
def compiled(
    request: pytest.FixtureRequest,
    dtype: str,
    small_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Node]:
    """A server that compiles its model for embeddings too, so that PoC's forward is compiled."""
    if dtype != DTYPES[0]:
        yield request.getfixturevalue("pair")
        return
    log = tmp_path_factory.mktemp("compiled") / "server.log"
    with running_node(small_model, log, "--enable-prompt-embeds", *TIGHT, dtype=dtype) as node:
        yield node


@pytest.fixture(scope="session")
def pair(dtype: str, small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A server of two tensor-parallel ranks; the last test that uses it ends it.

    In the second dtype it compiles as well: one start less, and both at once.
    """
    log = tmp_path_factory.mktemp("pair") / "server.log"
    mode = "--enforce-eager" if dtype == DTYPES[0] else "--enable-prompt-embeds"
    flags = (mode, "--tensor-parallel-size", "2", *TIGHT)
    with running_node(small_model, log, *flags, dtype=dtype, VLLM_CPU_OMP_THREADS_BIND=cores_for(2)) as node:
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
