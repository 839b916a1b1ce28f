"""What `hallmark serve` refuses before it starts anything."""

import socket
from pathlib import Path

import pytest
from command_line import Cli

pytestmark = pytest.mark.server


def test_a_port_in_use_is_a_sentence(cli: Cli, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = cli("serve", tmp_path, "--host", "127.0.0.1", "--port", port)
    assert result.code == 2
    assert result.err == f"hallmark: port {port} on 127.0.0.1 is in use; choose another --port\n"
    assert result.out == ""
