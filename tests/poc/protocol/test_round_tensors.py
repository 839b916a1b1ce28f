"""The definition around a model, with a real (tiny) transformers model inside."""

import asyncio
import math
from dataclasses import replace
from typing import Any, ClassVar

import independent_verifier
import numpy as np
import pytest
import torch
from builders import BLOCK, MODEL, make_round
from scipy.stats import beta, binom, kstest
from tolerances import DISTANCE_TOLERANCES, NUMBER_TOLERANCES, ROUNDOFF
from transformers_engine import TransformersEngine, tiny_model

from hallmark.kernels.draw_embeddings import draw_embeddings
from hallmark.kernels.norm_sums import sign_matrix
from hallmark.kernels.normal_table import signed_table
from hallmark.kernels.numbers import numbers_reference
from hallmark.poc.core.errors import EngineError, FieldError
from hallmark.poc.offline.model import final_hidden
from hallmark.poc.protocol.law import distance_cdf, r_target_for
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.round_tensors import RoundTensors, pad_keys
from hallmark.poc.rounds.engine_protocol import PoCEngine

WIDTH = 64
SEQ_LEN = 24
TABLE = independent_verifier.table()


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float32])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    wanted: torch.dtype = request.param
    return wanted


@pytest.fixture(scope="module")
def engine(dtype: torch.dtype) -> TransformersEngine:
    return TransformersEngine(tiny_model(hidden_size=WIDTH, dtype=dtype))


def opened(engine: TransformersEngine, **settings: object) -> Round:
    round_ = make_round(engine.model, **{"batch_size": 8, "seq_len": SEQ_LEN, **settings})
    asyncio.run(engine.open_round(round_.spec()))
    return round_


def name(purpose: str, round_: Round, nonce: int) -> independent_verifier.Name:
    return independent_verifier.stream(purpose, round_.digest, BLOCK, "key", str(nonce))


def by_hand(purpose: str, round_: Round, nonce: int, count: int) -> torch.Tensor:
    """z of one nonce's stream, by the independent verifier."""
    drawn = independent_verifier.normals(name(purpose, round_, nonce), count, TABLE)
    return torch.tensor(drawn, dtype=torch.float64)


def projection_by_hand(purpose: str, scale: float) -> torch.Tensor:
    stream = independent_verifier.stream(purpose, BLOCK)
    patterns = independent_verifier.scaled(independent_verifier.normals(stream, WIDTH**2, TABLE), scale)
    values = [independent_verifier.from_bf16(bits) for bits in patterns]
    return torch.tensor(values, dtype=torch.float64).view(WIDTH, WIDTH)


def embedded(engine: TransformersEngine, tokens: list[list[int]]) -> torch.Tensor:
    rows: torch.Tensor = engine._model.get_input_embeddings().weight.detach()[torch.tensor(tokens)]
    return rows


def test_the_oracle_is_an_engine(engine: TransformersEngine) -> None:
    seen: PoCEngine = engine
    assert seen.model.hidden_size == WIDTH


