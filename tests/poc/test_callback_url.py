import pytest

from hallmark.poc.callback_url import check_callback_url, request_target
from hallmark.poc.errors import FieldError


@pytest.mark.parametrize(
    "url",
    [
        "http://receiver",
        "https://receiver.example:8443/v1/poc-batches",
        "HTTP://Receiver.Example/",
        "http://127.0.0.1:9000/a/../b/%2e%2e/org%252Fmodel",
        "http://[::1]:9000/x",
    ],
)
def test_http_and_https_urls_are_allowed(url: str) -> None:
    check_callback_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "receiver/x",
        "ftp://receiver/x",
        "file:///etc/passwd",
        "http:///x",
        "http://:80/x",
        "http://receiver:99999/x",
        "http://receiver:x/x",
        "http://[::1/x",
        "http://xn--/x",
        "http://receiver/x?token=1",
        "http://receiver/x#part",
        "http://receiver\\@elsewhere/x",
        "http://receiver/a b",
        "http://receiver/é",
        "http://receiver/x\n",
        "http://receiver/\x00",
    ],
)
def test_other_urls_are_refused_with_the_rule(url: str) -> None:
    with pytest.raises(FieldError, match=r"callback_url: .* an http or https URL") as caught:
        check_callback_url(url)
    assert caught.value.field == "callback_url"


def test_credentials_are_refused_and_not_repeated() -> None:
    with pytest.raises(FieldError, match="without credentials") as caught:
        check_callback_url("http://user:hunter2@receiver/x")
    assert "hunter2" not in str(caught.value)


def test_an_allow_list_is_of_hosts_in_any_case() -> None:
    check_callback_url("http://Receiver.example:1/x", ["receiver.EXAMPLE"])
    for host in ("other.example", "receiver.example.evil", "a.receiver.example"):
        with pytest.raises(FieldError, match=r"the hosts receiver\.example"):
            check_callback_url(f"http://{host}/x", ["receiver.example"])


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.0.1",
        "169.254.169.254.",
        "2852039166",
        "0xa9.0xfe.0xa9.0xfe",
        "0251.0376.43518",
        "[::ffff:169.254.169.254]",
        "[::FFFF:a9fe:a9fe]",
        "[fe80::1]",
        "[fe80::1%25eth0]",
        "[febf::1]",
        "[fd00:ec2::254]",
    ],
)
def test_link_local_and_metadata_addresses_are_refused_in_every_spelling(host: str) -> None:
    for allowed_hosts in (None, [host.strip("[]")]):
        with pytest.raises(FieldError, match=r"callback_url: .* no link-local or metadata address"):
            check_callback_url(f"http://{host}:80/latest", allowed_hosts)


@pytest.mark.parametrize(
    "host",
    ["169.253.1.1", "10.0.0.1", "[fd00:ec2::253]", "[fec0::1]", "[::ffff:10.0.0.1]", "169.254.example"],
)
def test_their_neighbours_are_allowed(host: str) -> None:
    check_callback_url(f"http://{host}/x")


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://receiver", b"/generated"),
        ("http://receiver/", b"/generated"),
        ("http://receiver/v2/org%252Fmodel", b"/v2/org%252Fmodel/generated"),
        ("http://receiver/a/../b/%7e", b"/a/../b/%7e/generated"),
    ],
)
def test_the_path_is_sent_as_it_was_given(url: str, target: bytes) -> None:
    assert request_target(url, "generated") == target
