"""Fetching by links: Meta's presigned ones, their hashes, and what is said when they have expired."""

import base64
from pathlib import Path

import pytest

from no_time_to_train.encoders.torch_encoder import build_encoder_from_checkpoint
from no_time_to_train.errors import AccessRejectedError, ChecksumMismatchError, ConfigError, RepositoryNotFoundError
from no_time_to_train.weights import validate_dinov3
from tests.golden_files import golden
from tests.weights.fetching import fetch_tiny, meta_name
from tests.weights.hub_server import Fault, Hub


def test_presigned_links(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = golden("vit_mlp_released").read_bytes()
    name = meta_name(content)
    hub.repositories["weights"] = {name: content}
    link = f"{hub.url}/weights/{name}?Policy=abc&Signature=verysecret&Key-Pair-Id=K"
    hub.faults = [Fault("none"), Fault("cut", at=50_000)]
    root = tmp_path / "dino"
    done = fetch_tiny(root, link)
    assert (root / name).read_bytes() == content
    assert hub.asked_for(name)[-1].headers["Range"] == "bytes=50000-"
    assert done.kind == "url"
    assert not any("Authorization" in request.headers for request in hub.requests)
    for path in root.iterdir():
        assert b"verysecret" not in path.read_bytes()
    assert validate_dinov3(root, deep=True)
    assert build_encoder_from_checkpoint(root).embed_dim == 64
    assert fetch_tiny(root, link).was_there
    assert "verysecret" not in "".join(capsys.readouterr())
    hub.faults = [Fault("none"), Fault("flip", at=1000)]
    with pytest.raises(ChecksumMismatchError, match="sha256"):
        fetch_tiny(tmp_path / "other", link)


def test_links_that_are_refused(hub: Hub, tmp_path: Path) -> None:
    content = golden("vit_mlp_released").read_bytes()
    name = meta_name(content)
    hub.repositories["weights"] = {name: content}
    hub.always = Fault("status", status=403, body="<Error><Code>AccessDenied</Code></Error>")
    policy = base64.b64encode(b'{"Condition":{"DateLessThan":{"AWS:EpochTime":1700000000}}}').decode()
    for query in (f"Policy={policy.replace('+', '-').replace('=', '_').replace('/', '~')}", "Expires=1700000000"):
        with pytest.raises(AccessRejectedError, match="expired on 2023-11-14") as caught:
            fetch_tiny(tmp_path / "dino", f"{hub.url}/weights/{name}?{query}&Signature=verysecret")
        assert "verysecret" not in str(caught.value)
    with pytest.raises(AccessRejectedError, match="in quotes"):
        fetch_tiny(tmp_path / "dino", f"{hub.url}/weights/{name}?Policy=no_policy")
    hub.always = None
    with pytest.raises(RepositoryNotFoundError, match="ask for a new one"):
        fetch_tiny(tmp_path / "dino", f"{hub.url}/weights/none.pth")
    with pytest.raises(RepositoryNotFoundError, match="names no weights file"):
        fetch_tiny(tmp_path / "dino", f"{hub.url}/weights/")
    with pytest.raises(ConfigError, match="leave --revision out"):
        fetch_tiny(tmp_path / "dino", f"{hub.url}/weights/{name}", revision="main")


def test_a_renewed_link_goes_on_where_the_old_one_stopped(hub: Hub, tmp_path: Path) -> None:
    content = golden("vit_mlp_released").read_bytes()
    name = meta_name(content)
    hub.repositories["weights"] = {name: content}
    hub.faults = [Fault("none"), Fault("cut", at=70_000), Fault("status", status=403)]
    with pytest.raises(AccessRejectedError, match="what has come is kept"):
        fetch_tiny(tmp_path / "dino", f"{hub.url}/weights/{name}?Signature=old")
    fetch_tiny(tmp_path / "dino", f"{hub.url}/weights/{name}?Signature=new")
    assert hub.requests[-1].headers["Range"] == "bytes=70000-"
    assert hub.requests[-1].query == "Signature=new"
