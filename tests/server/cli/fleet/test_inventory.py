"""What an inventory says, what it may not say, and that no two nodes of it walk the same nonces."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hallmark.poc.core.errors import FieldError
from hallmark.poc.protocol.nonces import NonceSchedule
from hallmark.server.cli.fleet.inventory import FleetNode, read_inventory

KEY = "a-token-that-is-shown-nowhere"
URL = 'url = "http://one:8000"\n'
ONE = f"[[nodes]]\n{URL}"


def read(folder: Path, content: str, **environment: str) -> list[FleetNode]:
    file = folder / "fleet.toml"
    file.write_text(content)
    return read_inventory(file, environment)


def tokens(nodes: list[FleetNode]) -> list[str | None]:
    return [None if node.token is None else node.token.get_secret_value() for node in nodes]


def test_nodes_have_numbers_names_groups_and_tokens(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("token of a file\n")
    nodes = read(
        tmp_path,
        """
        token_env = "FLEET"

        [[nodes]]
        url = "10.0.0.1:8000/"
        token_file = "one"
        group = "us"

        [[nodes]]
        url = "https://Two.Example/api/v1/pow"
        name = "two"

        [[nodes]]
        url = "http://10.0.0.3:80"
        token_env = "OTHER"
        group = "eu"

        [[nodes]]
        url = "http://10.0.0.4:8000"
        group = "us"
        """,
        FLEET="token of all",
        OTHER=" another token ",
    )
    assert [node.number for node in nodes] == [0, 1, 2, 3]
    assert [node.url for node in nodes] == [
        "http://10.0.0.1:8000",
        "https://two.example",
        "http://10.0.0.3",
        "http://10.0.0.4:8000",
    ]
    assert [node.name for node in nodes] == ["10.0.0.1:8000", "two", "10.0.0.3", "10.0.0.4:8000"]
    assert [(node.group, node.group_number) for node in nodes] == [("us", 0), (None, 1), ("eu", 2), ("us", 0)]
    assert tokens(nodes) == ["token of a file", "token of all", "another token", "token of all"]
    assert KEY not in repr(read(tmp_path, ONE, HALLMARK_API_KEY=KEY))


def test_without_a_token_that_of_the_other_commands_is_used(tmp_path: Path) -> None:
    assert tokens(read(tmp_path, ONE)) == [None]
    assert tokens(read(tmp_path, ONE, HALLMARK_API_KEY="key")) == ["key"]


@given(st.lists(st.sampled_from(["eu", "us", "asia", None]), min_size=1, max_size=20))
def test_walks_are_disjoint_and_leave_no_nonce_out(labels: list[str | None]) -> None:
    """Whatever the groups are, and however many nodes each has."""
    groups: dict[str | None, int] = {}
    walked: list[int] = []
    for number, label in enumerate(labels):
        group = groups.setdefault(label, len(groups))
        node = FleetNode(number, len(labels), str(number), "http://node", label, group, None)
        walked += NonceSchedule(**node.share).take(10).nonces
    assert sorted(walked) == [*range(10 * len(labels))]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "nodes: None is not allowed; allowed: a table [[nodes]] for each node, one at least"),
        ("nodes = []", "nodes: '(not shown)' is not allowed; allowed: a table [[nodes]] for each node"),
        (f'nodes = ["{KEY}"]', "nodes: '(not shown)' is not allowed; allowed: a table [[nodes]]"),
        ("[nodes]", "nodes: '(not shown)' is not allowed; allowed: a table [[nodes]] for each node"),
        (
            f'tokn_env = "{KEY}"\n{ONE}',
            "tokn_env: '(not shown)' is not allowed; allowed: the keys nodes, token_env, token_file; "
            "'token_env', if that was meant",
        ),
        (
            f'{ONE}token = "{KEY}"\nport = 1',
            "nodes[0]: token, port: '(not shown)' is not allowed; allowed: the keys url, name, group, "
            "token_env, token_file",
        ),
        ("[[nodes]]", "nodes[0].url: None is not allowed; allowed: http://HOST:PORT or https://HOST:PORT"),
        ("[[nodes]]\nurl = 8000", "nodes[0].url: 8000 is not allowed; allowed: http://HOST:PORT"),
        ('[[nodes]]\nurl = "ftp://one"', "nodes[0].url: 'ftp://one' is not allowed"),
        ('[[nodes]]\nurl = "http://"', "nodes[0].url: 'http://' is not allowed"),
        ('[[nodes]]\nurl = "http://one:port"', "nodes[0].url: 'http://one:port' is not allowed"),
        ('[[nodes]]\nurl = "http://one:83635"', "allowed: http://HOST:PORT with a port from 1 to 65535"),
        (f'[[nodes]]\nurl = "http://u:{KEY}@one"', "nodes[0].url: '…@one' is not allowed"),
        (f'[[nodes]]\nurl = "http://one/?{KEY}"', "nodes[0].url: 'http://one/?…' is not allowed"),
        (f'{ONE}group = ""', "nodes[0].group: '' is not allowed; allowed: text of 1 to 64 printable"),
        (f"{ONE}group = 1", "nodes[0].group: 1 is not allowed"),
        (f'{ONE}name = "a\\nb"', r"nodes[0].name: 'a\nb' is not allowed"),
        (
            f"{ONE}{ONE.replace('one', 'ONE')}",
            "nodes[1].url: 'http://one:8000' is not allowed; allowed: another URL",
        ),
        (
            f'{ONE}[[nodes]]\nurl = "http://two"\nname = "one:8000"',
            "nodes[1].name: 'one:8000' is not allowed; allowed: another name than that of nodes[0]",
        ),
        (
            f'{ONE}token_env = "MISSING"',
            "nodes[0].token_env: 'MISSING' is not allowed; allowed: the name of a var",
        ),
        (f'{ONE}token_env = "{KEY}"', "nodes[0].token_env: '(not shown)' is not allowed"),
        (
            f'{ONE}token_env = "{KEY.replace("-", "_")}"',
            "nodes[0].token_env: '(not shown)' is not allowed",
        ),
        (f"{ONE}token_env = 1", "nodes[0].token_env: '(not shown)' is not allowed"),
        (f'{ONE}token_env = "EMPTY"', "EMPTY: '' is not allowed; allowed: a token on one line"),
        (f'{ONE}token_env = "LINES"', "LINES: '(not shown)' is not allowed; allowed: a token on one line"),
        (
            f'{ONE}token_env = "A"\ntoken_file = "b"',
            "nodes[0].token_env and token_file: '(not shown)' is not",
        ),
        (
            f'token_file = "missing"\n{ONE}',
            "missing' is not allowed; allowed: the path of a file with the token",
        ),
        (f"{ONE}token_file = 1", "nodes[0].token_file: 1 is not allowed"),
        ("[[nodes]", "a readable file of TOML ("),
    ],
)
def test_what_is_wrong_is_named_and_no_token_shown(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(FieldError) as refused:
        read(tmp_path, content, EMPTY="", LINES=f"{KEY}\n{KEY}")
    assert said in str(refused.value)
    error: BaseException | None = refused.value
    while error is not None:
        assert KEY not in str(error)
        assert KEY.replace("-", "_") not in str(error)
        error = error.__cause__


def test_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FieldError) as refused:
        read(tmp_path, f"{ONE}group = 1")
    assert refused.value.field == f"{tmp_path / 'fleet.toml'}: nodes[0].group"
    with pytest.raises(FieldError, match=r"^FILE: .*none.toml.*No such file"):
        read_inventory(tmp_path / "none.toml", {})
