"""Predictions of final hidden states: what they are worth, and the experiment itself, shortened."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from _altered import layers_of, numbers, round_of
from _judging import round_for
from _prediction import (
    Readout,
    Ridge,
    TokenMeans,
    in_other_contexts,
    read_rows,
    run_sequences,
    unit_rows,
    with_rows_before,
)
from _provided import SMALL, provide
from experiments import shortened
from forging import EARLIER, GROUPS, LAST, Prediction, endless, gain_of
from torch import Tensor

from hallmark.poc.offline.model import OfflineModel
from hallmark.poc.protocol.round_spec import RoundSpec

WIDTH = 256
ROWS = 64


@pytest.fixture(scope="module")
def model() -> OfflineModel:
    return provide(SMALL)


def spec_of(**config: str) -> RoundSpec:
    return round_for(WIDTH, seq_len=ROWS, **config).spec()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_truth_has_a_cosine_of_1_and_no_error_and_chance_has_none() -> None:
    readout = Readout(spec_of(), range(8))
    true, chance = normal(8, ROWS, WIDTH), normal(8, ROWS, WIDTH, seed=1)
    assert readout.cosines(true, true).min() == pytest.approx(1, abs=1e-5)
    assert not (readout.numbers(true) - readout.numbers(true)).any()
    assert abs(readout.cosines(chance, true).mean()) < 0.05
    errors = readout.numbers(chance) - readout.numbers(true)
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(math.sqrt(2), rel=0.2)


@pytest.mark.parametrize("cosine", [0.3, 0.8])
def test_a_guess_is_off_by_what_its_cosine_leaves(cosine: float) -> None:
    readout = Readout(spec_of(), range(24))
    true, other = normal(24, ROWS, WIDTH), normal(24, ROWS, WIDTH, seed=1)
    predicted = cosine * true + math.sqrt(1 - cosine**2) * other
    assert readout.cosines(predicted, true).mean() == pytest.approx(cosine, abs=0.03)
    errors = cosine * readout.numbers(predicted) - readout.numbers(true)
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(math.sqrt(1 - cosine**2), rel=0.15)


def test_a_direction_that_all_rows_share_is_seen_in_the_last_row_and_not_in_balanced_groups() -> None:
    common = 3 * normal(WIDTH, seed=9)
    for config, low, high in (({}, -0.1, 0.1), ({"inputs": "tokens", "readout": "last"}, 0.85, 1.0)):
        readout = Readout(spec_of(**config), range(8))
        earlier, true = (common + normal(8, ROWS, WIDTH, seed=seed) for seed in (1, 2))
        assert low < readout.cosines(earlier.mean(0).expand_as(true), true).mean() < high, config


def test_what_ran_gives_the_numbers_of_the_harness(model: OfflineModel) -> None:
    round_ = round_of(model, 24)
    readout, last = Readout(round_.spec(), range(6)), layers_of(model)[-1]
    ran = run_sequences(model, round_.spec(), readout.drawn, [last])
    assert np.allclose(readout.numbers(ran.final), numbers(model, round_, range(6)), atol=1e-4)
    with torch.inference_mode():
        assert torch.allclose(model.model.base_model.norm(ran.outputs[last]), ran.final, atol=1e-4)
    assert not vars(last)["_forward_hooks"]


def test_a_ridge_regression_finds_a_linear_map_and_nothing_where_there_is_none() -> None:
    features, unknown = normal(2000, 12), normal(2000, 12, seed=1)
    targets = features @ normal(12, 8, seed=2) + 5
    assert torch.allclose(Ridge(features, targets)(features), targets, atol=0.02)
    found = Ridge(unknown, targets)(unknown)
    assert float((found - targets).norm()) == pytest.approx(float((targets - 5).norm()), rel=0.05)


def test_rows_before_are_needed_where_the_output_depends_on_them() -> None:
    inputs = normal(50, 20, 6)
    outputs = torch.zeros_like(inputs)
    outputs[:, 2:] = inputs[:, :-2]
    errors = []
    for before in (1, 2):
        features = with_rows_before(inputs, before)
        assert features.shape == (50, 20, 6 * (1 + before))
        found = Ridge(read_rows(features), read_rows(outputs))(read_rows(features))
        errors.append(float((found - read_rows(outputs)).square().mean()))
    assert errors[0] > 0.9
    assert errors[1] < 1e-3


def test_means_by_token() -> None:
    states = torch.tensor([[1.0, 0], [3, 0], [0, 6], [0, 0]])
    table = TokenMeans(torch.tensor([7, 7, 2, 900]), states)
    found = table(torch.tensor([[2, 7], [3, 1000]]))
    assert found.tolist() == [[[0, 6], [2, 0]], [[1, 1.5], [1, 1.5]]]


@pytest.mark.parametrize("width", [1, 2])
def test_spans_stand_once_each_in_other_contexts(width: int) -> None:
    spec = round_for(WIDTH, seq_len=ROWS, first=5).spec()
    spans = torch.arange(100_000, 100_000 + 70 * width).view(70, width)
    tokens = in_other_contexts(spec, spans, np.random.default_rng(0))
    assert tokens.shape == (3 if width > 1 else 2, ROWS)
    assert tokens[:, 0].tolist() == [5] * len(tokens)
    rows = read_rows(tokens)
    assert sorted(rows[rows >= 100_000].tolist()) == spans.flatten().tolist()
    ends = (rows >= 100_000) & (rows % width == width - 1)
    assert (rows[ends.nonzero() - (width - 1)] == rows[ends.nonzero()] - (width - 1)).all()


def test_the_gain_counts_what_a_prediction_costs() -> None:
    rows = torch.zeros(0)
    free, dear = Prediction("", "", rows, 0.0), Prediction("", "", rows, 0.5)
    goes_on = Prediction("", "", rows, 0.5, goes_on=True)
    known, unknown = np.ones(8), np.zeros(8)
    assert gain_of(0.1, known, free) == pytest.approx(10, rel=1e-3)
    assert gain_of(0.1, known, dear) == pytest.approx(1 / 0.6, rel=1e-3)
    assert gain_of(0.1, known, goes_on) == pytest.approx(1 / 0.55, rel=1e-3)
    assert gain_of(1.0, unknown, goes_on) == 1.0
    assert gain_of(0.1, unknown, free) == pytest.approx(1)
    assert gain_of(0.1, unknown, dear) < 0.2


def test_the_cosine_of_endless_contexts_from_two_numbers_of_them() -> None:
    def row(contexts: int) -> dict[str, object]:
        cosine = 0.5 / math.sqrt(1 + 2 / contexts)
        return {"predictor": f"table by token, {contexts} contexts", "made": EARLIER, "cosine": cosine}

    assert endless([row(1), row(4)]) == pytest.approx(0.5)


def test_scaled_rows_have_a_mean_square_of_1() -> None:
    assert torch.allclose(unit_rows(7 * normal(5, 64)).square().mean(-1), torch.ones(5))


def test_the_experiment_shortened(tmp_path: Path) -> None:
    results = shortened("forging", tmp_path)
    assert len(results["findings"]) == 4
    rows = {(row["reads"], row["predictor"], row["made"]): row for row in results["rows"]}
    for row in rows.values():
        assert 0 <= row["saving"] <= 1
        assert -1 <= row["cosine"] <= row["cosine_90"] <= 1
        # Who runs every nonce all the same has but the prediction's cost more.
        assert row["gain"] >= 1 / (2 - row["saving"]) - 1e-9
    for reads in (GROUPS, LAST):
        one, three = (rows[reads, f"first {layers} of 4 layers", EARLIER] for layers in (1, 3))
        assert 0.2 < one["cosine"] < three["cosine"] < 1
        assert three["error"] < one["error"]
        assert one["saving"] > three["saving"] > 0.2
