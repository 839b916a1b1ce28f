"""Streams as drawn: can inputs, projections and targets be told from independent normal numbers?

Every family of streams in which one thing changes (the nonce, the key, one character of the block hash, the
round) is drawn through the kernels' reference and goes through the same tests: moments, signs, every entry
of the table, every bit of the halves, runs of bits, pairs of halves, correlations within a stream, between
streams and at each place across streams, and what two neighbouring streams have in common bit by bit. Then
the names: a million of them, their duplicates, bits and avalanche. Then the projections as matrices: the
largest and smallest singular value against the laws of random matrices, and what ``I + P`` does to a space.

Every test gives a two-sided p-value. A generator that is perfect has a least p-value of about 1 over their
number; the experiment fails where the least one times their number is below 1e-6. Nothing is random about a
run: the streams are the protocol's.

A row is a test of a family: `statistic` is a standard normal deviate, with `freedom` a chi-squared one of so
many degrees, or for equal pairs a count, whose expectation is then `freedom`.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.extend(map(str, Path(__file__).parents[1].glob("*/")))  # `python -P` adds none of the rooms

import numpy as np
import torch
from _experiment import new_figure, options, write
from _random_matrix import (
    residual_singular_values,
    singular_value_density,
    smallest_singular_value_p,
    tracy_widom_p,
)
from _randomness import Outcome, chi_squared, of_halves, of_names, of_values, poisson

from hallmark.kernels.draw_matrix import draw_matrix_reference
from hallmark.kernels.draw_normals import draw_normals_reference, streams_tensor
from hallmark.kernels.normal_table import signed_table
from hallmark.poc.protocol.streams import Stream, embeds_stream, post_stream, pre_stream, target_stream

MIN_P_VALUE = 1e-6
BLOCK = "00000000000000000001a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f7"
KEY = "a prover"
ROUND = "8d969eef6ecad3c29a3a629280e686cf0c3f5d5a86aff3ca12020c923adc6c92"
WIDTHS = (256, 1024)
"""Of the projections whose singular values are computed."""
REACHES = {256: 0.01, 1024: 0.02, 4096: 0.04, 16384: 0.08}
"""A projection of width 256 with these scales stretches space as one of the width with scale 0.01 does."""

Family = Callable[[int], Stream]


def one_character(i: int) -> str:
    """The block hash with one character changed: another place and another digit for each i."""
    place, digit = i % len(BLOCK), i // len(BLOCK) + 1
    changed = f"{(int(BLOCK[place], 16) + digit) % 16:x}"
    return BLOCK[:place] + changed + BLOCK[place + 1 :]


FAMILIES: dict[str, Family] = {
    "inputs, neighbouring nonces": lambda i: embeds_stream(ROUND, BLOCK, KEY, i),
    "inputs, nonces from 2^40 in a node's stride": lambda i: embeds_stream(ROUND, BLOCK, KEY, 2**40 + 5 * i),
    "inputs, keys that differ in their end": lambda i: embeds_stream(ROUND, BLOCK, f"{KEY}{i}", 0),
    "inputs, blocks that differ in one character": lambda i: embeds_stream(ROUND, one_character(i), KEY, 0),
    "inputs, rounds of other lengths": lambda i: embeds_stream(f"{i:064x}", BLOCK, KEY, 0),
    "targets, neighbouring nonces": lambda i: target_stream(ROUND, BLOCK, KEY, i),
    "a nonce's input beside its target": lambda i: (embeds_stream, target_stream)[i % 2](
        ROUND, BLOCK, KEY, i // 2
    ),
    "projections, blocks that differ in one character": lambda i: (pre_stream, post_stream)[i % 2](
        one_character(i // 2)
    ),
}


def of_family(family: Family, streams: int, elements: int) -> Iterator[Outcome]:
    """Every test of the elements of a family.

    Args:
        family: The stream of each number from 0 on.
        streams: How many are drawn.
        elements: Of each.
    """
    names = streams_tensor(family(i) for i in range(streams))
    # A table whose entry for a half is the half itself shows what is looked up.
    halves = draw_normals_reference(names, elements, torch.arange(2**16, dtype=torch.float32)).to(torch.int32)
    yield from of_halves(halves)
    values = draw_normals_reference(names, elements, signed_table(1.0)).float()
    assert torch.equal(values, signed_table(1.0).float()[halves.long()]), "a draw is not its table's entry"
    yield from of_values(values)


def of_duplicates(count: int) -> Iterator[Outcome]:
    """Names of so many nonces, and how many of them coincide, in whole and in each of their four words."""
    names = np.array([embeds_stream(ROUND, BLOCK, KEY, nonce) for nonce in range(count)], dtype=np.int64)
    unique = len(np.unique(names.astype("<u4").view("V16")))
    assert unique == count, f"{count - unique} of {count} nonces share a stream"
    pairs = count * (count - 1) / 2
    for word, name in enumerate(("k0", "k1", "c2", "c3")):
        _, times = np.unique(names[:, word], return_counts=True)
        found = int((times * (times - 1) // 2).sum())
        yield poisson(f"equal pairs of {name} alone", found, pairs / 2**32)
    yield from of_names(torch.from_numpy(names[: min(count, 200_000)]))


def of_matrices(width: int, blocks: int) -> Iterator[Outcome]:
    """Largest and smallest singular value of projections of scale 1, against the laws of random matrices.

    Each block's p-values are combined by Fisher's method.
    """
    largest, smallest = [], []
    for block in range(blocks):
        for stream in (pre_stream, post_stream):
            name = streams_tensor([stream(f"{BLOCK[:-2]}{block:02x}")])[0]
            matrix = draw_matrix_reference(name, width, width, 1.0).double()
            # The table's variance is 0.9996.
            values = torch.linalg.svdvals(matrix / signed_table(1.0).double().square().mean().sqrt())
            largest.append(tracy_widom_p(float(values[0]), width))
            smallest.append(smallest_singular_value_p(float(values[-1]), width))
    for which, p_values in (("largest", largest), ("smallest", smallest)):
        fisher = -2 * sum(math.log(p) for p in p_values)
        yield chi_squared(f"{which} singular value", fisher, 2 * len(p_values))


def stretching(width: int) -> list[dict[str, Any]]:
    """Singular values of I + P, as drawn at a width and as the law of large matrices has them."""
    rows = []
    for stands_for, scale in REACHES.items():
        name = streams_tensor([pre_stream(BLOCK)])[0]
        projection = draw_matrix_reference(name, width, width, scale * math.sqrt(256 / width)).double()
        values = torch.linalg.svdvals(torch.eye(width, dtype=torch.float64) + projection)
        low, high = residual_singular_values(0.01 * math.sqrt(stands_for))
        rows.append(
            {
                "width": stands_for,
                "drawn_at": width,
                "norm_of_p": round(float(torch.linalg.matrix_norm(projection, 2)), 4),
                "least": round(float(values[-1]), 4),
                "law_least": round(low, 4),
                "largest": round(float(values[0]), 4),
                "law_largest": round(high, 4),
                "share_of_output": round(float(projection.square().sum() / width), 4),
            }
        )
    return rows


def main() -> None:
    chosen = options(__doc__)
    streams, elements, names, blocks = (16, 2**12, 20_000, 2) if chosen.small else (96, 2**15, 1_000_000, 4)
    outcomes: list[tuple[str, Outcome]] = []
    for title, family in FAMILIES.items():
        outcomes += [(title, outcome) for outcome in of_family(family, streams, elements)]
    outcomes += [("names of streams", outcome) for outcome in of_duplicates(names)]
    widths = (64,) if chosen.small else WIDTHS
    for width in widths:
        matrices = of_matrices(width, 2 * blocks if width == min(widths) else blocks)
        outcomes += [(f"projections of width {width}", outcome) for outcome in matrices]
    rows = [{"family": title, **outcome.row()} for title, outcome in outcomes]
    least = min(rows, key=lambda row: row["p_value"])
    combined = {"tests": len(rows), "least_p": least["p_value"], "bonferroni": least["p_value"] * len(rows)}
    assert combined["bonferroni"] > MIN_P_VALUE, f"the streams are not random: {least}"
    matrix = stretching(64 if chosen.small else 512)
    # As many of the first names as a node with 32-bit seeds would have gone through.
    fewer = 300_000
    seeds = {
        "names": names,
        "duplicates": 0,
        "expected_128": names * (names - 1) / 2**129,
        "expected_32": names * (names - 1) / 2**33,
        "found_32": next(int(o.observed) for _, o in outcomes if o.name == "equal pairs of k0 alone"),
        "fewer": fewer,
        "expected_32_fewer": fewer * (fewer - 1) / 2**33,
    }
    write(
        "streams",
        chosen,
        draw(rows, matrix, widths[-1]),
        about=(
            f"Tests of {streams} streams of {elements} elements in each family, of {names} names, and of "
            f"projections of widths {widths}; two-sided p-values."
        ),
        rows=rows,
        combined=combined,
        names=seeds,
        stretching=matrix,
        findings=findings(rows, combined, seeds, matrix, streams * elements),
    )


def findings(
    rows: Sequence[dict[str, Any]],
    combined: dict[str, Any],
    seeds: dict[str, Any],
    matrix: Sequence[dict[str, Any]],
    elements: int,
) -> list[str]:
    """What the numbers say, in words."""
    least = min(rows, key=lambda row: row["p_value"])
    small = sum(row["p_value"] < 0.01 for row in rows)
    families = len({row["family"] for row in rows})
    by_width = {row["width"]: row for row in matrix}
    narrow, wide = by_width[min(by_width)], by_width[max(by_width)]
    edges = [row for row in rows if "singular" in row["test"]]
    verdict = "finds nothing" if combined["bonferroni"] > 0.01 else "is suspicious"
    return [
        f"{combined['tests']} tests of {families} families of streams, {elements:,} elements in each family "
        f"of inputs, projections and targets: the least p-value is {least['p_value']:.2g} ({least['test']}; "
        f"{least['family']}), times the number of tests {min(1.0, combined['bonferroni']):.2f}, which "
        f"{verdict}; {small} p-values lie below 0.01, where {combined['tests'] / 100:.1f} are expected.",
        f"Of {seeds['names']:,} nonces no two have the same 128-bit stream ({seeds['expected_128']:.0e} "
        "pairs are expected). Their first 32 bits alone, which is what a 32-bit seed would be, gave "
        f"{seeds['found_32']:,} equal pairs ({seeds['expected_32']:,.1f} expected): each would be two proofs "
        "for one forward pass.",
        "The largest and smallest singular values of projections agree with the laws of random matrices "
        f"(least of {len(edges)} p-values {min(row['p_value'] for row in edges):.2g}). I + P with scale 0.01 "
        f"is a mild, invertible map at width {narrow['width']}: it stretches directions by "
        f"{narrow['least']:.2f} to {narrow['largest']:.2f}, and P adds {narrow['share_of_output']:.1%} to "
        "the energy of what it is given.",
        f"At width {wide['width']} the same scale makes a P of norm {wide['norm_of_p']:.1f} that adds "
        f"{wide['share_of_output']:.0%} of energy, and I + P stretches by {wide['least']:.2g} to "
        f"{wide['largest']:.2f}: "
        + (
            "some directions of a hidden state are all but lost. "
            if wide["least"] < 0.1
            else "none is lost. "
        )
        + "The law of the distance holds all the same, since it holds for any output.",
    ]


def draw(rows: Sequence[dict[str, Any]], matrix: Sequence[dict[str, Any]], width: int) -> Any:
    """P-values against the uniform distribution, P's singular values, and how I + P stretches."""
    figure, (uniform, spectrum, stretch) = new_figure(3)
    p_values = np.sort([row["p_value"] for row in rows])
    place = (np.arange(len(p_values)) + 0.5) / len(p_values)
    uniform.plot(place, p_values, ".", ms=4)
    uniform.plot([place[0], 1], [place[0], 1], color="black", lw=0.8)
    uniform.axhline(MIN_P_VALUE / len(p_values), color="C3", ls="--", label="the experiment fails below")
    uniform.set(xscale="log", yscale="log", xlabel="quantile of the uniform distribution", ylabel="p-value")
    uniform.legend(frameon=False)

    name = streams_tensor([pre_stream(BLOCK)])[0]
    values = torch.linalg.svdvals(draw_matrix_reference(name, width, width, 1.0).float()) / math.sqrt(width)
    spectrum.hist(values.numpy(), bins=40, density=True, alpha=0.6, label=f"P, width {width}")
    x = np.linspace(0, 2, 200)
    spectrum.plot(x, singular_value_density(x), color="black", lw=1, label="Marchenko-Pastur")
    spectrum.set(xlabel="singular value of P / (scale · √width)", ylabel="density")
    spectrum.legend(frameon=False)

    widths = np.geomspace(128, 20_000, 200)
    lows, highs = zip(*(residual_singular_values(0.01 * math.sqrt(each)) for each in widths), strict=True)
    stretch.fill_between(widths, lows, highs, alpha=0.25, label="law")
    for column in ("least", "largest"):
        stretch.plot([row["width"] for row in matrix], [row[column] for row in matrix], "o", color="C1", ms=4)
    stretch.set(xscale="log", xlabel="width, scale 0.01", ylabel="singular values of I + P")
    stretch.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
