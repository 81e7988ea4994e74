"""Servers and neighbours that mean harm: control characters, absurd listings, links where a fetch has its files."""

import json
import os
from pathlib import Path

import pytest

from no_time_to_train.cli import main
from no_time_to_train.errors import NetworkError, OutputError
from no_time_to_train.weights.hub.sources import plan_hub
from no_time_to_train.weights.hub.staging import WORKSHOP
from tests.weights.conftest import REPOSITORY
from tests.weights.fetching import AT_ONCE, WEIGHTS, fetch_tiny, same_files
from tests.weights.hub_server import Fault, Hub

ESCAPES = "\x1b]0;owned\x07\x1b[2J\r\u202eabc\x9b31m"


def unprintable(text: str) -> list[str]:
    return [character for character in text if not character.isprintable() and character not in "\n"]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("no_time_to_train.weights.hub.fetch.Retries", lambda: AT_ONCE)


def test_control_characters_of_a_server_are_escaped(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path / "dino")
    for status in (400, 401, 403, 500):
        hub.always = Fault("status", status=status, body=f"said {ESCAPES}")
        assert main(["fetch", REPOSITORY, "--root", root, "--quiet"]) == 2
        hub.api_faults = [Fault("status", status=status, headers={"X-Error-Message": "said \x9b31m"})] * 3
        assert main(["fetch", REPOSITORY, "--root", root, "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.count("said ") >= 6
    assert r"\x1b]0;owned\x07" in said
    assert unprintable(said) == []
    hub.always = None
    hub.api_faults = [
        Fault("status", status=200, body="[]"),
        Fault("status", status=200, body='{"name": "me\\u001b[2J"}'),
    ]
    main(["doctor"])
    said = capsys.readouterr().out
    assert r"belongs to me\x1b[2J" in said
    assert unprintable(said) == []


def test_control_characters_of_a_revision_and_of_arguments(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repositories["weights"] = {"m.pth": b"x"}
    for name in (f"x{ESCAPES}", f"a/b{ESCAPES}", f"http://127.0.0.1:9/m.pth{ESCAPES}?a=b"):
        assert main(["fetch", name, "--root", str(tmp_path / "dino"), "--quiet"]) == 2
    assert main(["validate", str(tmp_path / ESCAPES)]) == 2
    captured = capsys.readouterr()
    assert unprintable(captured.err + captured.out) == []


def listing(sha: str = "1", **first: object) -> str:
    """Return what the Hub says of a repository that has all it needs, but for the first file as it is given."""
    names = ("config.json", "preprocessor_config.json", WEIGHTS)
    files: list[dict[str, object]] = [{"rfilename": name, "size": 5, "blobId": "0" * 40} for name in names]
    return json.dumps({"id": REPOSITORY, "sha": sha, "siblings": [files[0] | first, *files[1:]]})


ABSURD = {
    "a sha of a megabyte": listing(sha="1" * (1 << 20)),
    "a sha of 90 kilobytes": listing(sha="1" * 90_000),
    "a sha with a path": listing(sha="../../x"),
    "a size of 400 digits": listing(size=10**400),
    "a size of 5000 digits": listing(size=7).replace("7", "9" * 5000),
    "a negative size": listing(size=-1),
    "an empty hash": listing(lfs={"size": 1, "sha256": "", "pointerSize": 1}),
    "a hash of other characters": listing(blobId="\x1b[2J"),
    "objects without end": '{"sha": "1", "siblings": ' + '[{"rfilename":' * 50_000,
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_listings(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    hub.api_faults = [Fault("status", status=200, body=ABSURD[name])] * AT_ONCE.attempts
    assert main(["fetch", REPOSITORY, "--root", str(tmp_path / "dino"), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert len(said) < 500
    assert "check HF_ENDPOINT" in said


def test_a_configuration_too_large_to_be_one(hub: Hub) -> None:
    hub.api_faults = [
        Fault("status", status=200, body=listing(lfs={"size": 5_000_000_000, "sha256": "0" * 64, "pointerSize": 1}))
    ]
    with pytest.raises(NetworkError, match=r"config\.json has 5,000,000,000 bytes, expected at most"):
        plan_hub(REPOSITORY, source=None, revision=None, retries=AT_ONCE)


def test_a_revision_that_is_too_long(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", REPOSITORY, "--root", str(tmp_path / "dino"), "--revision", "r" * 80_000]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "check the name, the revision or the link" in said


def test_a_redirect_that_leads_to_no_address(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for location in ("http://[", "ftp://host/x", "http://h:999999/", "/" + "a" * 60_000, "http://\x9b31m/", "//:0"):
        hub.always = Fault("redirect", body=location)
        assert main(["fetch", REPOSITORY, "--root", str(tmp_path / "dino"), "--quiet"]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said
        assert len(said) < 600
        assert unprintable(said) == []


def partial_of(hub: Hub, root: Path) -> Path:
    """Return where what comes of the weights is kept."""
    plan = plan_hub(REPOSITORY, source=None, revision=None, retries=AT_ONCE)
    staging = root.parent / WORKSHOP / f"{root.name}@{plan.mark}"
    return next(file for file in plan.files if file.name == WEIGHTS).partial(staging)


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "hard link"])
@pytest.mark.parametrize("cached", [False, True])
def test_what_is_not_a_file_of_ours_is_not_written(
    hub: Hub, tiny_folder: Path, tmp_path: Path, kind: str, cached: bool
) -> None:
    if cached:
        from huggingface_hub import hf_hub_download

        hf_hub_download(REPOSITORY, WEIGHTS, revision="1" * 40, endpoint=hub.url, cache_dir=tmp_path / "hub-cache")
    partial, mine = partial_of(hub, tmp_path / "dino"), tmp_path / "mine.txt"
    partial.parent.mkdir(parents=True)
    if kind != "dangling":
        mine.write_bytes(b"")
    if kind == "pipe":
        os.mkfifo(partial)
    elif kind == "hard link":
        partial.hardlink_to(mine)
    else:
        partial.symlink_to(mine)
    with pytest.raises(OutputError, match=r"remove it|cannot write"):
        fetch_tiny(tmp_path / "dino")
    assert mine.exists() == (kind != "dangling")
    assert not mine.exists() or mine.read_bytes() == b""
    partial.unlink()
    fetch_tiny(tmp_path / "dino")
    assert same_files(tmp_path / "dino", tiny_folder)


def test_folders_of_a_fetch_that_are_links(hub: Hub, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("precious")
    staging = partial_of(hub, tmp_path / "dino").parent
    for link in (staging, tmp_path / WORKSHOP):
        link.parent.mkdir(exist_ok=True)
        if link == tmp_path / WORKSHOP:
            for path in link.iterdir():
                path.unlink()
            link.rmdir()
        link.symlink_to(mine)
        with pytest.raises(OutputError, match="is a link"):
            fetch_tiny(tmp_path / "dino")
        assert [path.name for path in mine.iterdir()] == ["thesis.txt"]
        assert (mine / "thesis.txt").read_text() == "precious"
        link.unlink()


def test_a_finished_file_that_is_a_link_is_replaced(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    staging = partial_of(hub, tmp_path / "dino").parent
    staging.mkdir(parents=True)
    (staging / WEIGHTS).symlink_to(tiny_folder / WEIGHTS)
    fetch_tiny(tmp_path / "dino")
    assert not (tmp_path / "dino" / WEIGHTS).is_symlink()
    assert same_files(tmp_path / "dino", tiny_folder)
