"""Streams as drawn: can tokens, inputs, groups, projections and targets be told from independent numbers?

Every family of streams in which one thing changes (the nonce, the key, one character of the block hash, the
round) is drawn through the kernels' reference and goes through the same tests: moments, signs, every entry
of the table, every bit of the halves, runs of bits, pairs of halves, correlations within a stream, between
streams and at each place across streams, and what two neighbouring streams have in common bit by bit. A word
is two halves, so that this holds for tokens and for the order of rows as well; what is made of the words has
two tests more: how often each token is drawn, and how often each row has each rank. Then the names: a million
of them, their duplicates, bits and avalanche. Then the projections as matrices: the largest and smallest
singular value against the laws of random matrices, and what ``I + P`` does to a space.

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
from hallmark.kernels.draw_words import draw_words
from hallmark.kernels.normal_table import signed_table
from hallmark.poc.protocol.round_spec import FIRST_ROW, default_projection_scale
from hallmark.poc.protocol.row_groups import row_order
from hallmark.poc.protocol.streams import NoncePurpose, Stream, nonce_streams, post_stream, pre_stream

MIN_P_VALUE = 1e-6
BLOCK = "00000000000000000001a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f7"
KEY = "a prover"
ROUND = "8d969eef6ecad3c29a3a629280e686cf0c3f5d5a86aff3ca12020c923adc6c92"
WIDTHS = (256, 1024)
"""Of the projections whose singular values are computed."""
STRETCHED = (256, 576, 1024, 4096, 16384)
"""Widths whose I + P is looked at, with the default scale and with the specification's."""
PLAIN_SCALE = 0.01
"""Of the specification's projections, at every width."""
VOCABULARY = 49_152
SEQ_LEN = 256

Family = Callable[[int], Stream]


def of_nonce(
    purpose: NoncePurpose, nonce: int, *, digest: str = ROUND, block: str = BLOCK, key: str = KEY
) -> Stream:
    """Return one nonce's stream."""
    return nonce_streams(purpose, digest, block, [(key, nonce)])[0]


def one_character(i: int) -> str:
    """Return the block hash with one character changed: another place and another digit for each i."""
    place, digit = i % len(BLOCK), i // len(BLOCK) + 1
    changed = f"{(int(BLOCK[place], 16) + digit) % 16:x}"
    return BLOCK[:place] + changed + BLOCK[place + 1 :]


