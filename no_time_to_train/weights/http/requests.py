"""Requests whose answers cost neither memory nor time without end, whatever a server sends.

Of everything but a file itself at most a few megabytes are read, decompressed ones counted; the head of an answer and
the body of a small one have to come within a minute, and a file faster than a floor.
"""

import socket
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import httpx2

from no_time_to_train.errors import NetworkError
from no_time_to_train.io.redact import printable, remember_link
from no_time_to_train.weights.http.errors import Answer, session

TIMEOUT = httpx2.Timeout(30, connect=10)  # of each step, such as the next bytes
HEAD_SECONDS = 60.0
BODY_SECONDS = 60.0
MOST_BYTES = 1 << 22  # ten thousand files, listed by the Hub in some 250 bytes each, are 2.5 MB
MOST_BYTES_OF_REFUSAL = 1 << 16
_MOST_REDIRECTS = 10
_OF_TRANSFER = ("gzip", "x-gzip", "deflate")
_ZLIB_OR_GZIP = zlib.MAX_WBITS | 32


class Pace:
    """The floor of speed for a file that comes.

    Args:
        slowest: Bytes a second.
        window: Seconds over which they are counted.
    """

    def __init__(self, slowest: float, window: float) -> None:
        self._slowest, self._window = slowest, window
        self._began, self._came = time.monotonic(), 0

    def is_too_slow(self, count: int) -> bool:
        """Count bytes that came; true at the end of a window in which there were too few."""
        self._came += count
        passed = time.monotonic() - self._began
        if passed < self._window:
            return False
        too_few = self._came < self._slowest * passed
        self._began, self._came = time.monotonic(), 0
        return too_few


class _Deadline:
    """Breaks a connection off when the head of the answer has not come in time.

    The client's own limit is for each step, and begins anew with every byte.
    """

    def __init__(self) -> None:
        self.passed = False
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(HEAD_SECONDS, self._break_off)
        self._timer.daemon = True
        self._timer.start()

    def watch(self, event: str, info: Mapping[str, Any]) -> None:
        """Take note of a new connection, as the client's `trace`."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._socket = info["return_value"].get_extra_info("socket")

    def cancel(self) -> None:
        self._timer.cancel()

    def _break_off(self) -> None:
        self.passed = True
        if self._socket is not None:
            with suppress(OSError):
                # Of a TLS socket too the connection, not the session, which another thread is reading.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


@contextmanager
def opened(
    method: str, url: str, headers: Mapping[str, str] | None = None, *, other_hosts: bool = True
) -> Iterator[httpx2.Response]:
    """Send a request and give the answer with its body unread; redirects are followed, and their secrets remembered.

    Args:
        method: Of HTTP.
        url: What is asked for.
        headers: Of the request; a token goes to that host alone.
        other_hosts: Follow redirects to other hosts too; otherwise such a redirect is the answer.

    Raises:
        httpx2.HTTPError: There is no answer, or none within a minute.
        httpx2.InvalidURL: It is not an address.
        ProxyRefusedError: A proxy variable cannot be used.
    """
    remember_link(url)
    client = session()
    deadline = _Deadline()
    # A connection of its own: the deadline breaks it off.
    given = {**(headers or {}), "Accept-Encoding": "identity", "Connection": "close"}
    try:
        request = client.build_request(
            method, url, headers=given, timeout=TIMEOUT, extensions={"trace": deadline.watch}
        )
        for _ in range(_MOST_REDIRECTS + 1):
            with _sent(client, request, deadline) as response:
                following = response.next_request
                if following is not None:
                    remember_link(str(following.url), lasting=False)
                if following is None or not (other_hosts or following.url.host == request.url.host):
                    deadline.cancel()
                    yield response
                    return
            request = following
        raise httpx2.TooManyRedirects(f"more than {_MOST_REDIRECTS} redirects", request=request)
    finally:
        deadline.cancel()


@contextmanager
def _sent(client: httpx2.Client, request: httpx2.Request, deadline: _Deadline) -> Iterator[httpx2.Response]:
    try:
        response = client.send(request, stream=True, follow_redirects=False)
    except httpx2.HTTPError as error:
        if deadline.passed:
            raise httpx2.ReadTimeout(f"no whole answer within {HEAD_SECONDS:g} s", request=request) from error
        raise
    except ValueError as error:  # of the client, for some of the redirects that lead nowhere
        raise httpx2.RemoteProtocolError(f"not a usable redirect: {error}", request=request) from error
    try:
        yield response
    finally:
        response.close()


def ask(method: str, url: str, headers: Mapping[str, str] | None = None, *, other_hosts: bool = True) -> Answer:
    """Send a request and read the answer; see `opened`.

    Raises:
        NetworkError: The answer is larger than any that is of use.
    """
    with opened(method, url, headers, other_hosts=other_hosts) as response:
        return read(response)


def read(response: httpx2.Response) -> Answer:
    """Read an answer that is not a file.

    Raises:
        NetworkError: It is larger than any that is of use.
        httpx2.HTTPError: It does not come, or not within a minute.
    """
    refused = response.status_code >= 300
    most = MOST_BYTES_OF_REFUSAL if refused else MOST_BYTES
    content, whole = _beginning(response, most, refused=refused)
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding in _OF_TRANSFER:
        content, whole = _decompressed(content, most, whole=whole)
    elif coding != "identity":
        content, whole = b"", refused
    if not whole and not refused:
        raise NetworkError(
            f"{printable(response.request.url.host)}: the answer is longer than {MOST_BYTES:,} bytes, "
            "or not packed as it says",
            remedy="check HF_ENDPOINT and the proxy: it is not the Hub's",
        )
    return Answer(response.status_code, response.headers, content)


def _beginning(response: httpx2.Response, most: int, *, refused: bool) -> tuple[bytes, bool]:
    """Read so many bytes, as they come; the second value tells whether that is all."""
    end, content = time.monotonic() + BODY_SECONDS, bytearray()
    try:
        for part in response.iter_raw():
            content += part
            if len(content) > most:
                return bytes(content[:most]), False
            if time.monotonic() > end:
                raise httpx2.ReadTimeout(f"no whole answer within {BODY_SECONDS:g} s", request=response.request)
    except httpx2.HTTPError:
        if not refused:
            raise
        return bytes(content), False  # the status says enough
    return bytes(content), True


def _decompressed(content: bytes, most: int, *, whole: bool) -> tuple[bytes, bool]:
    reader = zlib.decompressobj(_ZLIB_OR_GZIP)
    try:
        found = reader.decompress(content, most + 1)
    except zlib.error:
        return b"", False
    return found[:most], whole and len(found) <= most
