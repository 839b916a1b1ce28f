"""Runs model after model on vLLM, each in a fork of one process that has imported it.

Standard input has a case a line, as JSON; when it is done, a line of standard output has the exit status of
its fork, and the case's file what was found.
"""

import asyncio
import json
import os
import signal
import sys
import traceback
from argparse import Namespace
from pathlib import Path
from typing import Any

import vllm.v1.worker.cpu_worker  # noqa: F401  # what takes its time is imported once
from imported_models import import_model
from torch import nn
from vllm import LLM, SamplingParams
from vllm.distributed.kv_transfer import get_kv_transfer_group, has_kv_transfer_group
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata

import hallmark.poc.engine.worker  # noqa: F401
from hallmark.poc.core.errors import EngineError
from hallmark.poc.engine.client import VllmEngine, connect
from hallmark.poc.engine.in_process import InProcessClient
from hallmark.poc.protocol.config import PoCConfig
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.round import Round
from hallmark.poc.settings.settings import Settings

SECONDS = 300
SLICED = 3
"""Batches beside the completions."""
# The second is longer than a block of the cache, and found there when it comes again.
PROMPTS = ([5, 99, 1024, 7, 8, 300, 2000], [(31 * i) % 4000 + 3 for i in range(200)])
COMPLETION = SamplingParams(temperature=0, max_tokens=14, ignore_eos=True)


class Chat:
    """Inference that goes on by single steps of the engine.

    Attributes:
        cached: Tokens of prompts that were found in the cache.
    """

    def __init__(self, llm: LLM) -> None:
        self._engine = llm.llm_engine
        self._begun = 0
        self.cached = 0

    def begin(self) -> None:
        """Send all prompts."""
        for prompt in PROMPTS:
            self._begun += 1
            self._engine.add_request(str(self._begun), {"prompt_token_ids": prompt}, COMPLETION)

    def step(self) -> dict[str, list[int]]:
        """Let the engine do one step; returns the completions that have ended, by the prompt's index."""
        ended = [output for output in self._engine.step() if output.finished]
        self.cached += sum(output.num_cached_tokens for output in ended)
        return {
            str((int(output.request_id) - 1) % len(PROMPTS)): list(output.outputs[0].token_ids)
            for output in ended
        }

    def alone(self) -> dict[str, list[int]]:
        """All completions, with nothing beside them."""
        self.begin()
        found: dict[str, list[int]] = {}
        while len(found) < len(PROMPTS):
            found |= self.step()
        return found


async def compute(engine: VllmEngine, chat: Chat, round_: Round) -> dict[str, Any]:
    """Compute a batch as a whole, and a layer at a time with inference between the layers.

    One more is given up before each layer, with inference at work.
    """
    keys: list[NonceKey] = [(round_.config.public_key, nonce) for nonce in range(round_.batch_size)]
    await engine.open_round(round_.spec())
    before = chat.alone()
    whole = await engine.start([keys], None)
    assert whole.batches is not None
    chat.begin()
    beside: dict[str, list[int]] = {}
    sliced, slices = [], 0
    for _ in range(SLICED):
        part = await engine.start([keys], 1)
        while part.batches is None:
            slices += 1
            beside |= chat.step()
            part = await engine.advance(1)
        sliced.append(part.batches[0].numbers)
    while len(beside) < len(PROMPTS):
        beside |= chat.step()
    cancelled = []
    for stop in range(1, whole.layers):
        chat.begin()
        said = chat.step()
        await engine.start([keys], stop)
        await engine.close_round()
        while len(said) < len(PROMPTS):
            said |= chat.step()
        cancelled.append(said)
        await engine.open_round(round_.spec())
    others = [keys[0], (round_.config.public_key, 1000)]
    again = await engine.start([keys[:3], keys, others], None)
    assert again.batches is not None
    await engine.close_round()
    return {
        "layers": whole.layers,
        "slices": slices,
        "whole": whole.batches[0].numbers,
        "sliced": sliced,
        "short": again.batches[0].numbers,
        "again": again.batches[1].numbers,
        "beside others": again.batches[2].numbers[0],
        "completions": {"before": before, "beside": beside, "cancelled": cancelled, "after": chat.alone()},
        "cached": chat.cached,
    }


def round_by_one_scale(model: nn.Module) -> None:
    """Round what the model's MLPs are given to 8 bits, by one scale for all rows, as dynamic ones are."""

    def rounded(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        states, *others = arguments
        scale = states.abs().amax() / 127
        return (states / scale).round() * scale, *others

    for name, module in model.named_modules():
        if name.endswith(".mlp"):
            module.register_forward_pre_hook(rounded)


async def fail_in_turns(
    engine: VllmEngine, client: InProcessClient, round_: Round, failures: list[list[int]]
) -> list[dict[str, Any]]:
    """What is said where a layer of one rank fails after so many of three batches, and what comes next.

    Args:
        engine: PoC's.
        client: The same engine's.
        round_: Any.
        failures: Of each, the rank and the batch.
    """
    keys: list[NonceKey] = [(round_.config.public_key, nonce) for nonce in range(round_.batch_size)]
    found = []
    for rank, batch in failures:
        await engine.open_round(round_.spec())
        await client.collective_rpc("probe_break_a_layer", ("fail", rank, batch))
        said = ""
        try:
            await engine.start([keys] * 3, None)
        except EngineError as error:
            said = str(error)
        after = await engine.start([keys], None)
        assert after.batches is not None
        await engine.close_round()
        found.append({"said": said, "after": after.batches[0].numbers})
    return found


async def refusal_in_a_step(engine: VllmEngine, round_: Round) -> str | None:
    """What PoC says where a step has bound metadata to the KV connector; None without a connector."""
    if not has_kv_transfer_group():
        return None
    connector = get_kv_transfer_group()
    await engine.open_round(round_.spec())
    connector.bind_connector_metadata(KVConnectorMetadata())
    try:
        await engine.start([[(round_.config.public_key, 0)]], None)
    except EngineError as error:
        return str(error)
    finally:
        connector.clear_connector_metadata()
        await engine.close_round()
    return None


def run(case: dict[str, Any]) -> dict[str, Any]:
    """Load a case's model and find out what PoC makes of it."""
    os.environ.update(case["environment"])
    import_model(Path(case["model"]))
    llm = LLM(model=case["model"], **case["arguments"])
    if case["has_one_scale"]:
        llm.apply_model(round_by_one_scale)
    client: Any = InProcessClient(llm.llm_engine)
    settings = Settings.from_additional_config(client.vllm_config.additional_config)
    names = Namespace(served_model_name="model", model=case["model"])
    engine = asyncio.run(connect(client, settings, names))
    round_ = Round.resolve(PoCConfig(**case["request"]), engine.model)
    found = {
        "numerics": engine.numerics,
        "round": round_.digest,
        "readout": round_.definition.readout,
        **asyncio.run(compute(engine, Chat(llm), round_)),
        "in a step": asyncio.run(refusal_in_a_step(engine, round_)),
        "failures": asyncio.run(fail_in_turns(engine, client, round_, case["failures"])),
    }
    llm.llm_engine.engine_core.shutdown()  # workers of their own would outlive this process
    return found


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM logs to standard output
    for line in sys.stdin:
        case = json.loads(line)
        child = os.fork()
        if child == 0:
            signal.alarm(SECONDS)
            status = 1
            try:
                Path(case["result"]).write_text(json.dumps(run(case)), encoding="utf-8")
                status = 0
            except BaseException:  # noqa: BLE001  # nothing of the fork goes on in its parent's code
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


if __name__ == "__main__":
    main()