def test_without_projection_it_is_the_plain_definition(
    engine: TransformersEngine, dtype: torch.dtype
) -> None:
    """Acceptance criterion 6.1: Backward compatibility with Phase 1-5 (optional flag)."""
    round_ = opened(engine, use_random_projection=False)
    assert round_.numbers == 1
    keys = [("key", nonce) for nonce in range(8)]
    inputs = torch.stack([by_hand("embeds", round_, n, SEQ_LEN * WIDTH) for n in range(8)])
    hidden = final_hidden(engine._model, inputs=inputs.view(8, SEQ_LEN, WIDTH).to(dtype))[:, -1]
    expected = []
    for nonce in range(8):
        z, h = by_hand("target", round_, nonce, WIDTH), hidden[nonce].double()
        expected.append(math.dist((h / h.norm()).tolist(), (z / z.norm()).tolist()))
    tolerance = DISTANCE_TOLERANCES[dtype, "same hidden state"]
    assert engine.distances(keys) == pytest.approx(expected, abs=tolerance, rel=0)
    assert asyncio.run(engine.open_round(round_.spec())) == 0, "no projection, no memory"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"first": 7},
        {"numbers": 1},
        {"numbers": 5, "projection_scale": 0.01},
        {"use_random_projection": False, "inputs": "tokens"},
        {"readout": "last", "inputs": "tokens"},
        {"inputs": "normal", "readout": "last", "input_scale": 0.125},
        {"inputs": "normal", "readout": "rows", "honest_sigma": 0.1},
    ],
)
def test_it_is_the_definition_of_the_protocol(
    engine: TransformersEngine, dtype: torch.dtype, settings: dict[str, Any]
) -> None:
    """Each step by the independent verifier, but for the model's own forward."""
    round_ = opened(engine, **settings)
    count, projected, k = 8, round_.config.use_random_projection, round_.numbers
    pre, post = (
        projection_by_hand(purpose, round_.definition.projection_scale if projected else 0.0)
        for purpose in ("pre", "post")
    )
    keys = [("key", nonce) for nonce in range(count)]
    tensors = RoundTensors(round_.spec(), dtype, "cpu")
    if round_.definition.inputs == "tokens":
        first = settings.get("first")
        tokens = [
            independent_verifier.tokens(name("tokens", round_, n), SEQ_LEN, 4096, first) for n in range(count)
        ]
        assert tensors.tokens(keys).tolist() == tokens
        x = embedded(engine, tokens)
        assert torch.equal(engine._offline.embed(tensors.tokens(keys)), x)
    else:
        drawn = torch.stack([by_hand("embeds", round_, n, SEQ_LEN * WIDTH) for n in range(count)])
        exact = drawn.view(count, SEQ_LEN, WIDTH) * round_.definition.input_scale
        x = exact.to(dtype)
        assert torch.equal(x.double(), exact), "powers of two scale exactly"
        assert torch.equal(tensors.normal(keys), x)
    inputs = tensors.project(x)
    # The float32 sum is rounded to the dtype once: half a unit in the last place, and the sum's own error.
    torch.testing.assert_close(
        inputs.double(), x.double() + x.double() @ pre, rtol=ROUNDOFF[dtype] * 1.001, atol=2.5e-7
    )
    hidden = final_hidden(engine._model, inputs=inputs)
    expected = []
    for nonce in range(count):
        rows = hidden[nonce].tolist()
        if round_.definition.readout == "rows":
            groups = independent_verifier.groups(name("rows", round_, nonce), SEQ_LEN, k)
            sums = independent_verifier.signed_sums(rows, groups, k)
            read = torch.tensor(sums, dtype=torch.float64).to(dtype).double()
        else:
            read = torch.tensor(rows[-1:], dtype=torch.float64)
        targets = by_hand("target", round_, nonce, k * WIDTH).view(k, WIDTH)
        for h, z in zip(read + read @ post, targets, strict=True):
            expected.append(independent_verifier.number(h.tolist(), z.tolist()))
    found = [number for numbers in engine.numbers(keys) for number in numbers]
    # A sum in float32 that lies near a tie may be rounded the other way than the exact one.
    assert found == pytest.approx(expected, abs=NUMBER_TOLERANCES[dtype, "sums in another order"], rel=0)
    assert engine.distances(keys) == [
        pytest.approx(independent_verifier.distance(c, WIDTH), abs=1e-12) for c in found[::k]
    ]


@pytest.mark.parametrize("projection", [False, True])
def test_numbers_do_not_depend_on_their_batch_mates(engine: TransformersEngine, projection: bool) -> None:
    """Bit-identical for a dense model, in every slot."""
    opened(engine, use_random_projection=projection)
    first = engine.numbers([("key", nonce) for nonce in range(8)])
    for slot in range(8):
        keys = [(f"other {slot}", 1000 + nonce) for nonce in range(8)]
        keys[slot] = ("key", slot)
        assert engine.numbers(keys)[slot] == first[slot]


def test_a_short_batch_is_padded_to_the_round_s_shape(engine: TransformersEngine) -> None:
    opened(engine)
    whole = engine.numbers([("key", nonce) for nonce in range(8)])
    assert engine.numbers([("key", nonce) for nonce in range(3)]) == whole[:3]


def test_padding_repeats_the_first_nonce() -> None:
    assert pad_keys([("a", 1), ("b", 2)], 4) == [("a", 1), ("b", 2), ("a", 1), ("a", 1)]
    assert pad_keys([("a", 1)], 1) == [("a", 1)]
    for keys in ([], [("a", 1)] * 5):
        with pytest.raises(FieldError, match="1 to 4 nonces"):
            pad_keys(keys, 4)


