"""Headless Chromium, in which tests open the pages that the project writes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
).split()

# CI installs it (.ci/run), so that there a test without it fails.
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="no Chromium on this machine (Debian: apt install chromium)"
)


def dumped(page: Path, profile: Path) -> str:
    """Return the document as it is once Chromium has run a page."""
    return _run(page, profile, "--window-size=1280,900", "--dump-dom")


def screenshot(page: Path, profile: Path, size: tuple[int, int], picture: Path) -> None:
    """Take a picture of a page as PNG."""
    _run(page, profile, "--window-size={},{}".format(*size), f"--screenshot={picture}")


def _run(page: Path, profile: Path, *options: str) -> str:
    assert CHROMIUM is not None, "no Chromium: .ci/run installs it"
    command = [CHROMIUM, *OPTIONS, "--virtual-time-budget=5000", f"--user-data-dir={profile}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
