"""The same as tests/server/test_documented_requests.py, on a real server with vLLM's own error handlers."""

import pytest
from documented import check_every_route
from node import Node, round_request

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


def test_a_real_server_answers_as_its_document_says(node: Node) -> None:
    asked = check_every_route(node.url, round_request(), examples=5)
    assert len(asked) == 12
    assert all(count >= 1 for count in asked.values())
