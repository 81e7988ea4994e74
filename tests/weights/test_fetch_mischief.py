"""What nobody should do to a fetch, and what it does then: one line, status 2, nothing lost, no secret told."""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import close_session

from no_time_to_train.cli import fetcher_main, main
from no_time_to_train.errors import (
    ConfigError,
    LocalEntryNotFoundError,
    NetworkError,
    OutputError,
    RepositoryNotFoundError,
)
from no_time_to_train.weights import check_folder, validate_dinov3
from no_time_to_train.weights.http.download import Retries
from no_time_to_train.weights.hub.doctor import run_checks
from no_time_to_train.weights.hub.fetch import FetchResult, fetch
from no_time_to_train.weights.hub.manifest import MANIFEST, read_manifest
from no_time_to_train.weights.hub.sources import Kind, plan_hub
from no_time_to_train.weights.hub.staging import WORKSHOP
from tests.bad_inputs.table import permissions_bind
from tests.golden_files import golden
from tests.weights.conftest import REPOSITORY, SMALL
from tests.weights.fetching import AT_ONCE, WEIGHTS
from tests.weights.hub_server import TOKEN, Fault, Hub

SECRET = "AVerySecretSignature"


def fetch_quietly(name: str, root: Path, *, revision: str | None = None, retries: Retries = AT_ONCE) -> FetchResult:
    return fetch(name, root, quiet=True, retries=retries, revision=revision)


@dataclass(frozen=True, kw_only=True)
class Meanwhile(Retries):
    """Does something while a fetch waits for its next attempt."""

    action: Callable[[], object]

    def wait(self, failures: int, asked: float | None = None) -> None:
        self.action()


def changed(content: bytes) -> bytes:
    """Return other weights of the same length."""
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("with_manifest", [True, False])
def test_an_old_folder_left_in_the_workshop_is_not_taken_up(hub: Hub, tmp_path: Path, with_manifest: bool) -> None:
    """As whoever is killed between the swap and the removal of the old folder leaves it."""
    root = tmp_path / "dino"
    fetch_quietly(REPOSITORY, root)
    hub.repositories[REPOSITORY][WEIGHTS] = changed(hub.repositories[REPOSITORY][WEIGHTS])
    hub.revisions[REPOSITORY] = "2" * 40
    mark = plan_hub(REPOSITORY, source=None, revision=None, retries=AT_ONCE).mark
    root.rename(tmp_path / WORKSHOP / f"dino@{mark}")
    if not with_manifest:
        (tmp_path / WORKSHOP / f"dino@{mark}" / MANIFEST).unlink()
    fetch_quietly(REPOSITORY, root)
    assert (root / WEIGHTS).read_bytes() == hub.repositories[REPOSITORY][WEIGHTS]


def test_a_folder_that_was_replaced_goes_with_the_next_fetch(hub: Hub, tmp_path: Path) -> None:
    """As whoever is killed right behind the swap leaves it; a newer one that was not put in place yet stays."""
    root, staging = tmp_path / "dino", tmp_path / WORKSHOP / ("dino@" + 12 * "0")
    fetch_quietly(REPOSITORY, root)
    shutil.copytree(root, staging)
    manifest = json.loads((staging / MANIFEST).read_text())
    for revision in (None, "main"):
        for fetched, stays in (("2020-01-01T00:00:00+00:00", False), ("2999-01-01T00:00:00+00:00", True)):
            shutil.copytree(root, staging, dirs_exist_ok=True)
            (staging / MANIFEST).write_text(json.dumps(manifest | {"fetched": fetched}))
            assert fetch_quietly(REPOSITORY, root, revision=revision).was_there
            assert staging.exists() is stays


def test_a_link_whose_file_changes_meanwhile(hub: Hub, tmp_path: Path) -> None:
    content = golden("vit_mlp_released").read_bytes()
    hub.repositories["weights"] = {"enc-20250814.pth": content}  # digits, and no hash of Meta's
    link = f"{hub.url}/weights/enc-20250814.pth"
    hub.faults = [Fault("none"), Fault("cut", at=100_000)]
    with pytest.raises(NetworkError, match="changed while it came"):
        fetch_quietly(
            link,
            tmp_path / "dino",
            retries=Meanwhile(
                action=lambda: hub.repositories["weights"].update({"enc-20250814.pth": changed(content)})
            ),
        )
    fetch_quietly(link, tmp_path / "dino")
    assert (tmp_path / "dino" / "enc-20250814.pth").read_bytes() == changed(content)
    assert "Range" not in hub.requests[-1].headers


def test_manifests_that_leave_files_out(hub: Hub, tmp_path: Path) -> None:
    root = tmp_path / "dino"
    fetch_quietly(REPOSITORY, root)
    manifest = json.loads((root / MANIFEST).read_text())
    for left_out in ([], [WEIGHTS], ["config.json", "preprocessor_config.json"]):
        files = {name: manifest["files"][name] for name in left_out}
        (root / MANIFEST).write_text(json.dumps(manifest | {"files": files}))
        assert not validate_dinov3(root)
        with pytest.raises(LocalEntryNotFoundError, match="fetch it again"):
            check_folder(root, deep=True)


