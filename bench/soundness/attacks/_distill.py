"""Distilled substitutes: copies of some of a model's layers, trained to give its final hidden states.

The students start from the model's own weights, which they are cheaper versions of, and learn from inputs of
nonces that the prover ran in full; the loss is one minus the cosine. They are checked on nonces that they did
not learn from, and the best of what the check saw is kept.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from _decoder import Decoder, Plan
from _substitutes import Bench, Output, greedy_layers

BATCH = 32


@dataclass(frozen=True, slots=True)
class Student:
    """What is distilled.

    Attributes:
        name: What it is.
        plan: What it runs of the model's layers, trained.
        epochs: How often it sees each nonce.
    """

    name: str
    plan: Plan
    epochs: int


def students(bench: Bench) -> Iterator[Student]:
    """From next to nothing to half of the model; the cheaper, the more often it sees each nonce."""
    length, layers = bench.nonces.seq_len, bench.whole.layers
    yield Student("distilled first layer", Plan(layers[:1], length), 24)
    yield Student(
        "distilled, last row only, keys of all from the input", Plan(layers, length, (1,) * len(layers)), 8
    )
    half = greedy_layers(bench)[len(layers) // 2]
    yield Student("distilled half of the layers", Plan(half, length), 4)


def distilled(model: object, bench: Bench, student: Student, samples: int) -> Output:
    """Train a student on the first `samples` nonces of the fit, and run it.

    Args:
        model: The model of the bench.
        bench: Inputs and true outputs.
        student: What to train.
        samples: How many nonces it learns from; a multiple of the batch.
    """
    torch.manual_seed(0)
    decoder = Decoder(model, copy.deepcopy(bench.decoder.layers))
    plan = student.plan.for_last_row()
    parameters = [parameter for index in plan.layers for parameter in decoder.layers[index].parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=5e-4, weight_decay=0.0)
    steps = student.epochs * samples // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps, pct_start=0.1)
    counts = bench.nonces.counts
    checked = slice(counts.fit, counts.fit + counts.check)

    def check() -> tuple[float, dict[str, torch.Tensor]]:
        cosines = bench.nonces.cosines(bench.run(plan, checked, decoder), bench.truth[checked])
        weights = {
            f"{index}.{name}": value.clone()
            for index in plan.layers
            for name, value in decoder.layers[index].state_dict().items()
        }
        return float(cosines.mean()), weights

    best, kept = check()
    for _ in range(student.epochs):
        for chosen in torch.randperm(samples).split(BATCH):
            states = bench.decoder.norm(decoder.run(bench.inputs[chosen], plan)[:, -1])
            loss = 1 - torch.cosine_similarity(states, bench.truth[chosen], dim=1).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            schedule.step()
        cosine, weights = check()
        if cosine > best:
            best, kept = cosine, weights
    for index in plan.layers:
        own = {name.partition(".")[2]: w for name, w in kept.items() if name.startswith(f"{index}.")}
        decoder.layers[index].load_state_dict(own)
    states = bench.run(plan, bench.nonces.kept, decoder)
    return Output(student.name, "distilled", bench.share(plan), states, None, f"{samples} nonces")
