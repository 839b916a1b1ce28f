import pytest

from hallmark.poc.errors import FieldError
from hallmark.poc.settings import Settings


def load(section: object, **environment: str) -> Settings:
    return Settings.from_additional_config({"hallmark": section}, environment)


@pytest.mark.parametrize("nothing", [None, {}, {"other": {"batch_size": 1}}, "text"])
def test_without_a_section_the_defaults_hold(nothing: object) -> None:
    settings = Settings.from_additional_config(nothing, {})
    assert (settings.batch_size, settings.seq_len, settings.callback_interval) == (32, 256, 5.0)
    assert settings.api_key is None
    assert settings.callback_allowed_hosts is None
    assert not settings.inference_while_generating


def test_what_json_gives_is_taken() -> None:
    settings = load(
        {"batch_size": 16, "callback_interval": 1, "callback_allowed_hosts": ["a.example", "b.example"]}
    )
    assert settings.batch_size == 16
    assert settings.callback_interval == 1.0
    assert settings.callback_allowed_hosts == ("a.example", "b.example")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"batch_size": 0}, r"hallmark\.batch_size: 0 is not allowed; allowed: greater than or equal to 1"),
        ({"batch_size": 1.0}, r"hallmark\.batch_size: 1\.0 is not allowed; allowed: a valid integer"),
        ({"seq_len": True}, r"hallmark\.seq_len: True is not allowed; allowed: a valid integer"),
        ({"seq_len": "256"}, r"hallmark\.seq_len: '256' is not allowed"),
        ({"callback_interval": float("nan")}, r"hallmark\.callback_interval: nan is not allowed"),
        ({"callback_timeout": 0}, r"hallmark\.callback_timeout: 0 is not allowed"),
        ({"callback_allowed_hosts": [1]}, r"hallmark\.callback_allowed_hosts\.0: 1 .* allowed: text$"),
        ({"callback_allowed_hosts": 3}, r"callback_allowed_hosts: 3 .* allowed: a list of host names$"),
        ({"allow_unauthenticated": "yes"}, r"allow_unauthenticated: 'yes' .* allowed: true or false$"),
        ({"api_key": ""}, r"api_key: '\(not shown\)' .* allowed: text that is not empty$"),
        (
            {"batchsize": 8},
            r"hallmark: 'batchsize' is not allowed; allowed: the settings batch_size, seq_len",
        ),
        ([], r"hallmark: 'list \(not shown\)' is not allowed; allowed: an object of settings"),
        (
            {"callback_retry_base": 9.0, "callback_retry_cap": 3.0},
            r"hallmark\.callback_retry_base: 9\.0 is not allowed; allowed: at most callback_retry_cap, 3\.0",
        ),
    ],
)
def test_an_error_names_the_key_the_value_and_what_is_allowed(section: object, message: str) -> None:
    with pytest.raises(FieldError, match=message):
        load(section)


def test_the_api_key_comes_from_the_environment_where_the_section_has_none() -> None:
    for section, expected in (({}, "from environment"), ({"api_key": "from section"}, "from section")):
        key = load(section, HALLMARK_API_KEY="from environment").api_key
        assert key is not None
        assert key.get_secret_value() == expected


@pytest.mark.parametrize(
    ("section", "environment"),
    [
        ({"api_key": 12345678}, {}),
        ({"api_kye": "12345678"}, {}),
        ('{"api_key": "12345678"', {}),
        ({"api_key": "12345678", "batch_size": 0}, {}),
        ({"batch_size": 0}, {"HALLMARK_API_KEY": "12345678"}),
    ],
)
def test_no_error_repeats_the_api_key(section: object, environment: dict[str, str]) -> None:
    with pytest.raises(FieldError) as caught:
        load(section, **environment)
    assert "12345678" not in str(caught.value)
    assert caught.value.__cause__ is None, "pydantic's own text repeats its inputs"
    assert "12345678" not in repr(load({"api_key": "12345678"}))


def test_an_empty_api_key_is_refused_rather_than_taken_for_none() -> None:
    with pytest.raises(FieldError, match=r"hallmark\.api_key"):
        load({"api_key": ""})
    told = r"^HALLMARK_API_KEY: '' is not allowed; .*set it to a non-empty token, or unset it"
    with pytest.raises(FieldError, match=told):
        load({}, HALLMARK_API_KEY="")


def test_settings_do_not_change() -> None:
    settings = load({})
    with pytest.raises(ValueError, match="frozen"):
        settings.batch_size = 1  # type: ignore[misc]
