"""A round: what a request may say, and how it is resolved against a model."""

import dataclasses
import math
from dataclasses import asdict
from typing import Any

import pytest
from builders import MODEL, make_config, make_round

from hallmark.poc.core.errors import FieldError, StateError
from hallmark.poc.protocol.config import PoCConfig, PoCState
from hallmark.poc.protocol.definition import Definition
from hallmark.poc.protocol.law import r_target_for, valid_rate


def test_states_are_those_of_the_specification() -> None:
    assert [state.value for state in PoCState] == ["IDLE", "GENERATING", "VALIDATING", "STOPPED"]


def test_defaults() -> None:
    config = make_config()
    assert config.use_random_projection
    assert (config.batch_size, config.seq_len) == (32, 256)
    assert config.fraud_threshold == 0.01
    assert {
        getattr(config, name)
        for name in ("inputs", "readout", "numbers", "vocabulary", "first", "input_scale", "projection_scale")
    } == {None}
    assert (config.group_id, config.n_groups) == (0, 1)


BAD_FIELDS = [
    ("block_hash", ""),
    ("block_hash", "\ud800"),
    ("block_hash", 5),
    ("block_hash", "x" * 5000),
    ("public_key", ""),
    ("public_key", None),
    ("block_height", -1),
    ("block_height", 2**63),
    ("block_height", True),
    ("block_height", "7"),
    ("r_target", 0.0),
    ("r_target", -1.4),
    ("r_target", math.nan),
    ("r_target", math.inf),
    ("r_target", "1.4"),
    ("valid_rate", 0),
    ("valid_rate", 1.1),
    ("valid_rate", math.nan),
    ("fraud_threshold", 0),
    ("fraud_threshold", 1),
    ("fraud_threshold", None),
    ("distance_tolerance", -0.1),
    ("distance_tolerance", 0),
    ("distance_tolerance", math.inf),
    ("honest_sigma", 0),
    ("honest_sigma", -0.1),
    ("honest_sigma", math.nan),
    ("honest_sigma", math.inf),
    ("honest_sigma", "0.1"),
    ("honest_kurtosis", 1),
    ("honest_kurtosis", 1.1e6),
    ("honest_kurtosis", math.nan),
    ("honest_kurtosis", None),
    ("honest_beyond", 0),
    ("honest_beyond", 1),
    ("honest_beyond", None),
    ("honest_design_effect", 0.99),
    ("honest_design_effect", math.inf),
    ("vectors", "none"),
    ("vectors", None),
    ("node_id", -1),
    ("node_count", 0),
    ("group_id", 1),
    ("group_id", -1),
    ("n_groups", 0),
    ("batch_size", 0),
    ("batch_size", 2.0),
    ("seq_len", 0),
    ("seq_len", 2**31),
    ("callback_url", ""),
    ("use_random_projection", 1),
    ("use_random_projection", None),
    ("projection_scale", 0),
    ("projection_scale", -0.01),
    ("projection_scale", 1.5),
    ("projection_scale", math.nan),
    ("input_scale", 0.3),
    ("input_scale", 3),
    ("input_scale", 0),
    ("input_scale", -0.5),
    ("input_scale", 2.0**-25),
    ("input_scale", 512),
    ("inputs", "token"),
    ("inputs", ""),
    ("inputs", 1),
    ("readout", "first"),
    ("readout", True),
    ("numbers", 0),
    ("numbers", -1),
    ("numbers", 1.0),
    ("numbers", True),
    ("numbers", 2**31),
    ("vocabulary", 0),
    ("vocabulary", "4096"),
    ("vocabulary", 2**31),
    ("first", -1),
    ("first", "None"),
    ("first", "0"),
    ("first", 2**31),
    ("first", True),
    ("first", 1.0),
    ("model", None),
    ("model", "\udfff"),
]


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS)
def test_a_bad_field_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(FieldError) as caught:
        make_config(**{field: value})
    assert caught.value.field == field


