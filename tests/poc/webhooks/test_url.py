from ipaddress import ip_address

import pytest

from hallmark.poc.core.errors import FieldError
from hallmark.poc.webhooks.url import (
    canonical_host,
    check_callback_host,
    check_callback_url,
    is_forbidden,
    request_target,
)


@pytest.mark.parametrize(
    "url",
    [
        "http://receiver",
        "https://receiver.example:8443/v1/poc-batches",
        "HTTP://Receiver.Example/",
        "http://127.0.0.1:9000/a/../b/%2e%2e/org%252Fmodel",
        "http://[::1]:9000/x",
        "http://receiver_1.compose.example./x",
        "http://xn--bcher-kva.example/x",
        "http://localhost:9000/x@y",
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
        "http://127.0.0.%31/x",
        "http://%6cocalhost/x",
        "http://receiver%00.example/x",
        "http://receiver%2Fx@elsewhere/x",
        "http://receiver\\x",
        "http:\\\\receiver/x",
        "http:/receiver/x",
        "http:receiver/x",
        "http://receiver:/x",
        "http://receiver:0/x",
        "http://receiver:80:80/x",
        "http://receiver..example/x",
        "http://.receiver/x",
        "http://receiver,elsewhere/x",
        "http://receiver;x/x",
        "http://[fe80::1%25eth0]/x",
        "http://[::1%25lo]/x",
        "http://[127.0.0.1]/x",
        "http://[::1]x/x",
        "http://[v1.x]/x",
        "http://::1/x",
        " http://receiver/x",
        "//receiver/x",
    ],
)
def test_other_urls_are_refused_with_the_rule(url: str) -> None:
    with pytest.raises(FieldError, match=r"callback_url: .* an http or https URL") as caught:
        check_callback_url(url)
    assert caught.value.field == "callback_url"


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@receiver/x",
        "http://hunter2@receiver/x",
        "http:/user:hunter2@receiver/x",
        "http://user:hunter2\n@receiver/x",
        "http://a@hunter2@receiver/x",
        "hunter2@receiver",
        "http://receiver/x?token=hunter2",
        "http://user:hunter2@receiver/x?token=hunter2",
    ],
)
def test_credentials_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(FieldError, match="without credentials") as caught:
        check_callback_url(url)
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
        "[febf::1]",
        "[fd00:ec2::254]",
        "[FD00:0EC2:0:0:0:0:0:0254]",
        "169.254.170.2",
        "100.100.100.200",
        "0x646464c8",
        "[fd20:ce::254]",
        "168.63.129.16",
        "192.0.0.192",
        "0.0.0.0",  # noqa: S104
        "0",
        "0.1",
        "[::]",
        "[::0.0.0.0]",
        "224.0.0.1",
        "239.255.255.250",
        "[ff02::1]",
        "240.0.0.1",
        "255.255.255.255",
        "4294967295",
        "[::169.254.169.254]",
        "[64:ff9b::169.254.169.254]",
        "[64:ff9b:1::a9fe:a9fe]",
        "[::ffff:0:169.254.169.254]",
        "[2002:a9fe:a9fe::1]",
        "[2001:0:a9fe:a9fe::]",
        "[2001:0:7f00:1::5601:5601]",
    ],
)
def test_link_local_and_metadata_addresses_are_refused_in_every_spelling(host: str) -> None:
    for allowed_hosts in (None, [host.strip("[]")]):
        with pytest.raises(FieldError, match=r"callback_url: .* no link-local or metadata address"):
            check_callback_url(f"http://{host}:80/latest", allowed_hosts)


METADATA_NAMES = [
    *("instance-data", "instance-data.ec2.internal", "metadata", "metadata.google.internal", "metadata.goog"),
    *("metadata.azure.internal", "metadata.azure.com", "metadata.oraclecloud.com", "metadata.tencentyun.com"),
    *(
        "metadata.packet.net",
        "metadata.platformequinix.com",
        "api.metadata.cloud.ibm.com",
        "rancher-metadata",
    ),
]


@pytest.mark.parametrize("name", METADATA_NAMES)
def test_the_names_of_metadata_services_are_refused_in_every_spelling(name: str) -> None:
    for host in (name, name.upper(), name.title(), f"{name}."):
        for allowed_hosts in (None, [name]):
            with pytest.raises(FieldError, match=r"callback_url: .* no link-local or metadata address"):
                check_callback_url(f"http://{host}:80/computeMetadata/v1", allowed_hosts)


@pytest.mark.parametrize(
    "host",
    ["metadata.example", "my-metadata", "metadata.google.internal.example", "internal", "google.internal"],
)
def test_names_that_only_look_like_them_are_allowed(host: str) -> None:
    check_callback_url(f"http://{host}/x")


