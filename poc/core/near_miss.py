"""Names that nothing knows, and what was probably meant by them."""

from collections.abc import Collection
from difflib import get_close_matches

__all__ = ["nearest"]

# Of difflib's ratio: a letter more, less, changed or two swapped, in names of five letters and longer.
_CUTOFF = 0.8


def nearest(name: str, known: Collection[str]) -> str | None:
    """Return the known name that an unknown one is a near miss of; None where there is none."""
    found = get_close_matches(name.lower(), known, n=1, cutoff=_CUTOFF)
    return found[0] if found else None