FAMILIES: dict[str, Family] = {
    "tokens, neighbouring nonces": lambda i: of_nonce("tokens", i),
    "tokens, nonces from 2^40 in a node's stride": lambda i: of_nonce("tokens", 2**40 + 5 * i),
    "tokens, keys that differ in their end": lambda i: of_nonce("tokens", 0, key=f"{KEY}{i}"),
    "tokens, blocks that differ in one character": lambda i: of_nonce("tokens", 0, block=one_character(i)),
    "tokens, rounds of other settings": lambda i: of_nonce("tokens", 0, digest=f"{i:064x}"),
    "rows, neighbouring nonces": lambda i: of_nonce("rows", i),
    "normal inputs, neighbouring nonces": lambda i: of_nonce("embeds", i),
    "targets, neighbouring nonces": lambda i: of_nonce("target", i),
    "a nonce's tokens, rows and targets in turn": lambda i: of_nonce(
        ("tokens", "rows", "target")[i % 3], i // 3
    ),
    "projections, blocks that differ in one character": lambda i: (pre_stream, post_stream)[i % 2](
        one_character(i // 2)
    ),
}


def of_family(family: Family, streams: int, elements: int) -> Iterator[Outcome]:
    """Yield every test of the elements of a family.

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


def of_words(nonces: int) -> Iterator[Outcome]:
    """Yield what is made of words: how often each token is drawn, and how often each row has each rank.

    Ranks of one nonce exclude each other, which the factor in front of the sum allows for.
    """
    draws = [(KEY, nonce) for nonce in range(nonces)]
    words = draw_words(streams_tensor(nonce_streams("tokens", ROUND, BLOCK, draws)), SEQ_LEN)
    drawn = torch.bincount((words * VOCABULARY >> 32).flatten(), minlength=VOCABULARY).double()
    expected = words.numel() / VOCABULARY
    yield chi_squared(
        "how often each token is drawn", float((drawn - expected).square().sum() / expected), VOCABULARY - 1
    )
    rows = SEQ_LEN - FIRST_ROW
    order = row_order(streams_tensor(nonce_streams("rows", ROUND, BLOCK, draws)), SEQ_LEN) - FIRST_ROW
    places = torch.bincount((torch.arange(rows) * rows + order).flatten(), minlength=rows**2).double()
    expected = nonces / rows
    statistic = (rows - 1) / rows * float((places - expected).square().sum() / expected)
    yield chi_squared("how often each row has each rank", statistic, (rows - 1) ** 2)


def of_duplicates(count: int) -> Iterator[Outcome]:
    """Names of so many nonces, and how many of them coincide, in whole and in each of their four words."""
    streams = nonce_streams("tokens", ROUND, BLOCK, ((KEY, nonce) for nonce in range(count)))
    names = np.array(streams, dtype=np.int64)
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
    for stands_for in STRETCHED:
        name = streams_tensor([pre_stream(BLOCK)])[0]
        for scale in (default_projection_scale(stands_for), PLAIN_SCALE):
            # At this width it stretches space as one of the other width with the other's scale does.
            reach = scale * math.sqrt(stands_for)
            projection = draw_matrix_reference(name, width, width, reach / math.sqrt(width)).double()
            values = torch.linalg.svdvals(torch.eye(width, dtype=torch.float64) + projection)
            low, high = residual_singular_values(reach)
            rows.append(
                {
                    "width": stands_for,
                    "scale": scale,
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
    outcomes += [("words of nonces", outcome) for outcome in of_words(2_000 if chosen.small else 20_000)]
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
    seeds = {
        "names": names,
        "duplicates": 0,
        "expected_128": names * (names - 1) / 2**129,
        "expected_32": names * (names - 1) / 2**33,
        "found_32": next(int(o.observed) for _, o in outcomes if o.name == "equal pairs of k0 alone"),
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
    """Return what the numbers say, in words."""
    least = min(rows, key=lambda row: row["p_value"])
    small = sum(row["p_value"] < 0.01 for row in rows)
    families = len({row["family"] for row in rows})
    ours = [row for row in matrix if row["scale"] != PLAIN_SCALE]
    widest = max((row for row in matrix if row["scale"] == PLAIN_SCALE), key=lambda row: int(row["width"]))
    edges = [row for row in rows if "singular" in row["test"]]
    verdict = "finds nothing" if combined["bonferroni"] > 0.01 else "is suspicious"
    return [
        f"{combined['tests']} tests of {families} families of streams, {elements:,} elements in each family "
        f"of tokens, rows, inputs, projections and targets: the least p-value is {least['p_value']:.2g} "
        f"({least['test']}; {least['family']}), times the number of tests "
        f"{min(1.0, combined['bonferroni']):.2f}, which {verdict}; below 0.01 lie {small} of the p-values, "
        f"where {combined['tests'] / 100:.1f} are expected.",
        f"Of {seeds['names']:,} nonces no two have the same 128-bit stream ({seeds['expected_128']:.0e} "
        "pairs are expected). Their first 32 bits alone, which is what a 32-bit seed would be, gave "
        f"{seeds['found_32']:,} equal pairs ({seeds['expected_32']:,.1f} expected): each would be two proofs "
        "for one forward pass.",
        "The largest and smallest singular values of projections agree with the laws of random matrices "
        f"(least of {len(edges)} p-values {min(row['p_value'] for row in edges):.2g}).",
        "I + P with the default scale is a mild, invertible map at every width: it stretches directions by "
        f"{min(row['least'] for row in ours):.2f} to {max(row['largest'] for row in ours):.2f}, and P adds "
        f"{max(row['share_of_output'] for row in ours):.1%} at most to the energy of what it is given.",
        f"With the specification's scale of {PLAIN_SCALE} it is not: at width {widest['width']} P has the "
        f"norm {widest['norm_of_p']:.1f} and adds {widest['share_of_output']:.0%} of energy, and I + P "
        f"stretches by {widest['least']:.2g} to {widest['largest']:.2f}. The law of the numbers holds all "
        "the same, since it holds for any output.",
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

    widths = np.geomspace(128, 20_000, 400)
    scales = {
        "the default scale": [default_projection_scale(int(each)) for each in widths],
        f"scale {PLAIN_SCALE}": [PLAIN_SCALE] * len(widths),
    }
    for color, (label, by_width) in zip(("C1", "C0"), scales.items(), strict=True):
        reaches = [scale * math.sqrt(each) for scale, each in zip(by_width, widths, strict=True)]
        lows, highs = zip(*map(residual_singular_values, reaches), strict=True)
        stretch.fill_between(widths, lows, highs, alpha=0.25, color=color, label=f"law, {label}")
        drawn = [row for row in matrix if (row["scale"] == PLAIN_SCALE) == (by_width[0] == PLAIN_SCALE)]
        for column in ("least", "largest"):
            stretch.plot(
                [row["width"] for row in drawn], [row[column] for row in drawn], "o", color=color, ms=4
            )
    stretch.set(xscale="log", xlabel="width", ylabel="singular values of I + P")
    stretch.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
