"""`hallmark verify`: the verdicts of a server without one."""

import io
import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Cli, Result
from fastapi.testclient import TestClient
from forgeries import forgeries
from offline_proofs import (
    BATCH_SIZE,
    NUMBERS,
    SEQ_LEN,
    SHORT,
    Prover,
    claiming,
    judged_lines,
    off,
    part,
    short_config,
    write,
)
from older_files import written_by_734b105
from safetensors.torch import load_file, save_file
from tolerances import NUMBER_TOLERANCES
from transformers_engine import tiny_model

from hallmark.poc.protocol.law import distance_of, distance_std, r_target_for
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.vectors import encode
from hallmark.poc.rounds.payloads import validated_payload
from hallmark.poc.verdict.judge import judge
from hallmark.server.models.small import HIDDEN_SIZE, build_small_model, fast_dtype
from hallmark.server.receiver.app import create_app

HONEST_NONCES = 24
VECTORS = Path(__file__).parents[4] / "docs" / "protocol" / "vectors.json"


def one(result: Result) -> dict[str, Any]:
    (verdict,), _ = judged_lines(result)
    return verdict


class TestVerdicts:
    def test_an_honest_batch(self, verify: Cli, honest: ProofBatch, tmp_path: Path) -> None:
        path = write(tmp_path / "p.json", honest.as_dict())
        result = verify(path, "--json")
        assert result.code == 0, result.err
        verdict, summary = one(result), judged_lines(result)[1]
        assert verdict["verdict"] == "honest"
        assert verdict["public_key"] == honest.public_key
        assert verdict["round"] == honest.round_digest
        assert verdict["computed_distances"] == list(honest.dist), "the same arithmetic on the same machine"
        assert verdict["numerics_differ"] == []
        assert verdict["tests"].keys() == {"nonces", "rms", "beyond", "signed_mean"}
        assert verdict["numbers"] == NUMBERS
        assert summary["credited_nonces"] == summary["honest"] * len(honest.nonces) == 24
        assert summary["numerics"]["dtype"] == fast_dtype()

    def test_the_published_vectors(self, cli: Cli, directory: Path, tmp_path: Path) -> None:
        """Within their tolerance, in another dtype than they were made in where bf16 is slow."""
        published = json.loads(VECTORS.read_text())["vectors"]
        stated = published["round"]
        dist = [distance_of(numbers[0], HIDDEN_SIZE) for numbers in published["numbers"]]
        claim = {
            **{
                "public_key": stated["public_key"],
                "block_hash": stated["block_hash"],
                "block_height": 840_000,
            },
            **{"node_id": 0, "nonces": published["nonces"], "dist": dist},
            "round": stated["digest"],
        }
        result = cli(
            *("verify", write(tmp_path / "v.json", claim), "--model", directory, "--json"),
            *("--batch-size", stated["batch_size"], "--seq-len", stated["seq_len"], "--dtype", fast_dtype()),
        )
        assert result.code == 0, result.out
        verdict = one(result)
        tolerance = NUMBER_TOLERANCES[torch.bfloat16, "published vectors"] * distance_std(HIDDEN_SIZE)
        assert verdict["computed_distances"] == pytest.approx(dist, abs=tolerance, rel=0)
        assert (verdict["verdict"], verdict["n_invalid"]) == ("honest", 0)

    def test_every_forgery_is_caught(self, verify: Cli, prover: Prover, tmp_path: Path) -> None:
        altered = tmp_path / "altered"
        build_small_model(altered, altered_layer=2)
        honest = prover.prove(range(48), valid_rate=0.5)
        claims = list(
            forgeries(
                honest,
                prover.prove(range(48), valid_rate=0.5, block_hash="earlier"),
                Prover(altered).prove(range(48), valid_rate=0.5),
                valid_rate=0.5,
            )
        )
        path = write(tmp_path / "p.json", honest.as_dict(), *(claim.as_dict() for claim in claims))
        result = verify(path, "--valid-rate", 0.5, "--json")
        assert result.code == 1
        verdicts = [verdict for verdict in judged_lines(result)[0] if not verdict["joined"]]
        assert [verdict["verdict"] for verdict in verdicts] == ["honest", *["fraud"] * len(claims)]
        for verdict in verdicts[1:]:
            assert verdict["rejected_by"]
            assert verdict["probability_honest"] < 1e-7

    def test_the_table_tells_which_test_spoke_and_which_nonces(
        self, verify: Cli, honest: ProofBatch, tmp_path: Path
    ) -> None:
        forged = claiming(honest, (*honest.dist[:-6], *[0.5] * 6))
        path = write(tmp_path / "p.json", forged.as_dict())
        result = verify(path)
        assert result.code == 1
        shown = result.out.splitlines()
        spoke = [test.replace("_", " ") for test in one(verify(path, "--json"))["rejected_by"]]
        assert "nonces" in spoke
        assert f"1: rejected by {', '.join(spoke)}" in shown
        assert "1: invalid nonces: 18, 19, 20, 21, 22, 23" in shown
        assert shown[-1] == "1 batch: 0 honest, 1 fraud, 0 no verdict, 0 refused; 0 distinct nonces credited"

    def test_a_fraud_beside_a_refused_batch_is_code_1(
        self, verify: Cli, honest: ProofBatch, tmp_path: Path
    ) -> None:
        forged = replace(honest, public_key="thief")
        other = replace(honest, round_digest="0" * 64)
        fraud = verify(write(tmp_path / "a.json", other.as_dict(), forged.as_dict()))
        refused = verify(write(tmp_path / "b.json", other.as_dict(), honest.as_dict()))
        assert (fraud.code, refused.code) == (1, 2)

    def test_a_batch_of_failed_nonces_has_no_verdict(
        self, verify: Cli, honest: ProofBatch, tmp_path: Path
    ) -> None:
        nothing = replace(honest, nonces=(), dist=(), vectors=(), failed_nonces=(1, 2))
        result = verify(write(tmp_path / "p.json", nothing.as_dict()), "--json")
        assert result.code == 2
        assert one(result)["verdict"] == "no_verdict"

    def test_no_vllm_is_needed(self, directory: Path, honest: ProofBatch, tmp_path: Path) -> None:
        """Where importing it raises, the command runs, and nothing has tried."""
        write(tmp_path / "p.json", honest.as_dict())
        (tmp_path / "vllm").mkdir()
        (tmp_path / "vllm" / "__init__.py").write_text("raise RuntimeError('vLLM was imported')")
        code = (
            "import atexit, sys\n"
            f"sys.path.insert(0, {str(tmp_path)!r})\n"
            "atexit.register(lambda: print('vllm' in sys.modules))\n"
            f"sys.argv = ['hallmark', 'verify', {str(tmp_path / 'p.json')!r}, '--model', {str(directory)!r}, "
            f"'--batch-size', '{BATCH_SIZE}', '--seq-len', '{SEQ_LEN}', '--json']\n"
            "from hallmark.server.__main__ import main\n"
            "main()\n"
        )
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        verdict, _, imported = done.stdout.splitlines()
        assert json.loads(verdict)["verdict"] == "honest"
        assert imported == "False"


