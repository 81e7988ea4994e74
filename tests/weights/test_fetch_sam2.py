"""SAM2's files by name: from Meta's address, checked against their hashes, and named where one is missing."""

import hashlib
import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from no_time_to_train.cli import main
from no_time_to_train.configs import sam2_releases as sam2_files
from no_time_to_train.configs.sam2 import SAM2_CONFIGS
from no_time_to_train.configs.sam2_releases import SAM2_FILES
from no_time_to_train.errors import (
    ChecksumMismatchError,
    ConfigError,
    OutputError,
    UnknownEncoderError,
    WeightsNotFoundError,
)
from no_time_to_train.proposers.sam2.predictor import build_sam2
from no_time_to_train.weights.hub.fetch import FetchResult, fetch
from tests.weights.fetching import AT_ONCE
from tests.weights.hub_server import Fault, Hub

NAME = "sam2_hiera_tiny"
CONTENT = bytes(range(256)) * 500


@pytest.fixture
def meta(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Meta's server, with a small file under the name of one of SAM2's, and its hash in the table."""
    file = replace(SAM2_FILES[NAME], sha256=hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(sam2_files, "SAM2_FILES", {**SAM2_FILES, NAME: file})
    monkeypatch.setattr(sam2_files, "PUBLIC_ADDRESS", f"{hub.url}/segment_anything_2")
    hub.repositories["segment_anything_2/072824"] = {f"{NAME}.pt": CONTENT}
    return hub


def fetch_sam2(name: str = NAME, root: Path | None = None) -> FetchResult:
    return fetch(name, root, quiet=True, retries=AT_ONCE)


def test_the_table() -> None:
    assert {file.config for file in SAM2_FILES.values()} == set(SAM2_CONFIGS)
    for name, file in SAM2_FILES.items():
        assert len(bytes.fromhex(file.sha256)) == 32
        release = "092824" if name.startswith("sam2.1") else "072824"
        assert file.url == f"https://dl.fbaipublicfiles.com/segment_anything_2/{release}/{name}.pt"
    assert len({file.sha256 for file in SAM2_FILES.values()}) == 8


def test_a_file_is_fetched_to_where_it_is_looked_for(meta: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    meta.faults = [Fault("none"), Fault("cut", at=50_000)]
    done = fetch_sam2()
    path = Path("checkpoints") / f"{NAME}.pt"
    assert done.path == path.resolve()
    assert path.read_bytes() == CONTENT
    assert not done.was_there
    assert meta.requests[-1].headers["Range"] == "bytes=50000-"
    assert not any("Authorization" in request.headers for request in meta.requests)
    assert [entry.name for entry in Path("checkpoints/.ntt-fetch").iterdir() if entry.suffix != ".lock"] == []
    asked = len(meta.requests)
    assert fetch_sam2().was_there
    assert len(meta.requests) == asked
    assert main(["fetch", f"{NAME}.pt", "--root", "other folder", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["encoder"], told["size"], told["was_there"]) == (NAME, len(CONTENT), False)
    assert Path("other folder", f"{NAME}.pt").read_bytes() == CONTENT


def test_a_link_to_it_is_checked_too(meta: Hub, tmp_path: Path) -> None:
    link = f"{meta.url}/segment_anything_2/072824/{NAME}.pt?Signature=abcdef"
    done = fetch_sam2(link, tmp_path)
    assert done.source == link.partition("?")[0]
    assert (tmp_path / f"{NAME}.pt").read_bytes() == CONTENT


def test_other_bytes_are_refused(meta: Hub, tmp_path: Path) -> None:
    meta.always = Fault("flip", at=7)
    with pytest.raises(ChecksumMismatchError, match="another hash than sha256"):
        fetch_sam2(root=tmp_path)
    assert not (tmp_path / f"{NAME}.pt").exists()


def test_what_is_there_is_kept(meta: Hub, tmp_path: Path) -> None:
    path = tmp_path / f"{NAME}.pt"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="not the released file"):
        fetch_sam2(root=tmp_path)
    assert path.read_bytes() == b"mine"
    assert meta.requests == []
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="not the released file"):
        fetch_sam2(root=tmp_path)
    assert not (tmp_path / "nowhere").exists()


def test_names_that_are_near(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    for name, nearest in (
        ("facebook/sam2-hiera-tiny", NAME),
        ("facebook/sam2.1-hiera-large", "sam2.1_hiera_large"),
        ("sam2_tiny", NAME),
        ("sam2_hiera_l", "sam2_hiera_large"),
    ):
        with pytest.raises(UnknownEncoderError, match=f"not an encoder but a SAM2 .ntt fetch {nearest}.$"):
            fetch_sam2(name)
    assert main(["doctor", NAME]) == 2
    assert f"ntt fetch {NAME}" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="leave --source out"):
        fetch(NAME, source="timm")
    with pytest.raises(ConfigError, match="leave --revision out"):
        fetch(NAME, revision="main")
    assert hub.requests == []


def test_a_missing_file_is_answered_with_the_command_that_fetches_it(meta: Hub) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"ntt fetch sam2\.1_hiera_large brings them to checkpoints/"):
        build_sam2("configs/sam2.1/sam2.1_hiera_l.yaml")
    for path in (f"checkpoints/{NAME}.pt", f"a folder/{NAME}.pt"):
        with pytest.raises(WeightsNotFoundError, match="ntt fetch") as caught:
            build_sam2("sam2_hiera_t.yaml", path)
        command = caught.value.remedy.partition(" brings")[0]
        assert main(shlex.split(command)[1:]) == 0
        assert Path(path).read_bytes() == CONTENT
    with pytest.raises(WeightsNotFoundError, match="ntt fetch sam2_hiera_tiny brings"):
        build_sam2("sam2_hiera_t.yaml", "nowhere.pt")
