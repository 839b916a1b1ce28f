import traceback
from pathlib import Path

import pytest

from hallmark.poc.core.errors import FieldError
from hallmark.poc.settings.engine_limits import EngineLimits
from hallmark.poc.settings.settings import Settings
from hallmark.poc.webhooks.signature import generate_secret

SECRET = "12345678"  # noqa: S105  # of nothing


def load(section: object, **environment: str) -> Settings:
    return Settings.from_additional_config({"hallmark": section}, environment)


@pytest.mark.parametrize("nothing", [None, {}, {"other": {"max_batch_size": 1}}, "text"])
def test_without_a_section_the_defaults_hold(nothing: object) -> None:
    settings = Settings.from_additional_config(nothing, {})
    assert (settings.max_batch_size, settings.seq_len, settings.callback_interval) == (32, 256, 5.0)
    assert settings.api_key is None
    assert settings.callback_allowed_hosts is None
    assert not settings.inference_while_generating


def test_what_json_gives_is_taken() -> None:
    settings = load(
        {"max_batch_size": 16, "callback_interval": 1, "callback_allowed_hosts": ["a.example", "b.example"]}
    )
    assert settings.max_batch_size == 16
    assert settings.callback_interval == 1.0
    assert settings.callback_allowed_hosts == ("a.example", "b.example")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"max_batch_size": 0},
            r"hallmark\.max_batch_size: 0 is not allowed; allowed: greater than or equal to 1",
        ),
        ({"max_batch_size": 1.0}, r"hallmark\.max_batch_size: 1\.0 is not allowed; allowed: a valid integer"),
        ({"seq_len": True}, r"hallmark\.seq_len: True is not allowed; allowed: a valid integer"),
        ({"seq_len": "256"}, r"hallmark\.seq_len: '256' is not allowed"),
        ({"callback_interval": float("nan")}, r"hallmark\.callback_interval: nan is not allowed"),
        ({"engine_timeout": 0.9}, r"hallmark\.engine_timeout: 0\.9 .* greater than or equal to 1$"),
        ({"callback_timeout": 0}, r"hallmark\.callback_timeout: 0 is not allowed"),
        ({"callback_allowed_hosts": [1]}, r"hallmark\.callback_allowed_hosts\[0\]: 1 .* allowed: text$"),
        ({"callback_allowed_hosts": 3}, r"callback_allowed_hosts: 3 .* allowed: a list$"),
        ({"allow_unauthenticated": "yes"}, r"allow_unauthenticated: 'yes' .* allowed: true or false$"),
        ({"api_key_file": ""}, r"api_key_file: '\(not shown\)' .* allowed: text that is not empty$"),
        (
            {"frobnicate": 8},
            r"hallmark: 'frobnicate' is not allowed; allowed: the settings max_batch_size, seq_len",
        ),
        (
            {"bacth_size": 8},
            r"hallmark: 'bacth_size' is not allowed; allowed: 'max_batch_size', if that was meant",
        ),
        (
            {"maxbatchsize": 8},
            r"hallmark: 'maxbatchsize' is not allowed; allowed: 'max_batch_size', if that was meant",
        ),
        ([], r"hallmark: 'list \(not shown\)' is not allowed; allowed: an object of settings"),
        (
            {"callback_backoff_base": 9.0, "callback_backoff_cap": 3.0},
            r"hallmark\.callback_backoff_base: 9\.0 .*; allowed: at most callback_backoff_cap, 3\.0",
        ),
    ],
)
def test_an_error_names_the_key_the_value_and_what_is_allowed(section: object, message: str) -> None:
    with pytest.raises(FieldError, match=message):
        load(section)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "http://a.example",
        "a.example:9000",
        "*.example",
        "a..example",
        ".example",
        "a.example/x",
        "user@a",
        "a b",
        "a%2eb",
    ],
)
def test_an_allowed_host_is_a_host_and_nothing_else(host: str) -> None:
    with pytest.raises(
        FieldError, match=r"callback_allowed_hosts: .*; allowed: names and addresses of hosts"
    ):
        load({"callback_allowed_hosts": ["b.example", host]})


def key_of(settings: Settings) -> str | None:
    return None if settings.api_key is None else settings.api_key.get_secret_value()


def secrets_of(settings: Settings) -> list[str]:
    return [secret.get_secret_value() for secret in settings.webhook_secrets]


