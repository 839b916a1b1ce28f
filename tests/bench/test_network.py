"""The simulation of a network, at small size: nothing is lost or counted twice; what is too much waits."""

import json
from dataclasses import replace
from typing import Any

import network
import pytest
from _network import Cost, Network, Outage, Part, Ran, simulate
from _network_bodies import FORWARD, BodySizes, Prover, round_of, sizes
from _report import RESULTS

from hallmark.poc.protocol.proof import ProofBatch

BODIES, VERDICTS = BodySizes(1_000.0, 75.0), BodySizes(1_000.0, 200.0)
OUTAGES = (Outage(13.0, 20.0, 2), Outage(70.0, 6.0, 1))


def small(**changes: Any) -> Network:
    """A network of twenty nodes for two minutes, with twice the parts that it needs."""
    made = Network(
        nodes=20,
        bodies=BODIES,
        verdicts=VERDICTS,
        receivers=Part(2, Cost(0.002, 6e-6)),
        databases=Part(1, Cost(0.001, 2e-6)),
        sample=40,
        verifiers=1,
        round_seconds=60.0,
        rounds=2,
        drain=200.0,
    )
    return replace(made, **changes)


def check_conserved(made: Network, ran: Ran) -> None:
    """That everything was made, stored once, drawn and judged."""
    batches = made.nodes * made.batches_of_round * made.rounds
    drawn = made.nodes * (made.rounds // made.one_round_of)
    assert ran.made == ran.stored == ran.acknowledged == batches == int(ran.lags.sum())
    assert ran.rounds_delivered == made.nodes * made.rounds
    assert ran.samples == ran.verdicts == len(ran.verdict_lags) == drawn
    assert ran.judged == drawn * made.drawn
    assert ran.judged <= ran.recomputed < ran.judged + FORWARD * (made.rounds + 1)
    assert ran.recomputed % FORWARD == 0
    expected = batches * made.bodies.of(made.batch) + drawn * made.verdicts.of(made.drawn)
    assert ran.bytes_stored == pytest.approx(expected, rel=1e-9)
    assert ran.ended is not None


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"outages": OUTAGES},
        {"outages": OUTAGES, "receivers": Part(2, Cost(0.02, 4e-5)), "timeout": 0.5},
        {"one_round_of": 2, "of_each_batch": False},
        {"interval": 0.5, "jitter": 0.9, "start_spread": 0.0},
        {"drops_bodies": True},
    ],
)
def test_every_batch_is_stored_once_and_every_sample_judged(changes: dict[str, Any], seed: int) -> None:
    made = small(seed=seed, **changes)
    check_conserved(made, simulate(made))


def test_what_was_stored_but_not_acknowledged_is_delivered_again() -> None:
    slow = small(start_spread=0.1, receivers=Part(2, Cost(0.08, 0.0)), timeout=0.3)
    ran = simulate(slow)
    check_conserved(slow, ran)
    assert ran.failed >= ran.repeated > 0
    calm = simulate(small())
    assert calm.failed == calm.repeated == 0


def test_an_outage_fills_outboxes_and_leaves_nothing_in_them() -> None:
    without, away = simulate(small()), simulate(small(outages=OUTAGES[:1]))
    assert without.most_in_outbox <= 1
    assert away.most_in_outbox >= 3
    assert away.most_waiting >= 20 * 3
    lag, calm = away.lag(0.99), without.lag(0.99)
    assert lag is not None
    assert calm is not None
    assert lag > 10 > calm


def test_the_work_of_parts_is_what_the_load_says() -> None:
    made = small(nodes=50)
    ran = simulate(made)
    for part, count in (("receivers", 2), ("databases", 1), ("verifiers", 1)):
        # Verifiers fill up the last batch.
        assert ran.busy[part] == pytest.approx(made.loads[part] * count * ran.seconds, rel=0.05), part


def test_twice_the_nodes_are_twice_the_rows_bytes_and_work() -> None:
    one, two = small(), small(nodes=40)
    assert two.rows_of_round == 2 * one.rows_of_round
    ran, twice = simulate(one), simulate(two)
    for name in ("made", "stored", "verdicts", "judged", "rounds_delivered"):
        assert getattr(twice, name) == 2 * getattr(ran, name), name
    assert twice.bytes_stored == pytest.approx(2 * ran.bytes_stored)
    for part in ("receivers", "databases"):
        assert twice.busy[part] == pytest.approx(2 * ran.busy[part]), part
        assert two.loads[part] == pytest.approx(2 * one.loads[part])


