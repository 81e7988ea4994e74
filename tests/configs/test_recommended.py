"""The models that are taken where none are named."""

from pathlib import Path

import pytest

from no_time_to_train.configs.recommended import LARGE, SMALL, Pair, pair_at_hand, recommended_pair, said_of_default
from no_time_to_train.segmenter import Segmenter

GB = 2**30


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def put(pair: Pair) -> None:
    pair.sam2_weights.parent.mkdir(exist_ok=True)
    pair.sam2_weights.write_bytes(b"")
    (Path("checkpoints") / pair.encoder).mkdir()
    (Path("checkpoints") / pair.encoder / "model.safetensors").write_bytes(b"")


def test_the_machine_decides() -> None:
    assert recommended_pair(64 * GB, gpu=True) == LARGE
    assert recommended_pair(64 * GB, gpu=False) == recommended_pair(8 * GB, gpu=True) == SMALL


def test_a_pair_is_at_hand_once_both_are() -> None:
    assert pair_at_hand() is None
    put(SMALL)
    assert pair_at_hand() == SMALL
    put(LARGE)
    assert pair_at_hand() == LARGE
    LARGE.sam2_weights.unlink()
    assert pair_at_hand() == SMALL


def test_what_is_said() -> None:
    assert "ntt setup" in said_of_default(None)
    assert said_of_default(SMALL) == "models: dinov3_small_plus and sam2.1_hiera_tiny, as none are named"


@pytest.mark.parametrize(("runtime", "taken"), [(None, "ONNX Runtime"), ("onnx", "ONNX Runtime"), ("torch", "torch")])
def test_the_segmenter_takes_the_shipped_models(runtime: str | None, taken: str) -> None:
    with pytest.warns(UserWarning, match="which have seen no photograph; ntt setup"):
        segmenter = Segmenter(runtime=runtime, img_size=64)  # type: ignore[arg-type] # of the parameters
    assert segmenter.baseline.runtime == taken
    assert segmenter.describe()["Encoder"].startswith("dinov3_quickstart, 64 px")