@pytest.mark.parametrize("kind", ["generated", "validated"])
@pytest.mark.parametrize("base", ["http://receiver.example", "https://receiver.example:8443/v1/poc-batches"])
@pytest.mark.parametrize("end", ["", "/", "//"])
def test_a_url_that_has_what_is_appended_already_is_refused_and_its_base_named(
    base: str, kind: str, end: str
) -> None:
    with pytest.raises(FieldError) as caught:
        check_callback_url(f"{base}/{kind}{end}")
    assert caught.value.field == "callback_url"
    assert caught.value.allowed == f"{base}, the base that /generated and /validated are appended to"
    check_callback_url(base)
    # What is queued for one that an older server took is still delivered.
    check_callback_host(f"{base}/{kind}{end}")


@pytest.mark.parametrize(
    "path", ["/generated/x", "/regenerated", "/Generated", "/generated%2F", "/x-validated"]
)
def test_paths_that_only_look_like_it_are_allowed(path: str) -> None:
    check_callback_url(f"http://generated{path}")


@pytest.mark.parametrize(
    "host",
    [
        *("169.253.1.1", "10.0.0.1", "[fd00:ec2::253]", "[fec0::1]", "[::ffff:10.0.0.1]", "169.254.example"),
        *("1.0.0.1", "223.255.255.255", "100.100.100.199", "192.0.0.191", "168.63.129.17", "[fd20:ce::253]"),
        *("[2002:a00:1::1]", "[64:ff9b::10.0.0.1]", "172.16.0.1", "192.168.1.1", "[2001:db8::a9fe:a9fe]"),
    ],
)
def test_their_neighbours_are_allowed(host: str) -> None:
    check_callback_url(f"http://{host}/x")


@pytest.mark.parametrize(
    "host",
    [
        *("2130706433", "0x7f000001", "0x7f.0.0.1", "017700000001", "127.1", "127.0.1", "127.0.0.01"),
        *("0177.0.0.1", "127.0.0.1.", "0X7F.1", "00.1", "0127.0.0.1"),
    ],
)
def test_an_ipv4_address_has_one_spelling(host: str) -> None:
    """What another resolver makes of the others, nobody knows; an allow-list is no way around."""
    for allowed_hosts in (None, ["127.0.0.1", host], ["receiver.example"]):
        with pytest.raises(FieldError, match="callback_url"):
            check_callback_url(f"http://{host}/x", allowed_hosts)


LOOPBACK = [
    *("127.0.0.1", "127.0.0.2", "localhost", "localhost.", "LOCALHOST", "[::1]", "[0:0:0:0:0:0:0:1]"),
    *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:FFFF:127.0.0.1]", "[::127.0.0.1]"),
    *("2130706433", "0x7f000001", "017700000001", "127.1", "receiver.example.evil", "evil-receiver.example"),
    *("receiver.example:80@127.0.0.1", "127.0.0.1#@receiver.example", "127.0.0.1\\@receiver.example"),
    *("127.0.0.1?@receiver.example", "receiver.example%2f@127.0.0.1", "receiver%2eexample"),
    *(
        "receiver.example\t",
        "receiver.example..",
        "receiver。example",
        "ⓡeceiver.example",
        "xn--receiver.example",
    ),
]


@pytest.mark.parametrize("host", LOOPBACK)
def test_no_other_spelling_gets_past_an_allow_list(host: str) -> None:
    with pytest.raises(FieldError, match="callback_url"):
        check_callback_url(f"http://{host}/x", ["receiver.example"])


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("receiver.example", "http://RECEIVER.example.:9000/x"),
        ("receiver.example.", "http://receiver.example/x"),
        ("bücher.example", "http://xn--bcher-kva.example/x"),
        ("BÜCHER.example", "http://XN--BCHER-KVA.example/x"),
        ("xn--bcher-kva.example", "http://xn--bcher-kva.example/x"),
        ("::1", "http://[0:0::1]/x"),
        ("[::1]", "http://[::1]/x"),
        ("127.0.0.1", "http://[::ffff:7f00:1]/x"),
        ("::ffff:10.0.0.1", "http://10.0.0.1/x"),
    ],
)
def test_an_allowed_host_is_known_by_each_of_its_spellings(allowed: str, url: str) -> None:
    check_callback_url(url, [allowed])
    with pytest.raises(FieldError, match="the hosts other"):
        check_callback_url(url, ["other.example"])


@pytest.mark.parametrize("text", ["", ".", "a..b", "a b", "a/b", "a:80", "a@b", "*.a", "[a]", "-", "ü" * 80])
def test_what_is_no_host_has_no_canonical_form(text: str) -> None:
    with pytest.raises(ValueError, match="is no host name"):
        canonical_host(text)


def test_addresses_with_a_zone_are_judged_without_it() -> None:
    """As a resolver gives them."""
    assert is_forbidden(ip_address("fe80::1%eth0"))
    assert not is_forbidden(ip_address("::1"))
    assert not is_forbidden(ip_address("127.0.0.1"))


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
