"""What `hallmark serve` is going to run."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from command_line import Cli

from hallmark.poc.core.errors import FieldError, UnsupportedError
from hallmark.poc.engine.unsupported import FEATURES
from hallmark.server.cli.serve.plan import OUR_PLUGINS, plan, plugin_names

LOOPBACK = ("--host", "127.0.0.1")


def test_the_command_is_vllms_own_serve_with_the_flags_untouched() -> None:
    flags = [*LOOPBACK, "-tp", "2", "--no-such-flag=x y", "--enforce-eager", "-O3"]
    planned = plan("org/model", flags, {})
    start = (sys.executable, "-P", "-m", "hallmark.poc.engine.launch", "serve", "org/model")
    assert planned.command[: len(start)] == start
    assert planned.command[-len(flags) :] == tuple(flags)
    assert planned.environment["PYTHONSAFEPATH"] == "1"
    assert planned.url == "http://127.0.0.1:8000"


def test_the_page_is_left_out_where_the_command_or_the_settings_say_so() -> None:
    assert plan("m", LOOPBACK, {}).has_page
    without = plan("m", LOOPBACK, {}, has_page=False)
    assert without.environment["HALLMARK_NO_PAGE"] == "1"
    assert "HALLMARK_NO_PAGE" not in plan("m", LOOPBACK, {}).environment
    by_settings = plan("m", [*LOOPBACK, '--additional-config={"hallmark": {"page": false}}'], {})
    by_variable = plan("m", LOOPBACK, {"HALLMARK_NO_PAGE": "1"})
    assert not any(planned.has_page for planned in (without, by_settings, by_variable))


def test_logs_are_json_at_vllms_level_and_where_vllm_logs() -> None:
    assert plan("m", LOOPBACK, {}).logging is None
    said = {"VLLM_LOGGING_LEVEL": "debug", "VLLM_LOGGING_STREAM": "ext://sys.stderr"}
    for flags, environment, level, stream in (
        ((), {}, "INFO", "ext://sys.stdout"),
        ((), said, "DEBUG", "ext://sys.stderr"),
        (("--log-level", "ERROR"), said, "ERROR", "ext://sys.stderr"),
    ):
        configuration = plan("m", [*LOOPBACK, *flags], environment, json_logs=True).logging
        assert configuration is not None
        assert configuration["loggers"]["vllm"]["level"] == level
        assert configuration["loggers"]["hallmark"]["level"] == level
        assert configuration["handlers"]["json"]["stream"] == stream


@pytest.mark.parametrize(
    ("flags", "environment", "named"),
    [
        (("--logging-config.formatter", "json"), {}, "--logging-config"),
        (("--log-config-file", "logs.json"), {}, "--log-config-file"),
        ((), {"VLLM_LOGGING_CONFIG_PATH": "logs.json"}, "VLLM_LOGGING_CONFIG_PATH"),
        ((), {"VLLM_CONFIGURE_LOGGING": "0"}, "VLLM_CONFIGURE_LOGGING=0"),
        (("--distributed-executor-backend", "ray"), {}, "Ray"),
    ],
)
def test_logs_look_as_one_of_two_says(
    flags: tuple[str, ...], environment: dict[str, str], named: str
) -> None:
    plan("m", [*LOOPBACK, *flags], environment)
    with pytest.raises(FieldError, match=rf"^--json-logs: 'beside {named}' is not allowed"):
        plan("m", [*LOOPBACK, *flags], environment, json_logs=True)


def test_a_level_of_logs_that_is_none_is_named() -> None:
    with pytest.raises(FieldError, match=r"^VLLM_LOGGING_LEVEL: 'LOUD' is not allowed; allowed: .*DEBUG"):
        plan("m", LOOPBACK, {"VLLM_LOGGING_LEVEL": "loud"}, json_logs=True)


def added(*flags: str, settings: str = "{}") -> tuple[str, ...]:
    given = (*LOOPBACK, f'--additional-config={{"hallmark": {settings}}}', *flags)
    command = plan("m", given, {}).command
    return command[command.index("m") + 1 : -len(given)]


def test_the_batch_limits_are_raised_to_what_the_settings_need() -> None:
    assert added() == ("--max-num-batched-tokens", "8192")
    assert added(settings='{"seq_len": 64}') == ()
    assert added(settings='{"max_batch_size": 256, "seq_len": 16}') == (
        *("--max-num-batched-tokens", "4096"),
        *("--max-num-seqs", "256"),
    )


def test_limits_that_are_given_stay() -> None:
    assert added("--max-num-batched-tokens", "8k", settings='{"seq_len": 250}') == ()
    assert added("--max_num_batched_tokens=16384", "--max-num-seqs", "32") == ()


def test_what_was_added_is_said() -> None:
    [note] = plan("m", LOOPBACK, {}).notes
    assert note == (
        "--max-num-batched-tokens is set to 8192, for hallmark.max_batch_size 32 x hallmark.seq_len 256 "
        "= 8192"
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--max-num-batched-tokens", "4096"),
            "--max-num-batched-tokens: 4096 is not allowed; allowed: 8192 or more, for "
            "hallmark.max_batch_size 32 x hallmark.seq_len 256 = 8192; or lower the settings",
        ),
        (
            ("--max-num-seqs", "16"),
            "--max-num-seqs: 16 is not allowed; allowed: 32 or more, for hallmark.max_batch_size 32; "
            "or lower the settings",
        ),
    ],
)
def test_limits_that_are_too_small_are_refused(flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(FieldError) as error:
        plan("m", [*LOOPBACK, *flags], {})
    assert str(error.value) == message


def test_a_wrong_setting_is_named_before_anything_starts() -> None:
    with pytest.raises(FieldError, match=r"^hallmark\.max_batch_size: 0 is not allowed"):
        plan("m", [*LOOPBACK, "--additional-config.hallmark.max_batch_size", "0"], {})


@pytest.mark.parametrize(
    "flags",
    [
        ("--host", "127.0.0.1"),
        ("--host", "::1"),
        ("--host=localhost",),
        ("--uds", "/tmp/socket"),  # noqa: S108  # nothing is opened
        ("--additional-config.hallmark.allow_unauthenticated", "true"),
    ],
)
def test_without_a_token_only_loopback_or_insistence(flags: tuple[str, ...]) -> None:
    assert plan("m", flags, {}).command


@pytest.mark.parametrize(
    "flags",
    [
        ("--additional-config.hallmark.api_key", "12345678"),
        ("--additional_config.hallmark.webhook_secrets+", "12345678"),
        ("--additional-config", '{"hallmark": {"api_key": "12345678"}}'),
    ],
)
def test_a_secret_among_the_flags_is_refused_before_vllm_logs_it(flags: tuple[str, ...]) -> None:
    with pytest.raises(FieldError, match=r"^hallmark\.\w+: '\(not shown\)' .* in the environment") as caught:
        plan("m", [*LOOPBACK, *flags], {})
    assert "12345678" not in str(caught.value)


def test_the_token_may_come_from_a_file_and_the_command_has_its_path_only(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("12345678\n")
    planned = plan("m", ["--additional-config.hallmark.api_key_file", str(path)], {})
    assert planned.api_key == "12345678"
    assert not any("12345678" in part for part in (*planned.command, *planned.environment.values()))


@pytest.mark.parametrize("host", [None, "0.0.0.0", "192.0.2.1", "node.example"])  # noqa: S104
def test_a_network_needs_a_token(host: str | None) -> None:
    flags = () if host is None else ("--host", host)
    with pytest.raises(UnsupportedError, match="HALLMARK_API_KEY"):
        plan("m", flags, {})
    planned = plan("m", flags, {"HALLMARK_API_KEY": "secret"})
    assert planned.api_key == "secret"
    assert "secret" not in repr(planned)
    assert not any("secret" in part for part in planned.command)


def test_vllms_help_needs_nothing() -> None:
    assert plan("m", ["--help"], {}).command[-1] == "--help"


@pytest.mark.parametrize(
    ("flags", "url"),
    [
        (("--host", "0.0.0.0", "--port", "80"), "http://127.0.0.1:80"),  # noqa: S104
        (("--host", "::"), "http://[::1]:8000"),
        (("--host", "::1", "--port=9000"), "http://[::1]:9000"),
        (("--ssl-certfile", "cert.pem", "--ssl-keyfile", "key.pem"), "https://127.0.0.1:8000"),
    ],
)
def test_where_the_server_answers(flags: tuple[str, ...], url: str) -> None:
    assert plan("m", flags, {"HALLMARK_API_KEY": "secret"}).url == url


def test_plugins_that_would_load_anyway_are_named() -> None:
    """The variable filters every group, so whoever sets it must name what is there."""
    groups = entry_points().groups
    names = plugin_names(None)
    general = {entry.name for entry in entry_points(group="vllm.general_plugins")}
    assert "vllm.general_plugins" in groups
    assert set(OUR_PLUGINS) <= set(names)
    assert general - {"lora_hf_hub_resolver"} <= set(names)
    assert len(names) == len(set(names))


def test_a_plugin_that_vllm_wants_asked_for_is_not_asked_for() -> None:
    """vLLM's resolver downloads adapters for requests, and only where the variable names it."""
    assert "lora_hf_hub_resolver" in {entry.name for entry in entry_points(group="vllm.general_plugins")}
    assert "lora_hf_hub_resolver" not in plugin_names(None)
    assert "lora_hf_hub_resolver" in plugin_names("lora_hf_hub_resolver")


