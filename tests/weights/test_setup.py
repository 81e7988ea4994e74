"""`ntt setup` against a server that speaks for the Hub and for Meta's address."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from no_time_to_train.cli import installation, main
from no_time_to_train.configs import recommended, sam2_releases
from no_time_to_train.configs.recommended import Pair, pair_at_hand
from no_time_to_train.configs.sam2_releases import SAM2_FILES
from tests.weights.hub_server import Fault, Hub

PAIR = Pair("dinov3_small", "sam2.1_hiera_tiny")
CONTENT = bytes(range(256)) * 500


@pytest.fixture
def server(hub: Hub, small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Both addresses, with a DINOv3-S in transformers' layout and some bytes in the place of SAM2."""
    files = {**SAM2_FILES, PAIR.sam2: replace(SAM2_FILES[PAIR.sam2], sha256=hashlib.sha256(CONTENT).hexdigest())}
    for module in (sam2_releases, recommended, installation):
        monkeypatch.setattr(module, "SAM2_FILES", files)
    for module in (recommended, installation):
        monkeypatch.setattr(module, "SMALL", PAIR)
    monkeypatch.setattr(sam2_releases, "PUBLIC_ADDRESS", f"{hub.url}/segment_anything_2")
    hub.repositories["segment_anything_2/092824"] = {f"{PAIR.sam2}.pt": CONTENT}
    hub.add("timm/vit_small_patch16_dinov3.lvd1689m", small_folder)
    return hub


SETUP = ["setup", "--no-large", "--no-check"]


def test_it_says_what_it_fetches_and_both_are_taken_from_then_on(
    server: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pair_at_hand() is None
    assert main([*SETUP, "--yes"]) == 0
    said = capsys.readouterr().out
    assert "dinov3_small: " in said
    assert "MB from timm/vit_small_patch16_dinov3.lvd1689m, DINOv3 License (Meta)" in said
    assert "sam2.1_hiera_tiny: 0 MB from" in said
    assert "Apache-2.0" in said
    assert pair_at_hand() == PAIR
    assert PAIR.sam2_weights.read_bytes() == CONTENT
    asked = len(server.requests)
    assert main(["fetch", "recommended"]) == 2  # the true pair of this machine, which this server does not have
    assert main([*SETUP, "--yes"]) == 0
    assert "are in checkpoints" in capsys.readouterr().out
    assert [request for request in server.requests[asked:] if "vit_small_patch16" in request.path] == []


def test_nobody_is_asked_where_nobody_can_answer(
    server: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert main(SETUP) == 2
    assert "give --yes" in capsys.readouterr().err
    assert not Path("checkpoints").exists()


@pytest.mark.parametrize(("answer", "status"), [("n", 2), ("", 2), ("y", 0)])
def test_an_answer_counts(server: Hub, monkeypatch: pytest.MonkeyPatch, answer: str, status: int) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: answer)
    assert main(SETUP) == status
    assert (pair_at_hand() == PAIR) == (status == 0)


def test_what_was_begun_goes_on(server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    server.repositories["segment_anything_2/092824"][f"{PAIR.sam2}.pt"] = b"other bytes"
    assert main([*SETUP, "--yes"]) == 2
    assert "error: " in capsys.readouterr().err
    assert pair_at_hand() is None
    server.repositories["segment_anything_2/092824"][f"{PAIR.sam2}.pt"] = CONTENT
    server.faults = [Fault("none"), Fault("cut", at=50_000)]
    asked = len(server.asked_for("model.safetensors"))
    assert main([*SETUP, "--yes"]) == 0
    assert pair_at_hand() == PAIR
    assert len(server.asked_for("model.safetensors")) - asked <= 1  # its size, before it is known to be there


def test_information_for_a_bug_report(server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SETUP, "--yes"]) == 0
    capsys.readouterr()
    assert main(["info", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "torch" in told["libraries"]
    assert "cpu" in told["ONNX Runtime on"]
    assert any(weights.startswith("sam2.1_hiera_tiny.pt") for weights in told["weights"])
