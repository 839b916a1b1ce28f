"""The definition around a model, with a real (tiny) transformers model inside."""

import asyncio
import math

import independent_verifier
import pytest
import torch
from rounds import BLOCK, make_round
from scipy.stats import binom, kstest
from tolerances import DISTANCE_TOLERANCES, ROUNDOFF
from transformers_engine import TransformersEngine, tiny_model

from hallmark.poc.core.errors import EngineError, FieldError
from hallmark.poc.offline.model import last_hidden
from hallmark.poc.protocol.law import distance_cdf, r_target_for
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.round_tensors import RoundTensors, pad_keys
from hallmark.poc.rounds.engine_protocol import PoCEngine

WIDTH = 64
SEQ_LEN = 12
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


def by_hand(purpose: str, round_: Round, nonce: int, count: int) -> torch.Tensor:
    """z of one nonce's stream, by the independent verifier."""
    name = independent_verifier.stream(purpose, round_.digest, BLOCK, "key", str(nonce))
    return torch.tensor(independent_verifier.normals(name, count, TABLE), dtype=torch.float64)


def test_the_oracle_is_an_engine(engine: TransformersEngine) -> None:
    seen: PoCEngine = engine
    assert seen.model.hidden_size == WIDTH


def test_without_projection_it_is_the_plain_definition(
    engine: TransformersEngine, dtype: torch.dtype
) -> None:
    """Acceptance criterion 6.1: Backward compatibility with Phase 1-5 (optional flag)."""
    round_ = opened(engine, use_random_projection=False)
    keys = [("key", nonce) for nonce in range(8)]
    inputs = torch.stack([by_hand("embeds", round_, n, SEQ_LEN * WIDTH) for n in range(8)])
    hidden = last_hidden(engine._model, inputs.view(8, SEQ_LEN, WIDTH).to(dtype))
    expected = []
    for nonce in range(8):
        z, h = by_hand("target", round_, nonce, WIDTH), hidden[nonce].double()
        expected.append(math.dist((h / h.norm()).tolist(), (z / z.norm()).tolist()))
    tolerance = DISTANCE_TOLERANCES[dtype, "same hidden state"]
    assert engine.distances(keys) == pytest.approx(expected, abs=tolerance, rel=0)
    assert asyncio.run(engine.open_round(round_.spec())) == 0, "no projection, no memory"


def test_with_projection_it_is_the_definition_of_the_protocol(
    engine: TransformersEngine, dtype: torch.dtype
) -> None:
    round_ = opened(engine)
    assert round_.input_scale != 1.0
    pre, post = (
        torch.tensor(
            [
                independent_verifier.from_bf16(bits)
                for bits in independent_verifier.scaled(
                    independent_verifier.normals(
                        independent_verifier.stream(purpose, BLOCK), WIDTH**2, TABLE
                    ),
                    0.01,
                )
            ],
            dtype=torch.float64,
        ).view(WIDTH, WIDTH)
        for purpose in ("pre", "post")
    )
    keys = [("key", nonce) for nonce in range(8)]
    drawn = torch.stack([by_hand("embeds", round_, n, SEQ_LEN * WIDTH) for n in range(8)])
    x = drawn.view(8, SEQ_LEN, WIDTH) * round_.input_scale
    inputs = RoundTensors(round_.spec(), dtype, "cpu").inputs(keys)
    exact = x + x @ pre
    # The float32 sum is rounded to the dtype once: half a unit in the last place, and the sum's own error.
    torch.testing.assert_close(inputs.double(), exact, rtol=ROUNDOFF[dtype] * 1.001, atol=2.5e-7)
    h = last_hidden(engine._model, inputs).double()
    h = h + h @ post
    expected = [
        math.dist((row / row.norm()).tolist(), (z / z.norm()).tolist())
        for row, z in zip(h, (by_hand("target", round_, n, WIDTH) for n in range(8)), strict=True)
    ]
    tolerance = DISTANCE_TOLERANCES[dtype, "post projection in float64"]
    assert engine.distances(keys) == pytest.approx(expected, abs=tolerance, rel=0)