def test_only_whole_batches_give_numbers() -> None:
    tensors = RoundTensors(make_round(batch_size=4, seq_len=10).spec(), torch.bfloat16, "cpu")
    keys = [("key", nonce) for nonce in range(5)]
    for some in (keys, keys[:3]):
        with pytest.raises(FieldError, match="a whole batch of 4"):
            tensors.numbers(torch.ones(40, 256), some, tensors.order(some))
    with pytest.raises(ValueError, match="39 final hidden states, not 40"):
        tensors.numbers(torch.ones(39, 256), keys[:4], tensors.order(keys[:4]))


def test_settings_that_differ_give_unrelated_tokens() -> None:
    """One forward cannot serve two lengths: the shorter input is no prefix of the longer one."""
    long, short = (
        RoundTensors(make_round(batch_size=1, seq_len=length).spec(), torch.bfloat16, "cpu").tokens(
            [("k", nonce) for nonce in range(32)]
        )
        for length in (64, 32)
    )
    assert int((long[:, :32] == short).sum()) < 5, "of 1,024 with a chance of 1 in 4,096 each"


class TestTokens:
    """The tokens of nonces."""

    @pytest.mark.parametrize("vocabulary", [4096, 4099, 151_669, 2**31 - 1])
    def test_they_are_spread_evenly_below_the_vocabulary(self, vocabulary: int) -> None:
        model = replace(MODEL, vocabulary=vocabulary, table_rows=vocabulary)
        tensors = RoundTensors(make_round(model, seq_len=1024).spec(), torch.bfloat16, "cpu")
        drawn = tensors.tokens([("key", nonce) for nonce in range(64)])
        assert drawn.dtype == torch.int64
        assert drawn.shape == (64, 1024)
        assert int(drawn.min()) >= 0
        assert int(drawn.max()) < vocabulary
        assert kstest(((drawn.flatten().double() + 0.5) / vocabulary).numpy(), "uniform").pvalue > 1e-3

    def test_a_first_token_takes_the_place_of_word_0_and_moves_no_other(self) -> None:
        keys = [("key", nonce) for nonce in range(8)]
        round_ = make_round(first=4095)
        told = RoundTensors(round_.spec(), torch.bfloat16, "cpu").tokens(keys)
        assert told[:, 0].tolist() == [4095] * 8
        for nonce in range(8):
            words = independent_verifier.words(name("tokens", round_, nonce), 256)
            assert told[nonce, 1:].tolist() == [word * 4096 >> 32 for word in words[1:]]

    def test_without_one_row_0_is_drawn(self) -> None:
        drawn = RoundTensors(make_round().spec(), torch.bfloat16, "cpu").tokens([("k", n) for n in range(64)])
        assert len(set(drawn[:, 0].tolist())) > 60

    def test_rows_of_a_table_are_taken_and_projected_at_once(self) -> None:
        """And on several ranks, each with a part of the table, as one of them has each row."""
        keys = [("key", nonce) for nonce in range(3)]
        tensors = RoundTensors(make_round().spec(), torch.bfloat16, "cpu")
        table = torch.randn(4096, 256, generator=torch.Generator().manual_seed(5)).bfloat16()
        tokens = tensors.tokens(keys).flatten()
        whole = tensors.embed(table, tokens)
        assert torch.equal(whole, tensors.project(table[tokens]))
        parts = []
        for first in (0, 2048):
            places = ((tokens >= first) & (tokens < first + 2048)).nonzero().squeeze(1)
            shard = table[first : first + 2048]
            parts.append(tensors.embed(shard, tokens[places] - first, places, len(tokens)))
            assert bool((parts[-1] != 0).any(dim=1).nonzero().squeeze(1).equal(places))
        torch.testing.assert_close(parts[0] + parts[1], whole, rtol=2.0**-7, atol=1e-6)

    def test_a_round_without_projection_has_nothing_to_project_with(self) -> None:
        tensors = RoundTensors(
            make_round(use_random_projection=False, inputs="tokens").spec(), torch.bfloat16, "cpu"
        )
        assert not tensors.projects
        with pytest.raises(ValueError, match="no projection"):
            tensors.embed(torch.zeros(4096, 256, dtype=torch.bfloat16), torch.arange(4))

    def test_rounds_of_tokens_have_no_normal_inputs(self) -> None:
        tensors = RoundTensors(make_round().spec(), torch.bfloat16, "cpu")
        assert tensors.reads_tokens
        with pytest.raises(ValueError, match="inputs are tokens"):
            tensors.normal([("k", 1)])
        assert not RoundTensors(make_round(inputs="normal").spec(), torch.bfloat16, "cpu").reads_tokens