@pytest.mark.parametrize("value", [-1, "None", True, 1.0, [1], {}, 2**31])
def test_what_is_no_token_for_row_0_is_refused_in_one_sentence(value: object) -> None:
    with pytest.raises(FieldError) as caught:
        make_config(first=value)
    assert (caught.value.field, caught.value.value) == ("first", value)
    assert caught.value.allowed == "none, or an integer from 0 to 2147483647"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("node_id", 5),  # numbers of nodes may start at 1, whatever the count
        ("r_target", 10),
        ("valid_rate", 1),
        ("distance_tolerance", None),
        ("distance_tolerance", 1e-6),
        ("honest_sigma", None),
        ("honest_sigma", 0.1),
        ("honest_sigma", 1e-6),
        ("honest_kurtosis", 1.0001),
        ("honest_kurtosis", 1_000_000),
        ("input_scale", 1),
        ("input_scale", 2.0**-24),
        ("inputs", "tokens"),
        ("inputs", "normal"),
        ("inputs", None),
        ("readout", "rows"),
        ("readout", "last"),
        ("readout", None),
        ("numbers", 1),
        ("numbers", None),
        ("vocabulary", 1),
        ("vocabulary", 2**31 - 1),
        ("vocabulary", None),
        ("first", 0),
        ("first", "none"),
        ("first", None),
        ("block_height", 2**63 - 1),
        ("public_key", "ключ🗝"),
    ],
)
def test_a_good_field_is_taken(field: str, value: object) -> None:
    assert getattr(make_config(**{"node_count": 3, field: value}), field) == value


@pytest.mark.parametrize(
    ("tolerance", "sigma", "allowed"),
    [
        (0.175, 0.05, True),
        (0.175 * (1 + 9e-7), 0.05, True),
        (0.175 * (1 + 1.1e-6), 0.05, False),
        (0.35, 0.05, False),
        (0.4, 0.1, False),
        (None, 5.0, True),
        (0.7, None, True),
    ],
)
def test_tolerance_and_sigma_are_one_setting(
    tolerance: float | None, sigma: float | None, allowed: bool
) -> None:
    body = {"block_hash": "b", "block_height": 1, "public_key": "k"}
    stated = {"distance_tolerance": tolerance, "honest_sigma": sigma}
    if allowed:
        assert PoCConfig.parse({**body, **stated}).distance_tolerance == tolerance
        return
    with pytest.raises(FieldError, match=r"allowed: 3\.5 · honest_sigma = ") as caught:
        PoCConfig.parse({**body, **stated})
    assert caught.value.field == "distance_tolerance"


def test_a_stated_sigma_brings_its_tolerance() -> None:
    config = make_config(honest_sigma=0.04)
    assert config.distance_tolerance == pytest.approx(0.14)
    assert PoCConfig(**asdict(config)) == config
    with pytest.raises(FieldError, match="one of the two alone"):
        make_config(distance_tolerance=0.5, honest_sigma=0.04)


@pytest.mark.parametrize(
    ("changes", "sigma"),
    [
        ({}, 0.1),
        ({"distance_tolerance": 0.7}, 0.2),
        ({"honest_sigma": 0.07}, 0.07),
        ({"distance_tolerance": None}, None),
        ({"distance_tolerance": None, "honest_sigma": 0.07}, None),
    ],
)
def test_honest_sigma_is_stated_or_the_tolerance_s(changes: dict[str, Any], sigma: float | None) -> None:
    assert make_round(**changes).honest_sigma == sigma


def test_what_is_honest_is_not_part_of_the_digest() -> None:
    assert make_round(honest_sigma=0.05, honest_kurtosis=9.0).digest == make_round().digest


def test_equal_requests_are_equal() -> None:
    assert make_config(r_target=10, input_scale=1) == make_config(r_target=10.0, input_scale=1.0)
    assert make_config(seq_len=128) != make_config()


def test_neither_target_nor_rate_is_rate_one() -> None:
    round_ = make_round()
    assert (round_.r_target, round_.valid_rate) == (2.0, 1.0)
    assert round_.every_nonce_counts
    assert round_.is_valid(2.0)
    assert not round_.is_valid(math.nan)


