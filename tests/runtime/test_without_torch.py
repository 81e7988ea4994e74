"""The whole pipeline where neither torch nor JAX can be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from no_time_to_train.data.coco import load_coco
from no_time_to_train.data.synthetic.dataset import write_shapes

WITHOUT = (
    "import sys; sys.modules.update(dict.fromkeys("
    "('torch', 'jax', 'lightning', 'equinox', 'transformers', 'torchvision', 'cv2', 'supervision')));"
)
COMMAND = WITHOUT + "from no_time_to_train.cli import main; sys.exit(main(sys.argv[1:]))"
# Box and points in the place of masks, a negative reference, debias, guided prompts, a cache, a memory that is kept.
API = """
from pathlib import Path
from no_time_to_train import Segmenter
from tests.runtime.quickstart import onnx_segmenter
from no_time_to_train.data.references import load_references
root, folder = Path(sys.argv[1]), Path(sys.argv[2])
given = load_references(Path(sys.argv[3])).references
images = [folder / each.image.file_name for each in given]
x, y, width, height = given[0].annotation.bbox
settings = {"memory_bank_cfg": {"debias": {"enabled": True}}, "feature_cache": {"folder": root / "cache"},
            "sam2_infer_cfgs": {"points_per_side": 6, "prompt_selection": "prior", "iou_thr": 0.0}}
segmenter = onnx_segmenter(**settings)
segmenter.add_reference(images[0], box=(x, y, x + width, y + height), label="a")
x, y, width, height = given[1].annotation.bbox
segmenter.add_reference(images[1], points=[(x + width / 2, y + height / 2)], label="a", negative=True)
first = segmenter.predict(images[0])
segmenter.save_memory(root / "memory.safetensors")
again = onnx_segmenter(**settings)
again.load_memory(root / "memory.safetensors")
second = again.predict(images[0])
assert again.baseline.features.cache.hits, "the cache was not read"
assert len(first.masks), "nothing was found"
assert (first.masks == second.masks).all(), "other masks"
assert (first.scores == second.scores).all(), "other scores"
second.draw(images[0]).save(root / "drawn.png")
assert not any(sys.modules.get(name) for name in ("torch", "jax", "transformers"))
"""


def run(code: str, *arguments: object) -> str:
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_predict_with_the_shipped_bundle(tmp_path: Path) -> None:
    """References from files; results, overlays and a report; run again, nothing is looked at twice."""
    paths = write_shapes(tmp_path / "shapes", num_targets=2, shots=2)
    images = [paths.image_dir / image.file_name for image in load_coco(paths.targets_json).images]
    small = tmp_path / "small.yaml"
    small.write_text(
        "model: {init_args: {model_cfg: {encoder_cfg: {img_size: 192}, sam2_infer_cfgs: {points_per_side: 8}}}}\n"
    )
    command = ["predict", "--config", "quickstart", small, "--references", paths.references_json]
    command += ["--reference-images", paths.image_dir, "--images", *images, "--output", tmp_path / "out", "--report"]
    assert "2 images" in run(COMMAND, *command)
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {entry["file_name"] for entry in found["images"]} == {image.name for image in images}
    assert found["annotations"]
    assert len(list((tmp_path / "out" / "overlays").rglob("*.png"))) == 2
    assert "2 images, 2 of them from an earlier run" in run(COMMAND, *command)


def test_the_python_api(tmp_path: Path) -> None:
    paths = write_shapes(tmp_path / "shapes", num_targets=2, shots=1)
    run(WITHOUT + API, tmp_path, paths.image_dir, paths.references_json)
    drawn = tmp_path / "drawn.png"
    assert np.fromfile(drawn, dtype=np.uint8).size > 1000