def test_other_endpoint_plugins_are_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They add routes, so each waits for its user to name it."""
    metadata = tmp_path / "other-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[vllm.endpoint_plugins]\nother_routes = other:create\n"
        "[vllm.platform_plugins]\nother_platform = other:register\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "other_platform" in plugin_names(None)
    assert "other_routes" not in plugin_names(None)


@pytest.mark.parametrize(
    ("present", "names"),
    [
        ("mine", ["mine", "hallmark", "hallmark_api"]),
        ("hallmark_api,mine", ["hallmark_api", "mine", "hallmark"]),
        ("", ["hallmark", "hallmark_api"]),
    ],
)
def test_a_list_that_the_user_made_gets_ours_added(present: str, names: list[str]) -> None:
    assert plugin_names(present) == names
    environment = plan("m", LOOPBACK, {"VLLM_PLUGINS": present}).environment
    assert environment["VLLM_PLUGINS"] == ",".join(names)


@pytest.mark.parametrize("arguments", [("serve", "org/model", *LOOPBACK), ("demo",)])
def test_without_vllm_the_commands_say_so(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # Python's own way to have a module missing
    result = cli(*arguments)
    assert result.code == 2
    assert result.err == (
        f"hallmark: vLLM is not installed in the environment of {sys.executable}\n"
        "hint: pip install vllm puts it there\n"
    )


def test_the_command_line_needs_nothing_that_only_vllm_brings() -> None:
    """An operator's machine that only starts rounds has Hallmark's own dependencies."""
    script = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['vllm', 'safetensors', 'tokenizers', 'transformers']))\n"
        "from hallmark.server.commands import app; app(['round', '--help'])"
    )
    result = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("flags", "address"),
    [
        (["--host", "127.0.0.1"], ("127.0.0.1", 8000)),
        (["--host=::1", "--port=18700"], ("::1", 18700)),
        (["--uds", "/run/hallmark.sock"], None),
        (["--help"], None),
    ],
)
def test_the_address_it_will_bind(flags: list[str], address: tuple[str, int] | None) -> None:
    assert plan("m", flags, {}).address == address


@pytest.mark.parametrize("flag", [flag for feature in FEATURES for flag in feature.flags])
def test_a_feature_that_poc_does_not_work_with_is_refused(flag: str) -> None:
    [asks] = [feature.flags[flag] for feature in FEATURES if flag in feature.flags]
    value = next(value for value in (True, 2, "error") if asks(value))
    for name in (flag, flag.replace("-", "_")):
        with pytest.raises(UnsupportedError, match=r"^PoC does not work with .* yet\.$"):
            plan("m", [*LOOPBACK, f"--{name}", *([] if value is True else [str(value)])], {})


@pytest.mark.parametrize(
    "flags",
    [
        ["-tp", "2"],
        ["--jit-monitor-mode", "warn"],
        ["-pp", "1", "-dp=1", "--api-server-count", "1"],
        ["--enable-lora", "--no-enable-lora"],
        ["--enable-lora", "--disable-lora"],
        ["--cpu-offload-gb", "0"],
        ["--served-model-name", "headless"],
    ],
)
def test_flags_that_ask_for_nothing_of_it_are_passed_on(flags: list[str]) -> None:
    assert plan("m", [*LOOPBACK, *flags], {}).command[-len(flags) :] == tuple(flags)


def test_features_in_the_config_file_and_the_environment_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "vllm.yaml"
    path.write_text("decode_context_parallel_size: 2\nenable-lora: true\nheadless: false\n")
    with pytest.raises(UnsupportedError) as refusal:
        plan("m", [*LOOPBACK, "--config", str(path)], {})
    assert str(refusal.value) == (
        "PoC does not work with decode context parallelism (--decode-context-parallel-size > 1) yet. "
        "PoC does not work with LoRA (--enable-lora) yet."
    )
    with pytest.raises(UnsupportedError, match="Rust front end"):
        plan("m", LOOPBACK, {"VLLM_USE_RUST_FRONTEND": "1"})


def test_vllms_developer_mode_has_to_be_insisted_on() -> None:
    with pytest.raises(UnsupportedError, match=r"VLLM_SERVER_DEV_MODE.*hallmark\.allow_developer_mode"):
        plan("m", LOOPBACK, {"VLLM_SERVER_DEV_MODE": "1"})
    insisted = [*LOOPBACK, "--additional-config.hallmark.allow_developer_mode", "true"]
    assert plan("m", insisted, {"VLLM_SERVER_DEV_MODE": "1"}).settings.allow_developer_mode


def test_a_node_without_an_api_server_has_no_address_and_no_outbox() -> None:
    """And no token to ask for: it has no routes."""
    planned = plan("m", ["--headless", "--nnodes", "2", "--node-rank", "1", "--host", "192.0.2.1"], {})
    assert (planned.is_headless, planned.address, planned.outbox) == (True, None, None)
    assert planned.notes[-1] == (
        "no server answers on this node: proof of compute does at the node of rank 0"
    )
    assert not plan("m", [*LOOPBACK, "--nnodes", "2"], {}).is_headless


def test_help_is_given_whatever_else_is_asked_for() -> None:
    assert plan("m", ["--headless", "-h"], {}).is_help


def test_the_outbox_is_the_servers(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    given = [*LOOPBACK, "--additional-config.hallmark.outbox_path"]
    assert plan("m", [*given, str(path)], {}).outbox == path
    assert plan("m", [*given, "memory"], {}).outbox is None
    assert str(plan("m", [*LOOPBACK, "--port", "8123"], {}).outbox).endswith("outbox-port-8123.db")
