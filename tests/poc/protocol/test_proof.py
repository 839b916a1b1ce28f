"""What a batch may say, and whether it belongs to the round."""

import json
import math
from typing import Any

import pytest
from rounds import BLOCK, make_round

from hallmark.poc.core.errors import FieldError, StateError
from hallmark.poc.protocol.proof import ProofBatch

WIRE: dict[str, Any] = {
    "public_key": "key",
    "block_hash": BLOCK,
    "block_height": 7,
    "node_id": 1,
    "nonces": [1, 4, 7],
    "dist": [1.3, 1.4, 1.5],
}


def batch(**changes: Any) -> ProofBatch:
    return ProofBatch.parse({**WIRE, **changes})


def test_reads_what_older_clients_send() -> None:
    proof = batch(unknown_field="is ignored")
    assert proof.nonces == (1, 4, 7)
    assert proof.dist == (1.3, 1.4, 1.5)
    assert (proof.round_digest, proof.covered, proof.failed_nonces, proof.numerics) == (None, None, (), None)
    assert proof.as_dict() == WIRE


def test_older_clients_state_no_node_or_say_so() -> None:
    without = {name: value for name, value in WIRE.items() if name != "node_id"}
    assert ProofBatch.parse(without) == batch(node_id=-1) == batch(node_id=0)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("failed_nonce", "failed_nonces"), ("numeric", "numerics"), ("round-settings", "round_settings")],
)
def test_a_near_miss_of_a_field_is_refused(name: str, meant: str) -> None:
    with pytest.raises(FieldError, match=f"^{name}: 7 is not allowed; allowed: no such field; '{meant}'"):
        batch(**{name: 7})


def test_what_servers_and_receivers_say_of_a_batch_is_no_near_miss() -> None:
    assert batch(n_nonces=3, n_covered=1, valid_nonces=[1], spoke=[]) == batch()


def test_travels_through_json_and_back() -> None:
    proof = batch(covered=[0, 3], failed_nonces=[10], numerics={"dtype": "bfloat16", "tp": 2, "eager": True})
    assert ProofBatch.parse(json.loads(json.dumps(proof.as_dict()))) == proof
    assert batch(round="ab").as_dict() == {**WIRE, "round": "ab"}
    assert batch(round="ab") == ProofBatch.parse(batch(round="ab").as_dict())
    all_well = batch(covered=[0, 2])
    assert all_well.as_dict()["failed_nonces"] == []
    assert ProofBatch.parse(all_well.as_dict()) == all_well


@pytest.mark.parametrize("field", [name for name in WIRE if name != "node_id"])
def test_a_missing_field_is_named(field: str) -> None:
    for wire in ({k: v for k, v in WIRE.items() if k != field}, {**WIRE, field: None}):
        with pytest.raises(FieldError, match="required") as caught:
            ProofBatch.parse(wire)
        assert caught.value.field == field


BAD_FIELDS = [
    ("public_key", ""),
    ("public_key", "\ud83d"),
    ("block_hash", 17),
    ("block_height", -1),
    ("node_id", -2),
    ("node_id", 2**63),
    ("nonces", [1, 4, -7]),
    ("nonces", [1, 4, 2**63]),
    ("nonces", [1, 4, 7.0]),
    ("nonces", [1, 4, True]),
    ("nonces", [1, 4, "7"]),
    ("nonces", "147"),
    ("nonces", {"1": 1}),
    ("nonces", [1, 4]),
    ("nonces", [1, 4, 7, 10]),
    ("nonces", []),
    ("dist", [1.3, 1.4]),
    ("dist", []),
    ("dist", [1.3, 1.4, math.nan]),
    ("dist", [1.3, 1.4, math.inf]),
    ("dist", [1.3, 1.4, -0.1]),
    ("dist", [1.3, 1.4, 2.0000001]),
    ("dist", [1.3, 1.4, 10**400]),
    ("dist", [1.3, 1.4, None]),
    ("dist", [1.3, 1.4, "1.5"]),
    ("dist", [1.3, 1.4, True]),
    ("dist", 1.3),
    ("protocol", "hallmark/2"),
    ("protocol", ""),
    ("protocol", 1),
    ("round", ""),
    ("round", 7),
    ("covered", [3, 0]),
    ("covered", [0]),
    ("covered", [0, 1, 2]),
    ("covered", [-1, 3]),
    ("covered", 3),
    ("failed_nonces", [-1]),
    ("round_settings", {"seq_len": 256}),
    ("round_settings", {"seq_len": "x" * 5000}),
    ("round_settings", {str(i): "" for i in range(65)}),
    ("failed_nonces", [4]),
    ("failed_nonces", 0),
    ("numerics", "eager"),
    ("numerics", {"a": 1.5}),
    ("numerics", {"a": None}),
    ("numerics", {"a": ["b"]}),
    ("numerics", {str(i): i for i in range(65)}),
]


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS)
def test_a_bad_field_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(FieldError) as caught:
        batch(**{field: value})
    # Lengths that differ are told of `dist`, whichever of the two is short.
    assert caught.value.field.split("[")[0].split(".")[0] in {field, "dist"}


