"""Requests made up from a server's own OpenAPI document, and what its answers have to be."""

from collections.abc import Mapping
from typing import Any

import httpx
import hypothesis
import schemathesis
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

__all__ = ["check_every_route"]

_CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    allow_header_conformance,
    unsupported_method,
]


def check_every_route(url: str, round_: Mapping[str, Any], *, examples: int) -> dict[str, int]:
    """Send every control route what its schema allows, then what it does not, without and within a round.

    Args:
        url: Where the server is.
        round_: The round to validate.
        examples: How many requests of each kind to send to each route.

    Returns:
        How often each route was asked.
    """
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as http:
        document = http.get("/openapi.json").json()
        schema = schemathesis.openapi.from_dict(document).include(path_regex="^/api/v1/")
        asked: dict[str, int] = {}
        for path, body in (("/stop", None), ("/init/validate", round_)):
            for found in schema.get_all_operations():
                assert isinstance(found, Ok)
                operation = found.ok()
                for mode in GenerationMode:
                    assert http.post(f"/api/v1/pow{path}", json=body).status_code == 200
                    count = _check(operation, mode, url, examples)
                    asked[operation.label] = asked.get(operation.label, 0) + count
        assert http.post("/api/v1/pow/stop").status_code == 200
    return asked


def _check(operation: Any, mode: GenerationMode, url: str, examples: int) -> int:
    count = 0

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=(hypothesis.Phase.generate,),
    )
    @hypothesis.given(case=operation.as_strategy(mode))
    def send(case: Case[Any]) -> None:
        nonlocal count
        count += 1
        case.call_and_validate(base_url=url, checks=_CHECKS, timeout=60)

    try:
        send()
    except hypothesis.errors.Unsatisfiable:
        # The route takes nothing that could be wrong.
        assert mode is GenerationMode.NEGATIVE
    return count
