"""`hallmark serve`: vLLM's own API server, with proof of compute in it."""

import os
from typing import Annotated, Final

import typer

from hallmark.server.cli.consoles import JsonLogs, log_as_json, say

__all__ = ["serve"]

_NO_PAGE: Final = "--no-page"
_JSON_LOGS: Final = "--json-logs"


def serve(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model, as vLLM takes it.")],
    no_page: Annotated[bool, typer.Option(_NO_PAGE, help="Do not serve the live page at /poc.")] = False,
    json_logs: JsonLogs = False,
) -> None:
    """Start vLLM's API server with proof of compute.

    Every flag after MODEL goes to vLLM untouched, but for these two; hallmark serve MODEL --help lists them.
    Settings of proof of compute are part of one of these flags:

    \b
      --additional-config '{"hallmark": {"max_batch_size": 64}}'

    The token of the control routes comes from HALLMARK_API_KEY, or from the file that the setting
    api_key_file names; without one the server must listen on loopback.

    --max-num-batched-tokens and --max-num-seqs are raised to what a PoC batch needs where they are not given.
    The command reports ready once proof of compute answers. Its last line says why the server has ended, and
    it ends with the server's exit code.
    """  # noqa: D301  # the sign by which help keeps lines as they are
    from hallmark.server.cli.serve.checks import check_plan, check_vllm
    from hallmark.server.cli.serve.plan import plan
    from hallmark.server.cli.serve.running import run

    if model.startswith("-"):
        raise typer.BadParameter("the model comes first: hallmark serve MODEL, then vLLM's flags")
    # Among vLLM's flags too, where it would be taken for one of them.
    flags = [argument for argument in context.args if argument not in (_NO_PAGE, _JSON_LOGS)]
    planned = plan(
        model,
        flags,
        os.environ,
        has_page=not (no_page or _NO_PAGE in context.args),
        json_logs=json_logs or _JSON_LOGS in context.args,
    )
    if planned.logging is not None:
        log_as_json(planned.logging)
    warning = check_vllm(allow_unsupported=planned.settings.allow_unsupported_vllm)
    if warning is not None:
        say(f"hallmark: {warning}")
    check_plan(planned)
    raise typer.Exit(run(planned))
