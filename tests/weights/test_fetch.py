"""Fetching repositories: what becomes of the folder, and what is left alone."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from no_time_to_train.cli import main
from no_time_to_train.configs.encoders import resolve_encoder, weights_at_hand
from no_time_to_train.encoders.torch_encoder import build_encoder_from_checkpoint
from no_time_to_train.errors import (
    AccessPendingError,
    AuthenticationError,
    ChecksumMismatchError,
    FetchError,
    LocalEntryNotFoundError,
    NetworkError,
    OutputError,
    RepositoryNotFoundError,
    ShapeMismatchError,
    WeightsNotFoundError,
)
from no_time_to_train.weights import check_folder, fetch_dinov3, validate_dinov3
from no_time_to_train.weights.hub.fetch import fetch
from no_time_to_train.weights.hub.manifest import MANIFEST, read_manifest
from no_time_to_train.weights.hub.sources import entry_of_link
from no_time_to_train.weights.hub.staging import WORKSHOP
from no_time_to_train.weights.license import NOTICE_FILE
from tests.golden_files import golden
from tests.weights.conftest import REPOSITORY, SMALL
from tests.weights.fetching import AT_ONCE, WEIGHTS, corrupt_last_byte, fetch_tiny, meta_name, same_files
from tests.weights.hub_server import TOKEN, Fault, Hub, running_hub


def left_beside(root: Path) -> list[str]:
    """Return what lies beside a folder but the workshop's lock."""
    rest = [path.name for path in root.parent.iterdir() if path not in (root, root.parent / WORKSHOP)]
    workshop = root.parent / WORKSHOP
    return rest + [path.name for path in workshop.iterdir() if path.suffix != ".lock"]