class TestFiles:
    def test_what_a_receiver_stores(
        self, verify: Cli, prover: Prover, honest: ProofBatch, tmp_path: Path
    ) -> None:
        with TestClient(create_app(tmp_path / "receiver.sqlite3")) as receiver:
            receiver.post("/generated", json=prover.generated(honest)).raise_for_status()
            exported = receiver.get("/batches/1").json()
        assert verify(write(tmp_path / "p.json", exported)).code == 0

    def test_what_an_outbox_exports(
        self, verify: Cli, prover: Prover, honest: ProofBatch, tmp_path: Path
    ) -> None:
        line = {"webhook_id": "a", "url": "http://x", "kind": "generated", "created_at": 1.0}
        parts = [part(honest, slice(i, None, 2)) for i in (0, 1)]
        path = write(tmp_path / "p.jsonl", *({**line, "body": each.as_dict()} for each in parts))
        verdicts, summary = judged_lines(verify(path, "--json"))
        assert [verdict["verdict"] for verdict in verdicts] == ["honest"] * 3
        assert verdicts[0]["proofs"] == [f"{path}, proof 1"]
        assert summary["credited_nonces"] == 24

    def test_several_files_and_arrays(self, verify: Cli, honest: ProofBatch, tmp_path: Path) -> None:
        first = write(tmp_path / "a.json", [honest.as_dict()])
        second = write(tmp_path / "b.json", honest.as_dict())
        assert judged_lines(verify(first, second, "--json"))[1]["batches"] == 2
        assert (tmp_path / "a.json.verified.jsonl").exists()

    def test_standard_input(self, verify: Cli, honest: ProofBatch, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(honest.as_dict())))
        assert verify("-").code == 0

    def test_of_a_validated_body_the_claim_is_judged_and_not_the_recomputation(
        self, verify: Cli, prover: Prover, honest: ProofBatch, tmp_path: Path
    ) -> None:
        round_ = prover.round(short_config())
        lied = claiming(honest, (2.0 - d for d in honest.dist))
        found = honest.numbers()
        assert found is not None
        computed = dict(zip(honest.nonces, found.tolist(), strict=True))
        body = validated_payload(judge(lied, computed, round_), "request")
        # Such a body does not say in what dtype it was computed.
        result = verify(write(tmp_path / "p.json", body), "--dtype", fast_dtype(), "--json")
        assert result.code == 1
        assert one(result)["computed_distances"] == list(honest.dist)
        assert one(result)["numbers"] == 1

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ("[]", "the array is empty"),
            ("{", "a readable file of JSON"),
            ('{"a": 1}\n{', "a readable file of JSON"),
            ("[1]", "PROOFS: 1 is not allowed"),
            (
                "{}",
                "p.json, proof 1: public_key, block_hash, block_height, nonces, dist: None",
            ),
            (
                '{"protocol": "hallmark/1"}',
                "proof 1: protocol: 'hallmark/1' is not allowed; allowed: hallmark/2",
            ),
        ],
    )
    def test_a_file_without_proofs_is_code_2(
        self, verify: Cli, tmp_path: Path, content: str, problem: str
    ) -> None:
        path = tmp_path / "p.json"
        path.write_text(content)
        result = verify(path)
        assert result.code == 2
        assert problem in result.err