class TestReadout:
    """What rows mean to numbers."""

    KEYS: ClassVar = [("key", nonce) for nonce in range(4)]

    def read(self, dtype: torch.dtype = torch.float32, **settings: Any) -> tuple[RoundTensors, torch.Tensor]:
        spec = make_round(**{"batch_size": 4, "seq_len": 64, **settings}).spec()
        generator = torch.Generator().manual_seed(11)
        hidden = torch.randn(4 * 64, 256, generator=generator).to(dtype)
        return RoundTensors(spec, dtype, "cpu"), hidden

    def test_one_row_that_flips_moves_one_number(self) -> None:
        tensors, hidden = self.read()
        order = tensors.order(self.KEYS)
        whole = tensors.numbers(hidden, self.KEYS, order)
        for row in range(64):
            flipped = hidden.clone()
            flipped[2 * 64 + row] *= -1
            moved = tensors.numbers(flipped, self.KEYS, order) != whole
            assert moved.sum(dim=1).tolist() == [0, 0, int(row >= 8), 0]
            if row >= 8:
                assert int(moved[2].nonzero()) == order[2].tolist().index(row) // 2 % 14

    def test_rows_before_the_eighth_are_not_read_whatever_they_are(self) -> None:
        tensors, hidden = self.read(torch.bfloat16)
        order = tensors.order(self.KEYS)
        whole = tensors.numbers(hidden, self.KEYS, order)
        spoilt = hidden.clone().view(4, 64, 256)
        spoilt[:, :8] = math.nan
        assert torch.equal(tensors.numbers(spoilt.view(-1, 256), self.KEYS, order), whole)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
    @pytest.mark.parametrize("row", [8, 30, 63])
    def test_a_row_that_is_not_finite_fails_its_nonce_as_a_whole(self, dtype: torch.dtype, row: int) -> None:
        tensors, hidden = self.read(dtype)
        hidden[64 + row, 5] = math.nan
        numbers = tensors.numbers(hidden, self.KEYS, tensors.order(self.KEYS))
        assert numbers.dtype == torch.float64
        assert numbers.shape == (4, 14)
        assert numbers.isnan().all(dim=1).tolist() == [False, True, False, False]
        assert numbers.isnan().any(dim=1).tolist() == [False, True, False, False]

    def test_the_last_row_is_the_last_row(self) -> None:
        tensors, hidden = self.read(readout="last")
        order = tensors.order(self.KEYS)
        whole = tensors.numbers(hidden, self.KEYS, order)
        assert whole.shape == (4, 1)
        spoilt = hidden.clone().view(4, 64, 256)
        spoilt[:, :-1] = math.nan
        assert torch.equal(tensors.numbers(spoilt.view(-1, 256), self.KEYS, order), whole)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
    def test_any_order_of_summation_gives_the_same_numbers(self, dtype: torch.dtype) -> None:
        """Ranks forwards, backwards and at random, one by one in float32."""
        tensors, hidden = self.read(dtype, seq_len=64, numbers=3)
        order = tensors.order(self.KEYS)
        signs = sign_matrix(56, 3).float()
        nonce = torch.arange(4)
        rows = hidden.float().view(4, 64, 256)
        sums = []
        for ranks in (torch.arange(56), torch.arange(56).flip(0), torch.randperm(56)):
            total = torch.zeros(4, 3, 256)
            for rank in ranks.tolist():
                total += signs[:, rank].view(1, 3, 1) * rows[nonce, order[:, rank]].unsqueeze(1)
            sums.append(total)
        kept = torch.float32 if dtype == torch.float16 else dtype
        numbers = [self.numbers_of_sums(tensors, total.to(kept)) for total in sums]
        expected = tensors.numbers(hidden, self.KEYS, order)
        for found in numbers:
            assert float((found - expected).abs().max()) <= NUMBER_TOLERANCES[dtype, "sums in another order"]

    def numbers_of_sums(self, tensors: RoundTensors, sums: torch.Tensor) -> torch.Tensor:
        """What the definition makes of S, already rounded."""
        assert tensors._projection is not None
        streams = tensors._streams("target", self.KEYS)
        targets = draw_embeddings(streams, sums.shape[1], 256, signed_table(1.0))
        return numbers_reference(sums, targets, tensors._projection.post_proj)


