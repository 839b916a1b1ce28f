"""A worker beside a server: rounds, numbers, and what a server may answer instead."""

import asyncio
import json
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from builders import make_batch, small_request
from pydantic import SecretStr
from runtime import POC, QUICK, Engine, application, eventually, running_manager, serving, snapshot

from hallmark.poc.core.errors import EngineError, StateError, UnsupportedError
from hallmark.poc.outbox.outbox import Outbox
from hallmark.poc.outbox.store import OutboxStore
from hallmark.poc.protocol.config import PoCConfig
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.settings.settings import Settings
from hallmark.poc.specification import PoCManager
from hallmark.server.cli.client import PoCClient, ServerError, UnreachableError
from hallmark.server.cli.queue.server_engine import ServerEngine
from hallmark.server.processes.child import free_port

ROWS = {"seq_len": 16}
"""A round of two numbers a nonce."""


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
async def manager(engine: Engine) -> AsyncIterator[PoCManager]:
    async with running_manager(engine) as manager:
        yield manager


@pytest.fixture
async def url(manager: PoCManager) -> AsyncIterator[str]:
    async with serving(application(manager)) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[PoCClient]:
    with PoCClient(url, timeout=60, use_proxies=False) as client:
        yield client


@pytest.fixture
def worker(client: PoCClient) -> ServerEngine:
    return ServerEngine(client, "w1")


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """Whoever else uses the server."""
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
        yield http


async def set_round(worker: ServerEngine, **changes: Any) -> Round:
    """What a worker does before it computes."""
    body = small_request(**changes)
    return Round.resolve(PoCConfig.parse(body), await asyncio.to_thread(worker.facts_of, body))


def claims(
    round_: Round, nonces: Sequence[int] = range(4), provers: int = 3, **changes: Any
) -> list[ProofBatch]:
    """Of each prover the same nonces, whatever it says of them."""
    return [
        make_batch(
            nonces,
            **{
                "public_key": f"prover {number}",
                "block_hash": round_.config.block_hash,
                "block_height": round_.config.block_height + number,
                "node_id": number,
                **changes,
            },
        )
        for number in range(provers)
    ]


def keys_of(batches: Sequence[ProofBatch]) -> list[NonceKey]:
    return [(batch.public_key, nonce) for batch in batches for nonce in batch.nonces]


def computed(round_: Round, keys: Sequence[NonceKey]) -> dict[NonceKey, list[float]]:
    """From an engine of its own, each number as a half."""
    engine = Engine()
    asyncio.run(engine.open_round(round_.spec()))
    found = [engine.numbers([key])[0] for key in keys]
    return dict(zip(keys, np.array(found).astype(np.float16).astype(float).tolist(), strict=True))


KINDS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "tokens, rows": ROWS,
    "tokens, rows of three numbers": {"seq_len": 16, "numbers": 3},
    "tokens, last": {"seq_len": 16, "inputs": "tokens", "readout": "last"},
    "normal, last": {"inputs": "normal", "input_scale": 0.5},
    "normal, rows": {"seq_len": 16, "inputs": "normal", "readout": "rows", "honest_sigma": 0.1},
    "vocabulary": {"vocabulary": 4096, "first": "none"},
    "vocabulary of normal inputs": {"inputs": "normal", "vocabulary": 4000, "first": 7},
    "small vocabulary": {"vocabulary": 4000},
    "last row of the table": {"first": 4095},
    "no projections": {"use_random_projection": False},
    "tokens without projections": {"use_random_projection": False, "inputs": "tokens", **ROWS},
    "projection scale": {"projection_scale": 0.02},
    "model": {"model": "tiny"},
    "lowered batches": {"batch_size": 1000},
    "valid rate": {"valid_rate": 0.5, "distance_tolerance": None},
    "sigma": {"honest_sigma": 0.2, "honest_kurtosis": 4},
    "vectors": {"vectors": "required", **ROWS},
    "nodes": {"node_id": 7, "node_count": 8, "group_id": 1, "n_groups": 2, "url": "http://receiver:9"},
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_round_is_what_the_server_makes_of_it(
    engine: Engine, worker: ServerEngine, http: httpx.AsyncClient, kind: str
) -> None:
    theirs = Round.resolve(PoCConfig.parse(small_request(**KINDS[kind])), engine.model)
    ours = await set_round(worker, **KINDS[kind])
    assert ours == theirs
    shown = (await http.get(f"{POC}/status")).json()
    assert (shown["state"], shown["config"]["round"]) == ("VALIDATING", ours.digest)
    assert shown["config"]["public_key"] == "verification by w1"
    assert shown["config"]["callback_url"] is None
    batches = claims(ours)
    found = await asyncio.to_thread(worker.numbers, ours, batches)
    assert found == await asyncio.to_thread(computed, theirs, keys_of(batches))
    assert {len(numbers) for numbers in found.values()} == {ours.numbers}