def test_a_bad_element_is_named_with_its_place() -> None:
    with pytest.raises(
        FieldError, match=r"^dist\[2\]: nan is not allowed; allowed: a finite number from 0 to 2"
    ):
        batch(dist=[1.3, 1.4, math.nan])
    with pytest.raises(FieldError, match=r"^nonces\[1\]: -4 is not allowed"):
        batch(nonces=[1, -4, 7])


def test_empty_is_an_error_but_all_failed_is_not() -> None:
    with pytest.raises(FieldError, match="at least one nonce"):
        batch(nonces=[], dist=[])
    assert batch(nonces=[], dist=[], failed_nonces=[1]).failed_nonces == (1,)


def test_the_ends_of_the_ranges_are_allowed() -> None:
    proof = batch(nonces=[0, 2**63 - 1, 5], dist=[0, 2, 2.0], node_id=0, block_height=2**63 - 1)
    assert proof.dist == (0.0, 2.0, 2.0)


def test_duplicates_are_left_to_the_judge() -> None:
    assert batch(nonces=[4, 4, 4]).nonces == (4, 4, 4)


def test_another_block_is_refused_with_both_named() -> None:
    round_ = make_round(node_id=1, node_count=3)
    batch().check_against(round_)
    with pytest.raises(StateError, match=f"0xother.*{BLOCK}"):
        batch(block_hash="0xother").check_against(round_)
    with pytest.raises(StateError, match=r"height 8.*height 7"):
        batch(block_height=8).check_against(round_)


@pytest.mark.parametrize(
    "change", [{"seq_len": 128}, {"input_scale": 1.0}, {"use_random_projection": False}, {"model": "alias"}]
)
def test_other_round_settings_are_refused_with_both_named(change: dict[str, Any]) -> None:
    round_, other = make_round(), make_round(**change)
    batch(round=round_.digest).check_against(round_)
    with pytest.raises(StateError, match=f"{other.digest}.*{round_.digest}.*seq_len, input_scale"):
        batch(round=other.digest).check_against(round_)


def test_older_clients_may_join_batches_of_several_nodes() -> None:
    batch(nonces=[5, 900, 17], node_id=0).check_against(make_round(node_count=3))


def test_a_batch_that_says_what_it_covers_must_cover_it() -> None:
    """At rate 1 every nonce of indices 0 to 3 is claimed or failed: 1, 4, 7, 10 for node 1 of 3."""
    round_ = make_round(node_count=3)
    batch(covered=[0, 2]).check_against(round_)
    batch(covered=[0, 3], failed_nonces=[10]).check_against(round_)
    with pytest.raises(FieldError, match=r"3 of them.*4 to 4"):
        batch(covered=[0, 3]).check_against(round_)


@pytest.mark.parametrize("nonces", [[1, 4, 10], [4, 7, 10], [1, 4, 8], [0, 4, 7], [1, 2, 3], [2, 5, 8]])
def test_a_nonce_outside_of_the_covered_walk_is_refused(nonces: list[int]) -> None:
    with pytest.raises(FieldError, match="1 to 7 in steps of 3"):
        batch(covered=[0, 2], nonces=nonces).check_against(make_round(node_count=3))


def test_below_rate_one_a_covered_nonce_may_be_left_out() -> None:
    round_ = make_round(node_count=3, valid_rate=0.1)
    batch(covered=[0, 500]).check_against(round_)
    with pytest.raises(FieldError, match="steps of 3"):
        batch(covered=[0, 500], nonces=[1, 4, 8]).check_against(round_)
    with pytest.raises(FieldError, match="steps of 3"):
        batch(covered=[1, 500]).check_against(round_)


