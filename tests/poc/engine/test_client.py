"""The API server's side of the RPCs, against engines that answer wrongly, late or not at all."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from hallmark.poc.core.errors import EngineError, UnsupportedError
from hallmark.poc.engine.client import VllmEngine

Answer = Callable[[int], Any]


BEGIN = 1


class Tokenizer:
    """A tokenizer that begins every text with a token, as those of Llama do."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [*([BEGIN] if add_special_tokens else []), *map(ord, text)]


class Client:
    """vLLM's client as far as Hallmark calls it."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.vllm_config = SimpleNamespace(model_config=SimpleNamespace(skip_tokenizer_init=False))
        self.renderer = SimpleNamespace(get_tokenizer=Tokenizer)

    async def collective_rpc(self, method: str, args: tuple[Any, ...]) -> Any:
        self.calls.append((method, args))
        answer = self.answers.pop(0)(args[0])
        return await answer if asyncio.iscoroutine(answer) else answer


def ranks(*payloads: Any) -> Answer:
    """Every rank answers, in order."""
    return lambda sequence: [
        {"rank": rank, "sequence": sequence, "status": "ok", "payload": payload}
        for rank, payload in enumerate(payloads)
    ]


def described(**changes: Any) -> dict[str, Any]:
    return {
        **{"hidden_size": 64, "dtype": "bfloat16", "max_model_len": 512, "max_batched_tokens": 256},
        **{"max_sequences": 8, "vocabulary": 4000, "table_rows": 4096},
        **{"stage": 0, "scratch_bytes": 2**20, "state_bytes": 0, **changes},
    }


WARM: dict[str, Any] = {
    **{"peak_bytes": 2**20, "numerics": {"dtype": "bfloat16", "independent_nonces": True}},
    **{"batch_seconds": 0.01, "slice_seconds": 0.001},
}


@pytest.fixture
def signals() -> Iterator[list[int]]:
    """The SIGTERMs that this process sends itself."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    yield received
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
async def engine(client: Client) -> VllmEngine:
    """Two ranks, set up, that are given a tenth of a second to answer."""
    engine = VllmEngine(client, 0.05)
    client.answers = [ranks(described(), described()), ranks(WARM, WARM)]
    await engine.set_up(["a model"])
    return engine


async def test_setting_up_describes_the_model(engine: VllmEngine) -> None:
    assert (engine.model.vocabulary, engine.model.table_rows) == (4000, 4096)
    assert engine.model.first == BEGIN
    assert engine.model.served_names == ("a model",)


