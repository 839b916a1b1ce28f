"""`hallmark verify`: judge proofs on this machine, without a server."""

from pathlib import Path
from typing import Annotated

import typer

from hallmark.poc.protocol.config import Concern
from hallmark.server.cli.consoles import AsJson, print_or_drop, results
from hallmark.server.cli.offline import pool_options, recomputing, sampling
from hallmark.server.cli.offline.engine_command import vllm_flags
from hallmark.server.cli.options import RoundFile, Stated, round_body, takes_settings
from hallmark.server.cli.verdicts import exit_code

__all__ = ["verify"]


@takes_settings([Concern.JUDGEMENT, Concern.PARTITION, Concern.COMPUTATION], {"model": "served_model"})
def verify(
    proofs: Annotated[
        list[Path],
        typer.Argument(
            metavar="PROOFS",
            help="JSON: a ProofBatch, an array of them or one a line, what a receiver gives or an outbox "
            "exports; - is stdin.",
        ),
    ],
    model: Annotated[
        Path, typer.Option(metavar="PATH", help="A directory with the model that the provers were to serve.")
    ],
    stated: Stated,
    context: typer.Context,
    engine: recomputing.Engine = recomputing.EngineName.TRANSFORMERS,
    round_file: RoundFile = None,
    sample: sampling.Sample = None,
    sequential: sampling.Sequential = False,
    power: sampling.Power = None,
    cheat: sampling.CheatError = None,
    cheat_share: sampling.CheatShare = None,
    seed: sampling.Seed = None,
    device: recomputing.Device = None,
    dtype: recomputing.Dtype = None,
    ray: pool_options.Ray = None,
    actors: pool_options.Actors = None,
    gpus: pool_options.Gpus = None,
    cpus: pool_options.Cpus = None,
    state: recomputing.StateFile = None,
    no_state: recomputing.NoState = False,
    quiet: recomputing.Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Recompute proofs and judge them.

    It needs no server. The model runs by PyTorch and transformers, or by vLLM with --engine vllm and its own
    flags after --; here, or on Ray's actors with --ray. Block and public key are the proofs' own; what is not
    given of the round has the server's default, and r_target is the proofs' where they state it. Interrupted,
    it goes on where it was when it is run again, with the same --seed where it had one. All that a prover
    sent, over rounds, is judged together as well.

    \b
      hallmark verify proofs.json --model qwen3-8b
      hallmark verify proofs.json --model qwen3-235b --engine vllm -- -tp 8

    --json prints an object a line: each verdict, then a summary. Exit code: 0 all honest, 1 fraud among them,
    2 an error or no verdict among them and no fraud.
    """  # noqa: D301  # the sign by which help keeps lines as they are
    from hallmark.poc.offline.cases import joined, judged, prover_records, summarize
    from hallmark.poc.offline.proof_files import read_batches
    from hallmark.poc.offline.rounds import check_round, resolve_cases
    from hallmark.poc.offline.sequential import SequentialCases
    from hallmark.server.cli.offline import report

    pool_options.check_used(ray, actors, gpus, cpus)
    chosen = sampling.sampling(sample, power, cheat, cheat_share, seed, sequential=sequential)
    body = round_body(round_file, stated)
    config = check_round(body)
    path = recomputing.state_path(proofs, state, no_state=no_state)
    batches = read_batches(proofs)
    loader = recomputing.loader(
        engine, model, device, dtype, vllm_flags(context), config, batches, in_pool=ray is not None
    )
    pooled = pool_options.pooled(
        loader, ray, actors, gpus, cpus, batches=recomputing.most_batches(batches, config)
    )
    with recomputing.loaded(pooled, quiet=quiet) as loaded:
        numerics = loaded.numerics
        cases = [*resolve_cases(batches, body, loaded.facts, numerics)]
        with recomputing.recomputation(loaded, loader, path, quiet=quiet) as recomputation:
            chosen.tell_seed()
            if chosen.search is not None and chosen.is_sequential:
                provers = SequentialCases(cases, chosen.search, recomputing.at_once(loaded))
                sampling.run_sequentially(provers, recomputation, path, chosen.seed, quiet=quiet)
            else:
                provers = None
                cases, drawn = chosen.drawn(cases)
                wanted = ((case.round, case.nonces) for case in cases if case.round is not None)
                recomputing.run(recomputation, wanted, path, quiet=quiet, seed=chosen.seed or None)
    if provers is not None:
        found, drawn = provers.judged(recomputation, numerics), provers.as_dict()
    else:
        found = [
            case if case.round is None else judged(case, recomputation.numbers(case.round), numerics)
            for case in [*cases, *joined(cases)]
        ]
    threshold = config.fraud_threshold
    records = prover_records(found)
    summary = summarize(found, records, threshold, numerics, drawn)
    if as_json:
        print_or_drop(report.as_json(found, summary))
    else:
        report.show_table(results(), found, summary)
    verdicts = ["no_verdict" if each.verdict is None else str(each.verdict.verdict) for each in found]
    # Evidence that is too little for a conviction is no verdict of honesty, and does not need to be one.
    verdicts += ["fraud" for record in records if record.is_fraud(threshold)]
    raise typer.Exit(exit_code(verdicts))