@pytest.mark.parametrize("group", [0, 1])
def test_a_batch_comes_from_one_group_of_the_node(group: int) -> None:
    """Node 1 of 2 with 2 groups walks 1, 5, 9 in its first group and 3, 7, 11 in its second."""
    round_ = make_round(node_count=2, n_groups=2, group_id=0)
    walk = [1 + 2 * group + 4 * index for index in range(3)]
    batch(covered=[0, 2], nonces=walk).check_against(round_)
    with pytest.raises(FieldError, match="in steps of 4"):
        batch(covered=[0, 2], nonces=[1, 3, 5]).check_against(round_)


def test_node_numbers_may_lie_above_the_count() -> None:
    batch(covered=[0, 2], node_id=7, nonces=[7, 10, 13]).check_against(make_round(node_count=3))


def test_a_nonce_below_the_walk_is_refused() -> None:
    with pytest.raises(FieldError, match="7 to 13 in steps of 3"):
        batch(covered=[0, 2], node_id=7, nonces=[1, 7, 10]).check_against(make_round(node_count=3))


def test_without_a_node_count_the_number_of_nonces_is_still_checked() -> None:
    round_ = make_round()
    batch(covered=[0, 2]).check_against(round_)
    for covered in ([0, 1], [0, 3]):
        with pytest.raises(FieldError, match="by `covered`"):
            batch(covered=covered).check_against(round_)


def test_a_duplicate_does_not_stand_in_for_a_missing_nonce() -> None:
    with pytest.raises(FieldError, match="2 of them"):
        batch(covered=[0, 2], nonces=[1, 4, 4]).check_against(make_round(node_count=3))


@pytest.mark.parametrize(
    ("theirs", "difference"),
    [
        ({"seq_len": 77}, "seq_len '77' and not '256'"),
        ({"input_scale": 2.0**-7}, r"input_scale 2\^-7 and not 2\^-3"),
        (
            {"use_random_projection": False},
            r"input_scale 2\^0 and not 2\^-3, projection 'off' and not 'on'",
        ),
        ({"model": "alias"}, "model 'alias' and not ''"),
        ({"projection_scale": 0.5}, "projection_scale '0.5' and not '0.01'"),
    ],
)
def test_settings_that_travel_with_the_digest_name_what_differs(
    theirs: dict[str, Any], difference: str
) -> None:
    other = make_round(**theirs)
    claim = batch(round=other.digest, round_settings=other.settings)
    with pytest.raises(StateError, match=f"{other.digest}.*: {difference}$"):
        claim.check_against(make_round())


def test_the_same_settings_under_another_digest_are_another_protocol() -> None:
    claim = batch(round="0" * 64, round_settings=make_round().settings)
    with pytest.raises(StateError, match="another version of the protocol than hallmark/1"):
        claim.check_against(make_round())


@pytest.mark.parametrize(
    ("theirs", "ours", "refusal"),
    [
        ({"dtype": "float16"}, {"dtype": "bfloat16"}, "in dtype 'float16', it would be judged in dtype"),
        ({"quantization": "fp8"}, {"quantization": "none"}, "quantization 'fp8', it would be judged with"),
        ({"quantization": "gptq"}, {"quantization": "awq_marlin"}, "quantization 'gptq'"),
        ({"quantization": "awq_marlin"}, {"quantization": "awq"}, None),
        ({"quantization": "awq"}, {"quantization": "awq_marlin"}, None),
        ({"quantization": "auto_gptq"}, {"quantization": "gptq_marlin"}, None),
        ({"quantization": "cpu_awq"}, {"quantization": "auto_awq"}, None),
        ({"quantization": "moe_wna16"}, {"quantization": "gptq"}, None),
        ({}, {"dtype": "bfloat16", "quantization": "fp8"}, None),
        ({"dtype": "bfloat16"}, {}, None),
    ],
)
def test_another_arithmetic_is_refused(
    theirs: dict[str, Any], ours: dict[str, Any], refusal: str | None
) -> None:
    claim = batch(numerics=theirs)
    if refusal is None:
        claim.check_against(make_round(), ours)
        return
    with pytest.raises(StateError, match=refusal):
        claim.check_against(make_round(), ours)


def test_what_a_refusal_says_of_settings_is_short_and_on_one_line() -> None:
    theirs = {**make_round().settings, "model": "x" * 4000, "input_scale": "3\n\x1b[31m"}
    with pytest.raises(StateError) as caught:
        batch(round="0" * 64, round_settings=theirs).check_against(make_round())
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()
