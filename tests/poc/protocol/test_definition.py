"""What a round computes where its request leaves things open, and what it refuses."""

from dataclasses import replace
from typing import Any

import independent_verifier
import pytest
from builders import MODEL, make_config
from hypothesis import given
from hypothesis import strategies as st

from hallmark.poc.core.errors import FieldError
from hallmark.poc.protocol.config import DeployedModel
from hallmark.poc.protocol.definition import MIN_VOCABULARY, Definition
from hallmark.poc.protocol.round_spec import NO_FIRST

LARGE = replace(MODEL, hidden_size=4096, vocabulary=151_669, table_rows=151_936)
SMALL = replace(MODEL, vocabulary=4095, table_rows=4095)
WITHOUT_TABLE = replace(MODEL, vocabulary=0, table_rows=0)
BEGINS = replace(LARGE, first=128_000)


def resolve(model: DeployedModel = MODEL, **settings: Any) -> Definition:
    return Definition.resolve(make_config(**settings), model)


def refusal(model: DeployedModel = MODEL, **settings: Any) -> FieldError:
    with pytest.raises(FieldError) as caught:
        resolve(model, **settings)
    return caught.value


def test_the_default_is_tokens_and_rows() -> None:
    assert resolve() == Definition(
        inputs="tokens",
        vocabulary=4096,
        first=NO_FIRST,
        input_scale=1.0,
        projection_scale=2.0**-6,
        readout="rows",
        numbers=16,
    )
    large = resolve(BEGINS)
    assert (large.vocabulary, large.first, large.projection_scale) == (151_669, 128_000, 2.0**-8)


@pytest.mark.parametrize("model", [SMALL, WITHOUT_TABLE])
@pytest.mark.parametrize("seq_len", [4, 9, 64, 256])
def test_with_few_tokens_the_default_is_normal_and_last(model: DeployedModel, seq_len: int) -> None:
    found = resolve(model, seq_len=seq_len)
    assert (found.inputs, found.readout, found.numbers) == ("normal", "last", 1)
    assert (found.vocabulary, found.first, found.input_scale) == (0, NO_FIRST, 1.0)


def test_a_stated_vocabulary_decides_like_the_model_s() -> None:
    assert MIN_VOCABULARY == 4096
    assert resolve(LARGE, vocabulary=4096).inputs == "tokens"
    assert resolve(LARGE, vocabulary=4096).vocabulary == 4096
    assert resolve(LARGE, vocabulary=4095).inputs == "normal"
    assert resolve(LARGE, vocabulary=4095).vocabulary == 0


@pytest.mark.parametrize("model", [MODEL, BEGINS, SMALL])
@pytest.mark.parametrize("seq_len", [1, 5, 256])
def test_the_flag_s_off_alone_is_the_plain_poc(model: DeployedModel, seq_len: int) -> None:
    """Acceptance criterion 6.1: Backward compatibility with Phase 1-5 (optional flag)."""
    found = resolve(model, use_random_projection=False, seq_len=seq_len)
    assert (found.inputs, found.readout, found.numbers) == ("normal", "last", 1)
    assert (found.vocabulary, found.first, found.input_scale) == (0, NO_FIRST, 1.0)


def test_the_flag_s_off_with_a_stated_one_is_that_without_projections() -> None:
    assert resolve(use_random_projection=False, inputs="tokens").readout == "rows"
    assert resolve(use_random_projection=False, readout="rows").inputs == "tokens"


@pytest.mark.parametrize("seq_len", [*range(1, 10), 11, 63, 255])
def test_lengths_without_groups_read_the_last_row(seq_len: int) -> None:
    """Existing clients may ask for 4 to 9."""
    found = resolve(seq_len=seq_len)
    assert (found.inputs, found.readout, found.numbers) == ("tokens", "last", 1)


@pytest.mark.parametrize(
    ("stated", "inputs", "readout"),
    [
        ({"inputs": "tokens"}, "tokens", "rows"),
        ({"inputs": "normal"}, "normal", "last"),
        ({"readout": "rows"}, "tokens", "rows"),
        ({"readout": "last"}, "normal", "last"),
        ({"inputs": "tokens", "readout": "rows"}, "tokens", "rows"),
        ({"inputs": "tokens", "readout": "last"}, "tokens", "last"),
        ({"inputs": "normal", "readout": "last"}, "normal", "last"),
        ({"inputs": "normal", "readout": "rows", "honest_sigma": 0.1}, "normal", "rows"),
    ],
)
@pytest.mark.parametrize("projection", [True, False])
def test_a_stated_one_brings_its_partner(
    stated: dict[str, Any], inputs: str, readout: str, projection: bool
) -> None:
    found = resolve(use_random_projection=projection, **stated)
    assert (found.inputs, found.readout) == (inputs, readout)
    assert found.numbers == (16 if readout == "rows" else 1)
    assert found.vocabulary == (4096 if inputs == "tokens" else 0)


