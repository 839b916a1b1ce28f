"""`hallmark verify` that recomputes as little as a stated cheat takes."""

import json
import re
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import Cli
from node import HALLMARK
from offline_proofs import BATCH_SIZE, SHORT, Prover, claiming, judged_lines, off, part, write

from hallmark.poc.protocol.proof import ProofBatch

HONEST_NONCES = 80
CHEAT = ("--cheat", 0.3, "--seed", "s")


def interrupted(directory: Path, proofs: Path, *options: object) -> str:
    """Run the command until it has kept three batches, and interrupt it; returns what it says then."""
    state = proofs.with_name(f"{proofs.name}.verified.jsonl")
    command = [*HALLMARK, "verify", proofs, "--model", directory, *SHORT, *options]
    with subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not state.exists() or state.read_bytes().count(b"\n") < 4:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    return err


def batches(state: Path) -> list[list[int]]:
    """The nonces of each batch that was computed, of all provers."""
    found = [json.loads(line) for line in state.read_text().splitlines()]
    return [[nonce for _, nonce, _ in line["numbers"]] for line in found if "numbers" in line]


class TestSequential:
    def test_an_honest_prover_is_cleared_after_few_nonces(
        self, verify: Cli, honest: ProofBatch, tmp_path: Path
    ) -> None:
        parts = [part(honest, slice(0, 30)), part(honest, slice(30, 80))]
        path = write(tmp_path / "p.json", *(each.as_dict() for each in parts))
        result = verify(path, "--sequential", *CHEAT, "--json")
        assert result.code == 0, result.out
        [row], summary = judged_lines(result)
        said = row["sequential"]
        assert (row["verdict"], said["outcome"], said["claimed"]) == ("honest", "cleared", 80)
        assert said["recomputed"] < 24
        assert said["p_value_of_cheat"] <= said["cleared_from"] == pytest.approx(0.01)
        assert (row["n_judged"], [*row["tests"]]) == (said["recomputed"], ["sequential"])
        assert row["proofs"] == [f"{path}, proof 1", f"{path}, proof 2"]
        assert (summary["batches"], summary["honest"], summary["credited_nonces"]) == (2, 1, 80)
        assert summary["sample"] == {
            **{"seed": "s", "cheat": 0.3, "cheat_share": 1.0, "power": 0.99, "sequential": True},
            **{"recomputed": said["recomputed"], "claimed": 80},
        }

    def test_a_forger_is_convicted_after_fewer(self, verify: Cli, honest: ProofBatch, tmp_path: Path) -> None:
        path = write(tmp_path / "p.json", replace(honest, public_key="thief").as_dict())
        result = verify(path, "--sequential", *CHEAT, "--fraud-threshold", 1e-7, "--json")
        assert result.code == 1
        [row], summary = judged_lines(result)
        assert (row["verdict"], row["rejected_by"]) == ("fraud", ["sequential"])
        assert row["sequential"]["outcome"] == "convicted"
        assert row["sequential"]["recomputed"] <= 24
        assert row["probability_honest"] == row["sequential"]["p_value"] < 1e-7
        assert summary["credited_nonces"] == 0
        [record] = summary["provers"]
        assert record["fraud_detected"]
        assert record["nonces"] == row["sequential"]["recomputed"]

    def test_a_weak_cheat_is_neither(self, verify: Cli, honest: ProofBatch, tmp_path: Path) -> None:
        weak = off(part(honest, slice(0, 24)), np.random.default_rng(0), 0.11)
        path = write(tmp_path / "p.json", weak.as_dict())
        result = verify(path, "--sequential", "--cheat", 0.12, "--json")
        assert result.code == 2
        [row], summary = judged_lines(result)
        assert (row["verdict"], row["sequential"]["outcome"]) == ("no_verdict", "undecided")
        assert row["sequential"]["recomputed"] == 24
        assert (summary["no_verdict"], summary["credited_nonces"]) == (1, 0)

    def test_provers_share_full_batches(
        self, verify: Cli, prover: Prover, honest: ProofBatch, tmp_path: Path
    ) -> None:
        rng = np.random.default_rng(1)
        proofs = [replace(honest, public_key="thief")]
        proofs += [
            off(prover.prove(range(80), public_key=f"p{n}"), rng, noise)
            for n, noise in enumerate((0.0, 0.05, 0.09))
        ]
        path = write(tmp_path / "p.json", *(each.as_dict() for each in proofs))
        state = tmp_path / "s.jsonl"
        result = verify(path, "--sequential", *CHEAT, "--state", state, "--json")
        assert result.code == 1
        rows, summary = judged_lines(result)
        assert [row["sequential"]["outcome"] for row in rows] == ["convicted", *["cleared"] * 3]
        assert {len(nonces) for nonces in batches(state)} == {BATCH_SIZE}
        assert summary["sample"]["recomputed"] == BATCH_SIZE * len(batches(state)) < 120
        assert summary["credited_nonces"] == 3 * 80

    def test_it_goes_on_where_it_was(self, verify: Cli, honest: ProofBatch, tmp_path: Path) -> None:
        """With the same seed what is in the file is not computed again, and the answer is the same."""
        path, state = write(tmp_path / "p.json", honest.as_dict()), tmp_path / "s.jsonl"
        options = ("--sequential", *CHEAT, "--state", state, "--json")
        first = verify(path, *options)
        whole = state.read_bytes()
        computed = batches(state)
        assert len(computed) >= 2
        state.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
        assert batches(state) == computed[:1]
        second = verify(path, *options)
        assert second.out == first.out
        assert f"{BATCH_SIZE} nonces taken from {state}" in second.err
        assert state.read_bytes() == whole
        third = verify(path, *options)
        assert third.out == first.out
        assert state.read_bytes() == whole

    def test_an_interrupted_run_says_how_it_goes_on(
        self, directory: Path, verify: Cli, prover: Prover, tmp_path: Path
    ) -> None:
        """Noise of sigma against a cheat that is hardly larger takes all of its nonces."""
        noisy = off(prover.prove(range(240)), np.random.default_rng(3), 0.1)
        path, state = write(tmp_path / "p.json", noisy.as_dict()), tmp_path / "p.json.verified.jsonl"
        options = ("--sequential", "--cheat", 0.105)
        err = interrupted(directory, path, *options)
        said = re.search(
            r"interrupted with 1 prover undecided; .* run it again with --seed (\S+) to go on", err
        )
        assert said, err
        kept = batches(state)
        assert 2 <= len(kept) < 30
        again = verify(path, *options, "--seed", said[1], "--json")
        assert f"{BATCH_SIZE * len(kept)} nonces taken from {state}" in again.err
        assert batches(state)[: len(kept)] == kept
        [row], _ = judged_lines(again)
        assert row["sequential"]["recomputed"] == BATCH_SIZE * len(batches(state)) == 240

    def test_a_sample_that_is_interrupted_goes_on_with_the_same_draw(
        self, directory: Path, verify: Cli, prover: Prover, tmp_path: Path
    ) -> None:
        path = write(tmp_path / "p.json", prover.prove(range(400)).as_dict())
        state = tmp_path / "p.json.verified.jsonl"
        options = ("--sample", 300)
        err = interrupted(directory, path, *options)
        told = re.search(r"drawing by --seed (\S+)", err)
        said = re.search(
            r"interrupted with \d+ nonces to go; .* run it again with --seed (\S+) to go on", err
        )
        assert told, err
        assert said, err
        assert told[1] == said[1]
        kept = batches(state)
        again = verify(path, *options, "--seed", said[1], "--json")
        assert f"{BATCH_SIZE * len(kept)} nonces taken from {state}" in again.err
        assert sum(map(len, batches(state))) == 300

    def test_the_table_says_it_in_words_and_has_room_in_80_columns(
        self, verify: Cli, honest: ProofBatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        weak = off(part(honest, slice(0, 8)), np.random.default_rng(0), 0.1)
        parts = [part(honest, slice(0, 40)), part(honest, slice(40, 80))]
        proofs = [*parts, replace(honest, public_key="thief"), replace(weak, public_key="thief too")]
        proofs[-1] = replace(weak, block_hash="other", round_digest="0" * 64)
        path = write(tmp_path / "p.json", *(each.as_dict() for each in proofs))
        result = verify(path, "--sequential", *CHEAT)
        assert result.code == 1
        shown = result.out.splitlines()
        assert max(map(len, shown[:4])) <= 80
        assert [line.split()[-1] for line in shown[1:4]] == ["honest", "fraud", "refused"]
        assert "1: all 2 batches of this prover in this round together" in shown
        assert any(line.startswith("1: cleared after ") and "of 80 nonces" in line for line in shown)
        assert any(line.startswith("2: convicted after ") for line in shown)
        assert "2: rejected by sequential" in shown
        assert any(line.startswith("3: refused: ") for line in shown)
        drawn = [line for line in shown if "were drawn with --seed s, until provers were convicted" in line]
        assert len(drawn) == 1
        assert "numbers that are off by 0.3 s in all nonces" in drawn[0]
        assert (
            shown[-1] == "4 batches: 1 honest, 1 fraud, 0 no verdict, 1 refused; 80 distinct nonces credited"
        )

    def test_it_says_which_batches_brought_no_vectors(
        self, verify: Cli, honest: ProofBatch, tmp_path: Path
    ) -> None:
        parts = [part(honest, slice(0, 40)), part(honest, slice(40, 60)), part(honest, slice(60, 80))]
        parts[0] = claiming(parts[0], parts[0].dist)
        path = write(tmp_path / "p.json", *(each.as_dict() for each in parts))
        result = verify(path, "--sequential", *CHEAT)
        assert result.code == 0, result.out
        said = "1: 1 of 3 batches brought no vectors, judged by the first of each nonce's 2 numbers"
        assert said in result.out.splitlines()

    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            (("--distance-tolerance", "none"), "by the older rule, none, errors are not looked at"),
            (("--honest-sigma", 0.5), "can be told from honest noise"),
        ],
    )
    def test_rounds_that_say_too_little_are_refused(
        self, verify: Cli, honest: ProofBatch, tmp_path: Path, options: tuple[object, ...], problem: str
    ) -> None:
        state = tmp_path / "s.jsonl"
        path = write(tmp_path / "p.json", honest.as_dict())
        result = verify(path, "--sequential", *CHEAT, *options, "--state", state)
        assert result.code == 2
        assert f"1: refused: {'cheat' if 'told' in problem else 'distance_tolerance'}: " in result.out
        assert problem in result.out
        assert "were drawn with" not in result.out, "nothing was claimed that could be"
        assert batches(state) == [], "nothing is computed"

    def test_a_random_seed_is_told(self, verify: Cli, honest: ProofBatch, tmp_path: Path) -> None:
        path = write(tmp_path / "p.json", honest.as_dict())
        options = ("--sequential", "--cheat", 0.3, "--no-state", "--json")
        told = verify(path, *options)
        first, summary = judged_lines(told)
        assert told.err.count(f"drawing by --seed {summary['sample']['seed']}\n") == 1
        known = verify(path, *options, "--seed", summary["sample"]["seed"])
        assert "drawing by" not in known.err
        again, _ = judged_lines(known)
        assert again == first
        others, other = judged_lines(verify(path, *options))
        assert other["sample"]["seed"] != summary["sample"]["seed"]
        assert others[0]["computed_distances"] != first[0]["computed_distances"]


