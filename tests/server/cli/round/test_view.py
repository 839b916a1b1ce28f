"""What a person sees of a status, in the columns that there are."""

import io
import re
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console

from hallmark.server.cli.round.goal import Goal
from hallmark.server.cli.round.trend import Trend
from hallmark.server.cli.round.view import line, view
from hallmark.server.http.examples import STATUS

DIGEST = "5ca1ab1e" * 8
CONFIG = {**STATUS["config"], "n_groups": 1, "group_id": 0, "round": DIGEST}
VALIDATION, CALLBACKS = STATUS["validation"], STATUS["callbacks"]


def generating(**changes: Any) -> dict[str, Any]:
    return {
        **STATUS,
        **{"config": CONFIG, "elapsed_seconds": 3_725.5, "rate_per_second": 1_234.56},
        **{"total_checked": 12_000, "total_valid": 1_201, "total_failed": 0},
        # The other phase's, which is not shown.
        "validation": {**VALIDATION, "queued_jobs": 7_777, "completed_jobs": 8_888, "checked_nonces": 9_999},
        "callbacks": {**CALLBACKS, "delivered": 1_200, "queued": 3, "oldest_age": 65.0},
        **changes,
    }


def validating(**changes: Any) -> dict[str, Any]:
    judged = {
        **{"queued_jobs": 2, "queued_nonces": 600, "completed_jobs": 1, "checked_nonces": 1_300},
        **{"nonces_per_second": 51.25, "failed_nonces": 4},
    }
    found = {"total_checked": 4_321, "total_valid": 4_320, "total_failed": 17}
    return generating(
        **{"status": "VALIDATING", "state": "VALIDATING", "stats": None, **found},
        **{"validation": {**VALIDATION, **judged}, **changes},
    )


def stopped(**changes: Any) -> dict[str, Any]:
    state = {"status": "STOPPED", "state": "STOPPED", "reason": "stopped by request", "stats": None}
    return generating(**{**state, **changes})


NO_FINDINGS = {"total_checked": 0, "total_valid": 0, "total_failed": 0, "rate_per_second": 0.0}
IDLE = generating(
    **{"status": "IDLE", "state": "IDLE", "config": None, "stats": None, "elapsed_seconds": 0.0},
    **{"r_target": None, "valid_rate": None, "validation": VALIDATION, **NO_FINDINGS},
    callbacks={**CALLBACKS, "delivered": 0},
)


INTERRUPTED = {
    **{"block_hash": "0xb", "block_height": 7, "public_key": "02ff", "node_id": 0, "callback_url": None},
    **{"round": DIGEST, "phase": "GENERATING", "total_checked": 1, "total_valid": 1, "total_failed": 0},
    **{"begun_at": 1e9, "updated_at": 1e9, "reason": None, "is_resumed": False},
}