@pytest.mark.parametrize(
    "facts",
    [{"first": 3}, {"first": 4096}, {"vocabulary": 4000}, {"vocabulary": 0}, {"max_sequences": 3}],
    ids=str,
)
@pytest.mark.parametrize("changes", [{}, ROWS, {"inputs": "normal"}], ids=["short", "rows", "normal"])
async def test_what_the_model_decides_is_told(
    engine: Engine, worker: ServerEngine, facts: dict[str, Any], changes: dict[str, Any]
) -> None:
    engine.model = replace(engine.model, **facts)
    theirs = Round.resolve(PoCConfig.parse(small_request(**changes)), engine.model)
    assert await set_round(worker, **changes) == theirs


async def test_the_same_round_is_set_once_whoever_the_provers_are(
    engine: Engine, worker: ServerEngine, manager: PoCManager
) -> None:
    facts = await asyncio.to_thread(worker.facts_of, small_request())
    active = manager.active
    for changes in ({}, {"public_key": "another"}, {"node_id": 3, "node_count": 4}, {"vectors": "required"}):
        assert await asyncio.to_thread(worker.facts_of, small_request(**changes)) == facts
        await asyncio.to_thread(worker.numbers, await set_round(worker, **changes), [])
    assert manager.active is active
    await set_round(worker, block_hash="another")
    assert engine.calls.count("open") == 2


async def test_the_fingerprint_is_the_servers_without_the_shape_of_batches(
    engine: Engine, worker: ServerEngine
) -> None:
    assert worker.fingerprint is None
    assert await asyncio.to_thread(lambda: worker.numerics) == engine.numerics
    await set_round(worker)
    assert worker.numerics == engine.numerics


async def test_a_round_that_is_not_set_yet_is_set_to_compute(worker: ServerEngine, client: PoCClient) -> None:
    first, second = await set_round(worker), await set_round(worker, **ROWS)
    for round_ in (first, second, first):
        found = await asyncio.to_thread(worker.numbers, round_, claims(round_, [5], 1))
        assert found == await asyncio.to_thread(computed, round_, [("prover 0", 5)])
    anew = ServerEngine(client, "w1")
    assert await asyncio.to_thread(anew.numbers, second, claims(second, [5], 1))


async def test_batches_are_filled_with_nonces_of_several_provers(
    engine: Engine, worker: ServerEngine, manager: PoCManager
) -> None:
    round_ = await set_round(worker)
    batches = claims(round_, provers=6)
    engine.hold()
    computing = asyncio.create_task(asyncio.to_thread(worker.numbers, round_, batches))
    await eventually(lambda: snapshot(manager)["validation"]["queued_jobs"] == 6)
    engine.release()
    assert (await computing).keys() == set(keys_of(batches))
    # One begins with whatever comes first.
    first, *others = engine.keys
    assert [len(keys) for keys in others[:-1]] == [8] * (len(others) - 1)
    assert len(others) == math.ceil((24 - len(first)) / 8)
    assert len({public_key for public_key, _ in others[0]}) > 1
    assert Counter(key for keys in engine.keys for key in keys) == Counter(keys_of(batches))


async def test_what_a_prover_says_besides_its_nonces_changes_nothing(worker: ServerEngine) -> None:
    round_ = await set_round(worker, **ROWS)
    said: dict[str, Any] = {
        "covered": (0, 63),
        "failed_nonces": (60, 61),
        "round_digest": "0" * 64,
        "round_settings": {"seq_len": "8"},
        "numerics": {"dtype": "bfloat16", "torch": "1.0"},
    }
    plain, told = claims(round_, provers=1), claims(round_, provers=1, **said)
    found = [await asyncio.to_thread(worker.numbers, round_, batches) for batches in (plain, told)]
    assert found[0] == found[1]


async def test_failed_nonces_are_not_numbers(engine: Engine, worker: ServerEngine) -> None:
    round_ = await set_round(worker, **ROWS)
    engine.failed_nonces = {2}
    found = await asyncio.to_thread(worker.numbers, round_, claims(round_))
    failed = {key for key, numbers in found.items() if all(map(math.isnan, numbers))}
    assert failed == {(f"prover {number}", 2) for number in range(3)}
    finite = [numbers for key, numbers in found.items() if key not in failed]
    assert np.isfinite(finite).all()
    assert np.shape(finite) == (9, 2)
    engine.failed_nonces = {0, 1, 2, 3}
    found = await asyncio.to_thread(worker.numbers, round_, claims(round_))
    assert np.isnan([*found.values()]).all()
    assert np.shape([*found.values()]) == (12, 2)


