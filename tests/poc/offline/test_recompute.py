"""Recomputing without a server: models, fingerprints, samples and settings."""

import asyncio
import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import BLOCK, KEY, make_batch, make_round
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, OPTConfig, OPTForCausalLM
from transformers_engine import TransformersEngine, tiny_model

from hallmark.poc.core.errors import FieldError, StateError
from hallmark.poc.offline.model import OfflineModel
from hallmark.poc.offline.model_files import model_fingerprint
from hallmark.poc.offline.recompute import Recomputation
from hallmark.poc.protocol.round import Round
from hallmark.poc.verdict.sampling import draw_sample
from hallmark.server.models.small import build_small_model


class TestModel:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_it_agrees_with_the_oracle_of_the_tests(self, tmp_path: Path, dtype: str) -> None:
        """Which loads models by itself; the facts are the same, and the distances to the last bit."""
        tiny_model(dtype=getattr(torch, dtype)).save_pretrained(tmp_path)
        # Both from the file: a processor's sums may depend on how a weight lies in memory.
        ours, theirs = OfflineModel.load(tmp_path, device="cpu"), TransformersEngine(tmp_path, dtype=dtype)
        assert (ours.hidden_size, ours.dtype, ours.quantization) == (64, dtype, "none")
        deployed = ours.deployed("tiny", 64)
        assert (deployed.vocabulary, deployed.table_rows, deployed.first) == (4096, 4096, None)
        assert deployed.max_model_len == theirs.model.max_model_len
        config = make_round().config
        round_ = Round.resolve(dataclasses.replace(config, seq_len=16, batch_size=4, model=""), deployed)
        recomputation = Recomputation(ours)
        recomputation.want(round_, range(6))
        assert (recomputation.n_open, [*recomputation.run()]) == (6, [4, 2])
        assert recomputation.n_open == 0

        asyncio.run(theirs.open_round(round_.spec()))
        keys = [(config.public_key, nonce) for nonce in range(6)]
        expected = theirs.numbers(keys[:4]) + theirs.numbers(keys[4:])
        assert recomputation.numbers(round_) == dict(enumerate(expected))

    def test_a_multimodal_wrapper_is_run_by_its_text_model(self, tmp_path: Path) -> None:
        text = {
            **{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1},
            **{"head_dim": 32, "intermediate_size": 64, "vocab_size": 64, "max_position_embeddings": 256},
        }
        vision = {
            **{"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
            **{"image_size": 28, "patch_size": 14},
        }
        config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
        model = OfflineModel.load(tmp_path, device="cpu", dtype="float32")
        assert model.hidden_size == 64
        config_ = dataclasses.replace(make_round().config, seq_len=8, batch_size=2, model="")
        round_ = Round.resolve(config_, model.deployed("", 16))
        recomputation = Recomputation(model)
        recomputation.want(round_, range(3))
        assert sum(recomputation.run()) == 3
        assert round_.definition.inputs == "normal", "so few tokens are a table"
        assert all(-8 < number < 8 for (number,) in recomputation.numbers(round_).values())

    def test_embeddings_of_another_width_than_the_hidden_state(self, tmp_path: Path) -> None:
        config = OPTConfig(
            hidden_size=64,
            word_embed_proj_dim=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            ffn_dim=64,
            vocab_size=64,
            max_position_embeddings=64,
        )
        OPTForCausalLM(config).save_pretrained(tmp_path)
        with pytest.raises(StateError, match="embeddings of the width 32, and its hidden states have 64"):
            OfflineModel.load(tmp_path, device="cpu", dtype="float32")

    def test_a_forward_that_differs_from_that_of_the_tokens_is_refused(self) -> None:
        module = tiny_model(dtype=torch.float32)
        forward = module.model.forward

        def scaled(*arguments: Any, inputs_embeds: torch.Tensor | None = None, **named: Any) -> Any:
            return forward(
                *arguments, inputs_embeds=inputs_embeds if inputs_embeds is None else -inputs_embeds, **named
            )

        module.model.forward = scaled
        with pytest.raises(StateError, match="is not its forward from the tokens"):
            OfflineModel(module, "cpu")

    def test_a_dtype_is_needed(self, tmp_path: Path) -> None:
        build_small_model(tmp_path)
        path = tmp_path / "config.json"
        path.write_text(path.read_text().replace('"dtype": "bfloat16",', ""))
        with pytest.raises(FieldError, match="the model's configuration names none of them"):
            OfflineModel.load(tmp_path, device="cpu")

    def test_a_non_finite_hidden_state_is_a_failed_nonce(self) -> None:
        module = tiny_model(dtype=torch.float32)
        model = OfflineModel(module, "cpu")
        module.model.norm.weight.data.fill_(float("nan"))
        config = dataclasses.replace(make_round().config, seq_len=4, batch_size=2, model="")
        recomputation = Recomputation(model)
        round_ = Round.resolve(config, model.deployed("", 8))
        recomputation.want(round_, [1])
        assert [*recomputation.run()] == [1]
        assert repr(recomputation.numbers(round_)) == "{1: [nan]}"

    def test_a_quantised_model_says_by_what_method(self) -> None:
        module = tiny_model()
        assert OfflineModel(module, "cpu").numerics["quantization"] == "none"
        module.config.quantization_config = {"quant_method": "awq"}
        assert OfflineModel(module, "cpu").numerics["quantization"] == "awq"


class TestFingerprint:
    def test_every_byte_counts_and_no_time_does(self, tmp_path: Path) -> None:
        build_small_model(tmp_path)
        first = model_fingerprint(tmp_path)
        weights = tmp_path / "model.safetensors"
        content = bytearray(weights.read_bytes())
        os.utime(weights, (1, 1))
        assert model_fingerprint(tmp_path) == first
        content[-1] ^= 1
        weights.write_bytes(content)
        os.utime(weights, (1, 1))
        assert model_fingerprint(tmp_path) != first

    def test_files_that_change_names_or_join(self, tmp_path: Path) -> None:
        folders = [tmp_path / name for name in "abc"]
        for folder, files in zip(
            folders,
            ({"a.bin": "x", "b.bin": "y"}, {"a.bin": "y", "b.bin": "x"}, {"a.bin": "xy"}),
            strict=True,
        ):
            folder.mkdir()
            for name, text in files.items():
                (folder / name).write_text(text)
        assert len({model_fingerprint(folder) for folder in folders}) == 3
        before = model_fingerprint(folders[0])
        (folders[0] / "README.md").write_text("about")
        assert model_fingerprint(folders[0]) == before


class TestSample:
    def test_it_is_those_of_the_smallest_hashes_in_the_order_of_the_batch(self) -> None:
        def lp(text: str) -> bytes:
            return len(text.encode()).to_bytes(4, "big") + text.encode()

        nonces = tuple(range(50, 0, -1))
        drawn = draw_sample(make_batch(nonces), 7, "seed")
        ranks = {n: hashlib.sha256(lp("seed") + lp(BLOCK) + lp(KEY) + lp(str(n))).digest() for n in nonces}
        expected = sorted(nonces, key=ranks.__getitem__)[:7]
        assert sorted(drawn) == sorted(expected)
        assert list(drawn) == sorted(drawn, reverse=True)

    @pytest.mark.parametrize("changes", [{"public_key": "other"}, {"block_hash": "other"}])
    def test_it_depends_on_seed_block_and_key(self, changes: dict[str, Any]) -> None:
        whole = make_batch(range(100))
        first = draw_sample(whole, 10, "seed")
        assert draw_sample(whole, 10, "seed") == first
        assert draw_sample(whole, 10, "another") != first
        assert draw_sample(dataclasses.replace(whole, **changes), 10, "seed") != first

    def test_repetitions_and_small_batches(self) -> None:
        assert draw_sample(make_batch([3, 1, 3], [1.0] * 3), 9, "seed") == (3, 1)
