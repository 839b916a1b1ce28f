"""The port of a receiver, held from the very start, so that nothing is done for a port that is not free."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from hallmark.server.processes.child import ProcessError

__all__ = ["listening"]


@contextmanager
def listening(host: str, port: int) -> Iterator[tuple[socket.socket, str]]:
    """Listen on a port until the block ends.

    Whoever connects before the socket is served waits.

    Args:
        host: An address of IPv4 or IPv6, or a name with one of IPv4; empty is every IPv4 address.
        port: From 0, which takes a free one, to 65535.

    Yields:
        The socket, and the URL that leads to it.

    Raises:
        ProcessError: The port is in use, or this machine does not allow it.
    """
    is_ipv6 = ":" in host
    with socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_STREAM) as listener:
        # Connections that are only closing do not keep a port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_ipv6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            listener.bind((host, port))
            # Two that asked for reuse may both bind a port; only one of them may listen.
            listener.listen()
        except (OSError, UnicodeError) as exc:
            raise _refusal(host or "every address", port, exc) from exc
        shown = f"[{host}]" if is_ipv6 else host or "0.0.0.0"  # noqa: S104  # what was asked for
        yield listener, f"http://{shown}:{listener.getsockname()[1]}"


def _refusal(host: str, port: int, error: OSError | UnicodeError) -> ProcessError:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        refusal = ProcessError(f"port {port} on {host} is in use")
        refusal.add_note("choose another with --port")
    else:
        reason = error.strerror if isinstance(error, OSError) else error
        refusal = ProcessError(f"cannot listen on port {port} of {host}: {reason}")
        refusal.add_note("choose another with --host or --port")
    return refusal
