"""The harness of attacks on models: honest provers have no error, altered ones have, and nothing stays."""

import _conviction
import numpy as np
import pytest
import torch
from _altered import (
    Deployed,
    calibration_inputs,
    layers_of,
    matrices_of,
    numbers,
    round_of,
    together,
    with_forward,
    with_weights,
)
from _provided import SMALL, provide

from hallmark.poc.offline.model import OfflineModel
from hallmark.poc.protocol.round_tensors import RoundTensors


@pytest.fixture(scope="module")
def model() -> OfflineModel:
    return provide(SMALL)


def test_an_honest_prover_has_no_error_and_no_alteration_stays(model: OfflineModel) -> None:
    deployed = Deployed(model, 24, 6)
    assert deployed.truth.shape == (6, 4)
    layer, matrix = layers_of(model)[1], matrices_of(model)["2.mlp.up_proj"]
    skipped = with_forward(layer, lambda own: lambda hidden_states, *_, **__: hidden_states)
    with together(skipped, with_weights({matrix: torch.zeros_like(matrix.weight)})):
        altered = deployed.errors()
    assert _conviction.rms(altered) > 0.3
    assert not deployed.errors().any()
    assert "forward" not in vars(layer)


def test_numbers_are_those_of_the_offline_verifier(model: OfflineModel) -> None:
    round_ = round_of(model, 24)
    tensors = RoundTensors(round_.spec(), model.torch_dtype, model.device)
    found = numbers(model, round_, range(5))
    assert found[:4].tolist() == model.numbers(tensors, [("prover", nonce) for nonce in range(4)])
    assert found.shape == (5, round_.numbers)


def test_inputs_to_calibrate_on_are_of_other_blocks(model: OfflineModel) -> None:
    found = calibration_inputs(model, 6, 24)
    assert found.shape == (6, 24, model.hidden_size)
    tensors = RoundTensors(round_of(model, 24).spec(), model.torch_dtype, model.device)
    own = tensors.project(model.embed(tensors.tokens([("prover", nonce) for nonce in range(4)])))
    assert not torch.isclose(found[:4], own).all(-1).any()
    assert float(found.std()) == pytest.approx(float(own.std()), rel=0.1)


def test_more_nonces_convict_smaller_errors() -> None:
    """Without an error nothing does, whatever is stated of noise; beyond all bounds one or two nonces do."""
    draw = np.random.default_rng(0)
    honest = _conviction.described(np.zeros((8, 14)), trials=20)
    small = _conviction.described(draw.normal(0, 0.08, (8, 14)), trials=20)
    huge = _conviction.described(draw.normal(0, 1.4, (8, 14)), trials=20)
    key = "calibrated_1e-07"
    assert honest[key] is None
    assert honest["default_1e-07"] is None
    assert 3 <= small[key] <= 40
    assert huge[key] <= 2
    assert huge["default_1e-07"] <= 4
    assert huge["beyond"] > 0.8
    assert huge["clipped"] < 3.5 * _conviction.measured_noise().sigma


def test_what_hides_is_a_part_of_what_is_allowed_for() -> None:
    settings = _conviction.measured_noise().settings
    calibrated, default = (_conviction.largest_that_hides(each, 14, trials=10) for each in settings.values())
    assert 0.005 < calibrated < settings["calibrated"].sigma
    assert settings["calibrated"].sigma < default < 1.1 * settings["default"].sigma