class TestRound:
    def test_the_r_target_of_a_callback_counts(self, verify: Cli, prover: Prover, tmp_path: Path) -> None:
        half = prover.prove(range(24), valid_rate=0.5)
        body = prover.generated(half, valid_rate=0.5)
        path = write(tmp_path / "p.json", body)
        assert one(verify(path, "--json"))["r_target"] == r_target_for(0.5, HIDDEN_SIZE)
        assert verify(path, "--valid-rate", 0.5).code == 0
        refused = verify(path, "--valid-rate", 0.25)
        assert refused.code == 2
        assert "the batch was found under r_target 1.414214, this round has 1.384" in refused.out

    def test_the_body_that_the_round_was_set_with(
        self, cli: Cli, directory: Path, prover: Prover, tmp_path: Path
    ) -> None:
        normal = {"inputs": "normal", "input_scale": 0.25}
        half = prover.prove(range(24), valid_rate=0.5, model="served", **normal)
        body = {
            **{"block_hash": half.block_hash, "block_height": 7, "public_key": "a validator"},
            **{"batch_size": BATCH_SIZE, "params": {"seq_len": SEQ_LEN}, "valid_rate": 0.5},
            **{"model": "served", **normal, "node_id": -1, "fraud_threshold": 1e-7},
        }
        path, round_ = write(tmp_path / "p.json", half.as_dict()), write(tmp_path / "round.json", body)
        verdict = one(cli("verify", path, "--model", directory, "--round", round_, "--json"))
        assert (verdict["verdict"], verdict["fraud_threshold"]) == ("honest", 1e-7)
        # An option overrides the file, of r_target and valid_rate each the other.
        strict = one(
            cli("verify", path, "--model", directory, "--round", round_, "--json", "--r-target", 1.3)
        )
        assert (strict["verdict"], strict["r_target"]) == ("fraud", 1.3)
        other = write(tmp_path / "other.json", {**body, "block_hash": "another"})
        refused = cli("verify", path, "--model", directory, "--round", other)
        assert refused.code == 2
        assert "the round about block 'another'" in refused.out

    def test_every_option_reaches_the_verdict(self, verify: Cli, honest: ProofBatch, tmp_path: Path) -> None:
        path = write(tmp_path / "p.json", honest.as_dict())
        options = ("--fraud-threshold", 1e-5, "--distance-tolerance", 0.175, "--honest-sigma", 0.05)
        verdict = one(verify(path, *options, "--honest-kurtosis", 4, "--json"))
        assert verdict["fraud_threshold"] == 1e-5
        assert verdict["tolerance"] == pytest.approx(0.175 * (2 * HIDDEN_SIZE) ** -0.5)
        assert verdict["honest_sigma"] == 0.05
        older = one(verify(path, "--distance-tolerance", "none", "--json"))
        assert (older["tolerance"], [*older["tests"]]) == (None, ["nonces"])

    def test_residues_are_checked_where_the_nodes_are_known(
        self, verify: Cli, prover: Prover, honest: ProofBatch, tmp_path: Path
    ) -> None:
        path = write(tmp_path / "p.json", prover.generated(honest))
        assert verify(path, "--node-count", 1, "--n-groups", 1).code == 0
        strays = verify(path, "--node-count", 3)
        assert strays.code == 2
        assert "in steps of 3, by `covered`" in strays.out

    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            (("--batch-size", 0), "batch_size: 0 is not allowed"),
            (("--distance-tolerance", "low"), "--distance-tolerance: 'low' is not allowed"),
            (("--r-target", "nan"), "r_target: nan is not allowed"),
            (("--round", "absent.json"), "--round: 'absent.json' is not allowed"),
            (("--dtype", "int8"), "--dtype: 'int8' is not allowed; allowed: bfloat16, float16, float32"),
            (("--device", "tpu"), "--device: 'tpu' is not allowed; allowed: cpu, cuda or cuda:N"),
            (("--device", "cuda:99"), "--device: 'cuda:99' is not allowed; allowed: cpu, or one of the"),
            (("--seed", "s"), "--seed is of use with --sample, --power or --sequential only"),
            (("--state", "s", "--no-state"), "give --state or --no-state, not both"),
        ],
    )
    def test_options_that_are_wrong(
        self, verify: Cli, honest: ProofBatch, tmp_path: Path, options: tuple[object, ...], problem: str
    ) -> None:
        result = verify(write(tmp_path / "p.json", honest.as_dict()), *options)
        assert result.code == 2
        assert problem in " ".join(result.err.split())


