"""transformers.js in Node opens exported encoders and SAM2, and finds what torch finds."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from no_time_to_train.encoders.torch_encoder import build_encoder_from_checkpoint
from no_time_to_train.export.transformers_js import export_for_transformers_js
from no_time_to_train.proposers.sam2.predictor import build_sam2

HERE = Path(__file__).parent
QUICKSTART = HERE.parents[1] / "checkpoints" / "quickstart"
CLIENTS = Path(os.environ.get("NTT_CLIENTS", HERE.parents[1] / ".venv-clients"))
SIZE = 96
POINTS = [[320, 240], [100, 100], [500, 400]]


class Limits(NamedTuple):
    """Largest differences: of features and logits as shares of the largest, of predicted IoUs as they are."""

    features: float
    logits: float
    predicted_iou: float


DTYPES = {"fp32": Limits(1e-5, 1e-5, 1e-5), "fp16": Limits(5e-3, 5e-3, 5e-3), "q8": Limits(0.2, 0.2, 0.2)}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("node") is None
        or not (CLIENTS / "node_modules" / "@huggingface" / "transformers" / "package.json").is_file(),
        reason="`make clients` installs it where there is npm",
    ),
]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What transformers.js makes of two exported folders, in three precisions each."""
    root = tmp_path_factory.mktemp("js")
    for name in ("encoder", "sam2"):
        found = export_for_transformers_js(
            QUICKSTART / name, output=root / name, precisions=("fp32", "fp16", "int8"), verify=False
        )
        assert found == root / name
    photo = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(photo).resize((640, 480), Image.Resampling.BICUBIC).save(root / "photo.png")
    job = {
        "pixels": pixels().flatten().tolist(),
        "size": SIZE,
        "photo": str(root / "photo.png"),
        "points": POINTS,
        "dtypes": list(DTYPES),
    }
    (root / "job.json").write_text(json.dumps(job))
    done = subprocess.run(
        ["node", "--input-type=module", "-", str(root), str(root / "job.json")],
        input=(HERE / "run_transformers_js.mjs").read_text(),
        cwd=CLIENTS,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return read


def pixels() -> torch.Tensor:
    return torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def tensor(told: dict[str, Any]) -> torch.Tensor:
    return torch.tensor(told["data"]).reshape(told["dims"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_features_are_torchs(told: dict[str, Any], dtype: str) -> None:
    encoder = build_encoder_from_checkpoint(QUICKSTART / "encoder")
    with torch.inference_mode():
        expected = encoder.tokens(pixels())
    found = tensor(told["features"][dtype])
    assert found.shape == expected.shape
    difference = float((found - expected).abs().max() / expected.abs().max())
    print(f"{dtype}: {difference:.1e}")
    assert difference <= DTYPES[dtype].features


def test_its_pipeline_takes_a_photograph(told: dict[str, Any]) -> None:
    # Tokens of an image of 224 pixels: CLS, storage, 14 x 14 patches.
    assert told["pipeline"][0] == 1
    assert told["pipeline"][1] > 14 * 14


@pytest.mark.parametrize("dtype", DTYPES)
def test_masks_are_torchs(told: dict[str, Any], dtype: str) -> None:
    sam2 = build_sam2(str(QUICKSTART / "sam2"), None)
    scaled = torch.tensor(POINTS, dtype=torch.float32) * torch.tensor([sam2.image_size / 640, sam2.image_size / 480])
    embedding = sam2.embed(tensor(told["pixel_values"]))
    expected = sam2.decode_points(embedding, scaled[:, None], torch.ones(len(POINTS), 1, dtype=torch.int64))
    found = told["masks"][dtype]
    logits = tensor(found["logits"])[0]
    difference = float((logits - expected.mask_logits).abs().max() / expected.mask_logits.abs().max())
    quality = float((tensor(found["iou"])[0] - expected.predicted_iou).abs().max())
    print(f"{dtype}: logits {difference:.1e}, predicted IoU {quality:.1e}")
    assert difference <= DTYPES[dtype].logits
    assert quality <= DTYPES[dtype].predicted_iou
    # At the photograph's size.
    assert found["sizes"] == [len(POINTS), 3, 480, 640]
