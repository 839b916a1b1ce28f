"""`hallmark calibrate`: what is measured between two sides of the same nonces."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import last_row_round, make_batch, numbers_of
from command_line import Cli, Result
from offline_proofs import NUMBERS, SHORT, claiming, short_config, write
from scipy import stats

from hallmark.poc.protocol.law import distance_std
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.rounds.payloads import validated_payload
from hallmark.poc.verdict.judge import judge
from hallmark.server.models.small import HIDDEN_SIZE, fast_dtype

WIDTH = ("--hidden-size", HIDDEN_SIZE)
S = distance_std(HIDDEN_SIZE)
SIGMA = 0.04
HONEST_NONCES = 104


def made(count: int, *, rate: float = 1.0, **changes: Any) -> ProofBatch:
    """Distances by the law, which nobody computed."""
    shape = (HIDDEN_SIZE - 1) / 2
    u = np.random.default_rng(0).uniform(0, rate, count)
    distances = 2 * np.sqrt(stats.beta.ppf(u, shape, shape))
    return make_batch(**{"nonces": range(count), "dist": distances, "numerics": {"device": "one"}, **changes})


def elsewhere(batch: ProofBatch, **changes: Any) -> ProofBatch:
    """The same nonces as another platform has them."""
    errors = np.random.default_rng(1).normal(0, SIGMA * S, len(batch.dist))
    return replace(claiming(batch, batch.dist + errors), numerics={"device": "two"}, **changes)


def as_json(result: Result) -> Any:
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_against_another_platform(cli: Cli, tmp_path: Path) -> None:
    one = made(6_000)
    other = elsewhere(one)
    parts = [replace(other, nonces=other.nonces[i::3], dist=other.dist[i::3]).as_dict() for i in (2, 0, 1)]
    files = write(tmp_path / "a.json", one.as_dict()), write(tmp_path / "b.json", *parts)
    found = as_json(cli("calibrate", files[0], "--against", files[1], *WIDTH, "--json"))
    assert found["n"] == 6_000
    assert found["sigma"] == pytest.approx(SIGMA, rel=0.04)
    assert found["mean"] == pytest.approx(0, abs=5 * SIGMA / 6_000**0.5)
    assert found["settings"]["honest_sigma"] == pytest.approx(found["sigma_bound"], abs=1e-4)
    assert found["numbers"] == 1
    assert found["n_beyond"] < 15
    assert found["platforms"] == [{"device": "one"}, {"device": "two"}]
    assert found["warnings"] == []

    shown = cli("calibrate", files[0], "--against", files[1], *WIDTH)
    assert (shown.code, shown.err) == (0, "")
    settings = found["settings"]
    options = [f"--{name.replace('_', '-')}={value:g}" for name, value in settings.items()]
    lines = shown.out.splitlines()
    assert [line[:15].rstrip() for line in lines[:-1]] == [
        *("nonces", "sigma", "kurtosis", "mean", "largest", "beyond", "design effect", "settings")
    ]
    rows = {line[:15].rstrip(): line[15:] for line in lines[:-1]}
    assert rows["nonces"] == "6,000, of each 1 number"
    assert rows["sigma"] == f"{found['sigma']:.4f} s, at most {found['sigma_bound']:.4f} s"
    assert rows["kurtosis"] == f"{found['kurtosis']:.2f} (3 is Gaussian)"
    assert rows["mean"] == f"{found['mean']:+.4f} s"
    assert rows["largest"] == f"{found['largest']:.4f} s"
    share = f"{found['beyond_bound']:.2g}"
    assert rows["beyond"] == f"{found['n_beyond']} of 6,000 numbers, at most a share of {share}"
    assert rows["settings"] == " ".join(options)
    assert lines[-1] == (
        "s: the standard deviation of an unrelated distance or number; bounds hold with 99.9 % confidence."
    )


def test_the_proposed_settings_are_those_of_a_round(cli: Cli, tmp_path: Path) -> None:
    """A batch of the same pair of platforms passes with them, one with twice the noise does not."""
    one = made(1_000)
    files = write(tmp_path / "a.json", one.as_dict()), write(tmp_path / "b.json", elsewhere(one).as_dict())
    settings = as_json(cli("calibrate", files[0], "--against", files[1], *WIDTH, "--json"))["settings"]
    round_ = last_row_round(**settings)
    computed = numbers_of(dict(zip(one.nonces, one.dist, strict=True)), HIDDEN_SIZE)
    other = np.random.default_rng(5).normal(0, S, 1_000)
    for noise, verdict in ((SIGMA, "honest"), (2 * SIGMA, "fraud")):
        claimed = replace(one, dist=tuple(one.dist + noise * other))
        assert judge(claimed, computed, round_).verdict == verdict


def test_of_what_validated_callbacks_carried(cli: Cli, tmp_path: Path) -> None:
    one = made(500)
    computed = numbers_of(dict(zip(one.nonces, elsewhere(one).dist, strict=True)), HIDDEN_SIZE)
    computed[7] = (float("nan"),)
    body = validated_payload(judge(one, computed, last_row_round()), "request")
    path = write(tmp_path / "v.json", {"id": 1, "body": body})
    result = cli("calibrate", path, *WIDTH, "--json")
    found = as_json(result)
    assert found["n"] == 499
    assert found["sigma"] == pytest.approx(SIGMA, rel=0.15)
    assert "499 nonces are too few to state less than the defaults" in found["warnings"][0]
    assert (
        "hallmark: 499 nonces are too few to state less than the defaults"
        in cli("calibrate", path, *WIDTH).err
    )


class TestWithTheModel:
    def test_proofs_are_recomputed_here(
        self, cli: Cli, directory: Path, honest: ProofBatch, tmp_path: Path
    ) -> None:
        path = write(tmp_path / "p.json", elsewhere(honest, round_digest=honest.round_digest).as_dict())
        # What elsewhere is known of the platform does not say in what dtype it computed.
        options = ("--model", directory, *SHORT, "--dtype", fast_dtype())
        found = as_json(cli("calibrate", path, *options, "--json"))
        errors = np.subtract(elsewhere(honest).dist, honest.dist) / S
        assert found["n"] == 104
        assert found["sigma"] == pytest.approx(float(np.sqrt(np.mean(errors**2))), rel=0.02)
        assert found["hidden_size"] == HIDDEN_SIZE
        assert found["platforms"][1]["engine"].startswith("transformers ")

        # hallmark verify has the same file of recomputed distances.
        verified = cli("verify", path, *options)
        assert verified.code == 0
        assert verified.err == f"104 nonces taken from {path}.verified.jsonl\n"

    def test_the_same_machine_twice_is_said(
        self, cli: Cli, directory: Path, honest: ProofBatch, tmp_path: Path
    ) -> None:
        path = write(tmp_path / "p.json", honest.as_dict())
        found = as_json(cli("calibrate", path, "--against", path, *WIDTH, "--json"))
        assert found["sigma"] == 0
        assert found["settings"]["honest_sigma"] == 0.01
        assert "both sides name the same platform: nothing is measured between platforms" in found["warnings"]

    def test_all_numbers_are_compared_where_both_sides_have_them(
        self, cli: Cli, directory: Path, honest: ProofBatch, tmp_path: Path
    ) -> None:
        path = write(tmp_path / "p.json", honest.as_dict())
        found = as_json(cli("calibrate", path, "--model", directory, *SHORT, "--json"))
        assert (found["n"], found["numbers"]) == (104, NUMBERS)
        # A vector's halves are off by as much.
        assert 0 < found["sigma"] < 1e-3

    def test_refusals(self, cli: Cli, directory: Path, honest: ProofBatch, tmp_path: Path) -> None:
        path = write(tmp_path / "p.json", honest.as_dict())
        width = cli("calibrate", path, "--model", directory, *SHORT, "--hidden-size", 64)
        assert width.code == 2
        assert "--hidden-size: 64 is not allowed; allowed: the model's, 256" in width.err
        other = cli("calibrate", path, "--model", directory, *SHORT, "--numbers", 1)
        assert other.code == 2
        assert f"numbers '{NUMBERS}' and not '1'" in other.err
        body = {**config_body(), "valid_rate": 0.5}
        below = cli("calibrate", path, "--model", directory, "--round", write(tmp_path / "r.json", body))
        assert below.code == 2
        assert "below rate 1" in below.err


def config_body() -> dict[str, Any]:
    asked = short_config()
    names = ("block_hash", "block_height", "public_key", "batch_size", "seq_len")
    return {name: getattr(asked, name) for name in names}


@pytest.mark.parametrize(
    ("one", "other", "problem"),
    [
        (made(63), {}, "nonces: 63 is not allowed; allowed: at least 64 that both platforms computed"),
        (made(200), {"block_hash": "another"}, "nonces: 0 is not allowed"),
        (made(200), {"public_key": "another"}, "nonces: 0 is not allowed"),
        (
            made(200, round_digest="a" * 64),
            {"round_digest": "b" * 64},
            "nonce 0 was computed with the round settings 'aaa",
        ),
        (made(200, rate=0.1), {}, "200 of 200 distances are below √2, where half of all are"),
    ],
)
def test_sides_that_cannot_be_compared(
    cli: Cli, tmp_path: Path, one: ProofBatch, other: dict[str, Any], problem: str
) -> None:
    first = write(tmp_path / "a.json", one.as_dict())
    second = write(tmp_path / "b.json", elsewhere(one, **other).as_dict())
    result = cli("calibrate", first, "--against", second, *WIDTH)
    assert result.code == 2
    assert problem in result.err
    assert result.out == ""


def test_a_callback_of_a_round_below_rate_1(cli: Cli, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {**made(200).as_dict(), "r_target": 1.41})
    result = cli("calibrate", path, "--against", path, *WIDTH)
    assert result.code == 2
    assert "a round with r_target 1.410000, below rate 1" in result.err


def test_proofs_of_several_platforms_on_one_side(cli: Cli, tmp_path: Path) -> None:
    one = made(200)
    path = write(tmp_path / "a.json", one.as_dict(), elsewhere(one).as_dict())
    result = cli("calibrate", path, "--against", path, *WIDTH)
    assert result.code == 2
    assert "the proofs are of several platforms" in result.err


def test_the_width_is_needed_and_checked(cli: Cli, tmp_path: Path) -> None:
    one = made(400)
    files = write(tmp_path / "a.json", one.as_dict()), write(tmp_path / "b.json", elsewhere(one).as_dict())
    without = cli("calibrate", files[0], "--against", files[1])
    assert without.code == 2
    assert "--hidden-size: None is not allowed" in without.err
    wrong = cli("calibrate", files[0], "--against", files[1], "--hidden-size", 64)
    assert wrong.code == 2
    assert "hidden_size: 64 is not allowed; allowed: the width of the model" in wrong.err


def test_one_side_alone(cli: Cli, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", made(200).as_dict())
    alone = cli("calibrate", path, *WIDTH)
    assert alone.code == 2
    assert "a body of /validated, which has the distances of both sides" in alone.err
    both = cli("calibrate", path, "--against", path, "--model", tmp_path)
    assert both.code == 2
    assert "give --against or --model, not both" in both.err