class TestRefusals:
    """Nothing that was computed otherwise is judged; the sentence says what differs."""

    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            (("--seq-len", 32), f"seq_len '{SEQ_LEN}' and not '32'"),
            (("--inputs", "normal", "--input-scale", 0.5), "inputs 'tokens' and not 'normal'"),
            (("--inputs", "normal", "--input-scale", 0.5), "input_scale 2^0 and not 2^-1"),
            (("--no-random-projection",), "projection 'on' and not 'off'"),
            (("--readout", "last", "--inputs", "tokens"), "readout 'rows' and not 'last'"),
            (("--numbers", 3), f"numbers '{NUMBERS}' and not '3'"),
            (("--first", 7), "first 'none' and not '7'"),
            (("--served-model", "demo"), "model '' and not 'demo'"),
            (("--projection-scale", 0.02), "projection_scale '0.015625' and not '0.02'"),
            (
                ("--dtype", "float16"),
                f"the batch was computed in dtype '{fast_dtype()}', it would be judged in dtype 'float16'",
            ),
        ],
    )
    def test_other_settings(
        self, verify: Cli, honest: ProofBatch, tmp_path: Path, options: tuple[object, ...], problem: str
    ) -> None:
        result = verify(write(tmp_path / "p.json", honest.as_dict()), *options)
        assert result.code == 2
        assert problem in result.out
        assert "0 honest, 0 fraud, 0 no verdict, 1 refused" in result.out
        assert kept_nonces(tmp_path / "p.json.verified.jsonl") == [], "nothing is computed"

    def test_another_width(self, cli: Cli, honest: ProofBatch, tmp_path: Path) -> None:
        tiny_model(hidden_size=64).save_pretrained(tmp_path / "narrow")
        result = cli(
            "verify", write(tmp_path / "p.json", honest.as_dict()), "--model", tmp_path / "narrow", *SHORT
        )
        assert result.code == 2
        assert "hidden_size '256' and not '64'" in result.out

    def test_proofs_of_an_earlier_protocol(self, verify: Cli, tmp_path: Path) -> None:
        older = written_by_734b105("proofs.json", tmp_path)
        result = verify(older)
        assert result.code == 2
        assert "the batch was computed with the round settings '59d25f0f" in " ".join(result.out.split())

    @pytest.mark.parametrize("quantization", ["fp8", "awq_marlin"])
    def test_quantised_weights(
        self, verify: Cli, honest: ProofBatch, tmp_path: Path, quantization: str
    ) -> None:
        numerics = {**(honest.numerics or {}), "quantization": quantization}
        result = verify(write(tmp_path / "p.json", replace(honest, numerics=numerics).as_dict()))
        assert result.code == 2
        assert (
            f"with the quantization {quantization!r}, it would be judged with the quantization 'none'"
            in result.out
        )

    def test_a_quantised_cache(self, verify: Cli, honest: ProofBatch, tmp_path: Path) -> None:
        numerics = {**(honest.numerics or {}), "kv_cache_dtype": "fp8_e4m3"}
        result = verify(write(tmp_path / "p.json", replace(honest, numerics=numerics).as_dict()))
        assert result.code == 2
        assert (
            "with the KV cache dtype 'fp8_e4m3', it would be judged with the KV cache dtype "
            f"'{fast_dtype()}'" in " ".join(result.out.split())
        )

    def test_a_covered_nonce_is_missing(
        self, verify: Cli, prover: Prover, honest: ProofBatch, tmp_path: Path
    ) -> None:
        body = prover.generated(honest) | {"covered": [0, 99]}
        result = verify(write(tmp_path / "p.json", body))
        assert result.code == 2
        assert "100 to 100, by `covered`" in result.out

    def test_no_model(self, cli: Cli, honest: ProofBatch, tmp_path: Path) -> None:
        path = write(tmp_path / "p.json", honest.as_dict())
        absent = cli("verify", path, "--model", tmp_path / "absent")
        (tmp_path / "empty").mkdir()
        empty = cli("verify", path, "--model", tmp_path / "empty")
        (tmp_path / "torn").mkdir()
        build_small_model(tmp_path / "torn")
        weights = tmp_path / "torn" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        torn = cli("verify", path, "--model", tmp_path / "torn")
        for result in (absent, empty, torn):
            assert result.code == 2
            assert result.err.startswith("hallmark: --model: ")
            assert "Traceback" not in result.err

    def test_a_model_that_lacks_weights(self, cli: Cli, honest: ProofBatch, tmp_path: Path) -> None:
        """transformers would fill them in at random."""
        build_small_model(tmp_path / "model")
        weights = load_file(tmp_path / "model" / "model.safetensors")
        del weights["model.layers.1.mlp.up_proj.weight"]
        save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
        result = cli("verify", write(tmp_path / "p.json", honest.as_dict()), "--model", tmp_path / "model")
        assert result.code == 2
        assert (
            "1 are missing or of another shape, the first is model.layers.1.mlp.up_proj.weight" in result.err
        )

    def test_without_transformers(self, directory: Path, honest: ProofBatch, tmp_path: Path) -> None:
        path = write(tmp_path / "p.json", honest.as_dict())
        code = (
            "import sys\n"
            "sys.modules['transformers'] = None\n"
            f"sys.argv = ['hallmark', 'verify', {str(path)!r}, '--model', {str(directory)!r}]\n"
            "from hallmark.server.__main__ import main\n"
            "main()\n"
        )
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr == (
            "hallmark: recomputing distances without a server needs transformers\n"
            "hint: pip install '.[verify]' in the checkout brings it\n"
        )


