"""A server on this machine that speaks the Hub's API as far as fetching needs it, and misbehaves on demand."""

import hashlib
import itertools
import json
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_aTestTokenThatNobodyMaySee"
DRIP_SECONDS = 0.02


@cache
def bomb() -> bytes:
    """Return a gzip file of 128 kB that unpacks to one of 128 MB."""
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    zeros = bytes(1 << 20)
    return b"".join([*(packer.compress(zeros) for _ in range(1 << 7)), packer.flush()])


@dataclass
class Fault:
    """What goes wrong with the next answer about a file.

    Attributes:
        kind: `cut`, `flip`, `longer`, `shorter`, `slow`, `status`, `no_range`, `redirect`, `drop`; `endless`, a body
            without end; `bomb`, one that unpacks to a thousand times its size; `drip`, a body that comes in bytes,
            after the first `at` at once; `drip_head`, the same of the headers.
        at: The byte at which it happens, of `cut`, `flip` and `drip`.
        status: The answer's status, of `status`, `endless`, `bomb` and `drip`.
        headers: That go with it.
        body: What the server says of it.
        file: Only of this file; of any if empty.
    """

    kind: str
    at: int = 0
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: str | bytes = ""
    file: str = ""


@dataclass
class Request:
    """What the server was asked."""

    path: str
    query: str
    headers: dict[str, str]


