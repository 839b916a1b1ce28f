"""Run `hallmark demo` on a terminal of 80 columns, and draw what it shows in the end.

`python -P tools/demo_picture.py` writes docs/figures/demo.svg; it takes minutes.
"""

import os
import sys
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Final

from pyte.screens import Char
from rich.console import Console
from rich.style import Style
from rich.text import Text

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))  # `python -P` adds no folder

from terminal import run_on_a_terminal

_COLUMNS: Final = 80
_LINES: Final = 200
_FIGURE: Final = Path(__file__).parents[1] / "docs" / "figures" / "demo.svg"
# rich's own would have the reader's browser fetch a font from another host.
_FORMAT: Final = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: Menlo, Consolas, "DejaVu Sans Mono", monospace; \
font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def run(command: list[str]) -> list[Text]:
    """Run a command on a terminal, and return the lines that it shows in the end.

    Raises:
        SystemExit: It fails; with its exit code.
    """
    screen, code = run_on_a_terminal(lambda: os.execv(command[0], command), _COLUMNS, _LINES)  # noqa: S606
    if code:
        print("\n".join(screen.display).rstrip())
        raise SystemExit(code)
    lines = [_drawn(screen.buffer[line]) for line in range(_LINES)]
    while lines and not lines[-1].plain.strip():
        lines.pop()
    return lines


def _drawn(line: Mapping[int, Char]) -> Text:
    """Return a line of the terminal; what stands together in one style is one part."""
    parts = groupby((line[column] for column in range(_COLUMNS)), key=_style)
    drawn = Text.assemble(*(("".join(char.data for char in chars), style) for style, chars in parts))
    drawn.rstrip()
    return drawn


def _style(char: Char) -> Style:
    color = None if char.fg == "default" else {"brown": "yellow"}.get(char.fg, char.fg)
    return Style(color=color, bold=char.bold, italic=char.italics, underline=char.underscore)


def picture(lines: list[Text]) -> str:
    """Return the verdicts of the demo and what follows them, as SVG."""
    first = next(number for number, line in enumerate(lines) if "who sent a proof" in line.plain)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=_COLUMNS, file=nowhere, force_terminal=True)
        for line in lines[first:]:
            console.print(line, no_wrap=True, overflow="crop")
        return console.export_svg(title="make demo", code_format=_FORMAT, unique_id="demo")


def main() -> None:
    """Write the picture."""
    lines = run([str(Path(sys.executable).parent / "hallmark"), "demo"])
    _FIGURE.write_text(picture(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