class TestAnothersRound:
    """A server that has something else to do is left alone."""

    @pytest.mark.parametrize(
        ("path", "state"),
        [("/init", "IDLE"), ("/init/validate", "VALIDATING"), ("/init/generate", "GENERATING")],
    )
    async def test_is_not_disturbed(
        self, worker: ServerEngine, http: httpx.AsyncClient, manager: PoCManager, path: str, state: str
    ) -> None:
        await http.post(POC + path, json=small_request(block_hash="theirs"))
        active = manager.active
        with pytest.raises(StateError) as refused:
            await asyncio.to_thread(worker.facts_of, small_request())
        assert str(refused.value) == (
            f"the server has a round of its own ({state}, block 'theirs', public key '02a1b2c3')"
        )
        assert manager.active is active
        assert manager.state == state
        await http.post(f"{POC}/stop")
        await set_round(worker)

    async def test_that_was_interrupted_is_not_given_up(self, tmp_path: Path) -> None:
        @asynccontextmanager
        async def started() -> AsyncIterator[tuple[PoCManager, PoCClient]]:
            manager = PoCManager(Engine(), QUICK, Outbox(QUICK, OutboxStore(tmp_path / "outbox.db")))
            await manager.recover()
            async with serving(application(manager)) as url:
                with PoCClient(url, use_proxies=False) as client:
                    yield manager, client

        async with started() as (manager, _):
            await manager.start_round(PoCConfig(**small_request()))
        async with started() as (manager, client):
            worker = ServerEngine(client, "w1")
            with pytest.raises(StateError, match=r"interrupted in GENERATING, block '0x8d3f2a'"):
                await asyncio.to_thread(worker.facts_of, small_request())
            assert manager.interrupted is not None
            await asyncio.to_thread(client.post, "/stop")
            await set_round(worker)
        async with started() as (manager, client):
            assert manager.interrupted is not None
            # What a worker had is nobody's to go on with.
            await set_round(ServerEngine(client, "w2"))

    async def test_in_the_place_of_ours_is_not_disturbed_either(
        self, worker: ServerEngine, http: httpx.AsyncClient
    ) -> None:
        round_ = await set_round(worker)
        await http.post(f"{POC}/init/validate", json=small_request(block_hash="theirs"))
        for _ in range(2):
            with pytest.raises(StateError, match="the server has a round of its own"):
                await asyncio.to_thread(worker.numbers, round_, claims(round_))
        await http.post(f"{POC}/stop")
        assert await asyncio.to_thread(worker.numbers, round_, claims(round_))

    async def test_of_another_worker_is_replaced_once_nothing_is_queued(
        self, engine: Engine, worker: ServerEngine, client: PoCClient
    ) -> None:
        other = ServerEngine(client, "w2")
        round_ = await set_round(worker)
        engine.hold()
        computing = asyncio.create_task(asyncio.to_thread(worker.numbers, round_, claims(round_)))
        await eventually(lambda: engine.keys)
        with pytest.raises(StateError, match="public key 'verification by w1'"):
            await asyncio.to_thread(other.facts_of, small_request(block_hash="another"))
        engine.release()
        first = await computing
        theirs = await set_round(other, block_hash="another")
        assert await asyncio.to_thread(other.numbers, theirs, claims(theirs))
        assert await asyncio.to_thread(worker.numbers, round_, claims(round_)) == first


