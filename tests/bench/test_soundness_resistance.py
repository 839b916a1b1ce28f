"""The table of resistance, all of it: every attack has to meet the answer, and the reason, that it says."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from _resistance import ATTACKS, Attack, Together
from _trial import Trial, differences
from resistance import findings, row_of


def named(attack: Attack) -> str:
    return f"{attack.kind}: {attack.sent}"


def attack_of(sent: str) -> Attack:
    return next(attack for attack in ATTACKS if attack.sent == sent)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    with Trial.begun(tmp_path_factory.mktemp("resistance")) as trial:
        yield trial


@pytest.mark.parametrize("attack", ATTACKS, ids=named)
def test_an_attack_meets_the_answer_that_is_expected_for_the_reason_that_is(
    trial: Trial, attack: Attack
) -> None:
    assert differences(attack, trial.play(attack)) == []


@pytest.mark.parametrize(
    ("attack", "told"),
    [
        (replace(attack_of("zeros"), reason="signed_mean"), "it is fraud by nonces, rms, beyond, not by"),
        (replace(attack_of("zeros"), expected="refused"), "it is fraud and not refused: nonces"),
        (replace(attack_of("the nonce 2^64"), reason="text"), "it is refused for another reason: nonces[31]"),
        (
            replace(attack_of("the nonce 2^64"), field_name="dist"),
            "it is refused for another reason: nonces[31]",
        ),
        (replace(attack_of("the nonce 2^64"), sends=attack_of("zeros").sends), "it is fraud and not refused"),
        (replace(attack_of("zeros"), sends=attack_of("a batch").sends), "it is honest and not fraud: "),
        (
            replace(attack_of("a batch"), together=Together(code=1, credited=31, says="a sentence")),
            "hallmark verify ends with 0 and not 1: ",
        ),
    ],
    ids=["test", "outcome", "words", "field", "refused", "honest", "verify"],
)
def test_another_answer_or_reason_is_told(trial: Trial, attack: Attack, told: str) -> None:
    found = differences(attack, trial.play(attack))
    assert found
    assert found[0].startswith(told)
    assert len(found) == (3 if attack.together else 1)


def test_what_a_single_verdict_lets_through_is_settled_or_left_to_somebody() -> None:
    for attack in ATTACKS:
        if attack.expected == "honest" and not attack.is_control:
            assert attack.together is not None, named(attack)
            assert attack.together.says or attack.remedy, named(attack)


def test_names_are_told_apart() -> None:
    assert len({(attack.kind, attack.sent) for attack in ATTACKS}) == len(ATTACKS)


def test_findings_count_what_the_rows_say(trial: Trial) -> None:
    some = [
        attack_of(sent)
        for sent in ("a batch", "zeros", "the nonce 2^64", "one drawn nonce in each batch of eight")
    ]
    rows = [row_of(attack, trial.play(attack)) for attack in some]
    assert rows[2]["because"] == "nonces[31]: an integer from 0 to 9223372036854775807"
    assert rows[3]["together"] == "rejected by nonces, rms; 0 distinct nonces credited"
    first, second, third = findings(rows)
    assert first.startswith("1 kinds of honest batches pass, and of 3 attacks a server refuses 1 in words")
    assert "settles 1 of these" in second
    assert third.startswith("0 are left")
