"""Open exported folders in headless Chromium, in a page that is served on this machine.

python -m tests.clients.exports.open_in_chromium CLIENT NODE_MODULES MODELS JOB.json RESULT.json
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.browser import CHROMIUM, OPTIONS

HERE = Path(__file__).parent
SECONDS = 600


class Pages(SimpleHTTPRequestHandler):
    """Serves the page, the npm packages and the exports, and takes the result."""

    # By the beginning of an address.
    places: dict[str, Path]
    results: "Queue[dict[str, Any]]"
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript", ".wasm": "application/wasm"}

    def translate_path(self, path: str) -> str:
        wanted = unquote(urlsplit(path).path)
        for prefix, place in self.places.items():
            if wanted.startswith(prefix):
                found = (place / wanted[len(prefix) :]).resolve() if prefix.endswith("/") else place
                return str(found if found.is_relative_to(place.resolve()) else place / "refused")
        return str(HERE / "refused")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        self.results.put(json.loads(body))

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: files that a client tries and does not need are no errors."""


def result_of(browser: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Return what the page posts."""
    for _ in range(SECONDS):
        try:
            return Pages.results.get(timeout=1)
        except Empty:
            if browser.poll() is not None:
                sys.exit(f"Chromium ended with status {browser.returncode} before the page gave a result")
    sys.exit(f"the page gave no result in {SECONDS} seconds")


def main(client: str, modules: str, models: str, job: str, result: str) -> None:
    if CHROMIUM is None:
        sys.exit("no Chromium on this machine (Debian: apt install chromium)")
    Pages.places = {
        "/node_modules/": Path(modules).resolve(),
        "/models/": Path(models).resolve(),
        "/job.json": Path(job).resolve(),
        "/": HERE,
    }
    Pages.results = Queue()
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
    ):
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/page.html?client={client}"
        # No name is looked up: a client that loads anything from elsewhere fails.
        options = [*OPTIONS, f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        browser = subprocess.Popen(
            [CHROMIUM, *options, address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "TMPDIR": profile},
        )
        try:
            found = result_of(browser)
        finally:
            if browser.poll() is None:
                os.killpg(browser.pid, signal.SIGTERM)
            browser.wait()
            server.shutdown()
    if "failed" in found:
        sys.exit(str(found["failed"]))
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