class TestSample:
    def test_only_the_sample_is_recomputed_and_the_draw_can_be_repeated(
        self, verify: Cli, honest: ProofBatch, tmp_path: Path
    ) -> None:
        path = write(tmp_path / "p.json", honest.as_dict())
        first, summary = judged_lines(verify(path, "--sample", 5, "--json", "--no-state"))
        assert first[0]["n_judged"] == 5
        assert first[0]["n_duplicates"] == 0
        seed = summary["sample"]["seed"]
        assert len(seed) == 32
        again, _ = judged_lines(verify(path, "--sample", 5, "--seed", seed, "--json", "--no-state"))
        assert again == first
        table = verify(path, "--sample", 5, "--seed", seed, "--no-state")
        assert table.code == 0
        assert f"at most 5 nonces of a batch were drawn with --seed {seed}" in table.out
        others, summary = judged_lines(verify(path, "--sample", 5, "--json", "--no-state"))
        assert others[0]["computed_distances"] != first[0]["computed_distances"], "another draw"
        assert summary["credited_nonces"] == 24

    def test_a_forgery_is_caught_by_a_sample(self, verify: Cli, honest: ProofBatch, tmp_path: Path) -> None:
        stolen = replace(honest, public_key="thief")
        result = verify(write(tmp_path / "p.json", stolen.as_dict()), "--sample", 12, "--seed", "s", "--json")
        assert result.code == 1
        assert one(result)["n_judged"] == 12