@pytest.mark.parametrize(
    ("stated", "field", "value", "partner"),
    [
        ({"inputs": "tokens"}, "inputs", "tokens", "normal"),
        ({"inputs": "tokens", "readout": "last"}, "inputs", "tokens", "normal"),
        ({"readout": "rows"}, "readout", "rows", "last"),
    ],
)
def test_tokens_of_too_small_a_vocabulary_are_refused(
    stated: dict[str, Any], field: str, value: str, partner: str
) -> None:
    for model, more in ((SMALL, {}), (LARGE, {"vocabulary": 4095})):
        refused = refusal(model, **stated, **more)
        assert (refused.field, refused.value) == (field, value)
        assert refused.allowed == (
            f"{partner}: a linear map of tokens needs a vocabulary of 4,096 or more, this one has 4,095"
        )


def test_groups_of_normal_inputs_need_a_measured_noise() -> None:
    refused = refusal(inputs="normal", readout="rows")
    assert (refused.field, refused.value) == ("readout", "rows")
    assert refused.allowed == "last for normal inputs, unless honest_sigma is stated: their noise is large"
    assert resolve(inputs="normal", readout="rows", honest_sigma=0.05).numbers == 16


@pytest.mark.parametrize("seq_len", [*range(1, 10), 11, 255])
@pytest.mark.parametrize("stated", [{"readout": "rows"}, {"inputs": "tokens"}])
def test_groups_that_are_asked_for_need_a_length_that_has_them(seq_len: int, stated: dict[str, Any]) -> None:
    refused = refusal(seq_len=seq_len, **stated)
    assert (refused.field, refused.value) == ("seq_len", seq_len)
    assert refused.allowed == "an even number from 10 on, where groups of rows are read"


@pytest.mark.parametrize(
    ("seq_len", "numbers"),
    [(10, 1), (12, 1), (14, 1), (16, 2), (20, 3), (64, 14), (70, 15), (72, 16), (256, 16), (4096, 16)],
)
def test_numbers_by_default(seq_len: int, numbers: int) -> None:
    assert resolve(seq_len=seq_len).numbers == numbers == independent_verifier.default_numbers(seq_len)


@given(seq_len=st.integers(5, 300).map(lambda half: 2 * half), numbers=st.integers(1, 400))
def test_a_length_is_at_least_twice_the_numbers_and_eight(seq_len: int, numbers: int) -> None:
    if seq_len >= 2 * numbers + 8:
        assert resolve(seq_len=seq_len, numbers=numbers).numbers == numbers
        return
    refused = refusal(seq_len=seq_len, numbers=numbers)
    assert (refused.field, refused.value) == ("numbers", numbers)
    assert refused.allowed == (
        f"1 to {(seq_len - 8) // 2} for seq_len {seq_len}, which is at least 2 · numbers + 8"
    )


def test_the_last_row_gives_one_number() -> None:
    assert resolve(readout="last", numbers=1).numbers == 1
    refused = refusal(readout="last", numbers=2)
    assert (refused.field, refused.value, refused.allowed) == ("numbers", 2, "1, where the last row is read")
    assert refusal(seq_len=9, numbers=2).field == "numbers", "also where nothing else was stated"


def test_a_vocabulary_beyond_the_model_s_is_refused() -> None:
    assert resolve(LARGE, vocabulary=151_669).vocabulary == 151_669
    refused = refusal(LARGE, vocabulary=151_670)
    assert (refused.field, refused.value) == ("vocabulary", 151_670)
    assert refused.allowed == "1 to 151669, the tokens that the model has"


@pytest.mark.parametrize(
    ("model", "stated", "first"),
    [
        (MODEL, None, NO_FIRST),
        (BEGINS, None, 128_000),
        (BEGINS, "none", NO_FIRST),
        (BEGINS, 0, 0),
        (MODEL, 4095, 4095),
        (LARGE, 151_935, 151_935),  # beyond the vocabulary, within the table
    ],
)
def test_the_token_of_row_0(model: DeployedModel, stated: Any, first: int) -> None:
    assert resolve(model, first=stated).first == first


def test_a_first_token_without_a_row_is_refused() -> None:
    refused = refusal(LARGE, first=151_936)
    assert (refused.field, refused.value) == ("first", 151_936)
    assert refused.allowed == "none, or 0 to 151935, a row of the model's embedding table"


@pytest.mark.parametrize("stated", [{"inputs": "normal"}, {"use_random_projection": False}])
def test_normal_inputs_have_no_first_token(stated: dict[str, Any]) -> None:
    assert resolve(BEGINS, **stated).first == NO_FIRST
    assert resolve(BEGINS, first=17, **stated).first == NO_FIRST


def test_the_scale_of_inputs_is_that_of_normal_ones() -> None:
    assert resolve(inputs="normal").input_scale == 1.0
    assert resolve(inputs="normal", input_scale=2.0**-5).input_scale == 2.0**-5
    assert resolve(input_scale=1.0).input_scale == 1.0
    refused = refusal(input_scale=0.5)
    assert (refused.field, refused.value) == ("input_scale", 0.5)
    assert refused.allowed == "none for tokens: it scales normal inputs"


@pytest.mark.parametrize("scale", [0.01, 1e-6, 1.0, 0.3])
@pytest.mark.parametrize("projection", [True, False])
def test_the_scale_of_projections_is_the_width_s_or_the_stated_one(scale: float, projection: bool) -> None:
    assert resolve(use_random_projection=projection, projection_scale=scale).projection_scale == scale
    assert resolve(use_random_projection=projection).projection_scale == 2.0**-6