class TestARoundThatIsGone:
    """The worker sets its round again, once."""

    @pytest.mark.parametrize("path", ["/stop", "/init/validate"])
    async def test_before_anything_is_computed(
        self, worker: ServerEngine, http: httpx.AsyncClient, path: str
    ) -> None:
        round_ = await set_round(worker)
        # Another round of the same block and owner, as of an earlier life of the worker.
        body = small_request(public_key="verification by w1", seq_len=9) if path == "/init/validate" else None
        (await http.post(POC + path, json=body)).raise_for_status()
        batches = claims(round_)
        found = await asyncio.to_thread(worker.numbers, round_, batches)
        assert found == await asyncio.to_thread(computed, round_, keys_of(batches))

    async def test_in_the_middle(
        self, engine: Engine, worker: ServerEngine, http: httpx.AsyncClient, manager: PoCManager
    ) -> None:
        round_ = await set_round(worker)
        batches = claims(round_)
        engine.hold()
        computing = asyncio.create_task(asyncio.to_thread(worker.numbers, round_, batches))
        await eventually(lambda: snapshot(manager)["validation"]["queued_jobs"] == 3)
        stopping = asyncio.create_task(http.post(f"{POC}/stop"))
        await eventually(lambda: manager.state == "STOPPED")
        engine.release()
        found = await computing
        await stopping
        assert found == await asyncio.to_thread(computed, round_, keys_of(batches))
        assert engine.calls.count("open") == 2

    async def test_because_the_engine_fails(self, engine: Engine, worker: ServerEngine) -> None:
        round_ = await set_round(worker)
        engine.fail_compute = EngineError("rank 0 is out of memory")
        with pytest.raises(EngineError, match="rank 0 is out of memory"):
            await asyncio.to_thread(worker.numbers, round_, claims(round_))
        assert engine.calls.count("open") == 2
        engine.fail_compute = None
        assert await asyncio.to_thread(worker.numbers, round_, claims(round_))

    async def test_since_the_server_was_started_with_another_dtype(
        self, engine: Engine, worker: ServerEngine, http: httpx.AsyncClient
    ) -> None:
        round_ = await set_round(worker)
        await http.post(f"{POC}/stop")
        said = "the server has been started anew with another dtype"
        engine.numerics = {**engine.numerics, "dtype": "float16"}
        with pytest.raises(StateError, match=said):
            await asyncio.to_thread(worker.numbers, round_, claims(round_))
        # It is said once, and then reckoned with.
        facts = await asyncio.to_thread(worker.facts_of, small_request())
        assert facts.dtype == worker.numerics["dtype"] == "float16"
        assert await asyncio.to_thread(worker.numbers, round_, claims(round_))
        engine.numerics = {**engine.numerics, "dtype": "float32"}
        with pytest.raises(StateError, match=said):
            await asyncio.to_thread(worker.facts_of, small_request(block_hash="another"))
        assert (await asyncio.to_thread(worker.facts_of, small_request())).dtype == "float32"

    async def test_since_the_server_was_started_with_another_model(
        self, engine: Engine, worker: ServerEngine, http: httpx.AsyncClient
    ) -> None:
        round_ = await set_round(worker)
        await http.post(f"{POC}/stop")
        engine.model = replace(engine.model, first=3)
        for _ in range(2):
            with pytest.raises(StateError, match="the server has been started anew with another model"):
                await asyncio.to_thread(worker.numbers, round_, claims(round_))


class TestRefusals:
    """What a server does not compute is said in its words."""

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"numerics": {"dtype": "float16"}}, "it would be judged in dtype 'bfloat16'"),
            ({"block_hash": "another"}, "the batch is about block 'another'"),
        ],
        ids=["dtype", "block"],
    )
    async def test_of_a_batch(
        self, engine: Engine, worker: ServerEngine, changes: dict[str, Any], expected: str
    ) -> None:
        round_ = await set_round(worker)
        batches = [*claims(round_, provers=1), *claims(round_, provers=1, public_key="odd", **changes)]
        with pytest.raises(EngineError, match=f"the server computes no batch of 'odd': .*{expected}"):
            await asyncio.to_thread(worker.numbers, round_, batches)
        assert engine.calls.count("open") == 1

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"model": "large"}, "the round is about model 'large', this server serves tiny"),
            ({"seq_len": 2000}, "seq_len: 2000 is not allowed"),
        ],
        ids=["model", "seq_len"],
    )
    async def test_of_a_round(
        self, worker: ServerEngine, manager: PoCManager, changes: dict[str, Any], expected: str
    ) -> None:
        with pytest.raises(UnsupportedError, match=f"the server cannot compute the round: {expected}"):
            await asyncio.to_thread(worker.facts_of, small_request(**changes))
        assert manager.active is None

    async def test_of_a_stranger(self, engine: Engine) -> None:
        async with (
            running_manager(engine, Settings(api_key=SecretStr("secret"))) as manager,
            serving(application(manager)) as url,
        ):
            with (
                PoCClient(url, "guessed", use_proxies=False) as client,
                pytest.raises(ServerError) as refused,
            ):
                await asyncio.to_thread(ServerEngine(client, "w1").facts_of, small_request())
        assert refused.value.status == 401


