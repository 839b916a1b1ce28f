"""The journal of rounds: what is on the disk together, and what becomes of findings."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from builders import make_config
from hypothesis import given, settings
from hypothesis import strategies as st

from hallmark.poc.core.errors import OutboxError
from hallmark.poc.outbox import round_journal
from hallmark.poc.outbox.database import OutboxDatabase
from hallmark.poc.outbox.delivery_queue import DeliveryQueue
from hallmark.poc.outbox.round_journal import (
    InterruptedRound,
    JournalLimits,
    RoundJournal,
    journaled_rounds,
)
from hallmark.poc.protocol.config import PoCConfig, PoCState
from hallmark.poc.protocol.generated import ComputedSpan
from hallmark.poc.protocol.streams import PROTOCOL

IDLE, GENERATING, VALIDATING, STOPPED = PoCState

URL = "http://a.example"
CONFIG = make_config(node_id=3, node_count=10, callback_url=URL, r_target=1.4, input_scale=0.25)
TEMPLATE = {"public_key": "02a1b2c3", "protocol": PROTOCOL, "numerics": {"dtype": "bfloat16"}}
LIMITS = JournalLimits(max_payload_bytes=2**19, max_queued=1_000)


class Kept:
    """A journal, the queue beside it and the database below both."""

    def __init__(self, path: Path | None, limits: JournalLimits = LIMITS) -> None:
        self.database = OutboxDatabase(path)
        self.queue = DeliveryQueue(self.database)
        self.journal = RoundJournal(self.database, self.queue, limits)

    def begin(self, config: PoCConfig = CONFIG, phase: PoCState = GENERATING, now: float = 1e9) -> int:
        identifier, dropped = self.journal.begin(config, "the digest", TEMPLATE, phase, now)
        assert dropped == []
        return identifier

    def bodies(self) -> list[Any]:
        """The bodies in the queue."""
        return [body for _, body in self.queue.exported()]

    def recover(self, now: float = 1e9) -> InterruptedRound | None:
        interrupted, dropped = self.journal.recover(now)
        assert dropped == []
        return interrupted

    def interrupted(self) -> InterruptedRound:
        interrupted = self.recover()
        assert interrupted is not None
        return interrupted

    def rows(self, table: str) -> int:
        with self.database.reading() as connection:
            rows: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
            return rows


@pytest.fixture
def kept() -> Iterator[Kept]:
    kept = Kept(None)
    with closing(kept.database):
        yield kept


def walked(
    first: int, nonces: tuple[int, ...] = (), failed: tuple[int, ...] = (), count: int = 4
) -> ComputedSpan:
    return ComputedSpan(
        covered=(first, first + count - 1),
        nonces=nonces,
        dist=(1.25,) * len(nonces),
        vectors=("AAA=",) * len(nonces),
        failed_nonces=failed,
    )


class TestRecord:
    """Where the round stands, and what it found on the way there."""

    def test_position_and_counts_go_on(self, kept: Kept) -> None:
        identifier = kept.begin()
        kept.journal.record(identifier, [walked(0, (3, 13)), walked(4)], 1e9 + 1)
        kept.journal.record(identifier, [walked(8, (83,), (93, 103), count=7)], 1e9 + 2)
        assert kept.interrupted() == InterruptedRound(
            identifier, CONFIG, "the digest", GENERATING, 15, 3, 2, 1e9, 1e9 + 2, None
        )

    def test_both_are_written_or_neither(self, kept: Kept) -> None:
        identifier = kept.begin()
        kept.journal.record(identifier, [walked(0, (3,))], 1e9)
        with kept.database.transaction() as connection:
            connection.execute("ALTER TABLE findings RENAME TO elsewhere")
        with pytest.raises(OutboxError, match="no such table"):
            kept.journal.record(identifier, [walked(4), walked(8, (83,))], 1e9)
        with kept.database.transaction() as connection:
            connection.execute("ALTER TABLE elsewhere RENAME TO findings")
        kept.journal.record(identifier, [walked(4, (43,))], 1e9)
        kept.journal.merge(identifier, 1e9)
        [body] = kept.bodies()
        assert (body["covered"], body["nonces"]) == ([0, 7], [3, 43])

    @pytest.mark.parametrize("first", [0, 3, 5, 8])
    def test_a_stretch_that_does_not_go_on_is_refused(self, kept: Kept, first: int) -> None:
        identifier = kept.begin()
        kept.journal.record(identifier, [walked(0, (3,))], 1e9)
        with pytest.raises(OutboxError, match=f"the round's journal does not stand at nonce number {first}"):
            kept.journal.record(identifier, [walked(first, (43,))], 1e9)
        assert (kept.interrupted().position, kept.interrupted().valid) == (4, 1)

    def test_nor_is_anything_of_a_call_in_which_one_does_not(self, kept: Kept) -> None:
        identifier = kept.begin()
        with pytest.raises(OutboxError, match="nonce number 5"):
            kept.journal.record(identifier, [walked(0, (3,)), walked(5, (53,))], 1e9)
        assert kept.interrupted().position == 0
        assert kept.bodies() == []

    def test_of_a_round_that_is_forgotten_nothing_is_recorded(self, kept: Kept) -> None:
        identifier = kept.begin()
        kept.begin()
        with pytest.raises(OutboxError, match="nonce number 0"):
            kept.journal.record(identifier, [walked(0, (3,))], 1e9)
        assert kept.rows("findings") == 0

    def test_distances_come_back_to_the_last_bit(self, kept: Kept) -> None:
        identifier = kept.begin()
        dist = (1.4000000000000001, 5e-324, 1.9999999999999998)
        batch = ComputedSpan(
            covered=(0, 2), nonces=(1, 2, 2**63 - 1), dist=dist, vectors=("AAA=",) * 3, failed_nonces=()
        )
        kept.journal.record(identifier, [batch], 1e9)
        kept.journal.merge(identifier, 1e9)
        [body] = kept.bodies()
        assert (tuple(body["nonces"]), tuple(body["dist"])) == (batch.nonces, dist)

    def test_without_a_callback_url_only_the_position_is_kept(self, kept: Kept) -> None:
        identifier = kept.begin(make_config(node_id=3, node_count=10))
        kept.journal.record(identifier, [walked(0, (3,), (13,))], 1e9)
        assert kept.rows("findings") == 0
        assert kept.journal.merge(identifier, 1e9) == []
        assert (kept.interrupted().position, kept.interrupted().valid) == (4, 1)
        kept.journal.end(identifier, None, 1e9)
        assert kept.recover() is None
        assert kept.bodies() == []


class TestMerge:
    """Findings become callbacks."""

    def test_a_body_is_the_template_and_all_that_was_found(self, kept: Kept) -> None:
        identifier = kept.begin()
        for batch in (walked(0, (3, 23)), walked(4, (), (53,)), walked(8, (93,), (103, 113))):
            kept.journal.record(identifier, [batch], 1e9)
        assert kept.journal.merge(identifier, 1e9 + 5) == []
        [body] = kept.bodies()
        assert body == {
            **TEMPLATE,
            "covered": [0, 11],
            "nonces": [3, 23, 93],
            "dist": [1.25] * 3,
            "vectors": ["AAA="] * 3,
            "failed_nonces": [53, 103, 113],
        }
        [delivery] = kept.queue.listed()
        assert (delivery.url, delivery.kind, delivery.created_at) == (URL, "generated", 1e9 + 5)
        kept.journal.merge(identifier, 1e9)
        assert len(kept.bodies()) == 1, "nothing is reported twice"

    def test_what_is_covered_without_a_find_is_told_with_the_next(self, kept: Kept) -> None:
        identifier = kept.begin()
        kept.journal.record(identifier, [walked(0), walked(4)], 1e9)
        kept.journal.merge(identifier, 1e9)
        assert kept.bodies() == []
        kept.journal.record(identifier, [walked(8, (83,)), walked(12), walked(16)], 1e9)
        kept.journal.merge(identifier, 1e9)
        kept.journal.record(identifier, [walked(20), walked(24, (), (243,))], 1e9)
        kept.journal.merge(identifier, 1e9)
        assert [body["covered"] for body in kept.bodies()] == [[0, 19], [20, 27]]

    def test_what_does_not_fit_into_one_body_is_several(self) -> None:
        kept = Kept(None, JournalLimits(max_payload_bytes=400, max_queued=1_000))
        identifier = kept.begin()
        kept.journal.record(
            identifier, [walked(4 * k, tuple(range(40 * k, 40 * k + 4))) for k in range(50)], 1e9
        )
        kept.journal.merge(identifier, 1e9)
        bodies = kept.bodies()
        assert len(bodies) > 5
        assert max(delivery.size for delivery in kept.queue.listed()) <= 400
        assert [nonce for body in bodies for nonce in body["nonces"]] == [
            40 * k + j for k in range(50) for j in range(4)
        ]
        ends = [body["covered"] for body in bodies]
        assert [first for first, _ in ends] == [0, *(last + 1 for _, last in ends[:-1])]
        assert ends[-1][1] == 199
        kept.database.close()

    @settings(max_examples=150, deadline=None)
    @given(data=st.data())
    def test_however_it_is_cut_every_nonce_is_reported_once_in_order(self, data: st.DataObject) -> None:
        limit = data.draw(st.sampled_from([300, 500, 2_000, 2**19]))
        kept = Kept(None, JournalLimits(max_payload_bytes=limit, max_queued=10_000))
        with closing(kept.database):
            identifier = kept.begin()
            position = 0
            nonces: list[int] = []
            failed: list[int] = []
            for is_merged, sizes in data.draw(
                st.lists(
                    st.tuples(st.booleans(), st.lists(st.integers(1, 9), min_size=1, max_size=4)), max_size=8
                )
            ):
                spans = []
                for size in sizes:
                    kinds = data.draw(st.lists(st.sampled_from("vf-"), min_size=size, max_size=size))
                    walk = range(position, position + size)
                    valid = tuple(n for n, kind in zip(walk, kinds, strict=True) if kind == "v")
                    lost = tuple(n for n, kind in zip(walk, kinds, strict=True) if kind == "f")
                    spans.append(walked(position, valid, lost, size))
                    nonces += valid
                    failed += lost
                    position += size
                kept.journal.record(identifier, spans, 1e9)
                if is_merged:
                    kept.journal.merge(identifier, 1e9)
            kept.journal.merge(identifier, 1e9)
            bodies = kept.bodies()
            assert [nonce for body in bodies for nonce in body["nonces"]] == nonces
            assert [nonce for body in bodies for nonce in body["failed_nonces"]] == failed
            next_ = 0
            for body in bodies:
                first, last = body["covered"]
                assert first == next_
                assert all(first <= nonce <= last for nonce in body["nonces"] + body["failed_nonces"])
                assert len(body["dist"]) == len(body["nonces"])
                assert body["nonces"] or body["failed_nonces"]
                next_ = last + 1
            assert next_ <= position
            assert max((delivery.size for delivery in kept.queue.listed()), default=0) <= limit

    def test_it_is_one_transaction(self, kept: Kept) -> None:
        identifier = kept.begin()
        kept.journal.record(identifier, [walked(0, (3,))], 1e9)
        with kept.database.transaction() as connection:
            connection.execute(
                "CREATE TRIGGER broken BEFORE DELETE ON findings BEGIN SELECT raise(ABORT, 'broken'); END"
            )
        with pytest.raises(OutboxError, match="broken"):
            kept.journal.merge(identifier, 1e9)
        assert kept.bodies() == [], "what is still to be merged is not queued"
        with kept.database.transaction() as connection:
            connection.execute("DROP TRIGGER broken")
        kept.journal.merge(identifier, 1e9)
        assert [body["covered"] for body in kept.bodies()] == [[0, 3]]

    def test_a_full_queue_drops_its_oldest_and_says_which(self) -> None:
        kept = Kept(None, JournalLimits(max_payload_bytes=2**19, max_queued=2))
        identifier = kept.begin()
        dropped = []
        for k in range(4):
            kept.journal.record(identifier, [walked(4 * k, (40 * k,))], 1e9)
            in_flight = [1] if k == 3 else []
            dropped.append([drop.url for drop in kept.journal.merge(identifier, 1e9, in_flight)])
        assert dropped == [[], [], [URL], [URL]]
        assert [body["nonces"] for body in kept.bodies()] == [[80], [120]]
        kept.database.close()

    def test_a_round_that_is_not_there_has_found_nothing(self, kept: Kept) -> None:
        assert kept.journal.merge(99, 1e9) == []


class TestNextStart:
    """What the next server finds."""

    def test_a_new_file_has_no_round(self, kept: Kept) -> None:
        assert kept.recover() is None

    def test_findings_are_merged_and_the_round_is_where_it_was(self, tmp_path: Path) -> None:
        first = Kept(tmp_path / "outbox.db")
        identifier = first.begin()
        first.journal.record(identifier, [walked(0, (3,)), walked(4)], 1e9 + 7)
        first.database.close()
        second = Kept(tmp_path / "outbox.db")
        interrupted = second.recover(2e9)
        assert interrupted is not None
        assert (interrupted.config, interrupted.position, interrupted.updated_at) == (CONFIG, 8, 1e9 + 7)
        assert [body["covered"] for body in second.bodies()] == [[0, 7]]
        assert second.queue.listed()[0].created_at == 2e9
        second.journal.record(identifier, [walked(8, (83,))], 2e9)
        second.journal.merge(identifier, 2e9)
        assert [body["covered"] for body in second.bodies()] == [[0, 7], [8, 11]]
        second.database.close()

    @pytest.mark.parametrize("phase", [IDLE, GENERATING, VALIDATING])
    def test_it_was_in_the_phase_it_had_entered_last(self, kept: Kept, phase: PoCState) -> None:
        identifier = kept.begin(phase=IDLE)
        kept.journal.enter(identifier, phase, 1e9 + 3)
        interrupted = kept.interrupted()
        assert (interrupted.phase, interrupted.updated_at) == (phase, 1e9 + 3)

    def test_a_round_that_is_over_is_not_gone_on_with_once_its_findings_are_queued(self, kept: Kept) -> None:
        identifier = kept.begin()
        kept.journal.record(identifier, [walked(0, (3,))], 1e9)
        kept.journal.end(identifier, None, 1e9)
        assert kept.recover() is None
        assert [body["nonces"] for body in kept.bodies()] == [[3]]
        assert kept.rows("findings") == 0

    def test_one_that_failed_is_there_with_its_reason_until_it_goes_on(self, kept: Kept) -> None:
        identifier = kept.begin()
        kept.journal.end(identifier, "CUDA error", 1e9 + 3)
        assert (kept.interrupted().reason, kept.interrupted().updated_at) == ("CUDA error", 1e9 + 3)
        kept.journal.resume(identifier, {"other": "template", "protocol": PROTOCOL}, 1e9 + 4)
        assert (kept.interrupted().reason, kept.interrupted().updated_at) == (None, 1e9 + 4)
        kept.journal.record(identifier, [walked(0, (3,))], 1e9)
        kept.journal.merge(identifier, 1e9)
        assert [body.get("other") for body in kept.bodies()] == ["template"]

    def test_one_that_failed_may_be_given_up(self, kept: Kept) -> None:
        identifier = kept.begin()
        kept.journal.end(identifier, "CUDA error", 1e9)
        kept.journal.end(identifier, None, 1e9)
        assert kept.recover() is None

    def test_a_new_round_takes_the_place_of_what_was_there(self, kept: Kept) -> None:
        first = kept.begin()
        kept.journal.record(first, [walked(0, (3,))], 1e9)
        second = kept.begin(make_config(block_hash="another"), VALIDATING)
        assert second != first
        assert [body["nonces"] for body in kept.bodies()] == [[3]], "what it had found is not lost"
        interrupted = kept.interrupted()
        assert (interrupted.id, interrupted.config.block_hash, interrupted.position) == (second, "another", 0)
        listed = journaled_rounds(kept.database)
        assert [(round_.id, round_.is_over, round_.checked, round_.valid) for round_ in listed] == [
            (second, False, 0, 0),
            (first, True, 4, 1),
        ]
        assert [round_.config["block_hash"] for round_ in listed] == ["another", CONFIG.block_hash]

    def test_the_latest_rounds_are_remembered(self, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(round_journal, "_MAX_ROUNDS", 3)
        identifiers = [kept.begin() for _ in range(5)]
        assert [round_.id for round_ in journaled_rounds(kept.database)] == identifiers[:1:-1]

    def test_and_says_what_had_to_make_room(self) -> None:
        kept = Kept(None, JournalLimits(max_payload_bytes=2**19, max_queued=1))
        for forget in (False, True):
            identifier = kept.begin()
            for first in (0, 4):
                kept.journal.record(identifier, [walked(first, (first,))], 1e9)
                if not first:
                    kept.journal.merge(identifier, 1e9)
            if forget:
                dropped = kept.journal.forget(1e9)
            else:
                _, dropped = kept.journal.begin(CONFIG, "the digest", TEMPLATE, GENERATING, 1e9)
            assert [drop.url for drop in dropped] == [URL]
            kept.queue.drop()
        kept.database.close()

    def test_why_one_has_failed_is_remembered_when_it_is_over(self, kept: Kept) -> None:
        first = kept.begin()
        kept.journal.end(first, "CUDA error", 1e9)
        kept.journal.end(first, None, 1e9 + 1)
        kept.begin()
        reasons = [(round_.reason, round_.is_over) for round_ in journaled_rounds(kept.database)]
        assert reasons == [(None, False), ("CUDA error", True)]

    def test_one_that_was_stopped_is_not_gone_on_with_though_its_failure_is_noted_later(
        self, kept: Kept
    ) -> None:
        identifier = kept.begin()
        kept.journal.end(identifier, None, 1e9)
        kept.journal.end(identifier, "CUDA error", 1e9)
        assert kept.recover() is None

    def test_one_that_was_replaced_is_not_gone_on_with_though_it_fails_later(self, kept: Kept) -> None:
        first, second = kept.begin(), kept.begin()
        kept.journal.end(first, "CUDA error", 1e9)
        kept.journal.end(second, None, 1e9)
        assert kept.recover() is None

    def test_forgetting_leaves_what_was_found(self, kept: Kept) -> None:
        identifier = kept.begin()
        kept.journal.record(identifier, [walked(0, (3,))], 1e9)
        assert kept.journal.forget(1e9) == []
        assert kept.recover() is None
        assert [body["nonces"] for body in kept.bodies()] == [[3]]
        assert kept.rows("findings") == 0

    @pytest.mark.parametrize(
        ("column", "value", "problem"),
        [
            ("config", {"no_such_field": 1}, "no_such_field"),
            ("config", {"block_height": -1}, "block_height: -1 is not allowed"),
            ("config", None, "Expecting value"),
            ("phase", "PAUSED", "'PAUSED' is not a valid PoCState"),
        ],
    )
    def test_a_round_of_another_version_is_told_of_and_forgotten(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, column: str, value: Any, problem: str
    ) -> None:
        path = tmp_path / "outbox.db"
        kept = Kept(path)
        kept.begin()
        kept.database.close()
        with closing(sqlite3.connect(path)) as raw, raw:
            if isinstance(value, dict):
                [config] = raw.execute("SELECT config FROM rounds").fetchone()
                value = json.dumps(json.loads(config) | value)
            raw.execute(f"UPDATE rounds SET {column} = ?", (value or "",))  # noqa: S608
        kept = Kept(path)
        assert kept.journal.recover(1e9) == (None, [])
        assert "A round of another version of Hallmark is not gone on with: " in caplog.text
        assert problem in caplog.text
        caplog.clear()
        assert kept.journal.recover(1e9) == (None, [])
        assert caplog.text == "", "it is over"
        [listed] = journaled_rounds(kept.database)
        assert listed.is_over
        kept.database.close()

    @pytest.mark.parametrize("protocol", ["hallmark/0", None])
    def test_one_of_another_protocol_is_not_gone_on_with_and_what_it_found_is_delivered(
        self, protocol: str | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        kept = Kept(None)
        template = {**TEMPLATE, "protocol": protocol}
        identifier, _ = kept.journal.begin(CONFIG, "the digest", template, GENERATING, 1e9)
        kept.journal.record(identifier, [walked(0, (3,))], 1e9)
        with kept.database.transaction() as connection:
            connection.execute("UPDATE findings SET vectors = NULL")
        assert kept.recover() is None
        assert f"begun by protocol {protocol} and is not gone on with: this is {PROTOCOL}" in caplog.text
        [body] = kept.bodies()
        assert (body["protocol"], body["nonces"]) == (protocol, [3])
        assert "vectors" not in body
        kept.database.close()