class TestPower:
    def test_so_many_of_a_prover_are_drawn_as_the_command_power_says(
        self, cli: Cli, verify: Cli, honest: ProofBatch, tmp_path: Path
    ) -> None:
        asked = cli("power", "--cheat", 0.3, "--power", 0.9, "--numbers", 2, "--json")
        needed = json.loads(asked.out)["one_batch"]
        parts = [part(honest, slice(0, 79)), part(honest, slice(79, 80))]
        path = write(tmp_path / "p.json", *(each.as_dict() for each in parts))
        options = (*CHEAT, "--power", 0.9)
        result = verify(path, *options, "--json")
        assert result.code == 0, result.out
        (first, second, both), summary = judged_lines(result)
        assert first["n_judged"] == both["n_judged"] == needed
        assert second["n_judged"] == 1
        assert both["joined"]
        [of_prover] = summary["sample"]["provers"]
        assert of_prover == {
            **{"public_key": honest.public_key, "block_hash": honest.block_hash, "needed": needed},
            **{"drawn": needed + 1, "claimed": 80, "power_reached": True},
        }
        assert (summary["sample"]["cheat"], summary["sample"]["power"]) == (0.3, 0.9)
        assert summary["credited_nonces"] == 80
        table = verify(path, *options)
        assert f"{needed + 1} of 80 nonces were drawn with --seed s: {needed} of a prover" in table.out
        assert "off by 0.3 s in all nonces with a probability of 0.9" in table.out

    def test_a_cheat_of_that_size_is_fraud(self, verify: Cli, honest: ProofBatch, tmp_path: Path) -> None:
        cheating = off(honest, np.random.default_rng(2), 0.3)
        path = write(tmp_path / "p.json", cheating.as_dict())
        result = verify(path, *CHEAT, "--power", 0.99, "--json")
        assert result.code == 1
        assert judged_lines(result)[1]["sample"]["provers"][0]["drawn"] < 80

    def test_too_few_nonces_are_all_taken_and_it_is_said(
        self, verify: Cli, honest: ProofBatch, tmp_path: Path
    ) -> None:
        few = part(honest, slice(0, 4))
        path = write(tmp_path / "p.json", few.as_dict())
        result = verify(path, "--cheat", 0.15, "--power", 0.9)
        assert result.code == 0, "nothing but the sample says less"
        assert f"{few.public_key} claims 4 nonces in block {few.block_hash}, of " in result.out
        assert "the probability of 0.9 is not reached" in result.out

    def test_a_cheat_that_nothing_finds_is_refused(
        self, verify: Cli, honest: ProofBatch, tmp_path: Path
    ) -> None:
        path = write(tmp_path / "p.json", honest.as_dict())
        result = verify(path, "--cheat", 0.05, "--power", 0.9)
        assert result.code == 2
        assert "1: refused: cheat: 0.05 is not allowed; allowed: a cheat that 16,384 nonces" in result.out


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--sequential",), "--sequential needs --cheat"),
        (("--power", 0.9), "--power needs --cheat"),
        (("--cheat", 0.1), "--cheat is of use with --power or --sequential only"),
        (("--cheat-share", 0.1), "--cheat-share is of use with --cheat only"),
        (("--sample", 4, "--cheat-share", 0.1), "--cheat-share is of use with --cheat only"),
        (("--sample", 4, "--cheat", 0.1), "--cheat is of use with --power or --sequential only"),
        (("--sample", 4, "--sequential", "--cheat", 0.1), "give --sample, or --cheat with --power or"),
        (("--sample", 4, "--power", 0.9, "--cheat", 0.1), "give --sample, or --cheat with --power or"),
        (("--sequential", "--cheat", 0), "hallmark: --cheat: 0.0 is not allowed"),
        (("--sequential", "--cheat", 1, "--cheat-share", 2), "hallmark: --cheat-share: 2.0 is not allowed"),
        (
            ("--power", 1, "--cheat", 0.1),
            " --power: 1.0 is not allowed; allowed: a probability from 0.5",
        ),
    ],
)
def test_options_that_contradict_or_lack_one_another(
    verify: Cli, honest: ProofBatch, tmp_path: Path, options: tuple[object, ...], problem: str
) -> None:
    result = verify(write(tmp_path / "p.json", honest.as_dict()), *options)
    assert result.code == 2
    assert problem in " ".join(result.err.split())
