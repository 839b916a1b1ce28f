"""What is mistyped is answered with what is nearest, and code 2."""

import pytest
from command_line import Cli

ROUND = ("--block-hash", "0x8d3f2a", "--block-height", "7", "--public-key", "02a1b2c3")


@pytest.mark.parametrize(
    ("arguments", "usage", "told"),
    [
        (("rond",), "hallmark [OPTIONS] COMMAND", "No such command 'rond'. Did you mean 'round'?"),
        (("serv",), "hallmark [OPTIONS] COMMAND", "No such command 'serv'. Did you mean 'serve', 'secret'?"),
        (
            ("round", "strat"),
            "hallmark round [OPTIONS] COMMAND",
            "No such command 'strat'. Did you mean 'start', 'status'?",
        ),
        (
            ("outbox", "expotr"),
            "hallmark outbox [OPTIONS] COMMAND",
            "No such command 'expotr'. Did you mean 'export'?",
        ),
        (
            ("receiver", "sats"),
            "hallmark receiver [OPTIONS]",
            "No such command 'sats'. Did you mean 'stats'?",
        ),
        (
            ("round", "start", "URL", "--blokhash", "x"),
            "hallmark round start [OPTIONS]",
            "No such option: --blokhash (Possible options: --block-hash, --block-height)",
        ),
        (
            ("target", "--hiden-size", "64"),
            "hallmark target [OPTIONS]",
            "No such option: --hiden-size (Possible options: --hidden-size)",
        ),
        (
            ("outbox", "list", "--prt", "7"),
            "hallmark outbox list [OPTIONS]",
            "No such option: --prt (Possible options: --port)",
        ),
        (
            ("round", "status", "URL", "--wacth"),
            "hallmark round status [OPTIONS]",
            "No such option: --wacth",
        ),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, tuple) else "",
)
def test_the_nearest_is_named(cli: Cli, arguments: tuple[str, ...], usage: str, told: str) -> None:
    result = cli(*arguments)
    assert (result.code, result.out) == (2, "")
    first, *_, last = result.err.splitlines()
    assert first.startswith(f"Usage: {usage}")
    assert last == f"Error: {told}"


@pytest.mark.parametrize("command", [("nothing",), ("round", "nothing"), ("round", "start", "URL", "--zzz")])
def test_what_is_near_nothing_is_only_refused(cli: Cli, command: tuple[str, ...]) -> None:
    result = cli(*command)
    assert (result.code, result.out) == (2, "")
    assert "Did you mean" not in result.err
    assert "Possible" not in result.err


def test_the_option_of_status_that_became_a_command_is_refused(cli: Cli) -> None:
    result = cli("round", "status", "http://127.0.0.1:9", "--watch")
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines()[-1].startswith("Error: No such option: --watch")


@pytest.mark.parametrize(
    ("setting", "near"),
    [
        ("max_bacth_size", "allowed: 'max_batch_size', if that was meant"),
        ("callback_intervall", "allowed: 'callback_interval', if that was meant"),
    ],
)
def test_a_mistyped_setting_of_a_server(cli: Cli, setting: str, near: str) -> None:
    given = f'{{"hallmark": {{"{setting}": 1}}}}'
    for flags in (("--additional-config", given), (f"--additional-config.hallmark.{setting}", "1")):
        result = cli("serve", "org/model", "--host", "127.0.0.1", *flags)
        assert (result.code, result.out) == (2, "")
        assert result.err == f"hallmark: hallmark: '{setting}' is not allowed; {near}\n"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--phase", "genarate"), "'genarate' is not one of 'generate', 'validate', 'none'"),
        (("--batch-size", "many"), "'many' is not allowed; allowed: a valid integer"),
        (("--batch-size", "1.5"), "'1.5' is not allowed; allowed: a valid integer"),
        (("--batch-size", "9" * 5000), "is not allowed; allowed: a valid integer"),
        (("--valid-rate", "half"), "'half' is not allowed; allowed: a valid number"),
    ],
)
def test_a_mistyped_value_is_named_beside_what_is_allowed(
    cli: Cli, options: tuple[str, ...], told: str
) -> None:
    result = cli("round", "start", "http://127.0.0.1:9", *ROUND, *options)
    assert (result.code, result.out) == (2, "")
    assert told in result.err.splitlines()[-1]
    assert options[0] in result.err.splitlines()[-1]


def test_what_is_required_is_named(cli: Cli) -> None:
    result = cli("round", "start", "http://127.0.0.1:9")
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines()[-1].startswith("Error: Missing option '--")
