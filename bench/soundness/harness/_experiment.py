"""What the experiments share: their options, their results file and their figure."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # `python -P` leaves the benches' folder out

from _report import RESULTS, print_table, target, write_results
from matplotlib.figure import Figure

FIGURES = Path(__file__).resolve().parents[3] / "docs" / "figures"
PACKAGES = ("torch", "transformers", "numpy", "scipy", "hallmark-poc")


@dataclass(frozen=True, slots=True)
class Options:
    """How an experiment runs.

    Attributes:
        small: With the smallest model and few nonces, in seconds: to see that it works, not what it measures.
        output: Where the results file goes.
        figures: Where the figure goes.
    """

    small: bool
    output: Path
    figures: Path


def options(about: str | None) -> Options:
    """Return the options of the command line.

    Args:
        about: The script's docstring.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--small", action="store_true", help="the smallest model and few nonces, in seconds")
    parser.add_argument(
        "--output", type=Path, help="a folder for results and figure, instead of the project's"
    )
    given = parser.parse_args()
    return Options(given.small, given.output or RESULTS, given.output or FIGURES)


def write(
    name: str,
    chosen: Options,
    figure: Figure | None,
    *,
    about: str,
    rows: Sequence[Mapping[str, Any]],
    **more: object,
) -> None:
    """Print the rows, write `soundness_<name>-<machine>-<date>.json` and, of a figure, `<name>.svg`.

    Args:
        name: The experiment's.
        chosen: Its options.
        figure: What it found, drawn; None: nothing is.
        about: One sentence on what the rows are, units included.
        rows: The results.
        **more: Further keys of the file.
    """
    print_table(rows)
    write_results(
        f"soundness_{name}",
        target(),
        about=about,
        rows=rows,
        packages=PACKAGES,
        directory=chosen.output,
        small=chosen.small,
        **more,
    )
    if figure is None:
        return
    chosen.figures.mkdir(parents=True, exist_ok=True)
    # The same results give the same file: no date, and ids that are not drawn at random.
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(chosen.figures / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")


def new_figure(columns: int = 1, *, width: float = 4.6, height: float = 3.4) -> tuple[Figure, list[Any]]:
    """Return a figure with axes side by side; grid lines behind, no frame above and to the right."""
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for each in axes:
        each.grid(visible=True, alpha=0.3)
        each.spines[["top", "right"]].set_visible(False)
        each.set_axisbelow(True)
    return figure, axes