class TestSeveralBatches:
    def test_what_was_claimed_before_counts_once(
        self, verify: Cli, honest: ProofBatch, tmp_path: Path
    ) -> None:
        first, second = part(honest, slice(16)), part(honest, slice(8, None))
        assert first.vectors is not None
        twice = replace(
            first,
            nonces=(*first.nonces, 3),
            dist=(*first.dist, first.dist[3]),
            vectors=(*first.vectors, first.vectors[3]),
        )
        path = write(tmp_path / "p.json", twice.as_dict(), second.as_dict())
        verdicts, summary = judged_lines(verify(path, "--json"))
        assert [v["n_claimed_before"] for v in verdicts] == [0, 8, 0]
        assert [v["n_duplicates"] for v in verdicts] == [1, 0, 9]
        assert [v["joined"] for v in verdicts] == [False, False, True]
        assert verdicts[2]["n_judged"] == 24
        assert summary["credited_nonces"] == 24
        assert summary["claimed_again"] == 8
        table = verify(path)
        assert "2: 8 nonces were claimed by an earlier batch and count once" in table.out.splitlines()
        assert "1: 1 claim repeats a nonce of the same batch" in table.out.splitlines()

    def test_a_forgery_in_parts_too_small_for_a_verdict(
        self, verify: Cli, honest: ProofBatch, tmp_path: Path
    ) -> None:
        """Each part alone passes at the threshold of verdicts that take money; together they do not."""
        stolen = replace(honest, public_key="thief")
        parts = [part(stolen, slice(i, i + 1)) for i in range(len(stolen.nonces))]
        path = write(tmp_path / "p.json", *(each.as_dict() for each in parts))
        result = verify(
            path, "--fraud-threshold", 1e-7, "--distance-tolerance", 0.35, "--honest-sigma", 0.1, "--json"
        )
        verdicts, summary = judged_lines(result)
        assert verdicts[-1]["joined"]
        assert verdicts[-1]["verdict"] == "fraud"
        assert any(verdict["verdict"] == "honest" for verdict in verdicts)
        assert summary["credited_nonces"] == 0
        assert result.code == 1

    def test_batches_that_follow_one_another_are_judged_by_their_density_together(
        self, verify: Cli, prover: Prover, tmp_path: Path
    ) -> None:
        """Whoever leaves out some valid nonces of each short batch is found by all of them."""
        honest = prover.prove(range(200), valid_rate=0.5)
        claims = dict(zip(honest.nonces, honest.dist, strict=True))
        kept = {nonce: distance for nonce, distance in claims.items() if nonce % 5 < 3}
        verdicts = {}
        for name, claimed in (("honest", claims), ("thinned", kept)):
            parts = []
            for first in range(0, 200, 10):
                nonces = [nonce for nonce in claimed if first <= nonce < first + 10]
                some = replace(
                    honest,
                    vectors=None,
                    encoding=None,
                    nonces=tuple(nonces),
                    dist=tuple(claimed[nonce] for nonce in nonces),
                    covered=(first, first + 9),
                )
                parts.append(some.as_dict())
            path = write(tmp_path / f"{name}.json", *parts)
            result = verify(path, "--valid-rate", 0.5, "--node-count", 1, "--fraud-threshold", 1e-4, "--json")
            verdicts[name] = judged_lines(result)
        for cases, summary in verdicts.values():
            assert cases[-1]["joined"]
            assert cases[-1]["n_covered"] == 200
            assert summary["gaps"] == []
        assert {case["verdict"] for case in verdicts["honest"][0]} == {"honest"}
        assert {case["verdict"] for case in verdicts["thinned"][0][:-1]} == {"honest"}
        assert verdicts["thinned"][0][-1]["rejected_by"] == ["density"]

    def test_a_gap_in_the_walk_is_named(self, verify: Cli, honest: ProofBatch, tmp_path: Path) -> None:
        def walked(first: int, last: int) -> dict[str, Any]:
            return replace(part(honest, slice(first, last + 1)), covered=(first, last)).as_dict()

        path = write(tmp_path / "p.json", walked(0, 7), walked(12, 19), walked(20, 23))
        result = verify(path)
        assert result.code == 0
        assert "nothing here covers numbers 8 to 11 of the walk of node 0 of " in result.out

    def test_a_block_has_one_height_and_a_round_one_r_target(
        self, verify: Cli, honest: ProofBatch, tmp_path: Path
    ) -> None:
        """Else a nonce were credited once a height, and batches of several rounds were not joined."""
        body, higher = honest.as_dict(), replace(honest, block_height=honest.block_height + 1).as_dict()
        path = write(tmp_path / "p.json", {**body, "r_target": 1.8}, higher, {**body, "r_target": 1.7}, body)
        result = verify(path, "--json")
        first, *others = judged_lines(result)[0]
        assert first["verdict"] == "honest"
        assert "a block has one height, which --round states" in others[0]["error"]
        assert "found under r_target 1.700000, an earlier one of this prover and block" in others[1]["error"]
        assert "found under r_target 2.000000" in others[2]["error"]
        assert judged_lines(result)[1]["credited_nonces"] == 24
        stated = verify(path, "--r-target", 1.8, "--json")
        assert [case["verdict"] for case in judged_lines(stated)[0] if "verdict" in case] == ["honest"] * 3

    def test_batches_with_vectors_are_judged_together_beside_one_without(
        self, verify: Cli, honest: ProofBatch, tmp_path: Path
    ) -> None:
        """By number 0 alone, which is honest, nothing would be found."""
        numbers = honest.numbers()
        assert numbers is not None
        numbers[:, 1] = 0.0
        forged = replace(honest, vectors=encode(numbers.tolist()))
        without = replace(part(honest, slice(20, 24)), vectors=None, encoding=None)
        parts = [part(forged, slice(i, i + 1)) for i in range(20)]
        path = write(tmp_path / "p.json", *(each.as_dict() for each in [*parts, without]))
        result = verify(path, "--fraud-threshold", 1e-7)
        assert result.code == 1
        assert "22: all 21 batches of this prover in this round together" in result.out
        assert "23: the 20 batches with vectors of this prover in this round together" in result.out
        assert "23: rejected by " in result.out
        assert "21 batches: 21 honest, 0 fraud, 0 no verdict, 0 refused; 0 distinct nonces" in result.out


