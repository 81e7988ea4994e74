"""The published protocol as a whole, against the original's steps written down one after the other.

Random encoders and the shipped SAM2, with other sizes and settings than the runs of the original, which
tests/test_fidelity.py repeats.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms, masks_to_boxes

from no_time_to_train.encoders.torch_encoder import FeatureEncoder
from no_time_to_train.models.Sam2MatchingBaseline_noAMG import Sam2MatchingBaseline_noAMG
from tests.tiny import sam2_of

pytestmark = pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
SAM2 = Path(__file__).parents[2] / "checkpoints" / "quickstart" / "sam2"
POINTS, IOU, NMS, MOST, CONTEXT = 9, 0.02, 0.9, 12, 0.5
Box = tuple[float, float, float, float]


def picture(seed: int, height: int, width: int) -> tuple[Tensor, Tensor, Box]:
    """Draw a bright ellipse over rectangles; return the image, the ellipse and a box that is not whole."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.arange(height)[:, None] / height, torch.arange(width) / width
    image = torch.randint(60, 90, (3, height, width), dtype=torch.uint8, generator=generator)
    for left, top, wide, high, *colour in torch.rand(8, 7, generator=generator).tolist():
        rectangle = (x > left) & (x < left + 0.1 + wide / 3) & (y > top) & (y < top + 0.1 + high / 3)
        image[:, rectangle] = (torch.tensor(colour) * 255).byte()[:, None]
    inside = (y - 0.45) ** 2 + (x - 0.6) ** 2 < 0.06
    image[seed % 3, inside] = 240
    rows, columns = inside.any(dim=1).nonzero()[:, 0], inside.any(dim=0).nonzero()[:, 0]
    left, top = float(columns[0]) + 0.4, float(rows[0]) + 0.7
    return image, inside, (left, top, float(columns[-1]) + 0.8 - left, float(rows[-1]) + 0.8 - top)


def normalised(pixels: Tensor) -> Tensor:
    return (pixels - MEAN[:, None, None]) / STD[:, None, None]


def loaded(image: Tensor, side: int) -> Tensor:
    array = np.array(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).resize((side, side)))
    return torch.from_numpy(array / 255.0).permute(2, 0, 1).float()[None]


def encode(encoder: FeatureEncoder, pixels: Tensor) -> Tensor:
    side = encoder.img_size
    resized = F.interpolate(pixels, size=(side, side), mode="bicubic")
    with torch.inference_mode():
        patches: Tensor = encoder(normalised(resized)).patches[0]
    return patches


def remember(encoder: FeatureEncoder, image: Tensor, mask: Tensor, box: Box) -> Tensor:
    x1, y1, x2, y2 = int(box[0]), int(box[1]), int(box[0] + box[2]), int(box[1] + box[3])
    side = max(x2 - x1, y2 - y1) * (1 + CONTEXT)
    middle_x, middle_y = (x1 + x2) * 0.5, (y1 + y2) * 0.5
    rows = slice(max(0, int(middle_y - side * 0.5)), min(image.shape[1], int(middle_y + side * 0.5)))
    columns = slice(max(0, int(middle_x - side * 0.5)), min(image.shape[2], int(middle_x + side * 0.5)))
    patches = encode(encoder, image[None, :, rows, columns].float() / 255)
    size = encoder.img_size
    weights = F.interpolate(mask[None, None, rows, columns].float(), size=(size, size), mode="bilinear")
    weights = F.interpolate(weights, size=patches.shape[:2], mode="nearest")[0, 0, :, :, None]
    mean: Tensor = (patches * weights).sum(dim=(0, 1)) / weights.sum()
    return mean


def propose(baseline: Sam2MatchingBaseline_noAMG, image: Tensor) -> tuple[Tensor, Tensor]:
    """Decode by transformers, each point by itself."""
    model, side = sam2_of(baseline).model, baseline.promptable.image_size
    ticks = torch.linspace(0, side - 1, POINTS) + 0.5
    points = torch.stack([part.flatten() for part in torch.meshgrid(ticks, ticks, indexing="ij")], dim=-1)
    with torch.inference_mode():
        maps = model.get_image_features(normalised(loaded(image, side)), return_dict=True).fpn_hidden_states
        sizes = model.backbone_feature_sizes
        features = [part.permute(1, 2, 0).view(1, -1, *size) for part, size in zip(maps, sizes, strict=True)]
        found = model(
            image_embeddings=features,
            input_points=points[None, :, None],
            input_labels=torch.ones(1, len(points), 1, dtype=torch.int64),
            multimask_output=True,
        )
    ious, best = found.iou_scores[0].max(dim=1)
    kept = ious > IOU
    return found.pred_masks[0][torch.arange(len(points)), best][kept], ious[kept]


