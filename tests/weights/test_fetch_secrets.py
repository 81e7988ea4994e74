"""Token, signature of a presigned link and home folder: not in what fetching prints, writes and leaves to exports."""

import io
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from no_time_to_train.cli import main
from no_time_to_train.errors import NoTimeToTrainError
from no_time_to_train.weights.http.download import Retries
from tests.golden_files import golden
from tests.weights.conftest import REPOSITORY
from tests.weights.fetching import meta_name
from tests.weights.hub_server import TOKEN, Fault, Hub

SIGNATURE = "AVerySecretSignature"


@dataclass
class Told:
    """What was printed, and what was logged down to the last detail and told by the tracebacks of `--debug`."""

    text: str = ""
    detail: str = ""

    def run(self, status: int, *arguments: str) -> None:
        """Run a command twice, the second time with `--debug`."""
        for debug in ((), ("--debug",)):
            stream, log = io.StringIO(), io.StringIO()
            handler = logging.StreamHandler(log)
            logging.getLogger().addHandler(handler)
            try:
                with redirect_stdout(stream), redirect_stderr(stream):
                    got = main([*arguments, *debug])
            except NoTimeToTrainError:
                got = 2 if debug else 1
                log.write(traceback.format_exc())
            finally:
                logging.getLogger().removeHandler(handler)
            assert got == status, stream.getvalue()
            self.detail += log.getvalue() + (stream.getvalue() if "--json" in arguments else "")
            self.text += "" if "--json" in arguments else stream.getvalue()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in a home of its own, in which commands are typed with relative paths."""
    folder = tmp_path / "home-of-somebody" / "work"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.chdir(folder)
    monkeypatch.setattr("no_time_to_train.weights.hub.fetch.Retries", lambda: Retries(attempts=2, first_wait=0.0))
    return folder


@pytest.fixture
def told() -> Iterator[Told]:
    levels = {name: logging.getLogger(name).level for name in ("", "httpx2", "httpcore2", "huggingface_hub")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield Told()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def link_to(hub: Hub) -> str:
    content = golden("vit_mlp_released").read_bytes()
    hub.repositories["weights"] = {meta_name(content): content}
    return f"{hub.url}/weights/{meta_name(content)}?Policy=abc&Signature={SIGNATURE}&Key-Pair-Id=K"


def check(told: Told, work: Path) -> None:
    """Search all that was printed and written."""
    home = os.fsencode(work.parent)
    content = {str(path): path.read_bytes() for path in work.parent.rglob("*") if path.is_file()}
    content |= {"printed": told.text.encode(), "for programs and developers": told.detail.encode()}
    for secret in (TOKEN.encode(), SIGNATURE.encode()):
        assert [name for name, data in content.items() if secret in data] == [], secret
    # Tracebacks name files of the installation, and programs need the path that `fetch --json` tells.
    del content["for programs and developers"]
    assert [name for name, data in content.items() if home in data] == []


def test_links(hub: Hub, work: Path, told: Told) -> None:
    link = link_to(hub)
    told.run(0, "fetch", link, "--root", "linked")
    told.run(0, "fetch", link, "--root", "again", "--json", "--quiet")
    told.run(0, "validate", "linked", "--deep")
    told.run(0, "inspect", "linked", "--json")
    check(told, work)


def test_links_that_fail(hub: Hub, work: Path, told: Told) -> None:
    link = link_to(hub)
    for fault in (
        Fault("status", status=403, body=f"<Error>AccessDenied {link} token {TOKEN}</Error>"),
        Fault("status", status=500, body=f'{{"error": "no {SIGNATURE}"}}'),
        Fault("status", status=404),
        Fault("flip", at=1000),
        Fault("drop"),
        Fault("redirect"),
    ):
        hub.always = fault
        hub.elsewhere = "http://127.0.0.1:1"
        told.run(2, "fetch", link, "--root", "linked")
    told.run(2, "fetch", f"http://127.0.0.1:1/weights/none.pth?Signature={SIGNATURE}", "--root", "linked")
    told.run(2, "fetch", link, "--root", "linked", "--revision", "main")
    told.run(2, "fetch", link, "--root", "linked", "--source", "timm")
    told.run(2, "fetch", f"{hub.url}:x/?Signature={SIGNATURE}", "--root", "linked")
    told.run(2, "doctor", link)
    check(told, work)


def test_repositories_and_the_doctor(hub: Hub, work: Path, told: Told) -> None:
    hub.gated.add(REPOSITORY)
    told.run(0, "fetch", REPOSITORY, "--root", "dino")
    told.run(0, "doctor", REPOSITORY, "--root", "dino")
    told.run(0, "doctor", REPOSITORY, "--root", "dino", "--json")
    told.run(0, "doctor")
    hub.granted = False
    told.run(2, "fetch", REPOSITORY, "--root", "refused")
    told.run(1, "doctor", REPOSITORY, "--root", "refused")
    hub.granted, hub.gated = True, set()
    hub.always = Fault("status", status=500, body=TOKEN)
    told.run(2, "fetch", REPOSITORY, "--root", "broken")
    hub.always = None
    told.run(2, "fetch", "someone/else", "--root", "none")
    told.run(0, "export", "dino", "--output", "exported", "--no-verify", "--copy-weights")
    check(told, work)
    metadata = (work / "exported" / "model.onnx").read_bytes()
    assert b"license" in metadata  # the search would find what stands there


REDIRECTED = "TheSignatureOfTheTarget"


def test_a_redirect_targets_signature(hub: Hub, work: Path, told: Told) -> None:
    """The error of the server that is redirected to repeats what it was asked."""
    hub.repositories["store"] = {"blob": b""}
    target = f"{hub.url}/store/blob?X-Amz-Signature={REDIRECTED}&X-Amz-Credential=AKIA%2Fsomebody"
    hub.always = Fault("redirect", body=target, file="config.json")
    hub.faults = [
        Fault("status", status=400, body=f"no {REDIRECTED} of AKIA/somebody, AKIA%2Fsomebody", file="blob")
    ] * 9
    told.run(2, "fetch", REPOSITORY, "--root", "dino")
    assert "no ... of ..., ..." in told.text
    for secret in (REDIRECTED, "AKIA"):
        assert secret not in told.text + told.detail


def test_an_endpoints_password(
    hub: Hub, work: Path, told: Told, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    password = "anEndpointsPassword"
    address = hub.url.replace("://", f"://me:{password}@")
    monkeypatch.setenv("HF_ENDPOINT", address)
    told.run(1, "doctor", REPOSITORY, "--root", "dino")
    hub.gated, hub.granted = {REPOSITORY}, False
    told.run(2, "fetch", REPOSITORY, "--root", "dino")
    hub.gated = set()
    hub.always = Fault("status", status=403, body='{"error": "awaiting"}')
    told.run(2, "fetch", REPOSITORY, "--root", "dino")
    for wrong in (f"me:{password}@host", f"http://me:{password}@[x", f"http://me:{password}@127.0.0.1:1"):
        monkeypatch.setenv("HF_ENDPOINT", wrong)
        told.run(2, "fetch", REPOSITORY, "--root", "dino")
    assert "expected an address" in told.text
    assert password not in told.text + told.detail


def test_a_value_that_is_cut_is_masked_before(capsys: pytest.CaptureFixture[str]) -> None:
    link = f"https://host/x.pth?{'a' * 18}=1&Signature={SIGNATURE}"
    assert main(["doctor", "small", "--source", link]) == 2
    said = capsys.readouterr().err
    assert "Signature=..." in said  # the cut is after ten characters of it
    assert SIGNATURE[:8] not in said


def test_the_search_finds_what_is_there(work: Path) -> None:
    told = Told()
    check(told, work)
    (work / "leak").write_text(TOKEN)
    with pytest.raises(AssertionError, match="leak"):
        check(told, work)


def as_process(*arguments: str, **environment: str) -> str:
    """Return what a command prints that ends in a traceback or a message, as a user starts it."""
    command = [sys.executable, "-m", "no_time_to_train", *arguments]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, check=False)
    assert done.returncode in (1, 2)
    return (done.stdout + done.stderr).decode()


def test_what_leaves_the_process(hub: Hub, work: Path) -> None:
    """Tracebacks of chained errors and the libraries' own logs, with everything that may be told switched on."""
    password = "anEndpointsPassword"
    environment = {
        "HF_ENDPOINT": hub.url.replace("://", f"://me:{password}@"),
        "HF_TOKEN": TOKEN,
        "HF_DEBUG": "1",
        "no_proxy": "127.0.0.1",
    }
    hub.repositories["store"] = {"blob": b""}
    echo = f"{TOKEN} {password} \x1b[2J"
    target = f"{hub.url}/store/blob?X-Amz-Signature={REDIRECTED}"
    hub.always = Fault("redirect", body=target, file="config.json")
    hub.faults = [Fault("status", status=400, body=f"{echo} {REDIRECTED}", file="blob")]
    told = as_process("fetch", REPOSITORY, "--root", "dino", "--debug", **environment)
    link = link_to(hub)
    hub.always = Fault("status", status=400, body=f"{echo} {SIGNATURE}")
    told += as_process("fetch", link, "--root", "dino", "--debug", **environment)
    assert told.count("Traceback") >= 2
    assert "... ... " in told
    for secret in (TOKEN, password, REDIRECTED, SIGNATURE, "\x1b"):
        assert secret not in told