class TestAFullQueue:
    @pytest.fixture
    async def manager(self, engine: Engine) -> AsyncIterator[PoCManager]:
        async with running_manager(engine, Settings(max_queued_nonces=10)) as manager:
            yield manager

    async def test_is_waited_for(self, worker: ServerEngine, url: str) -> None:
        round_ = await set_round(worker)
        batches = claims(round_, range(8))
        found = await asyncio.to_thread(worker.numbers, round_, batches)
        assert found == await asyncio.to_thread(computed, round_, keys_of(batches))

    async def test_is_not_waited_for_beyond_the_clients_patience(
        self, engine: Engine, url: str, http: httpx.AsyncClient
    ) -> None:
        with PoCClient(url, timeout=0.5, use_proxies=False) as client:
            worker = ServerEngine(client, "w1")
            round_ = await set_round(worker)
            engine.hold()
            [others] = claims(round_, range(8), 1, block_height=7)
            queued = await http.post(f"{POC}/validate?wait=false", json=others.as_dict())
            assert queued.status_code == 202
            with pytest.raises(ServerError, match="would exceed the limit of 10") as refused:
                await asyncio.to_thread(worker.numbers, round_, claims(round_))
        assert refused.value.status == 429

    async def test_that_never_takes_a_batch_is_a_refusal(self, worker: ServerEngine) -> None:
        round_ = await set_round(worker)
        with pytest.raises(EngineError, match="1 to 10 nonces to judge"):
            await asyncio.to_thread(worker.numbers, round_, claims(round_, range(11), 1))


async def test_a_server_that_is_away_is_named(manager: PoCManager) -> None:
    with PoCClient(f"http://127.0.0.1:{free_port()}", use_proxies=False) as client:
        worker = ServerEngine(client, "w1")
        with pytest.raises(UnreachableError, match=client.url):
            await asyncio.to_thread(worker.facts_of, small_request())
        with pytest.raises(UnreachableError, match=client.url):
            await asyncio.to_thread(lambda: worker.numerics)
    async with serving(application(manager)) as url:
        client = PoCClient(url, use_proxies=False)
        worker = ServerEngine(client, "w1")
        round_ = await set_round(worker)
    with client:
        with pytest.raises(UnreachableError, match=url):
            await asyncio.to_thread(worker.numbers, round_, claims(round_))
        # It is no longer ready for the round.
        with pytest.raises(UnreachableError, match=url):
            await asyncio.to_thread(worker.facts_of, small_request())


class _Altered(httpx.HTTPTransport):
    """A way to the server on which something of a request is lost."""

    def __init__(self, alter: Callable[[httpx.Request], httpx.Request]) -> None:
        super().__init__()
        self._alter = alter

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return super().handle_request(self._alter(request))


def altered(url: str, alter: Callable[[httpx.Request], httpx.Request]) -> PoCClient:
    client = PoCClient(url, use_proxies=False)
    client.http.close()
    client.http = httpx.Client(base_url=client.url, transport=_Altered(alter))
    return client


async def test_a_server_that_tells_no_numbers_is_no_help(url: str) -> None:
    """One of an older Hallmark passes over the parameter."""

    def alter(request: httpx.Request) -> httpx.Request:
        request.url = request.url.copy_remove_param("vectors")
        return request

    with altered(url, alter) as client:
        worker = ServerEngine(client, "w1")
        round_ = await set_round(worker)
        with pytest.raises(EngineError, match="its Hallmark is older than the worker's"):
            await asyncio.to_thread(worker.numbers, round_, claims(round_))


async def test_a_round_that_the_server_resolves_otherwise_is_refused(url: str) -> None:
    """By rules of another version, for which another scale stands here."""

    def alter(request: httpx.Request) -> httpx.Request:
        if not request.url.path.endswith("/init/validate"):
            return request
        body = {**json.loads(request.content), "projection_scale": 0.25}
        return httpx.Request(request.method, request.url, json=body)

    with altered(url, alter) as client:
        worker = ServerEngine(client, "w1")
        for _ in range(2):
            with pytest.raises(StateError, match="the server resolves the round to the settings"):
                await asyncio.to_thread(worker.facts_of, small_request())


async def test_closing_stops_ones_own_round_only(
    client: PoCClient, worker: ServerEngine, manager: PoCManager, http: httpx.AsyncClient
) -> None:
    await asyncio.to_thread(worker.close)
    assert manager.state == "IDLE"
    await set_round(worker)
    await asyncio.to_thread(worker.close)
    assert manager.state == "STOPPED"
    await set_round(worker)
    await http.post(f"{POC}/init/validate", json=small_request())
    await asyncio.to_thread(worker.close)
    assert manager.state == "VALIDATING"
