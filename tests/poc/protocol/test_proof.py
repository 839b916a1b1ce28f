"""What a batch may say, and whether it belongs to the round."""

import json
import math
import re
from typing import Any

import numpy as np
import pytest
from builders import BLOCK, make_round, with_numbers

from hallmark.poc.core.errors import FieldError, StateError
from hallmark.poc.protocol.law import distance_of, distance_std
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.streams import PROTOCOL
from hallmark.poc.protocol.vectors import encode, encoding_of

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
    ("protocol", "hallmark/1.5"),
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
    ("vectors", ["AAA="] * 3),
    ("encoding", {"dtype": "f16", "k_dim": 1, "endian": "le"}),
]


@pytest.mark.parametrize(("field", "value"), BAD_FIELDS)
def test_a_bad_field_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(FieldError) as caught:
        batch(**{field: value})
    # Lengths that differ are told of `dist`, whichever of the two is short; and of vectors and their encoding
    # the one that is missing.
    named = {"vectors": "encoding", "encoding": "vectors"}.get(field, "dist")
    assert caught.value.field.split("[")[0].split(".")[0] in {field, named}


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
    "change",
    [{"seq_len": 128}, {"projection_scale": 1.0}, {"use_random_projection": False}, {"model": "alias"}],
)
def test_other_round_settings_are_refused_with_both_named(change: dict[str, Any]) -> None:
    round_, other = make_round(), make_round(**change)
    batch(round=round_.digest).check_against(round_)
    with pytest.raises(StateError, match=f"{other.digest}.*{round_.digest}.*seq_len, inputs, readout"):
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
        ({"seq_len": 78}, "seq_len '78' and not '256'"),
        ({"numbers": 3, "first": 7}, "first '7' and not 'none', numbers '3' and not '16'"),
        (
            {"use_random_projection": False, "input_scale": 2.0**-7},
            r"inputs 'normal' and not 'tokens', vocabulary '0' and not '4096', "
            r"input_scale 2\^-7 and not 2\^0, "
            "projection 'off' and not 'on', readout 'last' and not 'rows', numbers '1' and not '16'",
        ),
        ({"model": "alias"}, "model 'alias' and not ''"),
        ({"projection_scale": 0.5}, "projection_scale '0.5' and not '0.015625'"),
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
    with pytest.raises(StateError, match=f"another version of the protocol than {PROTOCOL}"):
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
        (
            {"kv_cache_dtype": "fp8_e4m3"},
            {"kv_cache_dtype": "bfloat16"},
            "with the KV cache dtype 'fp8_e4m3', it would be judged with the KV cache dtype 'bfloat16'",
        ),
        ({"kv_cache_dtype": "auto"}, {"dtype": "bfloat16", "kv_cache_dtype": "fp8_e5m2"}, "'bfloat16', it"),
        ({"kv_cache_dtype": "fp8_e4m3"}, {"kv_cache_dtype": "fp8_e5m2"}, "'fp8_e4m3', it"),
        ({"kv_cache_dtype": "bfloat16 fp8"}, {"kv_cache_dtype": "fp8"}, "'bfloat16 fp8', it"),
        ({"kv_cache_dtype": "uint8"}, {"kv_cache_dtype": "bfloat16"}, "'uint8', it"),
        ({"kv_cache_dtype": "uint8"}, {"kv_cache_dtype": "fp8_e5m2"}, None),
        ({"kv_cache_dtype": "fp8"}, {"kv_cache_dtype": "fp8_e4m3"}, None),
        ({"kv_cache_dtype": "fp8_e4m3 bfloat16"}, {"kv_cache_dtype": "bfloat16 fp8"}, None),
        ({"kv_cache_dtype": "auto"}, {"dtype": "bfloat16", "kv_cache_dtype": "bfloat16"}, None),
        ({"dtype": "float32", "kv_cache_dtype": "float32"}, {"kv_cache_dtype": "auto"}, None),
        ({"kv_cache_dtype": "auto"}, {"kv_cache_dtype": "auto"}, None),
        ({"dtype": "bfloat16"}, {"dtype": "bfloat16", "kv_cache_dtype": "fp8_e4m3"}, None),
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


NUMBERS = [[0.1, -3.25, 1.0], [-1.5, 0.0, 2.0], [15.0, 0.3, -0.7]]


def with_vectors(numbers: list[list[float]] = NUMBERS, **changes: Any) -> ProofBatch:
    """A batch of a round of width 256 with three numbers a nonce."""
    dist = [distance_of(first, 256) for first, *_ in numbers]
    fields = {"dist": dist, "vectors": [*encode(numbers)], "encoding": encoding_of(3)}
    return batch(**{**fields, **changes})


