"""Small stand-ins: a SAM2 configuration, and a dataset of coloured shapes in COCO JSON."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from no_time_to_train.data.masks import encode_mask
from no_time_to_train.models.pipeline import MatchingPipeline
from no_time_to_train.proposers.sam2.predictor import Sam2Predictor

IMAGE_SIZE = 128
WIDTH = 16
DIM = 64
STAGES = [1, 2, 3, 1]
GLOBAL_BLOCKS = [2, 4]
WINDOWS = [8, 4, 4, 2]
CHANNELS = [WIDTH * 8, WIDTH * 4, WIDTH * 2, WIDTH]


def config_settings() -> dict[str, Any]:
    """The small model in the words of a transformers config.json."""
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": WIDTH,
        "blocks_per_stage": STAGES,
        "embed_dim_per_stage": CHANNELS[::-1],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": WINDOWS,
        "global_attention_blocks": GLOBAL_BLOCKS,
    }
    return {
        "model_type": "sam2",
        "vision_config": {
            "backbone_config": backbone,
            "backbone_channel_list": CHANNELS,
            "backbone_feature_sizes": [[IMAGE_SIZE // stride] * 2 for stride in (4, 8, 16)],
            "fpn_hidden_size": DIM,
        },
        "prompt_encoder_config": {"hidden_size": DIM, "image_size": IMAGE_SIZE},
        "mask_decoder_config": {"hidden_size": DIM},
    }


def write_config(folder: Path, settings: dict[str, Any] | None = None) -> Path:
    """Write a config.json, by default the small model's, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings or config_settings()))
    return folder


class TinyData(NamedTuple):
    """Paths of a dataset of two classes, red discs and green squares, in images of 64x48 pixels."""

    images: Path
    references: Path
    targets: Path
    negatives: Path

    @property
    def arguments(self) -> list[str]:
        """The command line's arguments for it."""
        return [
            *("--data.references", str(self.references), "--data.reference_images", str(self.images)),
            *("--data.targets", str(self.targets), "--data.target_images", str(self.images)),
        ]


# What makes any YAML under pl_configs small enough for a test; `sam2` is a folder that `write_config` made.
def small_model_arguments(sam2: Path) -> list[str]:
    """Return the command line's arguments that put random stand-ins in the place of real models."""
    config = "--model.model_cfg"
    return [
        *(f"{config}.encoder_cfg.name", "dinov3_small", f"{config}.encoder_cfg.img_size", "64"),
        *(f"{config}.sam2_cfg_file", str(sam2), f"{config}.sam2_ckpt_path", "null", f"{config}.random_init", "true"),
    ]


def write_dataset(folder: Path, *, shots: int = 2, targets: int = 5) -> TinyData:
    """Write the images and their COCO JSON files."""
    images = folder / "images"
    images.mkdir(parents=True)
    categories = [{"id": 3, "name": "disc"}, {"id": 7, "name": "square"}]
    documents: dict[str, dict[str, Any]] = {
        name: {"images": [], "annotations": [], "categories": categories}
        for name in ("references", "targets", "negatives")
    }
    rng = np.random.default_rng(0)
    for index in range(2 * shots + targets + 1):
        name = "references" if index < 2 * shots else "targets" if index < 2 * shots + targets else "negatives"
        kinds = (0, 1) if name == "targets" else (index % 2,)
        _draw(rng, images, documents[name], index + 1, kinds)
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    return TinyData(images, *(folder / f"{name}.json" for name in ("references", "targets", "negatives")))


def _draw(
    rng: np.random.Generator, folder: Path, document: dict[str, Any], image_id: int, kinds: tuple[int, ...]
) -> None:
    height, width = 48, 64
    pixels = rng.integers(90, 130, (height, width, 3), dtype=np.uint8)
    rows, columns = np.mgrid[:height, :width]
    for kind in kinds:
        y, x, radius = rng.integers(14, 34), rng.integers(10, 22) + 32 * kind, rng.integers(6, 10)
        disc = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        square = np.maximum(abs(rows - y), abs(columns - x)) <= radius
        mask = (disc, square)[kind]
        pixels[mask] = ((220, 30, 30), (30, 200, 60))[kind]
        ys, xs = mask.nonzero()
        document["annotations"].append(
            {
                "id": 10 * image_id + kind,
                "image_id": image_id,
                "category_id": (3, 7)[kind],
                "bbox": [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1],
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": encode_mask(mask),
            }
        )
    document["images"].append({"id": image_id, "file_name": f"{image_id:03d}.jpg", "width": width, "height": height})
    Image.fromarray(pixels).save(folder / f"{image_id:03d}.jpg", quality=95)


def sam2_of(pipeline: MatchingPipeline) -> Sam2Predictor:
    """Return the promptable model of a pipeline, which is SAM2."""
    assert isinstance(pipeline.promptable, Sam2Predictor)
    return pipeline.promptable