def match(patches: Tensor, logits: Tensor, ious: Tensor, means: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    features = F.interpolate(patches.permute(2, 0, 1)[None], size=logits.shape[1:], mode="bilinear", antialias=True)
    masks = (logits > 0).flatten(1).float()
    pooled = F.normalize(masks @ features[0].flatten(1).T / masks.sum(dim=1, keepdim=True), dim=1)
    scores, labels = (pooled @ F.normalize(means, dim=1).T).clamp(min=0).max(dim=1)
    kept = batched_nms(masks_to_boxes(logits > 0), ious, labels, NMS)[: 8 * MOST]
    kept = kept[scores[kept] > 0]
    full = F.interpolate(logits[kept][:, None], size=size, mode="bilinear", antialias=True)[:, 0] > 0
    flat = full.flatten(1).float()
    # Of a mask without a pixel, and of one that is all within another one alike, the original makes NaN.
    within = (flat @ flat.T / flat.sum(dim=1, keepdim=True).clamp(min=1)).tril(-1)
    alike = (pooled[kept] @ pooled[kept].T).clamp(min=0)
    same = labels[kept][:, None] == labels[kept]
    merged = scores[kept] * (1 - (within * alike * same).amax(dim=1)).clamp(min=0).sqrt()
    merged[flat.sum(dim=1) == 0] = -1
    order = merged.argsort(descending=True)[:MOST]
    return {
        "masks": full[order],
        "boxes": masks_to_boxes(full[order]),
        "scores": merged[order],
        "labels": labels[kept][order],
    }


# Larger than 1024, and smaller than the masks of 48 pixels on both sides, on one, and on none.
SIZES = [(1100, 90), (20, 27), (25, 60), (61, 130)]


@pytest.mark.parametrize(
    ("encoder", "side"), [("dinov2_small", 70), ("dinov3_small", 96), ("dinov3_convnext_tiny", 96)]
)
def test_other_settings_and_sizes_give_what_the_originals_steps_give(encoder: str, side: int) -> None:
    baseline = Sam2MatchingBaseline_noAMG(
        str(SAM2),
        sam2_infer_cfgs={"points_per_side": POINTS, "iou_thr": IOU, "nms_thr": NMS, "num_out_instance": MOST},
        encoder_cfg={"name": encoder, "img_size": side},
        memory_bank_cfg={"crop_scale": 1 + CONTEXT},
        random_init=True,
        protocol="published",
    )
    assert isinstance(baseline.encoder, FeatureEncoder)
    assert sam2_of(baseline).model.no_memory_embedding.abs().max() > 0
    references = [picture(0, 53, 80), picture(1, 80, 41)]
    memory = baseline.start_memory(["red", "green"])
    for index, reference in enumerate(references):
        memory.add_mean(index, baseline.reference_mean(*reference, "it"))
    memory.finalize()
    means = torch.stack([remember(baseline.encoder, *reference) for reference in references])
    torch.testing.assert_close(memory.means, means, atol=1e-5, rtol=1e-5)
    for number, size in enumerate(SIZES):
        image, _, _ = picture(number, *size)
        logits, ious = propose(baseline, image)
        patches = encode(baseline.encoder, loaded(image, 1024))
        expected = match(patches, logits, ious, means, size)
        found = baseline.predict(image)
        # Several, some of which lie in others.
        assert len(found) > 2
        assert found.scores.min() < 0.9 * found.scores.max()
        assert torch.equal(found.labels, expected["labels"])
        # Two implementations of the decoder and of pooling in fp32.
        torch.testing.assert_close(found.scores, expected["scores"], atol=2e-4, rtol=0)
        assert (found.masks != expected["masks"]).float().mean() < 1e-3
        assert (found.boxes - expected["boxes"]).abs().max() <= 1
