"""What vLLM makes of a model and its flags, told without starting an engine.

``python -P -m hallmark.poc.engine.inspection OUTPUT serve MODEL FLAGS...`` writes to the file OUTPUT what a
server of these flags would be, as JSON, or in one sentence why there would be none. It is a process of its
own, since vLLM's import and configuration leave traces in whoever does it.
"""

import io
import json
import sys
from argparse import Namespace
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, TypedDict

__all__ = ["Inspected", "main"]


class Inspected(TypedDict):
    """A server that could be started.

    Attributes:
        architecture: The model's.
        dtype: It is computed in, as PyTorch calls it.
        hidden_size: The width of its hidden states.
        quantization: Of its weights; None where there is none.
        max_model_len: Tokens of the longest sequence.
        max_num_batched_tokens: Tokens of the largest step.
        max_batch_size: Nonces of the largest batch.
        seq_len: Tokens of each of them.
        ranks: Over how many ranks it is spread.
        has_methods: Whether the plugin has put its methods on vLLM's workers.
    """

    architecture: str
    dtype: str
    hidden_size: int
    quantization: str | None
    max_model_len: int
    max_num_batched_tokens: int
    max_batch_size: int
    seq_len: int
    ranks: int
    has_methods: bool


def main() -> None:
    """Inspect what this process's arguments say."""
    output = Path(sys.argv.pop(1))
    from hallmark.poc.core.errors import HallmarkError
    from hallmark.poc.engine.launch import parse, serve_subcommand
    from hallmark.poc.engine.refusals import unknown_flags, what_vllm_says

    told = io.StringIO()
    try:
        with redirect_stderr(told):
            args = parse(serve_subcommand())
        found: dict[str, Any] = {"server": _inspect(args)}
    except SystemExit as exc:
        found = {"refusal": f"vLLM refuses it: {unknown_flags(told.getvalue(), exc.code)}"}
    except HallmarkError as exc:
        found = {"refusal": str(exc)}
    except Exception as exc:  # noqa: BLE001  # vLLM's own refusals are of many types
        found = {"refusal": f"vLLM refuses it: {what_vllm_says(exc)}"}
    output.write_text(json.dumps(found), encoding="utf-8")


def _inspect(args: Namespace) -> Inspected:
    from vllm.v1.worker.worker_base import WorkerBase

    from hallmark.poc.engine.launch import checked_config
    from hallmark.poc.engine.worker_methods import RPC_METHODS
    from hallmark.poc.settings.engine_limits import EngineLimits

    config = checked_config(args)
    limits = EngineLimits.from_additional_config(config.additional_config)
    model, parallel = config.model_config, config.parallel_config
    return Inspected(
        architecture=", ".join(model.hf_config.architectures or ()),
        dtype=str(model.dtype).removeprefix("torch."),
        hidden_size=model.get_hidden_size(),
        quantization=model.quantization,
        max_model_len=model.max_model_len,
        max_num_batched_tokens=config.scheduler_config.max_num_batched_tokens,
        max_batch_size=limits.max_batch_size,
        seq_len=limits.seq_len,
        ranks=parallel.tensor_parallel_size * parallel.pipeline_parallel_size,
        has_methods=all(hasattr(WorkerBase, method.__name__) for method in RPC_METHODS),
    )


if __name__ == "__main__":
    main()