@pytest.mark.parametrize("projection", [False, True])
def test_a_distance_does_not_depend_on_its_batch_mates(engine: TransformersEngine, projection: bool) -> None:
    """Bit-identical for a dense model, in every slot."""
    opened(engine, use_random_projection=projection)
    first = engine.distances([("key", nonce) for nonce in range(8)])
    for slot in range(8):
        keys = [(f"other {slot}", 1000 + nonce) for nonce in range(8)]
        keys[slot] = ("key", slot)
        assert engine.distances(keys)[slot] == first[slot]


def test_a_short_batch_is_padded_to_the_round_s_shape(engine: TransformersEngine) -> None:
    opened(engine)
    whole = engine.distances([("key", nonce) for nonce in range(8)])
    assert engine.distances([("key", nonce) for nonce in range(3)]) == whole[:3]


def test_padding_repeats_the_first_nonce() -> None:
    assert pad_keys([("a", 1), ("b", 2)], 4) == [("a", 1), ("b", 2), ("a", 1), ("a", 1)]
    assert pad_keys([("a", 1)], 1) == [("a", 1)]
    for keys in ([], [("a", 1)] * 5):
        with pytest.raises(FieldError, match="1 to 4 nonces"):
            pad_keys(keys, 4)


def test_only_whole_batches_are_computed() -> None:
    tensors = RoundTensors(make_round(batch_size=4, seq_len=2).spec(), torch.bfloat16, "cpu")
    with pytest.raises(FieldError, match="a whole batch of 4"):
        tensors.inputs([("key", 1)] * 3)
    with pytest.raises(FieldError, match="a whole batch of 4"):
        tensors.distances(torch.ones(4, 256), [("key", 1)] * 5)


def test_settings_that_differ_give_unrelated_inputs(engine: TransformersEngine) -> None:
    """One forward cannot serve two lengths: the shorter input is no prefix of the longer one."""
    long, short = (
        RoundTensors(make_round(batch_size=1, seq_len=length).spec(), torch.bfloat16, "cpu").inputs(
            [("k", 1)]
        )
        for length in (16, 8)
    )
    correlation = torch.corrcoef(torch.stack((long[0, :8].flatten(), short.flatten())).double())
    assert abs(float(correlation[0, 1])) < 4.5 / (8 * 256) ** 0.5


def test_keys_and_nonces_give_different_distances(engine: TransformersEngine) -> None:
    opened(engine)
    keys = [("a", 1), ("a", 2), ("b", 1), ("a", 2**40), ("é", 1), ("e\u0301", 1), ("a", 0), ("", 1)]
    assert len(set(engine.distances(keys))) == 8


def test_a_hidden_state_that_is_not_finite_is_a_failed_nonce() -> None:
    tensors = RoundTensors(make_round(batch_size=3, seq_len=2).spec(), torch.bfloat16, "cpu")
    hidden = torch.ones(3, 256, dtype=torch.bfloat16)
    hidden[1, 5] = math.nan
    distances = tensors.distances(hidden, [("key", n) for n in range(3)])
    assert distances.dtype == torch.float64
    assert distances.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_inputs_have_the_model_s_dtype_and_scale(dtype: torch.dtype) -> None:
    spec = make_round(batch_size=4, seq_len=32).spec()
    inputs = RoundTensors(spec, dtype, "cpu").inputs([("key", n) for n in range(4)])
    assert inputs.dtype == dtype
    assert inputs.shape == (4, 32, 256)
    # Variance grows by 1 + D·projection_scale².
    expected = spec.input_scale * (1 + 256 * 0.01**2) ** 0.5
    assert float(inputs.double().std()) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("block", ["0x01", "0x02", "block three"])
def test_valid_rate_follows_the_law_with_a_real_forward(block: str) -> None:
    """Over 2,048 nonces a block, whatever the model makes of them, at width 256."""
    engine = TransformersEngine(tiny_model(hidden_size=256))
    round_ = make_round(engine.model, block_hash=block, batch_size=64, seq_len=8)
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
