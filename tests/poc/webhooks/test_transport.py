"""HTTP to receivers: to checked addresses only, with the name that was asked for."""

import asyncio
import datetime
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hallmark.poc.webhooks.transport import callback_client, resolve

METADATA = "169.254.169.254"
NAME = "receiver.example"


class Names:
    """A resolver of its own.

    Attributes:
        addresses: What each name resolves to.
        asked: The names and ports that were asked for.
    """

    def __init__(self, **addresses: Sequence[str]) -> None:
        self.addresses: dict[str, Sequence[str]] = {NAME: ["127.0.0.1"], **addresses}
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        if host not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.addresses[host]


class Server:
    """A receiver on loopback that answers every request and keeps connections.

    Attributes:
        heads: The heads of all requests.
        connections: How many were accepted.
        answer: What each request is answered with.
    """

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.connections = 0
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                self.heads.append(head)
                writer.write(self.answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def listening(host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server()
    listener = await asyncio.start_server(server.serve, host, 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with listening() as server:
        yield server


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
async def client(names: Names) -> AsyncIterator[httpx.AsyncClient]:
    async with callback_client(resolver=names) as client:
        yield client


def url(server: Server, host: str = NAME, scheme: str = "http") -> str:
    return f"{scheme}://{host}:{server.port}/x"


async def test_a_request_goes_to_the_resolved_address_with_the_name_it_was_for(
    client: httpx.AsyncClient, server: Server, names: Names
) -> None:
    response = await client.post(url(server), content=b"body")
    assert response.status_code == 200
    assert names.asked == [(NAME, server.port)]
    head = server.heads[0]
    assert f"Host: {NAME}:{server.port}\r\n".encode() in head
    assert head.count(b"ost: ") == 1


async def test_the_target_is_sent_byte_for_byte(client: httpx.AsyncClient, server: Server) -> None:
    target = b"/a/../b/%2e%2e/org%252Fmodel/generated"
    await client.post(url(server), content=b"", extensions={"target": target})
    assert server.heads[0].startswith(b"POST " + target + b" HTTP/1.1\r\n")


async def test_a_streamed_body_is_sent_and_one_connection_serves_all(
    client: httpx.AsyncClient, server: Server
) -> None:
    for _ in range(3):
        async with client.stream("POST", url(server), content=b"x" * 100_000) as response:
            assert response.status_code == 200
            await response.aread()
    assert (len(server.heads), server.connections) == (3, 1)


async def test_a_name_that_begins_to_resolve_elsewhere_is_refused_on_open_connections_too(
    client: httpx.AsyncClient, server: Server, names: Names
) -> None:
    """DNS rebinding: allowed at first, the machine's metadata later."""
    await client.post(url(server), content=b"1")
    names.addresses[NAME] = [METADATA]
    with pytest.raises(httpx.ConnectError) as refused:
        await client.post(url(server), content=b"2")
    assert str(refused.value) == f"{NAME} resolves to {METADATA}, where callbacks must not go"
    names.addresses[NAME] = ["127.0.0.1"]
    await client.post(url(server), content=b"3")
    assert len(server.heads) == 2


@pytest.mark.parametrize(
    "address",
    [
        *(METADATA, "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192", "0.0.0.0"),  # noqa: S104
        *("224.0.0.1", "255.255.255.255", "fe80::1", "fe80::1%1", "fd00:ec2::254", "fd20:ce::254", "::"),
        *("ff02::1", f"::ffff:{METADATA}", f"::{METADATA}", f"64:ff9b::{METADATA}", "2002:a9fe:a9fe::1"),
    ],
)
@pytest.mark.parametrize("others", [[], ["127.0.0.1"]])
async def test_one_forbidden_address_refuses_all_of_a_name(
    client: httpx.AsyncClient, server: Server, names: Names, address: str, others: list[str]
) -> None:
    for addresses in ([*others, address], [address, *others]):
        names.addresses[NAME] = addresses
        with pytest.raises(httpx.ConnectError, match="where callbacks must not go"):
            await client.post(url(server), content=b"")
    assert server.connections == 0


@pytest.mark.parametrize("host", [METADATA, "2852039166", f"[::ffff:{METADATA}]", "[fe80::1]", "0"])
async def test_a_forbidden_address_is_refused_without_asking_for_it(
    client: httpx.AsyncClient, names: Names, host: str
) -> None:
    with pytest.raises(httpx.ConnectError, match="where callbacks must not go"):
        await client.post(f"http://{host}/latest", content=b"")
    assert names.asked == []


async def test_addresses_are_used_without_asking_for_them(
    client: httpx.AsyncClient, server: Server, names: Names
) -> None:
    await client.post(url(server, "127.0.0.1"), content=b"")
    assert f"Host: 127.0.0.1:{server.port}\r\n".encode() in server.heads[0]
    async with listening("::1") as other:
        await client.post(url(other, "[::1]"), content=b"")
        assert f"Host: [::1]:{other.port}\r\n".encode() in other.heads[0]
    assert names.asked == []


@pytest.mark.parametrize(
    "addresses", [["::1", "127.0.0.1"], ["127.0.0.1", "::1"], ["127.0.0.9", "127.0.0.1"]]
)
async def test_the_next_address_is_tried_where_one_takes_no_connection(
    client: httpx.AsyncClient, server: Server, names: Names, addresses: list[str]
) -> None:
    """The server listens on 127.0.0.1 only."""
    names.addresses[NAME] = addresses
    assert (await client.post(url(server), content=b"body")).status_code == 200


async def test_an_address_that_swallows_everything_costs_seconds_once(server: Server, names: Names) -> None:
    """A listener whose queue is full takes no more connections, and says nothing about it."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.2", server.port))
        deaf.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.2", server.port))
        names.addresses[NAME] = ["127.0.0.2", "127.0.0.1"]
        loop = asyncio.get_running_loop()
        async with callback_client(resolver=names) as client:
            started = loop.time()
            await client.post(url(server), content=b"1")
            first = loop.time() - started
            await client.post(url(server), content=b"2")
            second = loop.time() - started - first
        for filler in fillers:
            filler.close()
    assert first > 1.5
    assert second < 1.5, "the address that answered goes first from then on"
    assert (len(server.heads), server.connections) == (2, 1)


async def test_where_no_address_takes_a_connection_that_is_an_error(
    client: httpx.AsyncClient, server: Server, names: Names
) -> None:
    names.addresses[NAME] = ["127.0.0.2", "127.0.0.3"]
    with pytest.raises(httpx.ConnectError):
        await client.post(url(server), content=b"")


@pytest.mark.parametrize(("addresses", "told"), [(None, "does not resolve"), ([], "resolves to no address")])
async def test_a_name_without_an_address_is_an_error(
    client: httpx.AsyncClient, server: Server, names: Names, addresses: list[str] | None, told: str
) -> None:
    if addresses is None:
        del names.addresses[NAME]
    else:
        names.addresses[NAME] = addresses
    with pytest.raises(httpx.ConnectError, match=rf"^receiver\.example {told}"):
        await client.post(url(server), content=b"")


async def test_a_redirect_is_not_followed(client: httpx.AsyncClient, server: Server) -> None:
    for status in (301, 302, 303, 307, 308):
        server.answer = (
            f"HTTP/1.1 {status} Moved\r\nLocation: http://{METADATA}/latest\r\nContent-Length: 0\r\n\r\n"
        ).encode()
        assert (await client.post(url(server), content=b"")).status_code == status


async def test_proxies_and_passwords_of_the_environment_are_not_used(
    server: Server, names: Names, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with listening() as proxy:
        for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        netrc = tmp_path / "netrc"
        netrc.write_text(f"machine {NAME} login user password hunter2\n")
        monkeypatch.setenv("NETRC", str(netrc))
        async with callback_client(resolver=names) as client:
            await client.post(url(server), content=b"")
        assert proxy.connections == 0
    assert b"Authorization" not in server.heads[0]


async def test_the_systems_resolver_is_asked_where_no_other_is_given(server: Server) -> None:
    assert set(await resolve("localhost", 80)) <= {"127.0.0.1", "::1"}
    async with callback_client() as client:
        assert (await client.post(url(server, "localhost"), content=b"")).status_code == 200
        with pytest.raises(httpx.ConnectError, match="does not resolve"):
            await client.post(f"http://{'a' * 64}.example/x", content=b"")


class Authority:
    """A certificate authority and what it signs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        public = self._key.public_key()
        signs_certificates = x509.KeyUsage(
            key_cert_sign=True,
            crl_sign=True,
            **dict.fromkeys(
                ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"), False
            ),
            **dict.fromkeys(("key_agreement", "encipher_only", "decipher_only"), False),
        )
        certificate = (
            self._signed(self._name, public)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(signs_certificates, critical=True)
        )
        pem = certificate.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        self.trusted = ssl.create_default_context(cadata=pem.decode("ascii"))

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            # Python verifies strictly from 3.13 on.
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )

    def server_context(self, *names: str) -> ssl.SSLContext:
        """A server's certificate for names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives: list[x509.GeneralName] = []
        for name in names:
            try:
                alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
            except ValueError:
                alternatives.append(x509.DNSName(name))
        builder = self._signed(x509.Name([]), key.public_key()).add_extension(
            x509.SubjectAlternativeName(alternatives), critical=True
        )
        path = self._directory / f"{len(list(self._directory.iterdir()))}.pem"
        path.write_bytes(
            builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.mark.parametrize("host", [NAME, f"{NAME}.", "127.0.0.1"])
async def test_tls_verifies_the_name_not_the_address_it_was_resolved_to(
    authority: Authority, names: Names, host: str
) -> None:
    names.addresses[f"{NAME}."] = names.addresses[NAME]
    context = authority.server_context(host.removesuffix("."))
    seen: list[str | None] = []
    context.sni_callback = lambda _, name, __: seen.append(name)
    async with (
        listening(tls=context) as server,
        callback_client(resolver=names, verify=authority.trusted) as client,
    ):
        response = await client.post(url(server, host, "https"), content=b"body")
        assert response.status_code == 200
        assert f"Host: {host}:{server.port}\r\n".encode() in server.heads[0]
    assert seen == [None if host == "127.0.0.1" else NAME]


@pytest.mark.parametrize(
    ("certificate", "trusts"),
    [(("other.example", "127.0.0.1"), True), (("127.0.0.1",), True), ((NAME,), False)],
    ids=["another name", "only the address", "an unknown authority"],
)
async def test_a_certificate_that_does_not_fit_the_name_is_refused(
    authority: Authority, names: Names, certificate: tuple[str, ...], trusts: bool
) -> None:
    context = authority.server_context(*certificate)
    async with (
        listening(tls=context) as server,
        callback_client(resolver=names, verify=authority.trusted if trusts else None) as client,
    ):
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await client.post(url(server, scheme="https"), content=b"body")
        assert server.heads == []


async def test_a_connection_serves_only_the_name_whose_certificate_was_checked(
    authority: Authority, names: Names
) -> None:
    """Two names of one address: what is open for one is not used for the other."""
    names.addresses["other.example"] = ["127.0.0.1"]
    async with (
        listening(tls=authority.server_context(NAME)) as server,
        callback_client(resolver=names, verify=authority.trusted) as client,
    ):
        await client.post(url(server, scheme="https"), content=b"1")
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await client.post(url(server, "other.example", "https"), content=b"2")
        await client.post(url(server, scheme="https"), content=b"3")
        assert (len(server.heads), server.connections) == (2, 1)


async def test_the_default_port_is_the_schemes() -> None:
    asked: list[int] = []

    async def nobody(_: str, port: int) -> list[str]:
        asked.append(port)
        return []

    async with callback_client(resolver=nobody) as client:
        for scheme in ("http", "https"):
            with pytest.raises(httpx.ConnectError):
                await client.post(f"{scheme}://{NAME}/x", content=b"")
    assert asked == [80, 443]
