"""Bytes on a socket, as no HTTP client would send them."""

import socket
from contextlib import closing
from typing import NamedTuple
from urllib.parse import urlsplit

__all__ = ["SMUGGLING", "RawAnswers", "send_raw"]

_INNER = "POST /api/v1/pow/init/generate HTTP/1.1\r\nHost: node\r\nContent-Length: 0\r\n\r\n"


def _post(*headers: str, body: str = "") -> bytes:
    lines = ["POST /api/v1/pow/phase/generate HTTP/1.1", "Host: node", *headers]
    return ("\r\n".join(lines) + f"\r\n\r\n{body}").encode("latin-1")


SMUGGLING = {
    "two lengths": _post(f"Content-Length: {len(_INNER)}", "Content-Length: 0", body=_INNER),
    "the same length twice": _post("Content-Length: 0", "Content-Length: 0"),
    "a list of lengths": _post("Content-Length: 0, 0"),
    "a length and chunks": _post(
        f"Content-Length: {5 + len(_INNER)}", "Transfer-Encoding: chunked", body=f"0\r\n\r\n{_INNER}"
    ),
    "a negative length": _post("Content-Length: -1"),
    "a length with a sign": _post("Content-Length: +0"),
    "a length in hexadecimal": _post("Content-Length: 0x0"),
    "a length of thirty digits": _post(f"Content-Length: {10**30}"),
    "an unknown encoding": _post("Transfer-Encoding: xchunked", body="0\r\n\r\n"),
    "chunks not last": _post("Transfer-Encoding: chunked, identity", body="0\r\n\r\n"),
    "a space before the colon": _post("Transfer-Encoding : chunked", body="0\r\n\r\n"),
    "a folded header": _post("X-Folded: a", " b", "Content-Length: 0"),
    "a folded encoding": _post("Transfer-Encoding:", " chunked", body=f"0\r\n\r\n{_INNER}"),
    "bare line feeds": b"POST /api/v1/pow/phase/generate HTTP/1.1\nHost: node\nContent-Length: 0\n\n",
    "a bare carriage return": _post("X-A: a\rX-B: b", "Content-Length: 0"),
    "a null in a header": _post("X-A: a\0b", "Content-Length: 0"),
    "a chunk of more than 64 bits": _post("Transfer-Encoding: chunked", body="FFFFFFFFFFFFFFFFF\r\n"),
    "a negative chunk": _post("Transfer-Encoding: chunked", body="-1\r\n"),
    "bytes in the path": b"GET /api/v1/pow/validate/\xff\xfe HTTP/1.1\r\nHost: node\r\n\r\n",
    "a method that is none": b"PO\x01T /api/v1/pow/stop HTTP/1.1\r\nHost: node\r\nContent-Length: 0\r\n\r\n",
}
"""Requests about which two parsers may differ; to a strict one none of them is HTTP."""


class RawAnswers(NamedTuple):
    """What came back.

    Attributes:
        statuses: The status of each answer.
        text: All of it.
    """

    statuses: list[int]
    text: bytes


def send_raw(url: str, data: bytes) -> RawAnswers:
    """Send bytes, and read until the server closes the connection or says nothing more for a second."""
    address = urlsplit(url)
    received = b""
    with closing(socket.create_connection((address.hostname, address.port), timeout=10)) as connection:
        connection.sendall(data)
        try:
            while part := connection.recv(65536):
                received += part
                connection.settimeout(1)
        except TimeoutError:
            pass
    parts = received.split(b"HTTP/1.1 ")[1:]
    return RawAnswers([int(part[:3]) for part in parts], received)