class TestVectors:
    """The numbers of nonces beside their distances."""

    ROUND = with_numbers(make_round(), 3)

    def test_are_read_and_travel(self) -> None:
        proof = with_vectors()
        proof.check_against(self.ROUND)
        found = proof.numbers()
        assert found is not None
        assert found == pytest.approx(np.array(NUMBERS), abs=1e-3)
        assert ProofBatch.parse(json.loads(json.dumps(proof.as_dict()))) == proof
        assert batch().numbers() is None

    @pytest.mark.parametrize(
        ("changes", "field", "message"),
        [
            ({"vectors": [*encode(NUMBERS[:2])]}, "vectors", "one for each of the 3 nonces"),
            ({"vectors": [*encode(NUMBERS[:2]), "?"]}, "vectors[2]", "allowed: base64"),
            ({"vectors": [*encode(NUMBERS[:2]), 7]}, "vectors[2]", "text"),
            ({"vectors": [*encode(NUMBERS[:2]), "AAAA"]}, "vectors[2]", "6 bytes, 3 halves"),
            ({"vectors": ["AAAAAAB8"] * 3}, "vectors[0][2]", "inf is not allowed"),
            ({"vectors": None}, "vectors", "no encoding either"),
            ({"encoding": None}, "encoding", "k_dim"),
            ({"encoding": {**encoding_of(3), "k_dim": 2}}, "vectors[0]", "4 bytes, 2 halves"),
            ({"encoding": {**encoding_of(3), "k_dim": 0}}, "encoding.k_dim", "from 1 to"),
            ({"encoding": {**encoding_of(3), "k_dim": "3"}}, "encoding.k_dim", "integer"),
            ({"encoding": {**encoding_of(3), "dtype": "f32"}}, "encoding.dtype", "f16"),
            ({"encoding": {**encoding_of(3), "endian": "be"}}, "encoding.endian", "le"),
            ({"encoding": {"dtype": "f16", "k_dim": 3}}, "encoding.endian", "text and an integer"),
        ],
    )
    def test_what_is_no_vector_is_refused(self, changes: dict[str, Any], field: str, message: str) -> None:
        with pytest.raises(FieldError, match=re.escape(message)) as caught:
            with_vectors(**changes)
        assert caught.value.field == field

    def test_other_numbers_than_the_rounds_are_refused(self) -> None:
        with pytest.raises(FieldError, match=r"k_dim: 3 is not allowed; allowed: the round's, 4"):
            with_vectors().check_against(with_numbers(make_round(), 4))

    def test_a_number_beyond_the_root_of_the_width_is_refused(self) -> None:
        """16 at width 256."""
        with_vectors([[0.1, 16.0, -16.0]] * 3).check_against(self.ROUND)
        with pytest.raises(FieldError, match=r"vectors\[0\]\[1\]: 16\.015625.*from -16 to 16"):
            with_vectors([[0.1, 16.015625, 0.0]] * 3).check_against(self.ROUND)

    @pytest.mark.parametrize(("apart", "is_refused"), [(0.0, False), (0.0045, False), (0.0055, True)])
    def test_a_distance_of_another_number_is_refused(self, apart: float, is_refused: bool) -> None:
        numbers = [[0.0, 1.0, 2.0]] * 3
        dist = [distance_of(0.0, 256)] * 2 + [distance_of(0.0, 256) + apart * distance_std(256)]
        proof = with_vectors(numbers, dist=dist)
        if not is_refused:
            proof.check_against(self.ROUND)
            return
        with pytest.raises(FieldError, match=r"dist\[2\].*1\.414214, within 0\.005 s"):
            proof.check_against(self.ROUND)

    def test_a_round_may_require_them(self) -> None:
        round_ = with_numbers(make_round(vectors="required"), 3)
        with_vectors().check_against(round_)
        with pytest.raises(FieldError, match="the round requires them"):
            batch().check_against(round_)
        batch(nonces=[], dist=[], failed_nonces=[1]).check_against(round_)

    def test_numbers_are_rounded_once(self) -> None:
        rng = np.random.default_rng(0)
        numbers = rng.standard_normal((500, 16))
        proof = batch(
            nonces=[*range(500)],
            dist=[1.4] * 500,
            vectors=[*encode(numbers.tolist())],
            encoding=encoding_of(16),
        )
        found = proof.numbers()
        assert found is not None
        assert np.array_equal(found, numbers.astype(np.float16))
        assert {len(vector) for vector in proof.vectors or ()} == {44}