def test_keys_and_nonces_give_different_distances(engine: TransformersEngine) -> None:
    opened(engine)
    keys = [("a", 1), ("a", 2), ("b", 1), ("a", 2**40), ("é", 1), ("e\u0301", 1), ("a", 0), ("", 1)]
    assert len(set(engine.distances(keys))) == 8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_projected_inputs_have_the_model_s_dtype_and_scale(dtype: torch.dtype) -> None:
    spec = make_round(batch_size=4, seq_len=32, inputs="normal", input_scale=0.125).spec()
    tensors = RoundTensors(spec, dtype, "cpu")
    drawn = tensors.normal([("key", n) for n in range(4)])
    kept = drawn.clone()
    inputs = tensors.project(drawn)
    assert torch.equal(drawn, kept), "the drawn ones are left as they are"
    assert inputs.dtype == dtype
    assert inputs.shape == (4, 32, 256)
    # Variance grows by a sixteenth at this width.
    assert float(inputs.double().std()) == pytest.approx(0.125 * (1 + 1 / 16) ** 0.5, rel=0.02)


LAW_CASES: list[tuple[str, int, dict[str, Any]]] = [
    ("one number", 64, {"seq_len": 12, "numbers": 1}),
    ("few numbers", 128, {"seq_len": 16, "numbers": 3}),
    ("one pair a group", 64, {"seq_len": 40, "numbers": 16}),
    ("by default", 256, {"seq_len": 64}),
    ("without projections", 64, {"seq_len": 24, "use_random_projection": False, "readout": "rows"}),
    ("normal", 64, {"seq_len": 24, "inputs": "normal", "readout": "rows", "honest_sigma": 0.1}),
]


@pytest.mark.parametrize(("about", "width", "settings"), LAW_CASES)
def test_numbers_follow_the_law_and_are_independent(about: str, width: int, settings: dict[str, Any]) -> None:
    """Whatever the model, and whatever k."""
    engine = TransformersEngine(tiny_model(hidden_size=width, seed=len(about)))
    round_ = make_round(engine.model, batch_size=64, block_hash=about, **settings)
    asyncio.run(engine.open_round(round_.spec()))
    batches = [engine.numbers([("key", 64 * batch + i) for i in range(64)]) for batch in range(12)]
    numbers = np.array(batches).reshape(-1, round_.numbers)
    shape = (width - 1) / 2
    law = beta(shape, shape, loc=-math.sqrt(width), scale=2 * math.sqrt(width))
    assert kstest(numbers.flatten(), law.cdf).pvalue > 1e-3
    assert abs(numbers.mean()) < 4.5 * numbers.size**-0.5
    assert abs(numbers.var() - 1) < 4.5 * (2 / numbers.size) ** 0.5
    # Those of a nonce, their squares, and neighbouring nonces'.
    if round_.numbers > 1:
        for values in (numbers, numbers**2):
            apart = np.corrcoef(values.T) - np.eye(round_.numbers)
            assert np.abs(apart).max() < 5 * len(numbers) ** -0.5
    neighbours = np.corrcoef(numbers[1:].flatten(), numbers[:-1].flatten())[0, 1]
    assert abs(neighbours) < 4.5 * numbers.size**-0.5


@pytest.mark.parametrize("block", ["0x01", "0x02", "block three"])
def test_valid_rate_follows_the_law_with_a_real_forward(block: str) -> None:
    """Over 2,048 nonces a block, whatever the model makes of them, at width 256."""
    engine = TransformersEngine(tiny_model(hidden_size=256))
    round_ = make_round(engine.model, block_hash=block, batch_size=64, seq_len=12)
    asyncio.run(engine.open_round(round_.spec()))
    count = 2048
    distances = [
        d for start in range(0, count, 64) for d in engine.distances([("key", start + i) for i in range(64)])
    ]
    for rate in (0.05, 0.1, 0.5):
        low, high = binom.interval(0.999, count, rate)
        assert low <= sum(d < r_target_for(rate, 256) for d in distances) <= high
    assert kstest(distances, lambda d: distance_cdf(d, 256)).pvalue > 1e-3


def test_without_an_open_round_nothing_is_computed(engine: TransformersEngine) -> None:
    opened(engine)
    asyncio.run(engine.close_round())
    with pytest.raises(EngineError, match="no round is open"):
        asyncio.run(engine.start([[("key", 1)]], None))
