"""Sliced batches beside mixed traffic: neither side changes a bit of the other.

Specification 6.2: validation still produces correct distances; no race conditions or deadlocks.
"""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from _traffic import Batches, Numbers, Traffic, completions, metric, some_prompts
from models import build_deepseek
from node import TIGHT, Node, round_request, running_node
from scipy import stats

from hallmark.server.models.small import build_small_model

pytestmark = [pytest.mark.server, pytest.mark.timeout(1200)]

KINDS = {"greedy", "sampled", "streamed", "prefixed", "aborted", "long"}
KEYS = [[("a prover", 100 * n + i) for i in range(4)] for n in range(5)]
ROUND = round_request(batch_size=4, seq_len=16)
SLICED = 60
CHANCE = 1e-7
"""So seldom do two runs without proofs differ as much: near-ties turn by which requests meet in a batch."""


FULL_GRAPHS = ("--compilation-config", '{"cudagraph_mode": "FULL"}')
EMBEDDINGS = ("--enable-prompt-embeds",)

# For vLLM on a GPU: backend of attention, model runner, flags, and the builder of the model.
ON_GPUS = [
    pytest.param((backend, runner, flags, build), marks=pytest.mark.gpu, id=f"{name} V{runner}")
    for runner in (1, 2)
    for name, backend, flags, build in (
        ("FlashAttention with full graphs", "FLASH_ATTN", FULL_GRAPHS, build_small_model),
        ("FlashAttention, compiled embeddings", "FLASH_ATTN", EMBEDDINGS, build_small_model),
        ("FlashInfer", "FLASHINFER", (), build_small_model),
        ("Triton", "TRITON_ATTN", (), build_small_model),
        ("Triton, eager", "TRITON_ATTN", ("--enforce-eager",), build_small_model),
        ("MLA", None, (), build_deepseek),
    )
]


@pytest.fixture(scope="module", params=["node", "compiled", "pair", *ON_GPUS])
def started(
    request: pytest.FixtureRequest, dtype: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    """Eager, compiled, two ranks; on a GPU every way of attention, on both of vLLM's model runners."""
    if isinstance(request.param, str):
        yield request.getfixturevalue(request.param)
        return
    backend, runner, flags, build = request.param
    directory = tmp_path_factory.mktemp("gpu")
    build(directory / "model")
    if backend is not None:
        flags = ("--attention-backend", backend, *flags)
    with running_node(
        *(directory / "model", directory / "server.log", *flags, *TIGHT),
        dtype=dtype,
        VLLM_USE_V2_MODEL_RUNNER=str(runner - 1),
    ) as node:
        yield node


@pytest.fixture
def server(started: Node) -> Iterator[Node]:
    """In a round with nothing to validate, so that the tests drive its batches."""
    started.poc("/init/validate", ROUND)
    yield started
    started.poc("/stop")


@contextmanager
def slicing(batches: Batches, expected: list[Numbers]) -> Iterator[list[int]]:
    """Sliced batches one after the other for the length of a block; their number grows in the list."""
    stop, count, wrong = threading.Event(), [0], list[int]()

    def slice_on() -> None:
        while not stop.is_set():
            n = count[0] % len(KEYS)
            if batches.sliced(KEYS[n]) != expected[n]:
                wrong.append(n)
            count[0] += 1

    thread = threading.Thread(target=slice_on)
    thread.start()
    try:
        yield count
    finally:
        stop.set()
        thread.join()
    assert not wrong


@pytest.mark.both_dtypes
def test_sliced_batches_beside_mixed_traffic_are_those_of_an_idle_server(server: Node) -> None:
    chance = random.Random(0)  # noqa: S311
    batches = Batches(server.http, chance)
    idle = [batches.whole(keys) for keys in KEYS]
    server.probe("fill_guards")
    names = (
        "vllm:iteration_tokens_total_count",
        "vllm:num_preemptions_total",
        "vllm:prefix_cache_hits_total",
    )
    before = [metric(server.http, name) for name in names]

    def has_happened() -> bool:
        """Whether inference has stepped between slices, preempted requests and hit its prefix cache."""
        steps, preempted, hits = (
            metric(server.http, name) - value for name, value in zip(names, before, strict=True)
        )
        return steps > SLICED and preempted > 0 and hits > 0

    with Traffic(server.url, server.model, clients=6, seed=1).running() as traffic:
        for n in range(SLICED):
            assert batches.sliced(KEYS[n % len(KEYS)]) == idle[n % len(KEYS)]
        # How much of it the clients get through meanwhile is the machine's affair.
        while not (traffic.served.keys() == KINDS and has_happened()) and not traffic.errors:
            assert batches.sliced(KEYS[0]) == idle[0]
    assert not traffic.errors
    assert all(result == {"hold": True, "used": True} for result in server.probe("guards_hold"))
    assert [batches.whole(keys) for keys in KEYS] == idle


def test_completions_one_at_a_time_are_those_of_a_server_without_proofs(server: Node) -> None:
    prompts = some_prompts(12, seed=2)
    alone = completions(server.url, server.model, prompts, tokens=24, at_once=1)
    batches = Batches(server.http, random.Random(0))  # noqa: S311
    idle = [batches.whole(keys) for keys in KEYS]
    with slicing(batches, idle) as count:
        beside = completions(server.url, server.model, prompts, tokens=24, at_once=1)
    assert beside == alone
    assert count[0] > 1, "the completions were meant to run beside batches"


def test_under_concurrency_completions_differ_no_more_often_than_without_proofs(server: Node) -> None:
    """How requests meet in a batch is a matter of timing, with or without PoC."""
    prompts = some_prompts(48, seed=3)

    def run() -> list[str]:
        return completions(server.url, server.model, prompts, tokens=12, at_once=8)

    first, second = run(), run()
    batches = Batches(server.http, random.Random(0))  # noqa: S311
    with slicing(batches, [batches.whole(keys) for keys in KEYS]) as count:
        beside = run()
    assert count[0] > 1
    without = sum(a != b for a, b in zip(first, second, strict=True))
    with_proofs = sum(a != b for a, b in zip(first, beside, strict=True))
    table = [[with_proofs, len(prompts) - with_proofs], [without, len(prompts) - without]]
    assert stats.fisher_exact(table, "greater").pvalue > CHANCE, (with_proofs, without)