@pytest.mark.parametrize("name", ["api_key", "webhook_secrets"])
@pytest.mark.parametrize("value", [SECRET, [SECRET], 12345678, None, ""])
def test_a_secret_in_the_section_is_refused_and_told_where_it_belongs(name: str, value: object) -> None:
    """vLLM logs the section, and every process list shows it."""
    with pytest.raises(FieldError, match=rf"^hallmark\.{name}: '\(not shown\)' is not allowed") as caught:
        load({name: value}, HALLMARK_API_KEY=SECRET)
    assert f"HALLMARK_{name.upper()} in the environment" in caught.value.allowed
    assert f"{name}_file" in caught.value.allowed
    assert SECRET not in str(caught.value)


class TestTheToken:
    """From a file or from the environment."""

    def test_without_any_there_is_none(self) -> None:
        assert key_of(load({})) is None

    @pytest.mark.parametrize("around", ["", "\n", "\r\n", " \n\n"])
    def test_it_is_what_the_file_holds_without_white_space_around(self, tmp_path: Path, around: str) -> None:
        path = tmp_path / "key"
        path.write_bytes(f"{around}s3cret kéy{around}".encode())
        assert key_of(load({"api_key_file": str(path)})) == "s3cret kéy"
        assert key_of(load({}, HALLMARK_API_KEY=f"{around}s3cret kéy{around}")) == "s3cret kéy"

    def test_both_may_be_given_where_they_agree(self, tmp_path: Path) -> None:
        path = tmp_path / "key"
        path.write_text(f"{SECRET}\n")
        assert key_of(load({"api_key_file": str(path)}, HALLMARK_API_KEY=SECRET)) == SECRET
        with pytest.raises(FieldError, match=r"api_key_file: .*key' .* HALLMARK_API_KEY.* different"):
            load({"api_key_file": str(path)}, HALLMARK_API_KEY="another")

    @pytest.mark.parametrize(
        "content", [b"", b" \n", b"two\nlines", b"a\x00b", b"\xff", b"x" * 70_000, None], ids=range(7)
    )
    def test_a_file_without_a_token_is_named(self, tmp_path: Path, content: bytes | None) -> None:
        path = tmp_path / "key"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(FieldError, match=r"^hallmark\.api_key_file: '.*/key' is not allowed"):
            load({"api_key_file": str(path)})

    @pytest.mark.parametrize("path", ["/", "/dev/null", "a\0b", "/dev/null/key", "/dev/zero"])
    def test_what_is_no_file_of_text_is_named(self, path: str) -> None:
        with pytest.raises(FieldError, match=r"^hallmark\.api_key_file: '"):
            load({"api_key_file": path})

    def test_an_empty_variable_is_refused_rather_than_taken_for_none(self) -> None:
        told = r"^HALLMARK_API_KEY: '' is not allowed; .*set it to a non-empty token, or unset it"
        for empty in ("", " \n"):
            with pytest.raises(FieldError, match=told):
                load({}, HALLMARK_API_KEY=empty)


class TestWebhookSecrets:
    """From a file or from the environment; two of them while one replaces the other."""

    def test_without_any_there_are_none(self) -> None:
        assert secrets_of(load({})) == []

    @pytest.mark.parametrize("count", [1, 2])
    def test_they_keep_their_order(self, tmp_path: Path, count: int) -> None:
        secrets = [generate_secret() for _ in range(count)]
        path = tmp_path / "secrets"
        path.write_text("\n" + "\r\n\n".join(secrets) + "\n")
        settings = load({"webhook_secrets_file": str(path)})
        assert secrets_of(settings) == secrets
        from_variable = load({}, HALLMARK_WEBHOOK_SECRETS=" \n".join(secrets))
        assert secrets_of(from_variable) == secrets
        both = load({"webhook_secrets_file": str(path)}, HALLMARK_WEBHOOK_SECRETS=" ".join(secrets))
        assert secrets_of(both) == secrets
        with pytest.raises(FieldError, match=r"webhook_secrets_file: .* HALLMARK_WEBHOOK_SECRETS.* differ"):
            load({"webhook_secrets_file": str(path)}, HALLMARK_WEBHOOK_SECRETS=generate_secret())

    @pytest.mark.parametrize(
        ("count", "bad", "message"),
        [
            (0, None, "0 are given"),
            (3, None, "3 are given"),
            (1, f"whsec_{SECRET}", "number 2 is none"),
            (0, SECRET, "number 1 is none"),
        ],
    )
    def test_what_is_no_secret_is_counted_and_not_repeated(
        self, tmp_path: Path, count: int, bad: str | None, message: str
    ) -> None:
        secrets = [generate_secret() for _ in range(count)] + ([bad] if bad else [])
        path = tmp_path / "secrets"
        path.write_text("\n".join(secrets))
        for section, environment, named in (
            ({"webhook_secrets_file": str(path)}, {}, "hallmark.webhook_secrets_file"),
            ({}, {"HALLMARK_WEBHOOK_SECRETS": " ".join(secrets)}, "HALLMARK_WEBHOOK_SECRETS"),
        ):
            with pytest.raises(FieldError, match=message) as caught:
                load(section, **environment)
            assert caught.value.field == named
            assert not any(secret in str(caught.value) for secret in secrets)