def test_a_repository_becomes_a_folder_that_loads(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "work" / "dino"
    assert fetch_dinov3(root, REPOSITORY) == root.resolve()
    assert validate_dinov3(root)
    assert validate_dinov3(root, deep=True)
    assert same_files(root, tiny_folder)
    assert left_beside(root) == []
    manifest = read_manifest(root)
    assert manifest is not None
    assert (manifest.kind, manifest.source, manifest.revision) == ("hub", REPOSITORY, "1" * 40)
    stored = (root / WEIGHTS).read_bytes()
    assert manifest.files[WEIGHTS] == {"size": len(stored), "sha256": hashlib.sha256(stored).hexdigest()}
    assert "DINOv3 License" in (root / NOTICE_FILE).read_text()
    assert build_encoder_from_checkpoint(root).embed_dim == 64


def test_what_is_there_and_whole_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    assert not fetch_tiny(tmp_path / "dino").was_there
    asked = len(hub.requests)
    again = fetch_tiny(tmp_path / "dino")
    assert again.was_there
    assert len(hub.requests) == asked
    (tmp_path / "dino" / WEIGHTS).write_bytes(b"")
    assert not validate_dinov3(tmp_path / "dino")
    assert not fetch_tiny(tmp_path / "dino").was_there
    assert validate_dinov3(tmp_path / "dino", deep=True)


def test_the_licence_is_shown_even_to_who_wants_quiet(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch_tiny(tmp_path / "dino")
    assert "DINOv3 License" in capsys.readouterr().err
    fetch_tiny(tmp_path / "dino")
    assert capsys.readouterr().err == ""


# What the server does wrong, and the number of requests for the weights that it takes all the same.
def test_answers_of_the_api(hub: Hub, tmp_path: Path) -> None:
    root = tmp_path / "dino"
    with pytest.raises(RepositoryNotFoundError, match="check the name"):
        fetch_tiny(root, "someone/else")
    with pytest.raises(RepositoryNotFoundError, match="no such revision"):
        fetch_tiny(root, revision="v9")
    with pytest.raises(RepositoryNotFoundError, match="OWNER/NAME"):
        fetch_tiny(root, "a/b/c")
    hub.api_faults = [Fault("status", status=401, body='{"error": "Invalid credentials in Authorization header"}')]
    with pytest.raises(AuthenticationError, match="hf auth login"):
        fetch_tiny(root)
    hub.api_faults = [Fault("status", status=200, body="<html>a captive portal</html>")] * AT_ONCE.attempts
    with pytest.raises(NetworkError, match="HF_ENDPOINT"):
        fetch_tiny(root)
    hub.api_faults = [Fault("status", status=500), Fault("status", status=429, headers={"Retry-After": "0"})]
    assert fetch_tiny(root).path == root


def test_gated_repositories(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated = {REPOSITORY}
    hub.granted = False
    with pytest.raises(AccessPendingError, match="wait for the mail"):
        fetch_tiny(tmp_path / "dino")
    hub.granted = True
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(AuthenticationError, match="set HF_TOKEN"):
        fetch_tiny(tmp_path / "dino")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fetch_tiny(tmp_path / "dino")


def test_repositories_that_lack_what_is_needed(hub: Hub, tmp_path: Path) -> None:
    files = hub.repositories[REPOSITORY]
    hub.revisions |= {"someone/no-config": "2" * 40, "someone/pickle": "2" * 40}
    hub.repositories["someone/no-config"] = {name: files[name] for name in files if name != "preprocessor_config.json"}
    with pytest.raises(WeightsNotFoundError, match=r"no preprocessor_config\.json"):
        fetch_tiny(tmp_path / "a", "someone/no-config")
    hub.repositories["someone/pickle"] = {**files, "pytorch_model.bin": b"x"}
    del hub.repositories["someone/pickle"][WEIGHTS]
    with pytest.raises(WeightsNotFoundError, match=r"neither model\.safetensors nor its shards"):
        fetch_tiny(tmp_path / "b", "someone/pickle")
    with pytest.raises(WeightsNotFoundError, match="dinov3_huge_plus"):
        fetch_tiny(tmp_path / "c", "dinov3_giant")
    with pytest.raises(WeightsNotFoundError, match="not on the Hub"):
        fetch_tiny(tmp_path / "d", "dinov3_large_plus")
    with pytest.raises(WeightsNotFoundError, match="this project's own"):
        fetch_tiny(tmp_path / "e", "dinov3_quickstart")


def test_a_whole_download_of_something_else_is_no_folder(hub: Hub, tmp_path: Path) -> None:
    config = json.loads(hub.repositories[REPOSITORY]["config.json"])
    hub.repositories[REPOSITORY]["config.json"] = json.dumps(config | {"hidden_size": 128}).encode()
    with pytest.raises(LocalEntryNotFoundError, match="hidden_size 128 for 64"):
        fetch_tiny(tmp_path / "dino")
    assert left_beside(tmp_path / "dino") in ([], ["hub-cache"])


def test_a_mirror_that_lists_names_alone(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    hub.names_only = True
    fetch_tiny(tmp_path / "dino")
    assert same_files(tmp_path / "dino", tiny_folder)
    hub.faults = [Fault("flip", at=9, file=WEIGHTS)]
    with pytest.raises(ChecksumMismatchError, match="another hash than sha256"):
        fetch_tiny(tmp_path / "other")


def test_shards(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(tiny_folder / WEIGHTS)
    names = sorted(tensors)
    split = tmp_path / "split"
    shutil.copytree(tiny_folder, split, ignore=shutil.ignore_patterns(WEIGHTS))
    shards = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(names)}
    for shard in set(shards.values()):
        save_file({name: tensors[name] for name in names if shards[name] == shard}, split / shard)
    (split / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    hub.add("someone/dinov3-shards", split)
    fetch_tiny(tmp_path / "dino", "someone/dinov3-shards")
    assert validate_dinov3(tmp_path / "dino", deep=True)
    assert len(list((tmp_path / "dino").glob("*.safetensors"))) == 2


def test_another_revision_takes_the_place_of_the_first(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "dino"
    fetch_tiny(root)
    hub.repositories[REPOSITORY]["LICENSE.md"] = b"another licence"
    hub.revisions[REPOSITORY] = "2" * 40
    assert fetch_tiny(root).revision == "1" * 40  # it is there and whole
    held = os.open(root, os.O_RDONLY)
    assert fetch_tiny(root, revision="2" * 40).revision == "2" * 40
    # Nothing was written into the old folder: it is gone as a whole.
    assert list(os.scandir(held)) == []
    os.close(held)
    assert (root / "LICENSE.md").read_text() == "another licence"
    assert validate_dinov3(root, deep=True)
    assert fetch_tiny(root, revision="main").revision == "2" * 40


def test_what_was_begun_of_another_revision_is_not_taken_up(hub: Hub, tmp_path: Path) -> None:
    hub.faults = [Fault("cut", at=100_000, file=WEIGHTS), *(Fault("drop", file=WEIGHTS) for _ in range(3))]
    with pytest.raises(NetworkError):
        fetch_tiny(tmp_path / "dino")
    stored = bytearray(hub.repositories[REPOSITORY][WEIGHTS])
    stored[-1] ^= 1
    stored[-100_000] ^= 1
    hub.repositories[REPOSITORY][WEIGHTS] = bytes(stored)
    hub.revisions[REPOSITORY] = "2" * 40
    fetch_tiny(tmp_path / "dino")
    assert (tmp_path / "dino" / WEIGHTS).read_bytes() == bytes(stored)


def test_folders_with_something_else_are_left_alone(hub: Hub, tmp_path: Path) -> None:
    root = tmp_path / "dino"
    root.mkdir()
    (root / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt"):
        fetch_tiny(root)
    assert [path.name for path in root.iterdir()] == ["notes.txt"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="name a folder"):
        fetch_tiny(tmp_path / "file")
    with pytest.raises(OutputError, match="that you may write to"):
        fetch_tiny(tmp_path / "file" / "below")


def test_a_folder_of_another_encoder_is_left_alone(hub: Hub, small_folder: Path, tmp_path: Path) -> None:
    for repository in (SMALL[0], "facebook/dinov3-vitb16-pretrain-lvd1689m", "a/b"):
        hub.add(repository, small_folder, revision="3" * 40)
    fetch_tiny(tmp_path / "small", "dinov3_small")
    for name in ("dinov3_base", "a/b"):
        with pytest.raises(OutputError, match="another encoder, dinov3_small"):
            fetch_tiny(tmp_path / "small", name)
    assert same_files(tmp_path / "small", small_folder)


def test_a_repository_that_holds_another_encoder(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    """It was told as "fetched and checked, dinov3_small"."""
    hub.add(SMALL[0], tiny_folder)
    with pytest.raises(ShapeMismatchError, match=r"holds dinov3_vit, width 64.* expected dinov3_small"):
        fetch_tiny(tmp_path / "small", "dinov3_small")
    assert not (tmp_path / "small").exists()


def test_weights_that_were_not_fetched_are_left_alone(
    hub: Hub, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They may be a training's, and nothing would bring them back."""
    root = tmp_path / "dino"
    shutil.copytree(tiny_folder, root)
    assert fetch_tiny(root, "dinov3_small").was_there
    assert "not dinov3_small; it is left as it is" in capsys.readouterr().err
    with pytest.raises(OutputError, match="not fetched, which would be lost"):
        fetch_tiny(root, revision="1" * 40)
    (root / "mine.safetensors").write_bytes(b"x")
    with pytest.raises(OutputError, match=r"mine\.safetensors"):
        fetch_tiny(root, revision="1" * 40)
    assert same_files(root, tiny_folder)


def test_a_folder_that_other_programs_made_is_good_enough(hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "dino"
    shutil.copytree(tiny_folder, root)
    assert validate_dinov3(root)
    assert not validate_dinov3(root, deep=True)  # nobody recorded what the bytes should be
    with pytest.raises(LocalEntryNotFoundError, match="no hashes to compare with"):
        check_folder(root, deep=True)
    # A download of the Hub's own tool that was cut off.
    (root / WEIGHTS).write_bytes((root / WEIGHTS).read_bytes()[:-10])
    (root / "README.md").write_text("a model card")
    with pytest.raises(OutputError, match=r"README\.md"):
        fetch_tiny(root)
    (root / ".cache").mkdir()
    assert not validate_dinov3(root)
    fetch_tiny(root)
    assert validate_dinov3(root, deep=True)


SPOILED: list[tuple[str, Callable[[Path], object], bool]] = [
    (WEIGHTS, Path.unlink, False),
    (WEIGHTS, lambda path: path.write_bytes(b""), False),
    (WEIGHTS, lambda path: path.write_bytes(path.read_bytes()[:-1]), False),
    (WEIGHTS, lambda path: path.write_bytes(path.read_bytes() + b"0"), False),
    (WEIGHTS, corrupt_last_byte, True),
    ("config.json", Path.unlink, False),
    ("config.json", lambda path: path.write_text("{"), False),
    ("config.json", lambda path: path.write_text("[]"), False),
    ("preprocessor_config.json", lambda path: path.write_text(""), False),
    ("preprocessor_config.json", Path.unlink, False),
    (MANIFEST, lambda path: path.write_text("{}"), False),
    (MANIFEST, lambda path: path.write_text(path.read_text().replace("null", "[3]", 1)), False),
    (MANIFEST, lambda path: path.write_text("no JSON"), False),
]


@pytest.mark.parametrize(("name", "spoil", "passes_shallow"), SPOILED)
def test_spoiled_folders_do_not_validate(
    hub: Hub, tmp_path: Path, name: str, spoil: Callable[[Path], object], passes_shallow: bool
) -> None:
    root = tmp_path / "dino"
    fetch_tiny(root)
    spoil(root / name)
    assert validate_dinov3(root) == passes_shallow
    assert not validate_dinov3(root, deep=True)
    with pytest.raises(FetchError, match="fetch it again"):
        check_folder(root, deep=True)
    if not passes_shallow:
        fetch_tiny(root)
        assert validate_dinov3(root, deep=True)


@pytest.fixture
def other_host(hub: Hub) -> Iterator[Hub]:
    with running_hub("localhost") as server:
        server.repositories = hub.repositories
        server.revisions = hub.revisions
        hub.elsewhere = server.url
        yield server


def test_the_token_goes_to_the_hub_alone(hub: Hub, other_host: Hub, tiny_folder: Path, tmp_path: Path) -> None:
    hub.gated = {REPOSITORY}
    hub.always = Fault("redirect")
    fetch_tiny(tmp_path / "dino")
    assert same_files(tmp_path / "dino", tiny_folder)
    assert all(TOKEN in request.headers["Authorization"] for request in hub.asked_for(WEIGHTS))
    assert other_host.asked_for(WEIGHTS)
    for request in other_host.requests:
        assert TOKEN not in str(request.headers)


def test_files_in_the_hubs_cache_are_taken_from_there(
    hub: Hub, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import hf_hub_download

    cache = tmp_path / "hub-cache"
    hf_hub_download(REPOSITORY, WEIGHTS, revision="1" * 40, endpoint=hub.url, cache_dir=cache)
    hub.requests.clear()
    fetch_tiny(tmp_path / "dino")
    assert hub.asked_for(WEIGHTS) == []
    assert hub.asked_for("config.json")
    assert same_files(tmp_path / "dino", tiny_folder)
    for blob in cache.rglob("blobs/*"):
        corrupt_last_byte(blob)
    shutil.rmtree(tmp_path / "dino")
    fetch_tiny(tmp_path / "dino")
    assert len(hub.asked_for(WEIGHTS)) == 1
    assert same_files(tmp_path / "dino", tiny_folder)


def test_timms_copies(hub: Hub, tmp_path: Path) -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    model = timm.create_model("vit_small_patch16_dinov3", num_classes=0)
    folder = tmp_path / "made"
    folder.mkdir()
    save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, folder / WEIGHTS)
    config = {"architecture": "vit_small_patch16_dinov3", "num_features": 384}
    (folder / "config.json").write_text(json.dumps(config))
    hub.add("timm/vit_small_patch16_dinov3.lvd1689m", folder)
    root = tmp_path / "dino"
    done = fetch("dinov3_small", root, source="timm", quiet=True, retries=AT_ONCE)
    assert (done.kind, done.source) == ("timm", "timm/vit_small_patch16_dinov3.lvd1689m")
    assert "DINOv3 License" in (root / NOTICE_FILE).read_text()
    assert validate_dinov3(root, deep=True)
    with torch.inference_mode():
        features = build_encoder_from_checkpoint(root)(torch.zeros(1, 3, 32, 32))
    assert features.patches.shape == (1, 2, 2, 384)
    with pytest.raises(WeightsNotFoundError, match="timm has no"):
        fetch("dinov3_large_plus", root, source="timm")


def test_the_commands(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "dino"
    assert main(["fetch", REPOSITORY, "--root", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["was_there"] is False
    assert main(["fetch", REPOSITORY, "--root", str(root)]) == 0
    assert "is there and whole" in capsys.readouterr().out
    assert main(["validate", str(root), "--deep"]) == 0
    corrupt_last_byte(root / WEIGHTS)
    assert main(["validate", str(root), "--deep"]) == 2
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1
    assert "fetch it again" in captured
    assert main(["fetch", "dinov3_smal", "--root", str(root)]) == 2
    assert "did you mean dinov3_small?" in capsys.readouterr().err


def test_configurations_find_what_was_fetched(hub: Hub, small_folder: Path) -> None:
    """Without a folder named, weights come to where `encoder_ckpt_path: null` looks for them."""
    small, content = resolve_encoder("dinov3_small"), golden("vit_mlp_released").read_bytes()
    for repository in SMALL:
        hub.add(repository, small_folder)
    name = meta_name(content)
    hub.repositories["weights"] = {name: content}
    fetch("small", quiet=True)
    assert weights_at_hand(small) == Path("checkpoints/dinov3-vits16-pretrain-lvd1689m")
    shutil.rmtree("checkpoints")
    fetch("dinov3_small", source="timm", quiet=True)
    assert weights_at_hand(small) == Path("checkpoints/dinov3_small")
    shutil.rmtree("checkpoints")
    folder = fetch(f"{hub.url}/weights/{name}", quiet=True).path
    assert folder == Path("checkpoints").resolve() / name.removesuffix(".pth")
    folder.rename("checkpoints/dinov3_small")
    assert weights_at_hand(small) == Path("checkpoints/dinov3_small")
    assert entry_of_link(f"https://host/x/{small.meta_file}?Signature=s") == small
