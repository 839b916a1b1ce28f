"""The pool of Ray's actors, on two nodes of a real cluster, with a model that is small and real."""

import json
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import ray._raylet
import torch
from offline_proofs import short_config
from pool_loaders import NODE_DTYPE, DeadlyLoader, FatalLoader, NodesOwnLoader
from ray_processes import RayNodes, ray_cluster, wait_for

from hallmark.poc.actors import pool as pool_module
from hallmark.poc.actors.pool import ActorPool, PoolLoader
from hallmark.poc.core.errors import EngineError, FieldError
from hallmark.poc.offline.engine import Batch, OfflineEngine, deployed
from hallmark.poc.offline.model import TransformersLoader
from hallmark.poc.offline.model_files import model_fingerprint
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.round import Round
from hallmark.server.models.small import build_small_model, fast_dtype

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

KEY = short_config().public_key
Numbers = dict[NonceKey, list[float]]


@dataclass(frozen=True)
class Model:
    """A model's loader, and what it computes in one process."""

    loader: TransformersLoader
    alone: OfflineEngine

    def batches(self, count: int) -> list[Batch]:
        tokens = short_config().batch_size * short_config().seq_len
        round_ = Round.resolve(short_config(), deployed(self.alone.facts, "", tokens))
        size = round_.batch_size
        # The last one is not full.
        keys = [(KEY, nonce) for nonce in range(count * size - 3)]
        return [
            Batch(round_.spec(), tuple(keys[start : start + size])) for start in range(0, len(keys), size)
        ]

    def deadly(self, nonce: int) -> DeadlyLoader:
        return DeadlyLoader(self.loader.directory, "cpu", self.loader.dtype, nonce)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    directory = tmp_path_factory.mktemp("model")
    build_small_model(directory)
    loader = TransformersLoader(directory, "cpu", fast_dtype())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Model(loader, loader.load())
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    handler = signal.getsignal(signal.SIGTERM)
    with ray_cluster(tmp_path_factory.mktemp("ray"), **{NODE_DTYPE: "float32"}) as cluster:
        yield cluster
    # Ray has put its own there.
    signal.signal(signal.SIGTERM, handler)


def numbers(engine: OfflineEngine, batches: Sequence[Batch]) -> Numbers:
    """What an engine computes, each batch once."""
    found: Numbers = {}
    for batch, computed in engine.compute(iter(batches)):
        assert not found.keys() & set(batch.keys)
        found |= zip(batch.keys, computed, strict=True)
    return found


@pytest.fixture(scope="module")
def pool(nodes: RayNodes, model: Model) -> Iterator[ActorPool]:
    made = PoolLoader(model.loader, nodes.address, gpus=0, batches=8).load()
    yield made
    made.close()
    wait_for(lambda: not nodes.actors())


def test_two_nodes_compute_the_bits_of_one_process(pool: ActorPool, model: Model) -> None:
    batches = model.batches(12)
    assert numbers(pool, batches) == numbers(model.alone, batches)
    assert (pool.facts, pool.numerics) == (model.alone.facts, model.alone.numerics)
    assert pool.fingerprint == model_fingerprint(model.loader.directory)


def test_what_is_asked_for_twice_is_computed_twice(pool: ActorPool, model: Model) -> None:
    """Whoever stops in the middle leaves nothing behind that the next one would get."""
    first = model.batches(12)
    for _ in pool.compute(iter(first)):
        break
    batches = model.batches(3)
    assert numbers(pool, batches) == numbers(model.alone, batches)
    assert numbers(pool, []) == {}


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
def test_an_actor_that_dies_or_stands_still_holds_up_nobody(
    pool: ActorPool, model: Model, nodes: RayNodes, sent: signal.Signals
) -> None:
    wait_for(lambda: len(nodes.actors()) == 2)
    victim = nodes.actors()[0]
    batches = model.batches(40)
    found: Numbers = {}
    for batch, computed in pool.compute(batches):
        if not found:
            os.kill(victim, sent)
        assert not found.keys() & set(batch.keys)
        found |= zip(batch.keys, computed, strict=True)
    if sent is signal.SIGSTOP:
        os.kill(victim, signal.SIGCONT)
    assert found == numbers(model.alone, batches)


def test_a_batch_that_kills_its_actors_ends_the_run(nodes: RayNodes, model: Model, pool: ActorPool) -> None:
    pool.close()
    wait_for(lambda: not nodes.actors())
    deadly = ActorPool.connect(model.deadly(17), nodes.address, gpus=0, batches=4)
    with pytest.raises(EngineError) as caught:
        numbers(deadly, model.batches(4))
    deadly.close()
    assert str(caught.value).startswith(
        f"the batch of 8 nonces that begins with nonce 16 of {KEY} has ended its actor 3 times, the last on "
    )


@pytest.mark.slow
def test_an_actor_that_dies_while_it_loads_is_not_started_for_ever(nodes: RayNodes, model: Model) -> None:
    loader = FatalLoader(model.loader.directory)
    with pytest.raises(
        EngineError, match=r"^an actor on \S+ \(\w+\) has died 3 times while it loaded its model: "
    ):
        ActorPool.connect(loader, nodes.address, gpus=0)
    wait_for(lambda: not nodes.actors())


