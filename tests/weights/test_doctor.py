"""The doctor names the first thing that is wrong, and what mends it."""

import json
import shutil
from pathlib import Path

import pytest

from no_time_to_train.cli import main
from no_time_to_train.errors import NetworkError
from no_time_to_train.weights import inspect
from no_time_to_train.weights.http.download import Retries
from no_time_to_train.weights.hub.doctor import Finding, as_text, run_checks
from no_time_to_train.weights.hub.fetch import fetch
from no_time_to_train.weights.hub.sources import plan_hub
from tests.golden_files import golden
from tests.weights.conftest import REPOSITORY
from tests.weights.hub_server import Fault, Hub


def states(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.state for finding in findings}


def first_failure(findings: list[Finding]) -> Finding:
    return next(finding for finding in findings if finding.state == "failed")


def test_a_whole_folder_has_nothing_wrong(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(REPOSITORY, tmp_path / "dino", quiet=True)
    capsys.readouterr()
    assert main(["doctor", REPOSITORY, "--root", str(tmp_path / "dino")]) == 0
    said = capsys.readouterr().out
    assert "nothing is wrong" in said
    assert "belongs to someone" in said
    assert [line.split()[0] for line in said.splitlines()[:6]] == [
        "network",
        "token",
        "access",
        "disk",
        "cache",
        "files",
    ]


def test_nothing_fetched_yet(hub: Hub, tmp_path: Path) -> None:
    findings = run_checks(REPOSITORY, tmp_path / "dino")
    assert first_failure(findings).check == "files"
    assert "ntt fetch" in first_failure(findings).remedy
    assert not (tmp_path / "dino").exists()


def test_weights_of_another_encoder_are_not_fine(
    hub: Hub, tiny_folder: Path, small_folder: Path, tmp_path: Path
) -> None:
    """`ntt fetch` refuses the folder."""
    fetch(REPOSITORY, tmp_path / "dino", quiet=True)
    hub.add("someone/other", tiny_folder)
    finding = run_checks("someone/other", tmp_path / "dino")[-1]
    assert finding.state == "failed"
    assert f"holds another encoder, {REPOSITORY}, expected someone/other" in finding.found
    # Tensors alone tell it too, of a folder that came by other means.
    shutil.copytree(tiny_folder, tmp_path / "copied")
    finding = run_checks("dinov3_small", tmp_path / "copied")[-1]
    assert finding.state == "failed"
    assert "expected dinov3_small" in finding.found
    shutil.copytree(small_folder, tmp_path / "small")
    assert run_checks("dinov3_small", tmp_path / "small")[-1].state == "fine"


def test_a_folder_below_a_file(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert states(run_checks(REPOSITORY, tmp_path / "file" / "dino"))["disk"] == "failed"
    assert "is not a folder" in as_text(run_checks(REPOSITORY, tmp_path / "file" / "dino"))
    assert states(run_checks(REPOSITORY, Path("a\0b")))["disk"] == "failed"


def test_without_an_encoder_access_and_files_are_left_out(hub: Hub) -> None:
    found = states(run_checks(None, None))
    assert found == {
        **dict.fromkeys(("network", "token", "disk", "cache"), "fine"),
        **dict.fromkeys(("access", "files"), "left out"),
    }


def test_a_network_that_is_down(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(REPOSITORY, tmp_path / "dino", quiet=True)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    findings = run_checks(REPOSITORY, tmp_path / "dino")
    assert first_failure(findings).check == "network"
    assert "HTTPS_PROXY" in first_failure(findings).remedy
    assert states(findings) | {"network": ""} == {
        **dict.fromkeys(("disk", "cache", "files"), "fine"),
        **dict.fromkeys(("token", "access"), "left out"),
        "network": "",
    }
    assert "they need no network" in as_text(findings)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "unset HF_HUB_OFFLINE" in first_failure(run_checks(None, None)).remedy


def test_a_bad_token(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated = {REPOSITORY}
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    findings = run_checks(REPOSITORY, tmp_path / "dino")
    assert first_failure(findings).check == "token"
    assert "set HF_TOKEN" in first_failure(findings).remedy
    assert "hf_another" not in as_text(findings)


def test_access_that_is_not_granted(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated, hub.granted = {REPOSITORY}, False
    # The Hub lists a gated repository's files to everybody.
    findings = run_checks(REPOSITORY, tmp_path / "dino")
    assert first_failure(findings).check == "access"
    assert "wait for the mail" in first_failure(findings).remedy
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    findings = run_checks(REPOSITORY, tmp_path / "dino")
    assert states(findings)["token"] == "fine"
    assert first_failure(findings).check == "access"
    assert "HF_TOKEN" in first_failure(findings).remedy
    assert first_failure(run_checks("someone/else", tmp_path / "dino")).remedy == "check the name"


def test_a_full_disk(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    finding = first_failure(run_checks(REPOSITORY, tmp_path / "dino"))
    assert finding.check == "disk"
    assert "--root" in finding.remedy


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_disk_with_just_enough_room(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: int) -> None:
    size = plan_hub(REPOSITORY, source=None, revision=None, retries=Retries()).size
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=size - lacking))
    disk = next(finding for finding in run_checks(REPOSITORY, tmp_path / "dino") if finding.check == "disk")
    assert disk.state == ("failed" if lacking else "fine")
    assert not lacking or "make room for 1 bytes" in disk.remedy


def test_where_weights_are_looked_for(
    hub: Hub, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry entry's may be at hand under another name; a repository's are in its own folder only."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "dinov3_small").symlink_to(small_folder)
    assert run_checks("dinov3_small", None)[-1].state == "fine"
    assert run_checks(REPOSITORY, None)[-1].state == "failed"


def test_a_file_is_looked_at_by_its_headers(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(file: Path) -> str:
        raise AssertionError(f"{file} is read whole, which takes long for a large one")

    monkeypatch.setattr(inspect, "sha256_of", unexpected)
    for encoder in (None, REPOSITORY):
        finding = run_checks(encoder, golden("vit_mlp_released"))[-1]
        assert finding.state == "fine"
        assert "is whole, dinov3_vit, width 64" in finding.found


def test_an_unfinished_fetch_and_a_damaged_folder(hub: Hub, tmp_path: Path) -> None:
    hub.faults = [Fault("cut", at=100_000), *[Fault("drop")] * 3]
    hub.repositories[REPOSITORY].pop("LICENSE.md")
    hub.faults = [Fault("none"), Fault("none"), *hub.faults]
    with pytest.raises(NetworkError):
        fetch(REPOSITORY, tmp_path / "dino", quiet=True, retries=Retries(attempts=3, first_wait=0.0))
    cache = next(finding for finding in run_checks(REPOSITORY, tmp_path / "dino") if finding.check == "cache")
    assert "unfinished fetch" in cache.found
    fetch(REPOSITORY, tmp_path / "dino", quiet=True)
    (tmp_path / "dino" / "config.json").unlink()
    finding = first_failure(run_checks(REPOSITORY, tmp_path / "dino"))
    assert (finding.check, "config.json" in finding.found) == ("files", True)


def test_the_command_gives_json_and_a_status(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", REPOSITORY, "--root", str(tmp_path / "dino"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[-1]["state"] == "failed"
    assert main(["doctor", "dinov3_smal"]) == 2
    assert "did you mean dinov3_small?" in capsys.readouterr().err