async def test_without_a_tokenizer_row_0_is_drawn_and_that_is_said(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    client.vllm_config.model_config.skip_tokenizer_init = True
    engine = VllmEngine(client, 1.0)
    client.answers = [ranks(described()), ranks(WARM)]
    await engine.set_up(["a model"])
    assert engine.model.first is None
    assert "no tokenizer: row 0 of a nonce is drawn" in caplog.text


@pytest.mark.parametrize("independent", [True, False])
async def test_nonces_that_depend_on_their_batch_are_warned_of(
    client: Client, caplog: pytest.LogCaptureFixture, independent: bool
) -> None:
    warm = {**WARM, "numerics": {**WARM["numerics"], "independent_nonces": independent}}
    client.answers = [ranks(described()), ranks(warm)]
    await VllmEngine(client, 1.0).set_up(["a model"])
    assert ("depend on what else is in its batch" in caplog.text) is not independent


async def test_setting_up_takes_as_long_as_it_takes(client: Client, signals: list[int]) -> None:
    engine = VllmEngine(client, 0.05)

    async def slowly(sequence: int) -> Any:
        await asyncio.sleep(0.15)
        return ranks(described())(sequence)

    client.answers = [slowly, ranks(WARM)]
    await engine.set_up(["a model"])
    assert not signals


async def test_workers_without_the_general_plugin_are_refused(client: Client, signals: list[int]) -> None:
    engine = VllmEngine(client, 1.0)

    def lacks(_: int) -> Any:
        raise RuntimeError("'CPUWorker' object has no attribute 'poc_setup'")

    client.answers = [lacks]
    with pytest.raises(UnsupportedError, match="the general plugin 'hallmark' is not loaded there"):
        await engine.set_up(["a model"])
    assert not signals


async def test_stages_name_what_they_differ_in(client: Client) -> None:
    engine = VllmEngine(client, 1.0)
    stages = [
        {"dtype": "float16", "embedding": "PoC's", "attention": "Triton", "independent_nonces": True},
        {"dtype": "float16", "attention": "MLA", "final_norm": "its own", "independent_nonces": False},
    ]
    warm = [{**WARM, "numerics": numerics} for numerics in stages]
    client.answers = [ranks(described(), described(stage=1)), ranks(*warm)]
    await engine.set_up(["a model"])
    assert engine.numerics == {
        "dtype": "float16",
        "embedding": "PoC's",
        "attention": "Triton | MLA",
        "independent_nonces": False,
        "final_norm": "its own",
    }


async def test_a_batch_takes_the_time_of_all_stages(client: Client) -> None:
    """Of each stage that of its slowest rank; no rank measures it alone."""
    engine = VllmEngine(client, 1.0)
    seconds = [(0, 0.3), (0, 0.4), (1, 0.3), (1, 0.2)]
    warm = [{**WARM, "batch_seconds": each} for _, each in seconds]
    client.answers = [ranks(*(described(stage=stage) for stage, _ in seconds)), ranks(*warm)]
    with pytest.raises(UnsupportedError, match=r"takes 0\.7 s here"):
        await engine.set_up(["a model"])


async def test_what_one_stage_refuses_is_a_refusal(client: Client) -> None:
    engine = VllmEngine(client, 1.0)
    first, second = ranks(described(), described(stage=1)), ranks(WARM, WARM)

    def refuse(sequence: int) -> Any:
        replies = second(sequence)
        for reply, status, error in zip(
            replies,
            ("EngineError", "UnsupportedError"),
            ("it failed on another", "no such norm"),
            strict=True,
        ):
            reply.update(status=status, error=error)
            reply.pop("payload")
        return replies

    client.answers = [first, refuse]
    with pytest.raises(UnsupportedError, match=r"^no such norm$"):
        await engine.set_up(["a model"])


async def test_numbers_are_those_of_the_last_stage(client: Client) -> None:
    engine = VllmEngine(client, 1.0)
    done = {"seconds": 0.5, "layers": 4}
    first = {**done, "batches": [{"numbers": [], "host_seconds": 0.1}]}
    last = {**done, "seconds": 0.75, "batches": [{"numbers": [[1.0, 2.0]], "host_seconds": 0.2}]}
    client.answers = [ranks(first, last)]
    found = await engine.start([[("key", 0)]], None)
    assert found.batches is not None
    assert found.batches[0].numbers == [[1.0, 2.0]]
    assert (found.seconds, found.batches[0].host_seconds) == (0.75, 0.2)


async def test_ranks_that_compute_differently_are_refused(client: Client) -> None:
    engine = VllmEngine(client, 1.0)
    other = {**WARM, "numerics": {"dtype": "float16", "independent_nonces": True}}
    client.answers = [ranks(described(), described()), ranks(WARM, other)]
    with pytest.raises(UnsupportedError, match="rank 1 computes differently"):
        await engine.set_up(["a model"])


async def test_a_batch_that_a_round_would_be_ended_for_is_refused(
    client: Client, signals: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """The slowest rank counts. What would do is named, and does without a warning."""
    slower = {**WARM, "batch_seconds": 90.5, "slice_seconds": 2.5}

    async def set_up(engine_timeout: float) -> None:
        client.answers = [ranks(described(), described()), ranks(WARM, slower)]
        await VllmEngine(client, engine_timeout).set_up(["a model"])

    with pytest.raises(UnsupportedError) as refusal:
        await set_up(120.0)
    assert str(refusal.value) == (
        "a PoC batch of the largest shape takes 90.5 s here, its longest slice 2.5 s, and "
        "hallmark.engine_timeout ends a worker that is at one for 120 s: set it to 362, or lower "
        "max_batch_size or seq_len in the hallmark settings"
    )
    assert not signals, "nobody is ended for it"
    assert "engine_timeout" not in caplog.text
    await set_up(240.0)
    assert "for 240 s: on a busier machine that may end the server; set it to 362" in caplog.text
    caplog.clear()
    await set_up(362.0)
    assert "engine_timeout" not in caplog.text


async def test_a_peak_that_a_rank_does_not_know_is_said_to_be_unknown(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "hallmark")
    client.answers = [ranks(described(), described()), ranks(WARM, {**WARM, "peak_bytes": None})]
    await VllmEngine(client, 1.0).set_up(["a model"])
    assert "an unknown number of MiB at the peak of a batch" in caplog.text


async def test_a_slice_is_as_long_as_on_the_slowest_rank(engine: VllmEngine, client: Client) -> None:
    batch = {"numbers": [[1.25, -0.5]], "host_seconds": 0.25}
    slower = {**batch, "host_seconds": 0.5}
    client.answers = [
        ranks(
            {"seconds": 0.5, "layers": 2, "batches": None}, {"seconds": 0.75, "layers": 2, "batches": None}
        ),
        ranks(
            {"seconds": 0.5, "layers": 1, "batches": [batch]},
            {"seconds": 0.25, "layers": 1, "batches": [slower]},
        ),
    ]
    assert await engine.start([[("key", 7)]], 2) == (0.75, 2, None)
    assert await engine.advance(None) == (0.5, 1, [([[1.25, -0.5]], 0.5)])
    assert client.calls[-2:] == [("poc_start", (3, [[["key", 7]]], 2)), ("poc_advance", (4, None))]


async def test_a_call_that_is_never_answered_stops_the_server(
    engine: VllmEngine, client: Client, signals: list[int]
) -> None:
    client.answers = [lambda _: asyncio.sleep(3600)]
    with pytest.raises(EngineError, match=r"the engine has not answered poc_advance within 0\.1 s"):
        await engine.advance(1)
    assert signals == [signal.SIGTERM]
    calls = len(client.calls)
    with pytest.raises(EngineError, match="has not answered poc_advance"):
        await engine.close_round()
    assert len(client.calls) == calls, "its answer would be taken for the next call's"


LATE: list[tuple[str, Answer]] = [
    ("the call before", lambda sequence: ranks({}, {})(sequence - 1)),
    ("ranks in another order", lambda sequence: ranks({}, {})(sequence)[::-1]),
    ("something else", lambda _: ["ok", "ok"]),
]


@pytest.mark.parametrize("answer", [answer for _, answer in LATE], ids=[name for name, _ in LATE])
async def test_an_answer_to_something_else_stops_the_server(
    engine: VllmEngine, client: Client, signals: list[int], answer: Answer
) -> None:
    client.answers = [answer]
    with pytest.raises(EngineError, match="out of step"):
        await engine.close_round()
    assert signals == [signal.SIGTERM]


async def test_an_engine_that_has_died_stops_the_server(
    engine: VllmEngine, client: Client, signals: list[int]
) -> None:
    def died(_: int) -> Any:
        raise RuntimeError("the engine core died")

    client.answers = [died]
    with pytest.raises(EngineError, match="poc_close_round failed outside of PoC: the engine core died"):
        await engine.close_round()
    assert signals == [signal.SIGTERM]


async def test_a_failure_on_some_rank_ends_the_call_and_nothing_else(
    engine: VllmEngine, client: Client, signals: list[int]
) -> None:
    def half(sequence: int) -> Any:
        good, bad = ranks({}, {})(sequence)
        return [good, {**bad, "status": "failed", "error": "out of memory"}]

    client.answers = [half, ranks(64, 64)]
    with pytest.raises(EngineError, match="poc_close_round failed on 1 of 2 ranks: rank 1: out of memory"):
        await engine.close_round()
    assert not signals
    client.answers = [ranks(None, None)]
    await engine.close_round()
