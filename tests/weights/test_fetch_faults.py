"""What a server, a network, a disk or a signal does to a fetch: the right error, and never a wrong folder."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from huggingface_hub import close_session

from no_time_to_train.errors import (
    AccessPendingError,
    AccessRejectedError,
    AuthenticationError,
    ChecksumMismatchError,
    DiskFullError,
    LocalEntryNotFoundError,
    NetworkError,
    NoTimeToTrainError,
    ProxyRefusedError,
    RepositoryNotFoundError,
    WeightsNotFoundError,
)
from no_time_to_train.weights import validate_dinov3
from no_time_to_train.weights.hub.fetch import FetchResult
from no_time_to_train.weights.hub.staging import WORKSHOP
from tests.weights.conftest import REPOSITORY
from tests.weights.fetching import WEIGHTS, fetch_tiny, same_files
from tests.weights.hub_server import TOKEN, Fault, Hub, running_hub

RETRYABLE_STATUS: list[tuple[list[Fault], int]] = [
    ([Fault("cut", at=100_000, file=WEIGHTS)], 2),
    ([Fault("cut", at=0, file=WEIGHTS)], 2),
    ([Fault("drop", file=WEIGHTS)], 2),
    ([Fault("status", status=500, file=WEIGHTS)], 2),
    ([Fault("status", status=503, file=WEIGHTS), Fault("status", status=502, file=WEIGHTS)], 3),
    ([Fault("status", status=429, headers={"Retry-After": "0"}, file=WEIGHTS)], 2),
    ([Fault("cut", at=100_000, file=WEIGHTS), Fault("no_range", file=WEIGHTS)], 2),
    ([Fault("cut", at=100_000, file=WEIGHTS), Fault("status", status=416, file=WEIGHTS)], 3),
    ([Fault("cut", at=step * 50_000, file=WEIGHTS) for step in range(1, 7)], 7),
    ([Fault("slow", file=WEIGHTS)], 1),
]


@pytest.mark.parametrize(("faults", "requests"), RETRYABLE_STATUS)
def test_what_passes_is_gone_through(
    hub: Hub, tiny_folder: Path, tmp_path: Path, faults: list[Fault], requests: int
) -> None:
    hub.faults = list(faults)
    fetch_tiny(tmp_path / "dino")
    assert same_files(tmp_path / "dino", tiny_folder)
    assert len(hub.asked_for(WEIGHTS)) == requests
    assert hub.faults == []


def test_what_was_cut_is_resumed_from_its_last_byte(hub: Hub, tmp_path: Path) -> None:
    hub.faults = [Fault("cut", at=100_000, file=WEIGHTS)]
    fetch_tiny(tmp_path / "dino")
    first, second = hub.asked_for(WEIGHTS)
    assert "Range" not in first.headers
    assert second.headers["Range"] == "bytes=100000-"


def test_the_next_call_resumes_what_one_gave_up(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    hub.faults = [Fault("cut", at=100_000, file=WEIGHTS), *(Fault("drop", file=WEIGHTS) for _ in range(3))]
    with pytest.raises(NetworkError, match="what has come is kept"):
        fetch_tiny(tmp_path / "dino")
    assert not (tmp_path / "dino").exists()
    assert not validate_dinov3(tmp_path / "dino")
    fetch_tiny(tmp_path / "dino")
    assert hub.asked_for(WEIGHTS)[-1].headers["Range"] == "bytes=100000-"
    assert same_files(tmp_path / "dino", tiny_folder)


def test_retry_after_is_waited_for(hub: Hub, tmp_path: Path) -> None:
    hub.faults = [Fault("status", status=429, headers={"Retry-After": "0.7"}, file=WEIGHTS)]
    start = time.monotonic()
    fetch_tiny(tmp_path / "dino")
    assert time.monotonic() - start >= 0.7  # without the wait: some 0.1 s, as the first wait is 0


def said(status: int, message: str) -> Fault:
    return Fault("status", status=status, body=json.dumps({"error": message}))


REFUSED: list[tuple[Fault, type[NoTimeToTrainError], str]] = [
    (Fault("status", status=401, body='{"error": "Invalid credentials"}'), AuthenticationError, "HF_TOKEN"),
    (Fault("status", status=403, body='{"error": "Your request is awaiting a review"}'), AccessPendingError, "timm"),
    (Fault("status", status=403, body='{"error": "has been rejected by the authors"}'), AccessRejectedError, "timm"),
    (
        Fault("status", status=403, body='{"error": "enable access in your fine-grained token"}'),
        AccessRejectedError,
        "read token",
    ),
    (
        Fault("status", status=403, body='{"error": "you are not in the authorized list"}'),
        AccessPendingError,
        "accept the licence",
    ),
    (Fault("status", status=404, headers={"X-Error-Code": "EntryNotFound"}), WeightsNotFoundError, "another revision"),
    (Fault("status", status=404), RepositoryNotFoundError, "check the name"),
    (Fault("status", status=500, body="oops"), NetworkError, "again later"),
    (Fault("status", status=429, headers={"Retry-After": "0"}), NetworkError, "again later"),
    (Fault("status", status=407), ProxyRefusedError, "NO_PROXY"),
    (Fault("longer"), ChecksumMismatchError, "proxy on the way"),
    (Fault("shorter"), ChecksumMismatchError, "proxy on the way"),
    (Fault("flip", at=5), ChecksumMismatchError, "changes bytes"),
    (Fault("drop"), NetworkError, "what has come is kept"),
]


@pytest.mark.parametrize(("fault", "error", "remedy"), REFUSED)
def test_what_stays_is_named_with_its_remedy(
    hub: Hub, tmp_path: Path, fault: Fault, error: type[NoTimeToTrainError], remedy: str
) -> None:
    hub.always = fault
    with pytest.raises(error, match=remedy) as caught:
        fetch_tiny(tmp_path / "dino")
    assert TOKEN not in str(caught.value)
    assert not (tmp_path / "dino").exists()
    hub.always = None
    assert fetch_tiny(tmp_path / "dino").path.is_dir()
    assert validate_dinov3(tmp_path / "dino", deep=True)


def test_a_full_disk_is_known_beforehand(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DiskFullError, match="1,000 free"):
        fetch_tiny(tmp_path / "dino")
    assert hub.asked_for(WEIGHTS) == []


def test_a_proxy_that_refuses(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_hub() as proxy:
        # To a proxy a request for https is CONNECT, which this server does not know: it refuses with 501.
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
        close_session()
        with pytest.raises(ProxyRefusedError, match="check HTTPS_PROXY"):
            fetch_tiny(tmp_path / "dino")


def test_a_network_that_is_down(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(NetworkError, match=r"cannot reach 127\.0\.0\.1"):
        fetch_tiny(tmp_path / "dino")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(LocalEntryNotFoundError, match="unset HF_HUB_OFFLINE"):
        fetch_tiny(tmp_path / "dino")


def test_two_at_once(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    hub.always = Fault("hold", file=WEIGHTS)
    done: list[FetchResult] = []
    threads = [threading.Thread(target=lambda: done.append(fetch_tiny(tmp_path / "dino"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    while not hub.asked_for(WEIGHTS) and any(thread.is_alive() for thread in threads):
        time.sleep(0.01)
    hub.gate.set()
    for thread in threads:
        thread.join()
    assert sorted(one.was_there for one in done) == [False, True]
    assert len(hub.asked_for(WEIGHTS)) == 1
    assert same_files(tmp_path / "dino", tiny_folder)


def random_fault(rng: random.Random, size: int) -> Fault:
    kind = rng.choice(["cut", "cut", "flip", "longer", "shorter", "status", "no_range", "drop"])
    status = rng.choice([401, 403, 404, 408, 416, 429, 500, 502, 503])
    headers = {"Retry-After": "0"} if status == 429 else {}
    file = rng.choice(["", WEIGHTS, "config.json"])
    return Fault(kind, at=rng.randrange(size), status=status, headers=headers, file=file)


@pytest.mark.parametrize("seed", range(120))
def test_randomised_faults(hub: Hub, tiny_folder: Path, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    root = tmp_path / "dino"
    size = len(hub.repositories[REPOSITORY][WEIGHTS])
    for _ in range(6):
        hub.faults = [random_fault(rng, size) for _ in range(rng.randrange(1, 6))]
        try:
            fetch_tiny(root)
        except NoTimeToTrainError:
            assert not validate_dinov3(root)
        # Whatever validates is what the server has.
        assert validate_dinov3(root) == root.exists()
        if root.exists():
            assert validate_dinov3(root, deep=True)
            assert same_files(root, tiny_folder)
            break
    hub.faults = []
    fetch_tiny(root)
    assert same_files(root, tiny_folder)


def start_fetch(hub: Hub, root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "no_time_to_train", "fetch", REPOSITORY, "--root", str(root), "--quiet"]
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    return subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE)


def partial_bytes(folder: Path) -> int:
    """Return how much of unfinished files is in the workshop beside a folder."""
    sizes = []
    with suppress(FileNotFoundError):  # it was finished meanwhile
        sizes += [path.stat().st_size for path in (folder / WORKSHOP).glob("dino@*/*.incomplete")]
    return sum(sizes)


def test_killed_at_any_moment(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    root = tmp_path / "dino"
    came = 0
    for attempt in range(6):
        hub.always = Fault("slow") if attempt else Fault("hold")
        process = start_fetch(hub, root)
        while not hub.requests and process.poll() is None:
            time.sleep(0.01)
        # Half of the times in the middle of a file, however fast the machine is; else wherever it is.
        while attempt >= 3 and not partial_bytes(tmp_path) and process.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.4) if attempt < 3 else 0)
        came = max(came, partial_bytes(tmp_path))
        process.send_signal(signal.SIGKILL if attempt % 2 else signal.SIGINT)
        process.communicate()
        hub.requests.clear()
        assert validate_dinov3(root) == root.exists()
        if root.exists():
            assert same_files(root, tiny_folder)
    hub.always = None
    fetch_tiny(root)
    assert came > 0  # at least one of them was in the middle of it
    assert same_files(root, tiny_folder)
