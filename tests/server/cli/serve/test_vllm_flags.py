"""What is read of vLLM's flags."""

from pathlib import Path

import pytest

from hallmark.poc.core.errors import FieldError
from hallmark.server.cli.serve.vllm_flags import VllmFlags


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--max-num-seqs", "64"], "64"),
        (["--max-num-seqs=64"], "64"),
        (["--max_num_seqs", "64"], "64"),
        (["--max-num-seqs", "1", "--max-num-seqs", "64"], "64"),
        (["--enforce-eager", "--max-num-seqs", "64", "--dtype", "auto"], "64"),
        (["--enforce-eager"], None),
        (["--max-num-seqs"], ""),
        (["--max-num-seqs", "--dtype", "auto"], ""),
        (["--chat-template", "max-num-seqs"], None),
        ([], None),
    ],
)
def test_flags_in_every_form(arguments: list[str], value: str | None) -> None:
    assert VllmFlags(arguments).get("max-num-seqs") == value


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("8192", 8192),
        ("8k", 8000),
        ("8K", 8192),
        ("25.6k", 25_600),
        ("1M", 2**20),
        ("1m", 10**6),
        ("1.5K", 1536),
    ],
)
def test_numbers_as_vllm_reads_them(text: str, number: int) -> None:
    assert VllmFlags(["--max-num-batched-tokens", text]).get_integer("max-num-batched-tokens") == number


@pytest.mark.parametrize("text", ["", "many", "-1", "1.2345k", "8 k"])
def test_what_is_no_number_is_named(text: str) -> None:
    with pytest.raises(FieldError, match=r"^--max-num-seqs: .* is not allowed; allowed: a whole number"):
        VllmFlags([f"--max-num-seqs={text}"]).get_integer("max-num-seqs")


def test_json_whole_and_in_parts() -> None:
    whole = VllmFlags(["--additional-config", '{"hallmark": {"max_batch_size": 8}, "other": 1}'])
    assert whole.get_mapping("additional-config") == {"hallmark": {"max_batch_size": 8}, "other": 1}
    parts = VllmFlags(
        [
            *("--additional-config.hallmark.max_batch_size", "8"),
            "--additional_config.hallmark.callback_interval=0.5",
            *("--additional-config.hallmark.callback_allowed_hosts+", "a,b"),
            *("--additional-config.hallmark.api_key", "secret"),
            *("--additional-config.other", "1"),
        ]
    )
    assert parts.get_mapping("additional-config") == {
        "hallmark": {
            "max_batch_size": 8,
            "callback_interval": 0.5,
            "callback_allowed_hosts": ["a", "b"],
            "api_key": "secret",
        },
        "other": 1,
    }
    assert VllmFlags([]).get_mapping("additional-config") == {}


@pytest.mark.parametrize("text", ["{", "[]", "1", ""])
def test_what_is_no_json_object_is_named(text: str) -> None:
    with pytest.raises(FieldError, match=r"^--additional-config: .* is not allowed; allowed: (a )?JSON"):
        VllmFlags(["--additional-config", text]).get_mapping("additional-config")


@pytest.mark.parametrize("text", ['{"hallmark": {"api_key": "12345678"}', '["12345678"]', '"12345678"'])
def test_what_may_hold_a_secret_is_not_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(FieldError, match=r"\(not shown\)") as caught:
        VllmFlags(["--additional-config", text]).get_mapping("additional-config")
    assert "12345678" not in str(caught.value)
    path = tmp_path / "vllm.yaml"
    path.write_text("additional-config:\n  hallmark:\n    api_key: [12345678\n")
    with pytest.raises(FieldError, match=r"line 4, column 1") as caught:
        VllmFlags(["--config", str(path)])
    assert "12345678" not in str(caught.value)


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "vllm.yaml"
    path.write_text(
        "max_num_seqs: 16\nmax-num-batched-tokens: 4096\nhost: 127.0.0.1\n"
        "additional-config:\n  hallmark:\n    max_batch_size: 16\n"
    )
    flags = VllmFlags(["--config", str(path), "--max-num-seqs", "64"])
    assert flags.get_integer("max-num-seqs") == 64
    assert flags.get_integer("max-num-batched-tokens") == 4096
    assert flags.get("host") == "127.0.0.1"
    assert flags.get_mapping("additional-config") == {"hallmark": {"max_batch_size": 16}}
    assert flags.get("config") == str(path)


@pytest.mark.parametrize("content", [None, "- a\n- b\n", "a: [1\n"])
def test_a_file_that_holds_no_flags_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "vllm.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(FieldError, match=r"^--config: .*vllm\.yaml' is not allowed; allowed: a YAML file"):
        VllmFlags(["--config", str(path)])


def test_a_file_that_vllm_would_pass_over_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vllm.yaml"
    path.write_text("port: 9000\n")
    assert VllmFlags(["--config", str(path)]).get("port") == "9000"
    with pytest.raises(
        FieldError, match=r"^--config: '--config=.*' is not allowed; allowed: --config FILE, in two"
    ):
        VllmFlags([f"--config={path}"])


def test_settings_of_the_file_are_not_lost_to_a_flag(tmp_path: Path) -> None:
    path = tmp_path / "vllm.yaml"
    path.write_text("additional-config:\n  hallmark:\n    api_key_file: token\n")
    for flag in ("--additional-config.hallmark.seq_len=64", '--additional-config={"hallmark": {}}'):
        flags = VllmFlags(["--config", str(path), flag])
        with pytest.raises(FieldError, match=r"^--additional-config: .* allowed: one of both"):
            flags.get_mapping("additional-config")


@pytest.mark.parametrize(
    ("flag", "allowed"),
    [
        ("--hallmark.seqlen", "--additional-config.hallmark.seqlen"),
        ("--hallmark-seq-len", "--additional-config.hallmark.seq_len"),
        ("--hallmark_seq_len", "--additional-config.hallmark.seq_len"),
        ("--hallmark", "--additional-config.hallmark"),
    ],
)
def test_a_setting_is_no_flag_of_its_own(flag: str, allowed: str) -> None:
    for arguments in ([flag, "12345678"], [f"{flag}=12345678"]):
        with pytest.raises(FieldError) as caught:
            VllmFlags(["--dtype", "auto", *arguments])
        assert str(caught.value).startswith(flag.partition("_")[0])
        assert str(caught.value).endswith(f": 'a flag of its own' is not allowed; allowed: {allowed}")
        assert "12345678" not in str(caught.value)