def test_other_weights_beside_those_of_a_link(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    hub.repositories["weights"] = {"m.pth": golden("vit_mlp_released").read_bytes()}
    fetch_quietly(f"{hub.url}/weights/m.pth", tmp_path / "dino")
    shutil.copy(tiny_folder / WEIGHTS, tmp_path / "dino" / WEIGHTS)
    with pytest.raises(LocalEntryNotFoundError, match=r"were not fetched into it: model\.safetensors"):
        check_folder(tmp_path / "dino", deep=True)


@pytest.mark.parametrize("name", ["my_finetuned.safetensors", "README.md", "LICENSE-notes", "meta.pth"])
def test_files_of_the_users_own_are_kept(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.repositories["weights"] = {"meta.pth": golden("vit_mlp_released").read_bytes()}
    root = tmp_path / "dino"
    root.mkdir()
    (root / name).write_bytes(b"precious")
    for wanted in (REPOSITORY, f"{hub.url}/weights/meta.pth"):
        with pytest.raises(OutputError, match="which would be lost"):
            fetch_quietly(wanted, root)
    assert (root / name).read_bytes() == b"precious"
    (root / name).unlink()
    (root / "config.json").mkdir()
    (root / "config.json" / "a").write_text("precious")
    with pytest.raises(OutputError, match="which would be lost"):
        fetch_quietly(REPOSITORY, root)


def test_files_that_appear_meanwhile_are_kept(hub: Hub, tmp_path: Path) -> None:
    root = tmp_path / "dino"
    root.mkdir()
    hub.faults = [Fault("cut", at=1000, file=WEIGHTS)]
    with pytest.raises(OutputError, match=r"mine\.txt"):
        fetch_quietly(REPOSITORY, root, retries=Meanwhile(action=lambda: (root / "mine.txt").write_text("mine")))
    assert (root / "mine.txt").read_text() == "mine"


def test_the_current_folder_is_not_swapped_away(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(OutputError, match="where this command runs"):
        fetch_quietly(REPOSITORY, Path())
    assert Path.cwd() == tmp_path / "here"


def test_odd_names_of_folders(hub: Hub, tmp_path: Path) -> None:
    for name in ("m@v2", "m", "a**b", "[x]", "ä ö"):
        fetch_quietly(REPOSITORY, tmp_path / name)
        assert run_checks(REPOSITORY, tmp_path / name)[-1].state == "fine"
    assert all(validate_dinov3(tmp_path / name, deep=True) for name in ("m@v2", "m", "a**b", "[x]", "ä ö"))
    with pytest.raises(ConfigError, match="not a folder's name"):
        fetch_quietly(REPOSITORY, Path("a\0b"))


def test_a_branch_that_has_not_moved_is_there(hub: Hub, tmp_path: Path) -> None:
    fetch_quietly(REPOSITORY, tmp_path / "dino", revision="main")
    hub.requests.clear()
    assert fetch_quietly(REPOSITORY, tmp_path / "dino", revision="main").was_there
    assert [request.path for request in hub.requests] == [f"/api/models/{REPOSITORY}/revision/main"]


def test_secrets_of_links_stay_secret(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    hub.repositories["weights"] = {"m.pth": golden("vit_mlp_released").read_bytes()}
    link = f"{hub.url}/weights/m.pth?Signature={SECRET}"
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"paths": {"dataset_root": "data"}, "train": {"dino_model": link}}))
    assert fetcher_main(["--config", str(config)]) == 0
    assert main(["fetch", link.replace("http", "HTTP"), "--root", str(tmp_path / "upper")]) == 0
    assert main(["fetch", f" {link}", "--root", str(tmp_path / "blank")]) == 0
    assert main(["doctor", link]) == 2
    assert main(["fetch", link.removeprefix("http://")]) == 2
    hub.always = Fault("status", status=400, body=f"you asked {link} with Bearer {TOKEN}")
    assert main(["fetch", link, "--root", str(tmp_path / "other")]) == 2
    hub.always = Fault("status", status=400, body=f"you asked with Bearer {TOKEN}")
    assert main(["fetch", REPOSITORY, "--root", str(tmp_path / "other")]) == 2
    said = "".join(capsys.readouterr()) + caplog.text
    assert "you asked" in said
    assert "HTTP Request: GET" in caplog.text
    written = [str(path) for path in tmp_path.rglob("*")]
    held = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path != config]
    for secret in (SECRET, TOKEN):
        assert secret not in said
        assert not any(secret in name for name in written)
        assert not any(secret.encode() in content for content in held)