@pytest.fixture(scope="module")
def rounds(prover: Prover, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve blocks of a prover with 1.5 sigma, and of one with 0.8."""
    rng = np.random.default_rng(0)
    proofs = []
    for block in range(12):
        for key, noise in (("cheater", 0.15), ("a prover with a long and honest key", 0.08)):
            honest = prover.prove(range(24), block_hash=f"0x{block:x}", block_height=block, public_key=key)
            proofs.append(off(honest, rng, noise))
    folder = tmp_path_factory.mktemp("rounds")
    # Given in another order than that of their blocks.
    return write(folder / "p.json", *(proof.as_dict() for proof in reversed(proofs)))


class TestOverTime:
    STRICT = ("--fraud-threshold", 1e-7)

    def test_who_hides_in_every_round_is_convicted(self, verify: Cli, rounds: Path) -> None:
        result = verify(rounds, *self.STRICT, "--json")
        verdicts, summary = judged_lines(result)
        assert {verdict["verdict"] for verdict in verdicts} == {"honest"}
        assert result.code == 1
        found = {record["public_key"]: record for record in summary["provers"]}
        assert [*found] == ["a prover with a long and honest key", "cheater"]
        honest, cheater = found.values()
        for record in found.values():
            assert (record["rounds"], record["batches"], record["nonces"]) == (12, 12, 288)
            assert (record["uncounted"], record["fraud_threshold"]) == ({}, 1e-7)
            assert record["p_value"] == pytest.approx(10 ** -record["log10_largest_wealth"])
        assert (honest["fraud_detected"], cheater["fraud_detected"]) == (False, True)
        assert cheater["p_value"] < 1e-7 < 0.01 < honest["p_value"]
        assert (summary["honest"], summary["fraud"], summary["credited_nonces"]) == (24, 0, 288)

    def test_it_is_what_the_receiver_of_the_verdicts_says(
        self, verify: Cli, prover: Prover, rounds: Path, tmp_path: Path
    ) -> None:
        """But for what a callback rounds."""
        with TestClient(create_app(tmp_path / "receiver.sqlite3")) as receiver:
            for body in reversed([json.loads(line) for line in rounds.read_text().splitlines()]):
                proof = ProofBatch.parse(body)
                round_ = prover.round(
                    short_config(
                        **{name: body[name] for name in ("block_hash", "block_height", "public_key")}
                    )
                )
                honest = prover.prove(
                    proof.nonces,
                    **{name: body[name] for name in ("block_hash", "block_height", "public_key")},
                )
                numbers = honest.numbers()
                assert numbers is not None
                computed = dict(zip(honest.nonces, numbers.tolist(), strict=True))
                verdict = validated_payload(judge(proof, computed, round_), "request")
                receiver.post("/validated", json=verdict).raise_for_status()
            received = receiver.get("/provers", params={"fraud_threshold": 1e-7}).json()
        records = judged_lines(verify(rounds, *self.STRICT, "--json"))[1]["provers"]
        for record, other in zip(records, received, strict=True):
            for name in ("log10_wealth", "log10_largest_wealth"):
                assert record.pop(name) == pytest.approx(other.pop(name), rel=0.05, abs=0.05)
            assert record.pop("p_value") == pytest.approx(other.pop("p_value"), rel=0.5)
            assert record == other

    def test_the_table_has_room_in_80_columns(
        self, verify: Cli, rounds: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        result = verify(rounds, *self.STRICT)
        assert result.code == 1
        heading = "Over time: all that a prover sent\n"
        shown = result.out[result.out.index(heading) :].splitlines()
        rows = [line for line in result.out.splitlines() if re.match(r"proof |\d+ +\S+ .*\d s ", line)]
        assert len(rows) > 24
        assert max(map(len, [*rows, *shown[:4]])) <= 80
        cells = [re.split(r"\s{2,}", row) for row in shown[1:4]]
        names = ["public key", "rounds", "batches", "nonces", "wealth", "p-value", "verdict"]
        assert cells[0] == names, "no heading is broken"
        assert [row[0] for row in cells[1:]] == ["a prover…est key", "cheater"]
        assert [row[1:4] for row in cells[1:]] == [["12", "12", "288"]] * 2
        assert [row[-1] for row in cells[1:]] == ["no fraud", "fraud"]
        assert float(cells[2][-2]) < 1e-7
        assert shown[4] == "", "nothing is broken into a second line"
        whole = [line for line in result.out.splitlines() if ": public key " in line]
        # Proofs 1, 3, 5, ...; what the table has room for is not said again.
        assert whole == [f"{n}: public key a prover with a long and honest key" for n in range(1, 25, 2)]

    def test_what_does_not_count_is_said_and_changes_no_exit_code(
        self, verify: Cli, honest: ProofBatch, tmp_path: Path
    ) -> None:
        path = write(tmp_path / "p.json", honest.as_dict(), part(honest, slice(4)).as_dict())
        result = verify(path)
        assert result.code == 0
        assert (
            "4 nonces of 02a1b2c3 not counted over time: an earlier batch has them" in result.out.splitlines()
        )
        older = verify(path, "--distance-tolerance", "none")
        assert older.code == 0
        said = "28 nonces of 02a1b2c3 not counted over time: the round has no honest sigma"
        assert said in older.out.splitlines()
        assert "not judged" in older.out
        sampled = verify(path, "--sample", 8, "--seed", "s", "--json")
        [record] = judged_lines(sampled)[1]["provers"]
        assert record["uncounted"] == {"not_recomputed": 16, "repeated": record["uncounted"]["repeated"]}


class TestState:
    def test_nothing_is_computed_twice(self, verify: Cli, honest: ProofBatch, tmp_path: Path) -> None:
        path, state = write(tmp_path / "p.json", honest.as_dict()), tmp_path / "s.jsonl"
        first = verify(path, "--state", state, "--json")
        written = state.read_bytes()
        second = verify(path, "--state", state, "--json")
        assert first.out == second.out
        assert second.err == f"24 nonces taken from {state}\n"
        assert state.read_bytes() == written
        assert state.stat().st_mode & 0o077 == 0

    def test_other_weights_share_nothing(
        self, cli: Cli, verify: Cli, honest: ProofBatch, tmp_path: Path
    ) -> None:
        path, state = write(tmp_path / "p.json", honest.as_dict()), tmp_path / "s.jsonl"
        verify(path, "--state", state)
        build_small_model(tmp_path / "altered", altered_layer=1)
        altered = cli("verify", path, "--model", tmp_path / "altered", *SHORT, "--state", state)
        assert altered.code == 1
        assert altered.err == "", "nothing is taken from the file"

    def test_a_run_that_is_killed_goes_on_where_it_was(
        self, directory: Path, prover: Prover, verify: Cli, tmp_path: Path
    ) -> None:
        nonces = range(4000)
        claim = {
            **claiming(prover.prove(range(1)), (1.4,)).as_dict(),
            **{"nonces": list(nonces), "dist": [1.4] * len(nonces)},
        }
        path, state = write(tmp_path / "p.json", claim), tmp_path / "p.json.verified.jsonl"
        options = ("--model", str(directory), *map(str, SHORT))
        command = [sys.executable, "-P", "-m", "hallmark.server", "verify", str(path), *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            while not state.exists() or state.read_bytes().count(b"\n") < 6:
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        kept = kept_nonces(state)
        assert 0 < len(kept) < len(nonces)
        wanted = sorted(kept) + [n for n in nonces if n not in kept][:20]
        small = {**claim, "nonces": wanted, "dist": [1.4] * len(wanted)}
        result = verify(write(tmp_path / "small.json", small), "--state", state)
        assert result.err == f"{len(kept)} nonces taken from {state}\n"
        assert len(kept_nonces(state)) == len(kept) + 20, "what was left, and nothing again"


def kept_nonces(state: Path) -> list[int]:
    """The nonces of a file's whole lines, repetitions included."""
    whole = state.read_bytes().rpartition(b"\n")[0]
    rows = [row for line in whole.splitlines() for row in json.loads(line).get("numbers", [])]
    return [nonce for _, nonce, _ in rows]