def test_actors_that_compute_different_things_end_the_run(nodes: RayNodes, model: Model) -> None:
    loader = NodesOwnLoader(model.loader.directory, "cpu", "bfloat16")
    different = ActorPool.connect(loader, nodes.address, gpus=0, batches=40)
    with pytest.raises(EngineError) as caught:
        numbers(different, model.batches(400))
    different.close()
    said = str(caught.value)
    assert said.startswith("actors compute different things: ")
    assert "dtype 'float32' and not 'bfloat16'" in said or "dtype 'bfloat16' and not 'float32'" in said
    assert said.endswith(" has")
    assert len(set(said.split()) & {word for word in said.split() if word.startswith("(")}) == 2, "both nodes"


def test_a_model_that_changes_ends_the_run(nodes: RayNodes, model: Model, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    build_small_model(directory)
    changing = ActorPool.connect(TransformersLoader(directory, "cpu"), nodes.address, gpus=0, batches=1)
    weights = directory / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(EngineError, match="model's files '"):
        numbers(changing, model.batches(400))
    changing.close()


def test_a_folder_is_refused_in_the_words_of_one_process(nodes: RayNodes, tmp_path: Path) -> None:
    loader = TransformersLoader(tmp_path, "cpu")
    with pytest.raises(FieldError) as alone:
        loader.load()
    with pytest.raises(FieldError) as pooled:
        ActorPool.connect(loader, nodes.address, gpus=0)
    assert str(pooled.value) == str(alone.value)
    assert pooled.value.field == alone.value.field == "model"


def test_a_node_with_another_hallmark_is_told(
    nodes: RayNodes, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = version("hallmark-poc")
    monkeypatch.setattr(pool_module, "version", lambda _: "9.9")
    with pytest.raises(EngineError, match=rf" has Hallmark {installed}, and not 9.9 as this process has$"):
        ActorPool.connect(model.loader, nodes.address, gpus=0)


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        ({"gpus": 2}, "gpus: 2 is not allowed; allowed: what one node has; the cluster's nodes have "),
        (
            {"gpus": 1, "cpus": 2},
            "cpus: 2 is not allowed; allowed: what one node has; the cluster's nodes have ",
        ),
        ({"gpus": 0, "cpus": 0}, "cpus: 0 is not allowed; allowed: 1 or more where a model takes no GPU"),
    ],
)
def test_what_no_node_has_is_refused(nodes: RayNodes, model: Model, needs: dict[str, Any], said: str) -> None:
    with pytest.raises(FieldError) as caught:
        ActorPool.connect(model.loader, nodes.address, **needs)
    whole = said + "1 CPU and 1 GPU (2 nodes)" if said.endswith("have ") else said
    assert str(caught.value) == whole


def test_a_cluster_of_another_version_is_refused(nodes: RayNodes, model: Model) -> None:
    raylet: Any = ray._raylet
    client = raylet.GcsClient(address=nodes.address)
    kept = client.internal_kv_get(b"CLUSTER_METADATA", b"cluster")
    for name, what in (("ray_version", "Ray"), ("python_version", "Python")):
        changed = {**json.loads(kept), name: "1.2.3"}
        client.internal_kv_put(b"CLUSTER_METADATA", json.dumps(changed).encode(), True, b"cluster")
        try:
            with pytest.raises(FieldError) as caught:
                ActorPool.connect(model.loader, nodes.address)
        finally:
            client.internal_kv_put(b"CLUSTER_METADATA", kept, True, b"cluster")
        own = json.loads(kept)[name]
        assert str(caught.value).endswith(f"allowed: a cluster with {what} {own}, as here; it has 1.2.3")


@pytest.mark.parametrize("address", ["garbage", "a..b:6379", "host:port", "127.0.0.1:99999"])
def test_what_is_no_address_is_told(model: Model, address: str) -> None:
    with pytest.raises(FieldError, match="nobody listens there"):
        ActorPool.connect(model.loader, address)


def test_where_nothing_of_rays_answers_is_told(model: Model) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        # At first nobody listens, then somebody who says nothing.
        for _ in range(2):
            with pytest.raises(FieldError) as caught:
                ActorPool.connect(model.loader, address)
            assert (caught.value.field, caught.value.value) == ("ray", address)
            assert caught.value.allowed.startswith("HOST:PORT of a Ray cluster's head; ")
            silent.listen()


def test_a_node_that_dies_with_no_other_room_costs_nothing_but_time(model: Model, tmp_path: Path) -> None:
    with ray_cluster(tmp_path) as nodes:
        pool = ActorPool.connect(model.loader, nodes.address, gpus=0, batches=2)
        batches = model.batches(100)
        found: Numbers = {}
        for batch, computed in pool.compute(batches):
            if pool.status.at_work == 2 and len(nodes.raylets()) == 2:
                os.kill(nodes.raylets()[1], signal.SIGKILL)
            assert not found.keys() & set(batch.keys)
            found |= zip(batch.keys, computed, strict=True)
        assert len(nodes.raylets()) == 1
        pool.close()
    assert found == numbers(model.alone, batches)