@dataclass
class Hub:
    """Repositories and what is to go wrong with them."""

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    always: Fault | None = None
    api_faults: list[Fault] = field(default_factory=list)
    gated: set[str] = field(default_factory=set)
    granted: bool = True
    names_only: bool = False
    requests: list[Request] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    elsewhere: str = ""
    sent: int = 0

    def add(self, repository: str, folder: Path, *, revision: str = "1" * 40) -> None:
        """Put a folder's files on the server."""
        self.repositories[repository] = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        self.revisions[repository] = revision

    def asked_for(self, file: str) -> list[Request]:
        """Return the requests for a file."""
        return [request for request in self.requests if request.path.endswith(f"/{file}")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.hub.requests.append(Request(path, parts.query, dict(self.headers.items())))
        if path.startswith("/api/"):
            self._api(path)
        elif "/resolve/" in path:
            repository, _, rest = path[1:].partition("/resolve/")
            self._file(repository, rest.partition("/")[2])
        else:
            repository, _, name = path[1:].rpartition("/")
            self._file(repository, name)

    do_HEAD = do_GET

    def _say(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else b""
        if not isinstance(content, bytes):
            body = content.encode() if isinstance(content, str) else json.dumps(content or {}).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _who(self) -> str:
        return self.headers.get("Authorization", "")

    def _api(self, path: str) -> None:
        if self.hub.api_faults:
            fault = self.hub.api_faults.pop(0)
            if not self._floods(fault, bytes(10_000)):
                self._say(fault.status, fault.body, fault.headers)
        elif path == "/api/models":
            self._say(200, [])
        elif path == "/api/whoami-v2":
            known = self._who() == f"Bearer {TOKEN}"
            self._say(200 if known else 401, {"name": "someone"} if known else {"error": "Invalid credentials"})
        else:
            repository, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            files = self.hub.repositories.get(repository)
            if files is None:
                self._say(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            elif revision not in ("", "main", self.hub.revisions[repository]):
                self._say(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            else:
                self._say(200, self._listing(repository, files))

    def _listing(self, repository: str, files: dict[str, bytes]) -> dict[str, Any]:
        siblings = []
        for name, content in files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(content)}
            if self.hub.names_only:
                siblings.append({"rfilename": name})
                continue
            if name.endswith((".safetensors", ".pth")):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 100}
            entry["blobId"] = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            siblings.append(entry)
        return {"id": repository, "modelId": repository, "sha": self.hub.revisions[repository], "siblings": siblings}

    def _file(self, repository: str, name: str) -> None:
        if repository in self.hub.gated:
            if self._who() != f"Bearer {TOKEN}":
                self._say(401, {"error": "Access to model is restricted."}, {"X-Error-Code": "GatedRepo"})
                return
            if not self.hub.granted:
                self._say(403, {"error": "Your request is awaiting a review."}, {"X-Error-Code": "GatedRepo"})
                return
        content = self.hub.repositories.get(repository, {}).get(name)
        if content is None:
            self._say(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        fault = self.hub.always if self.hub.always and self.hub.always.file in ("", name) else None
        if self.command == "HEAD":
            fault = None
        elif fault is None and self.hub.faults and self.hub.faults[0].file in ("", name):
            fault = self.hub.faults.pop(0)
        self._send(repository, content, fault)

    def _send(self, repository: str, content: bytes, fault: Fault | None) -> None:
        kind = fault.kind if fault else ""
        if fault and kind == "status":
            self._say(fault.status, fault.body, fault.headers)
            return
        if fault and kind == "redirect":
            self._say(302, "", {"Location": str(fault.body or f"{self.hub.elsewhere}{self.path}")})
            return
        if fault and self._floods(fault, content):
            return
        if kind == "drop":
            self.close_connection = True
            return
        begin, end = 0, len(content)
        asked = self.headers.get("Range", "").removeprefix("bytes=")
        partly = bool(asked) and kind != "no_range"
        if partly:
            first, _, last = asked.partition("-")
            begin, end = int(first), min(int(last) + 1, len(content)) if last else len(content)
            if begin >= len(content):
                self._say(416, "", {"Content-Range": f"bytes */{len(content)}"})
                return
        if fault and kind == "flip":
            at = fault.at % len(content)
            content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        body = content[begin:end]
        if kind == "longer":
            body += b"more"
        elif kind == "shorter":
            body = body[:-1]
        self.send_response(206 if partly else 200)
        total = begin + len(body) if kind in ("longer", "shorter") else len(content)
        if partly:
            self.send_header("Content-Range", f"bytes {begin}-{begin + len(body) - 1}/{total}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.hub.revisions.get(repository, ""))
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            if fault and kind == "cut":
                self.wfile.write(body[: max(fault.at - begin, 0)])
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
            elif kind == "slow":
                for position in range(0, len(body), 4096):
                    self.wfile.write(body[position : position + 4096])
                    time.sleep(0.002)
            elif kind == "hold":
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                self.hub.gate.wait(30)
                self.wfile.write(body[len(body) // 2 :])
            else:
                self.wfile.write(body)
        except OSError:
            pass

    def _floods(self, fault: Fault, content: bytes) -> bool:
        """Send an answer that is made to take memory or time, if that is the fault."""
        if fault.kind not in ("endless", "bomb", "drip", "drip_head"):
            return False
        self.close_connection = True
        with suppress(OSError):
            if fault.kind == "drip_head":
                for byte in itertools.chain(b"HTTP/1.1 200 OK\r\nX-Long: ", itertools.repeat(b"a"[0])):
                    self.connection.sendall(bytes([byte]))
                    if self._waited():
                        return True
            first = self.headers.get("Range", "").removeprefix("bytes=").partition("-")[0]
            begin = int(first) if first and fault.kind == "drip" else 0
            status = (206 if begin else 200) if fault.kind == "drip" else fault.status
            self.send_response(status)
            if fault.kind == "bomb":
                self.send_header("Content-Encoding", "gzip")
            if fault.kind == "drip":
                self.send_header("Content-Length", str(len(content) - begin))
                if begin:
                    self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if fault.kind == "bomb":
                self.connection.sendall(bomb())
            while fault.kind == "endless":
                self.connection.sendall(bytes(1 << 16))
                self.hub.sent += 1 << 16
            if fault.kind == "drip":
                self.connection.sendall(content[begin : begin + fault.at])
                for byte in content[begin + fault.at :]:
                    self.connection.sendall(bytes([byte]))
                    if self._waited():
                        return True
        return True

    def _waited(self) -> bool:
        """Wait before the next byte; true when the server ends."""
        return self.hub.gate.wait(DRIP_SECONDS)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections end as the faults and the clients have it."""


@contextmanager
def running_hub(host: str = "127.0.0.1") -> Iterator[Hub]:
    """Run the server, on a port of its own."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = _Server((host, 0), handler)
    hub.url = f"http://{host}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.gate.set()
        server.shutdown()
        server.server_close()


__all__ = ["TOKEN", "Fault", "Hub", "Request", "running_hub"]
