"""vLLM's own `serve`, after a look at what it was asked for.

``python -P -m hallmark.poc.engine.launch serve MODEL FLAGS...`` is ``vllm serve MODEL FLAGS...``, except that
what PoC does not work with is refused before an engine is started. vLLM's command itself is not run: it asks
for the metadata of a distribution named `vllm`, which its builds for CPUs lack. The subcommand behind it
does not.

Each of vLLM's processes imports this module too, so that nothing is imported here but in functions.
"""

import logging
import os
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.entrypoints.cli.serve import ServeSubcommand

__all__ = ["checked_config", "main", "parse", "serve_subcommand"]


def main() -> None:
    """Run vLLM's server with the arguments of this process.

    What is refused, early or by the plugin once the engine is up, ends it with one sentence and code 2.
    """
    from hallmark.poc.core.errors import HallmarkError
    from hallmark.poc.core.json_logs import COMMAND_LOGGER

    # What vLLM's command does: fork would copy what an accelerator's driver has set up.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    subcommand = serve_subcommand()
    try:
        checked_config(parse(subcommand))
        # Parsed anew: making a configuration may have changed what the first arguments hold.
        subcommand.cmd(parse(subcommand))
    except HallmarkError as exc:
        command = logging.getLogger(COMMAND_LOGGER)
        if command.handlers:
            command.error("%s", exc)
        else:
            print(f"hallmark: {exc}", file=sys.stderr)
        sys.exit(2)


def serve_subcommand() -> "ServeSubcommand":
    """Return what is behind vLLM's command `serve`."""
    from vllm.entrypoints.cli.serve import ServeSubcommand, cmd_init

    [subcommand] = [found for found in cmd_init() if isinstance(found, ServeSubcommand)]
    return subcommand


def parse(subcommand: "ServeSubcommand") -> Namespace:
    """Return the arguments of this process as vLLM has them."""
    from vllm import logger
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(prog="vllm")
    subcommand.subparser_init(parser.add_subparsers(required=True, dest="subparser"))
    args: Namespace = parser.parse_args()
    # vLLM 0.26 has none.
    configure = getattr(logger, "configure_logging_from_args", None)
    if configure is not None:
        configure(args)
    subcommand.validate(args)
    return args


def checked_config(args: Namespace) -> "VllmConfig":
    """Return the configuration that vLLM makes of the arguments, where neither shows what is unsupported.

    The engine's start makes the same configuration again, and logs the same about it.

    Raises:
        FieldError: A setting is not allowed.
        UnsupportedError: PoC does not work with what was asked for.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs

    from hallmark.poc.engine.support import check_limits
    from hallmark.poc.engine.unsupported import check_arguments, check_config
    from hallmark.poc.settings.engine_limits import EngineLimits

    check_arguments(args, os.environ)
    # The subcommand does so too: the model is its first argument, and --model has a default.
    args.model = args.model_tag or args.model
    config = AsyncEngineArgs.from_cli_args(args).create_engine_config(headless=args.headless)
    check_config(config)
    check_limits(config, EngineLimits.from_additional_config(config.additional_config))
    return config


if __name__ == "__main__":
    main()