def test_a_target_that_no_nonce_is_below_is_refused() -> None:
    """The law's rate is 0 in floating point, which no test of a batch could work with."""
    with pytest.raises(FieldError) as caught:
        make_round(r_target=0.01)
    assert str(caught.value).startswith("r_target: 0.01 is not allowed; allowed: a bound that some nonces")


@pytest.mark.parametrize("r_target", [2.0, 2, 10.0])
def test_a_target_from_two_on_is_rate_one(r_target: float) -> None:
    round_ = make_round(r_target=r_target)
    assert (round_.r_target, round_.valid_rate) == (2.0, 1.0)
    assert round_.is_valid(2.0)


def test_target_and_rate_give_each_other() -> None:
    by_rate = make_round(valid_rate=0.1)
    assert by_rate.r_target == r_target_for(0.1, 256)
    by_target = make_round(r_target=1.3)
    assert by_target.valid_rate == valid_rate(1.3, 256)
    assert by_target.is_valid(math.nextafter(1.3, 0))
    assert not by_target.is_valid(1.3)


def test_target_and_rate_may_agree() -> None:
    stated = round(r_target_for(0.1, 256), 4)
    round_ = make_round(r_target=stated, valid_rate=0.1)
    assert round_.r_target == stated
    assert make_round(r_target=10, valid_rate=1.0).every_nonce_counts


@pytest.mark.parametrize(("r_target", "rate"), [(1.4, 0.1), (2.0, 0.5), (1.3, 1.0)])
def test_target_and_rate_that_disagree_are_refused_with_both_values(r_target: float, rate: float) -> None:
    with pytest.raises(FieldError, match=f"{rate:g} is r_target {r_target_for(rate, 256):.6f}") as caught:
        make_round(r_target=r_target, valid_rate=rate)
    assert caught.value.field == "r_target"
    assert f"{valid_rate(r_target, 256):.6g}" in str(caught.value)


def test_another_model_is_refused_with_both_names() -> None:
    with pytest.raises(StateError, match=r"other/model.*org/model, alias"):
        make_round(model="other/model")
    assert make_round(model="alias").config.model == "alias"


def test_batch_size_is_lowered_to_what_fits() -> None:
    assert make_round(batch_size=100, seq_len=64).batch_size == 64  # max_sequences
    assert make_round(batch_size=100, seq_len=256).batch_size == 32  # tokens
    assert make_round(batch_size=100, seq_len=4096).batch_size == 2
    assert make_round(batch_size=3).batch_size == 3


@pytest.mark.parametrize(("limit", "longest"), [("max_model_len", 128), ("max_batched_tokens", 100)])
def test_a_sequence_that_does_not_fit_is_refused(limit: str, longest: int) -> None:
    change: dict[str, Any] = {limit: longest}
    small = dataclasses.replace(MODEL, **change)
    assert make_round(small, seq_len=longest).batch_size >= 1
    with pytest.raises(FieldError, match=f"{limit.replace('batched', 'num_batched')} {longest}") as caught:
        make_round(small, seq_len=longest + 1)
    assert caught.value.field == "seq_len"


def test_definition_and_digest_are_those_of_the_model() -> None:
    round_ = make_round()
    assert round_.definition == Definition.resolve(round_.config, MODEL)
    assert round_.numbers == round_.definition.numbers == 16
    assert make_round(dataclasses.replace(MODEL, first=1)).digest != round_.digest
    assert make_round(dataclasses.replace(MODEL, vocabulary=4095)).numbers == 1


def test_backward_compatibility_by_an_optional_flag() -> None:
    """Acceptance criterion 6.1: Backward compatibility with Phase 1-5 (optional flag)."""
    plain = make_round(use_random_projection=False)
    spec = plain.spec()
    assert (spec.inputs, spec.input_scale, spec.readout, spec.numbers) == ("normal", 1.0, "last", 1)
    assert not spec.projection


def test_tolerance_is_in_units_of_s() -> None:
    round_ = make_round(distance_tolerance=0.5)
    assert round_.distance_std == 1 / math.sqrt(512)
    assert round_.tolerance == 0.5 * round_.distance_std
    assert make_round(distance_tolerance=None).tolerance is None