@pytest.mark.parametrize("part", ["receivers", "databases"])
def test_a_part_below_the_load_makes_the_line_grow_and_above_it_does_not(part: str) -> None:
    cost = Cost(1.0, 0.0)
    # 20 nodes deliver four batches a second.
    for each, is_enough in ((0.2, True), (0.3, False)):
        made = small(**{part: Part(1, replace(cost, batch=each))}, drain=1.0)
        first, second = (ran := simulate(made)).waiting
        assert (made.loads[part] < 1.0) is is_enough
        if is_enough:
            assert max(first, second) <= 20
        else:
            assert second > first + 20
            assert ran.ended is None


def test_too_few_verifiers_leave_provers_without_a_verdict() -> None:
    made = small(verifier_rate=5.0)
    assert made.loads["verifiers"] > 1.0
    ran = simulate(made)
    assert 0 < ran.verdicts < ran.samples == 40
    check_conserved(small(), simulate(replace(made, verifiers=20)))


def test_of_small_batches_more_is_recomputed() -> None:
    assert small(of_each_batch=False).drawn == 40
    # Nearly every one of 1,875 batches has none of the 40.
    assert small(interval=0.032).drawn == pytest.approx(1_875, abs=2)
    assert small(interval=60.0).drawn == 40


def test_what_has_its_verdict_need_not_be_kept() -> None:
    made = small(drops_bodies=True)
    dropped, kept = simulate(made), simulate(small())
    assert kept.bytes_kept == kept.bytes_stored == dropped.bytes_stored
    assert dropped.most_bytes_kept < 0.7 * kept.most_bytes_kept
    assert dropped.bytes_kept == pytest.approx(dropped.verdicts * made.verdicts.of(made.drawn))


@pytest.mark.parametrize("has_vectors", [True, False])
@pytest.mark.parametrize("n_nonces", [1, 50, 5_000])
def test_bodies_are_as_long_as_said(n_nonces: int, has_vectors: bool) -> None:
    prover = Prover(round_of("02" + "ab" * 32, 5_000, 10_000), seed=3)
    body = prover.delivery(n_nonces, has_vectors=has_vectors)
    proof = ProofBatch.parse(json.loads(body))
    assert len(proof.nonces) == n_nonces
    assert (proof.numbers() is not None) is has_vectors
    proof.check_against(prover.round)
    assert len(body) == pytest.approx(sizes("generated", has_vectors=has_vectors).of(n_nonces), rel=0.02)


def test_a_verdict_of_a_sample_is_shorter_than_one_of_its_whole_batch() -> None:
    prover = Prover(round_of("02" + "ab" * 32, 5_000, 10_000))
    alone, whole = json.loads(prover.verdict(109)), json.loads(prover.verdict(5_000, 109))
    assert alone["verdict"] == whole["verdict"] == "honest"
    assert sum(each is not None for each in whole["dist"]) == alone["n_judged"] == 109
    assert len(json.dumps(whole)) > 10 * len(json.dumps(alone))


def test_what_is_asked_is_asked_once_and_done() -> None:
    path = sorted(RESULTS.glob("network-cpu-*.json"))[-1]
    rows = [row for row in json.loads(path.read_text(encoding="utf-8"))["rows"] if row["what"] == "asked"]
    assert len(rows) >= 8
    for row in rows:
        assert row["batches made"] == row["batches stored"]
        assert row["samples"] == row["verdicts"] == row["nodes"]
        assert row["repeated deliveries"] == row["failed attempts"] == 0
        assert row["judged"] == row["nodes"] * row["drawn"]


def test_the_results_are_those_of_their_seed() -> None:
    """Of one remedy: the file says what the simulation says today."""
    path = sorted(RESULTS.glob("network-cpu-*.json"))[-1]
    results = json.loads(path.read_text(encoding="utf-8"))
    costs = network.Costs(
        Cost(**results["costs"]["receiver"]), Cost(**results["costs"]["database"]), results["costs"]["source"]
    )
    remedy = next(each for each in network.remedies(costs) if each.change == "two receivers")
    rows = [json.loads(json.dumps(row)) for row in remedy.rows()]
    assert rows == [row for row in results["rows"] if row.get("change") == remedy.change]
    source = RESULTS / results["costs"]["source"]
    assert network.Costs.measured(source) == costs, "run: python -P bench/network.py"
