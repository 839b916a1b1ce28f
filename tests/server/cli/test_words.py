"""Numbers and others' texts as people read them, at the borders of their units."""

import pytest

from hallmark.server.cli.words import counted, printable, size, span, yes_or_no


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, "nonce", "0 nonces"),
        (1, "nonce", "1 nonce"),
        (2, "nonce", "2 nonces"),
        (999, "callback", "999 callbacks"),
        (1_000, "callback", "1,000 callbacks"),
        (1_234_567, "callback", "1,234,567 callbacks"),
        (0, "batch", "0 batches"),
        (1, "batch", "1 batch"),
        (2, "batch", "2 batches"),
        (2, "address", "2 addresses"),
        (2, "box", "2 boxes"),
        (2, "dead letter", "2 dead letters"),
    ],
)
def test_a_count_has_its_noun(count: int, noun: str, text: str) -> None:
    assert counted(count, noun) == text


MINUTE, HOUR, DAY = 60, 3_600, 86_400


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0, "0 s"),
        (0.9, "0 s"),
        (1, "1 s"),
        (MINUTE - 0.001, "59 s"),
        (MINUTE, "1 min"),
        (MINUTE + 1, "1 min 1 s"),
        (2 * MINUTE - 1, "1 min 59 s"),
        (HOUR - 1, "59 min 59 s"),
        (HOUR, "1 h"),
        (HOUR + MINUTE - 1, "1 h"),
        (HOUR + MINUTE, "1 h 1 min"),
        (2 * HOUR + 5 * MINUTE, "2 h 5 min"),
        (DAY - 1, "23 h 59 min"),
        (DAY, "1 d"),
        (DAY + HOUR - 1, "1 d"),
        (DAY + HOUR, "1 d 1 h"),
        (400 * DAY + 23 * HOUR, "400 d 23 h"),
    ],
)
def test_a_time_has_at_most_two_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (12_345, "12.3 kB"),
        (999_900, "999.9 kB"),
        (1_000_000, "1.0 MB"),
        (4_000_000, "4.0 MB"),
        (1_000_000_000, "1.0 GB"),
        (2_500_000_000_000, "2.5 TB"),
        (4_000_000_000_000_000, "4000.0 TB"),
    ],
)
def test_a_size_has_a_decimal_unit(count: int, text: str) -> None:
    assert size(count) == text


def test_a_truth_is_a_word() -> None:
    assert (yes_or_no(value=True), yes_or_no(value=False)) == ("yes", "no")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("[red] ✓ Schlüssel 鍵", "[red] ✓ Schlüssel 鍵"),
        ("two\nlines", "two\nlines"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("a\rb\tc\x00", r"a\rb\tc\x00"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_a_terminal_obeys_is_spelled(text: str, shown: str) -> None:
    assert printable(text) == shown