@pytest.mark.parametrize(
    ("section", "environment"),
    [
        ({"api_key": 12345678}, {}),
        ({"api_kye": SECRET}, {}),
        ({"apikey": {"value": SECRET}}, {}),
        ({"webhook_secret": f"whsec_{SECRET}"}, {}),
        ({"api_key_file": 12345678}, {}),
        ({"webhook_secrets_file": [SECRET]}, {}),
        ('{"api_key": "12345678"', {}),
        ({"api_key": SECRET, "max_batch_size": 0}, {}),
        ({"api_kye": SECRET, "max_batch_size": 0}, {}),
        ({"callback_allowed_hosts": ["a b"], "callback_backoff_base": 90}, {"HALLMARK_API_KEY": SECRET}),
        ({"max_batch_size": 0}, {"HALLMARK_API_KEY": SECRET}),
        ({}, {"HALLMARK_API_KEY": f"{SECRET}\nand more"}),
        ({}, {"HALLMARK_WEBHOOK_SECRETS": SECRET}),
        ({}, {"HALLMARK_WEBHOOK_SECRETS": f"whsec_{SECRET}"}),
    ],
)
def test_no_error_has_a_secret_in_it_or_in_what_hangs_on_it(
    section: object, environment: dict[str, str]
) -> None:
    with pytest.raises(FieldError) as caught:
        load(section, **environment)
    error: BaseException | None = caught.value
    shown = "".join(traceback.format_exception(caught.value))
    while error is not None:
        shown += f"{error} {error!r} {error.args} {vars(error)}"
        error = error.__cause__ or error.__context__
    # The lines of this file that a traceback shows have no secret in them.
    assert SECRET not in shown


def test_a_file_that_is_not_text_does_not_hang_on_the_error(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"12345678\xff")
    with pytest.raises(FieldError, match="it is not UTF-8") as caught:
        load({"api_key_file": str(path)})
    assert caught.value.__context__ is None, "UnicodeDecodeError holds what it could not decode"


def test_settings_do_not_show_their_secrets() -> None:
    secret = generate_secret()
    settings = load({}, HALLMARK_API_KEY=SECRET, HALLMARK_WEBHOOK_SECRETS=secret)
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert SECRET not in shown
        assert secret not in shown


def test_settings_do_not_change() -> None:
    settings = load({})
    with pytest.raises(ValueError, match="frozen"):
        settings.max_batch_size = 1  # type: ignore[misc]


def test_the_older_name_of_a_setting_is_read_and_said_to_be_one(caplog: pytest.LogCaptureFixture) -> None:
    assert load({"batch_size": 8}).max_batch_size == 8
    assert caplog.messages == ["The setting hallmark.batch_size is called hallmark.max_batch_size now"]
    with pytest.raises(FieldError, match=r"hallmark\.batch_size: 8 .* none beside max_batch_size"):
        load({"batch_size": 8, "max_batch_size": 8})


@pytest.mark.parametrize("key", ["hallmrak", "Hallmark", "hallmarks", "hall_mark"])
def test_a_near_miss_of_the_section_s_name_is_refused(key: str) -> None:
    with pytest.raises(FieldError, match=f"--additional-config: '{key}' is not allowed; allowed: 'hallmark'"):
        Settings.from_additional_config({key: {"max_batch_size": 8}}, {})


class TestEngineLimits:
    def test_a_worker_reads_sizes_and_no_secret(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("HALLMARK_API_KEY", "")  # which would be refused
        section = {"batch_size": 8, "seq_len": 16, "api_key_file": str(tmp_path / "none"), "max_stall_ms": 1}
        limits = EngineLimits.from_additional_config({"hallmark": section})
        assert limits.model_dump() == {"max_batch_size": 8, "seq_len": 16, "engine_timeout": 120.0}
        assert EngineLimits.from_additional_config(None) == EngineLimits()

    def test_a_value_that_is_not_allowed_is_refused(self) -> None:
        with pytest.raises(FieldError, match=r"^hallmark\.seq_len: 0 is not allowed"):
            EngineLimits.from_additional_config({"hallmark": {"seq_len": 0}})
