"""Counting what tries to reach the network, and refusing it: also what a library would swallow."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# CPython raises these events where a socket is used, by whatever name it was imported; a look-up of a name too.
_EVENTS = frozenset(
    {
        *("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.getnameinfo"),
        *("socket.gethostbyname", "socket.gethostbyaddr", "urllib.Request", "http.client.connect"),
    }
)
_attempts: list[str] | None = None
_hooked = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _attempts is None or event not in _EVENTS:
        return
    if event.startswith("socket.") and getattr(arguments[0], "family", None) == socket.AF_UNIX:
        return
    _attempts.append(f"{event} {arguments[1:] if event.startswith('socket.') else arguments}")
    raise ConnectionRefusedError("the network is closed")


@contextmanager
def closed_network() -> Iterator[list[str]]:
    """Refuse every connection and every look-up of a name, of this machine's own too, in all threads.

    Yields:
        What was tried, as long as the block lasts and after it.
    """
    global _attempts, _hooked
    if not _hooked:
        # There is no way to take it off again; outside of a block it does nothing.
        sys.addaudithook(_hook)
        _hooked = True
    attempts: list[str] = []
    _attempts = attempts
    try:
        yield attempts
    finally:
        _attempts = None