def in_one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if not line.startswith(("These weights are", REPOSITORY))]
    assert len(lines) == 1, said
    assert lines[0].startswith("error: ")
    assert lines[0].endswith(")"), lines[0]  # the remedy
    return lines[0]


ENVIRONMENTS = [
    ("ALL_PROXY", "socks5://127.0.0.1:9"),
    ("ALL_PROXY", "foo://x"),
    ("HF_TOKEN", "hf_é"),
    ("HF_ENDPOINT", "http://[x"),
    ("HF_ENDPOINT", "localhost"),
    ("SSL_CERT_FILE", "/nonexistent"),
]


@pytest.mark.parametrize(("name", "value"), ENVIRONMENTS)
def test_wrong_environments(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    close_session()
    assert main(["fetch", REPOSITORY, "--root", str(tmp_path / "dino"), "--quiet"]) in (
        (0, 2) if "SSL" in name else (2,)
    )
    if name != "SSL_CERT_FILE":
        in_one_line(capsys)
        assert main(["doctor", REPOSITORY, "--root", str(tmp_path / "dino")]) in (1, 2)


@pytest.mark.parametrize(
    "link", ["https://h:abc/x.pth?a=b", "https://h\x01/x.pth", "http://[bad/x.pth", "https:///x.pth", "http://h/x.txt"]
)
def test_links_that_are_none(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], link: str) -> None:
    assert main(["fetch", link, "--root", str(tmp_path / "dino")]) == 2
    in_one_line(capsys)
    assert not (tmp_path / "dino").exists()


EXTRAS: tuple[dict[str, object], ...] = (
    {"siblings": [1]},
    {"siblings": [{}]},
    {"siblings": [{"rfilename": "config.json", "size": "12", "blobId": "1"}]},
    {"siblings": [{"rfilename": "config.json", "size": 12, "blobId": 5}]},
    {"siblings": [{"rfilename": 5, "size": 12, "blobId": "1"}]},
    {"siblings": [{"rfilename": "config.json", "lfs": 5}]},
    {"siblings": [{"rfilename": "config.json", "lfs": {"size": "y", "sha256": "1", "pointerSize": 1}}]},
    {"siblings": [], "createdAt": 5},
    {"siblings": [], "safetensors": 5},
)
ANSWERS = [
    *("[]", "{}", "null", "5", "[" * 100_000, "<html>"),
    *(json.dumps({"id": "a/b", "sha": "1", **extra}) for extra in EXTRAS),
]


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer[:60])
def test_answers_that_are_not_the_hubs(hub: Hub, tmp_path: Path, answer: str) -> None:
    hub.api_faults = [Fault("status", status=200, body=answer)] * AT_ONCE.attempts
    with pytest.raises((NetworkError, RepositoryNotFoundError, FileNotFoundError), match=r"\(check |\(name another"):
        fetch_quietly(REPOSITORY, tmp_path / "dino")


REFUSALS = [
    Fault("status", status=429, headers={"Retry-After": "nan"}),
    Fault("status", status=429, headers={"Retry-After": "²".encode().decode("latin-1")}),
    Fault("status", status=429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    Fault("status", status=500, body="[" * 100_000),
    Fault("status", status=500, body="x", headers={"Content-Type": "text/html; charset=zlib"}),
    Fault("status", status=302, headers={"Location": "/someone/dinov3-tiny/resolve/1/config.json"}),
]


@pytest.mark.parametrize("fault", REFUSALS)
def test_odd_refusals(hub: Hub, tmp_path: Path, fault: Fault) -> None:
    hub.always = fault
    with pytest.raises(NetworkError, match=r"kept|run it again|check HF_ENDPOINT"):
        fetch_quietly(REPOSITORY, tmp_path / "dino")
    hub.always = None
    hub.api_faults = [fault] * AT_ONCE.attempts
    if fault.status != 302:
        with pytest.raises(NetworkError, match=r"kept|run it again|check HF_ENDPOINT"):
            fetch_quietly(REPOSITORY, tmp_path / "dino")


def test_the_doctor_looks_where_a_fetch_puts(hub: Hub, small_folder: Path) -> None:
    for repository in SMALL:
        hub.add(repository, small_folder)
    sources: tuple[Kind | None, ...] = (None, "timm")
    for source in sources:
        finding = run_checks("small", None, source=source)[-1]
        assert finding.remedy.startswith("ntt fetch small")
        fetch("small", source=source, quiet=True)
        assert run_checks("small", None, source=source)[-1].state == "fine"
        shutil.rmtree("checkpoints")


def test_files_that_may_not_be_read(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "dino"
    fetch_quietly(REPOSITORY, root)
    (root / MANIFEST).unlink()
    (root / WEIGHTS).chmod(0)
    with permissions_bind():
        assert main(["validate", str(root)]) == 2
        assert "may not be read" in capsys.readouterr().err
        with pytest.raises(OutputError, match="would be lost"):
            fetch_quietly(REPOSITORY, root)
    assert read_manifest(root) is None