def shown(status: Mapping[str, Any], width: int = 80, **options: Any) -> list[str]:
    """The lines of the view, none of them wider than the terminal."""
    output = io.StringIO()
    console = Console(file=output, width=width, highlight=False)
    console.print(view(status, console, **options))
    lines = [each.rstrip() for each in output.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    return lines


def rows(status: Mapping[str, Any], width: int = 80, **options: Any) -> dict[str, str]:
    """Values by their names; those of several lines are joined without what the lines were broken at."""
    found: dict[str, str] = {}
    lines = shown(status, width, **options)
    names = [re.match(r"(?:[a-z]+ )*[a-z]+(?=  )", each) for each in lines]
    column = max(name.end() for name in names if name is not None) + 2
    for each in lines:
        name = each[:column].strip() or [*found][-1]
        found[name] = f"{found[name]}\n{each[column:]}" if name in found else each[column:]
    return found


def squeezed(text: str) -> str:
    """A text without the spaces and the ends of lines, which a folded one is to be compared by."""
    return "".join(text.split())


class TestStates:
    """Each state shows what matters in it, and nothing of the other phase."""

    def test_generating(self) -> None:
        assert rows(generating()) == {
            "state": "GENERATING for 1 h 2 min",
            "block": "912345, 00000000000000000001f7c1a8d2b1f4",
            "public key": "02a1633cafcc01ebfb6d78e39f687a1f09",
            "node": "0 of 4",
            "checked": "12,000 nonces",
            "valid": "1,201 nonces, 10.01% of them",
            "rate": "1,234.6 nonces/s",
            "callbacks": "1,200 delivered, 3 waiting (the oldest for 1 min 5 s)",
            "receiver": "http://receiver.example:9000/v1/poc-batches",
        }

    def test_a_group_and_failed_nonces(self) -> None:
        found = rows(generating(config={**CONFIG, "n_groups": 3, "group_id": 2}, total_failed=1))
        assert found["node"] == "0 of 4, group 2 of 3"
        assert found["failed"] == "1 nonce"

    def test_generating_has_no_rate_before_the_first_batch(self) -> None:
        found = rows(generating(**NO_FINDINGS))
        assert [*found] == [
            "state",
            "block",
            "public key",
            "node",
            "checked",
            "valid",
            "callbacks",
            "receiver",
        ]
        assert (found["checked"], found["valid"]) == ("0 nonces", "0 nonces")

    def test_validating(self) -> None:
        assert rows(validating()) == {
            "state": "VALIDATING for 1 h 2 min",
            "block": "912345, 00000000000000000001f7c1a8d2b1f4",
            "public key": "02a1633cafcc01ebfb6d78e39f687a1f09",
            "judged": "1 batch, 1,300 nonces, 4 failed since the server's start",
            "waiting": "2 batches, 600 nonces",
            "beside chat": "24% of the engine's time, of 25% allowed",
            "stalls": "10.4 ms (99th percentile), longest 11.2 ms, within the limit: yes",
            "rate": "51.2 nonces/s",
            "callbacks": "1,200 delivered, 3 waiting (the oldest for 1 min 5 s)",
            "receiver": "http://receiver.example:9000/v1/poc-batches",
        }

    def test_validating_says_nothing_of_chat_before_there_was_any(self) -> None:
        nothing = {"p50": None, "p99": None, "max": None}
        queue = {**VALIDATION, "share_used": None, "stall_ms": nothing, "max_stall_is_met": None}
        found = rows(validating(validation=queue))
        assert not {"beside chat", "stalls", "rate"} & found.keys()
        assert found["judged"] == "0 batches, 0 nonces since the server's start"

    @pytest.mark.parametrize(
        ("is_met", "end"), [(None, ""), (True, ", within the limit: yes"), (False, ", within the limit: no")]
    )
    def test_a_limit_of_stalls_is_met_or_not_where_there_is_one(self, is_met: bool | None, end: str) -> None:
        found = rows(validating(validation={**VALIDATION, "max_stall_is_met": is_met}))
        assert found["stalls"] == f"10.4 ms (99th percentile), longest 11.2 ms{end}"

    def test_stopped_after_generating(self) -> None:
        found = rows(stopped())
        assert found.pop("state") == "STOPPED after 1 h 2 min: stopped by request"
        expected = rows(generating())
        del expected["state"]
        assert found == expected

    def test_stopped_after_validating(self) -> None:
        found = rows(stopped(**NO_FINDINGS, validation=validating()["validation"]))
        assert found.pop("state") == "STOPPED after 1 h 2 min: stopped by request"
        expected = rows(validating())
        del expected["state"]
        assert found == expected

    def test_idle(self) -> None:
        assert rows(IDLE) == {"state": "IDLE: no round is set"}

    def test_idle_with_a_round_that_is_only_set(self) -> None:
        found = rows(generating(status="IDLE", state="IDLE", elapsed_seconds=0.0, **NO_FINDINGS))
        assert found["state"] == "IDLE for 0 s"
        assert "rate" not in found

    def test_callbacks_that_are_left_are_shown_without_a_round(self) -> None:
        left = {**CALLBACKS, "delivered": 0, "dropped": 1_000, "dead_letters": 1, "last_error": "HTTP 503"}
        assert rows({**IDLE, "callbacks": left}) == {
            "state": "IDLE: no round is set",
            "callbacks": "0 delivered, 0 waiting, 1,000 given up, 1 dead letter",
            "last error": "HTTP 503",
        }

    @pytest.mark.parametrize(
        ("counts", "is_shown"),
        [({}, False), ({"queued": 1}, True), ({"dead_letters": 1}, True), ({"dropped": 1}, False)],
        ids=str,
    )
    def test_an_error_of_callbacks_that_is_over_is_not_shown(
        self, counts: dict[str, int], is_shown: bool
    ) -> None:
        callbacks = {**CALLBACKS, "delivered": 5, "queued": 0, "last_error": "HTTP 503", **counts}
        assert ("last error" in rows(generating(callbacks=callbacks))) is is_shown

    def test_a_round_without_a_receiver(self) -> None:
        config = {**CONFIG, "callback_url": None}
        nothing = {**CALLBACKS, "delivered": 0}
        found = rows(generating(config=config, callbacks=nothing))
        assert found["receiver"] == "none"
        assert "callbacks" not in found
        assert "receiver" not in rows(validating(config=config))

    def test_stuck(self) -> None:
        assert "stuck" not in rows(generating(seconds_since_progress=90.0))
        found = rows(generating(is_stuck=True, seconds_since_progress=90.0))
        assert [*found][:2] == ["state", "stuck"]
        assert found["stuck"] == "yes, the engine has not answered for 1 min 30 s"

    def test_a_round_that_the_server_ended_in(self) -> None:
        told = rows({**IDLE, "interrupted_round": INTERRUPTED})
        assert told["interrupted"] == "a round of block 7 of 02ff, after 1 nonce: the server ended"
        failed = {**INTERRUPTED, "total_checked": 2_000, "reason": "the engine has died"}
        told = rows({**IDLE, "interrupted_round": failed})
        assert told["interrupted"] == "a round of block 7 of 02ff, after 2,000 nonces: the engine has died"
        resumed = {**INTERRUPTED, "is_resumed": True}
        assert rows(generating(interrupted_round=resumed)) == rows(generating())


class TestWatched:
    """What is added where a round is followed."""

    def test_the_rate_is_the_latest_and_has_a_curve(self) -> None:
        trend = Trend()
        for now, checked in enumerate((0, 10, 40, 90)):
            trend.add(generating(total_checked=checked), float(now))
        assert rows(generating(total_checked=90), trend=trend)["rate"] == "30.0 nonces/s  ▃▆█"
        first = Trend()
        first.add(generating(), 0.0)
        assert rows(generating(), trend=first)["rate"] == "1,234.6 nonces/s", "what the server says"

    @pytest.mark.parametrize(
        ("goal", "checked", "elapsed", "told"),
        [
            (Goal(10_000, is_time=False), 0, 1.0, "0% of 10,000 nonces"),
            (Goal(10_000, is_time=False), 2_500, 1.0, "25% of 10,000 nonces  2 min 5 s left"),
            (Goal(10_000, is_time=False), 12_000, 1.0, "100% of 10,000 nonces  0 s left"),
            (Goal(300, is_time=True), 0, 60.0, "20% of 5 min  4 min left"),
        ],
    )
    def test_a_goal_has_a_bar_and_what_is_left(
        self, goal: Goal, checked: int, elapsed: float, told: str
    ) -> None:
        rate = 60.0 if checked else 0.0
        status = generating(total_checked=checked, elapsed_seconds=elapsed, rate_per_second=rate)
        found = rows(status, goal=goal)["until"]
        bar, _, words = found.partition("  ")
        assert words.strip() == told
        filled = int(min(1.0, goal.reached(status) / goal.amount) * 24)
        assert len(bar.strip()) in (filled, filled + 1)

    def test_a_round_that_has_stopped_has_nothing_left(self) -> None:
        found = rows(stopped(total_checked=2_500), goal=Goal(10_000, is_time=False))["until"]
        assert found.endswith("25% of 10,000 nonces")

    def test_a_terminal_of_ascii_gets_ascii(self) -> None:
        trend = Trend()
        for now, checked in enumerate((0, 10, 40, 90)):
            trend.add(generating(total_checked=checked), float(now))
        output = io.BytesIO()
        console = Console(file=io.TextIOWrapper(output, encoding="ascii"), width=80, force_terminal=True)
        console.print(view(generating(), console, trend=trend, goal=Goal(20_000, is_time=False)))
        console.file.flush()
        text = re.sub(r"\x1b\[[0-9;]*m", "", output.getvalue().decode("ascii"))
        assert "30.0 nonces/s  -*@" in text
        assert "60% of 20,000 nonces" in text


LONG_URL = "https://receiver.example/" + "path/" * 40 + "end"
SENTENCE = " ".join(f"word{number}" for number in range(60)) + " " + "unbroken" * 30
WORDS = "[/nope] [bold red]text[/] \\[x] :smile: [link=http://x]"


def others(text: str) -> dict[str, Any]:
    """A status in which a text that somebody else chose stands wherever one may."""
    return generating(
        reason=text,
        config={**CONFIG, "public_key": text, "callback_url": text, "block_hash": text},
        interrupted_round={**INTERRUPTED, "public_key": text, "reason": text},
        callbacks={**CALLBACKS, "queued": 1, "last_error": text, "outbox": text},
        numerics={"device": text},
    )


PLACES = {
    "state": "GENERATING for 1 h 2 min: {}",
    "block": "912345, {}",
    "public key": "{}",
    "interrupted": "a round of block 7 of {0}, after 1 nonce: {0}",
    "receiver": "{}",
    "last error": "{}",
}
WIDE_PLACES = {"outbox": "{}, 0 B", "numerics": "device {}"}


class TestWidth:
    """It fits the terminal, and shows more where there is room."""

    DETAILS = (
        "batches",
        "valid rate",
        "settings",
        "a batch",
        "projections",
        "inference",
        "outbox",
        "numerics",
    )

    @pytest.mark.parametrize("status", [generating(), validating(), stopped()], ids=lambda s: str(s["state"]))
    def test_a_wide_terminal_has_more_rows(self, status: dict[str, Any]) -> None:
        narrow, wide = rows(status, 80), rows(status, 160)
        assert [*wide] == [*narrow, *self.DETAILS]
        assert {name: wide[name] for name in narrow} == narrow
        assert [*rows(status, 119)] == [*narrow], "one column less than it takes"
        assert [*rows(status, 120)] == [*wide]
        assert len(shown(status, 80)) <= 24

    def test_the_details(self) -> None:
        found = rows(generating(), 160)
        assert {name: found[name] for name in self.DETAILS} == {
            "batches": "32 nonces of 256 rows",
            "valid rate": "1 (r_target 2)",
            "settings": DIGEST,
            "a batch": "0.4 s of the engine",
            "projections": "262.1 kB on each rank",
            "inference": "0 connections",
            "outbox": "/home/node/.local/state/hallmark/outbox-port-8000.db, 0 B",
            "numerics": "dtype bfloat16, kernels triton, batch_size 32, seq_len 256",
        }
        assert rows(generating(numerics={"chunked": True, "enforce_eager": False}), 160)["numerics"] == (
            "chunked yes, enforce_eager no"
        )

    def test_a_wide_terminal_has_no_details_of_a_round_that_is_not_there(self) -> None:
        assert [*rows(IDLE, 160)] == ["state", "inference", "outbox", "numerics"]
        unknown = generating(
            batches={**STATUS["batches"], "seconds_each": None}, projection={"enabled": False, "bytes": 0}
        )
        assert not {"a batch", "projections"} & rows(unknown, 160).keys()

    @pytest.mark.parametrize("width", [20, 40, 80, 160])
    @pytest.mark.parametrize("text", [SENTENCE, LONG_URL, "02" * 400])
    def test_nothing_is_cut(self, width: int, text: str) -> None:
        found = rows(others(text), width)
        places = PLACES | (WIDE_PLACES if width >= 120 else {})
        for name, sentence in places.items():
            assert squeezed(found[name]) == squeezed(sentence.format(text)), name

    @pytest.mark.parametrize("width", [80, 160])
    def test_what_looks_like_markup_is_shown_as_it_is(self, width: int) -> None:
        found = rows(others(WORDS), width)
        places = PLACES | (WIDE_PLACES if width >= 120 else {})
        for name, sentence in places.items():
            assert found[name].replace("\n", " ") == sentence.format(WORDS), name

    def test_what_a_terminal_obeys_is_spelled(self) -> None:
        found = rows(others("\x1b[2Jgone"), 160)
        for name, sentence in (PLACES | WIDE_PLACES).items():
            assert found[name] == sentence.format(r"\x1b[2Jgone"), name


class TestLine:
    """A look as one line, for a log."""

    def test_generating(self) -> None:
        assert line(generating()) == (
            "GENERATING  checked 12,000 nonces  valid 1,201  1,234.6 nonces/s  "
            "callbacks 1,200 delivered, 3 waiting (the oldest for 1 min 5 s)"
        )

    def test_validating(self) -> None:
        assert line(validating()) == (
            "VALIDATING  judged 1 batch, 1,300 nonces, 4 failed  waiting 2 batches, 600 nonces  "
            "callbacks 1,200 delivered, 3 waiting (the oldest for 1 min 5 s)"
        )

    def test_a_goal_and_a_reason(self) -> None:
        assert line(stopped(total_checked=30), Goal(40, is_time=False)) == (
            "STOPPED  checked 30 nonces  valid 1,201  1,234.6 nonces/s  75% of 40 nonces  "
            "callbacks 1,200 delivered, 3 waiting (the oldest for 1 min 5 s)  stopped by request"
        )
