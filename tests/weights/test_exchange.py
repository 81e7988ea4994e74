"""Servers that send without end, too slowly, or packed: a fetch takes neither memory nor time for them."""

import gzip
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import close_session

from no_time_to_train.cli import main
from no_time_to_train.errors import (
    AccessPendingError,
    AccessRejectedError,
    NetworkError,
    NoTimeToTrainError,
    RepositoryNotFoundError,
)
from no_time_to_train.weights.http import requests as exchange
from no_time_to_train.weights.http.download import Retries
from no_time_to_train.weights.http.requests import Pace
from no_time_to_train.weights.hub.doctor import run_checks
from no_time_to_train.weights.hub.fetch import fetch
from no_time_to_train.weights.hub.sources import plan_hub
from tests.weights.conftest import REPOSITORY
from tests.weights.fetching import AT_ONCE, WEIGHTS, fetch_tiny, same_files
from tests.weights.hub_server import Fault, Hub

MUCH = 24 << 20  # six times the most that is read of an answer, for its copies; the bomb has 128 MiB


def within(most: int, act: Callable[[], object]) -> None:
    tracemalloc.start()
    try:
        act()
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["endless", "bomb"])
def test_listings_without_end(hub: Hub, tmp_path: Path, kind: str) -> None:
    hub.api_faults = [Fault(kind, status=200)]

    def act() -> None:
        with pytest.raises(NetworkError, match=r"longer than 4,194,304 bytes.*\(check HF_ENDPOINT"):
            fetch_tiny(tmp_path / "dino")

    within(MUCH, act)
    assert len(hub.requests) == 1  # another try would bring the same


@pytest.mark.parametrize("kind", ["endless", "bomb"])
@pytest.mark.parametrize(("status", "error"), [(403, AccessPendingError), (404, RepositoryNotFoundError)])
def test_refusals_without_end_are_refusals(
    hub: Hub, tmp_path: Path, kind: str, status: int, error: type[NoTimeToTrainError]
) -> None:
    hub.api_faults = [Fault(kind, status=status)]

    def act() -> None:
        with pytest.raises(error):
            fetch_tiny(tmp_path / "dino")

    within(MUCH, act)
    hub.always = Fault(kind, status=status, file=WEIGHTS)
    within(MUCH, act)


def test_links_and_redirects_without_end(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["weights"] = {"m.pth": b"x" * 1000}
    hub.always = Fault("endless", status=403)

    def refused() -> None:
        with pytest.raises(AccessRejectedError):
            fetch_tiny(tmp_path / "dino", f"{hub.url}/weights/m.pth")

    within(MUCH, refused)
    hub.always = Fault("redirect", body=f"{hub.url}/weights/m.pth")  # to itself

    def redirected() -> None:
        with pytest.raises(NetworkError, match="redirects"):
            fetch_tiny(tmp_path / "dino", f"{hub.url}/weights/m.pth")

    within(MUCH, redirected)


def test_the_doctor_before_answers_without_end(hub: Hub, tmp_path: Path) -> None:
    hub.api_faults = [Fault("endless", status=200)] * 2

    def act() -> None:
        assert [finding.state for finding in run_checks(REPOSITORY, tmp_path / "dino")][:2] == ["failed", "left out"]

    within(MUCH, act)


def test_packed_answers_are_read(hub: Hub) -> None:
    """Nobody asks for them, and some proxies send them all the same."""
    answer = gzip.compress(json.dumps({"sha": "1" * 40, "siblings": []}).encode())
    hub.api_faults = [Fault("status", status=200, body=answer, headers={"Content-Encoding": "gzip"})]
    with pytest.raises(NoTimeToTrainError, match=r"neither model\.safetensors"):
        plan_hub(REPOSITORY, source=None, revision=None, retries=AT_ONCE)


SLOW = Retries(attempts=3, first_wait=0.0, min_speed=1e6, speed_window=0.2)


def test_a_file_that_drips_is_given_up(hub: Hub, tmp_path: Path) -> None:
    hub.always = Fault("drip", at=1000, file=WEIGHTS)
    begin = time.monotonic()
    with pytest.raises(NetworkError, match=r"less than 1,000,000 bytes a second for 0\.2 s \(run it again"):
        fetch(REPOSITORY, tmp_path / "dino", quiet=True, retries=SLOW)
    assert time.monotonic() - begin < 20  # three windows; all 400,000 bytes would take two hours
    first, *others = hub.asked_for(WEIGHTS)
    assert "Range" not in first.headers
    assert len(others) == 2
    assert all(int(other.headers["Range"][6:-1]) >= 1000 for other in others)  # it went on from there


def test_a_file_that_drips_once_comes_with_the_next_connection(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    hub.faults = [Fault("drip", at=1000, file=WEIGHTS)]
    fetch(REPOSITORY, tmp_path / "dino", quiet=True, retries=SLOW)
    assert same_files(tmp_path / "dino", tiny_folder)
    assert len(hub.asked_for(WEIGHTS)) == 2


def test_a_few_bytes_a_connection_are_given_up(hub: Hub, tmp_path: Path) -> None:
    """Each connection brings something, and all of them together next to nothing."""
    hub.faults = [Fault("cut", at=count, file=WEIGHTS) for count in range(1, 30)]
    retries = Retries(attempts=3, first_wait=0.05, min_speed=1000.0)
    with pytest.raises(NetworkError, match="closed connection without sending"):
        fetch(REPOSITORY, tmp_path / "dino", quiet=True, retries=retries)
    assert len(hub.asked_for(WEIGHTS)) == 3


def test_answers_that_drip(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(exchange, "BODY_SECONDS", 0.3)
    for fault in (Fault("drip_head"), Fault("drip", at=1)):
        hub.api_faults = [fault] * AT_ONCE.attempts
        begin = time.monotonic()
        with pytest.raises(NetworkError, match=r"no whole answer within 0\.3 s"):
            fetch_tiny(tmp_path / "dino")
        assert time.monotonic() - begin < 10  # three tries; the whole answer would take three minutes
    hub.api_faults = []
    hub.always = Fault("drip_head", file=WEIGHTS)
    with pytest.raises(NetworkError, match=r"no whole answer within 0\.3 s"):
        fetch_tiny(tmp_path / "dino")


def test_pace_counts_over_windows() -> None:
    pace = Pace(1000.0, 0.05)
    assert not pace.is_too_slow(1)  # not yet
    time.sleep(0.06)
    assert pace.is_too_slow(1)
    time.sleep(0.06)
    assert not pace.is_too_slow(10_000)


PROXIES = [
    "me:pw@:::x",
    "me:aProxysPassword@:::x",
    "http://",
    "http://[::1",
    "http://h:99999",
    "http://h:1:2",
    "@",
    ":",
    "http://%zz@",
    "foo://x",
]


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("command", ["fetch", "doctor"])
def test_proxies_that_are_not_addresses(
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    proxy: str,
    command: str,
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setattr("no_time_to_train.weights.hub.fetch.Retries", lambda: AT_ONCE)
    close_session()
    status = main([command, REPOSITORY, "--root", str(tmp_path / "dino")])
    captured = capsys.readouterr()
    assert status == {"fetch": 2, "doctor": 1}[command]
    assert "proxy" in (captured.err + captured.out).lower()
    assert "aProxysPassword" not in captured.err + captured.out
    if command == "fetch":
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
