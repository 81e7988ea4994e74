"""Masks drawn over images, and features as colors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from no_time_to_train.io.atomic import atomic_path

_GAP = 8


def draw_masks(
    image: UInt8[np.ndarray, "H W 3"],
    masks: Bool[np.ndarray, "M H W"],
    labels: Sequence[int],
    captions: Sequence[str],
    *,
    opacity: float = 0.5,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw masks over an image (RGB), coloured by label, each with its caption; `opacity` 0 draws outlines alone."""
    import supervision as sv

    scene = image.copy()
    if not len(masks):
        return scene
    detections = sv.Detections(
        xyxy=sv.mask_to_xyxy(masks).astype(np.float32), mask=masks, class_id=np.asarray(labels, dtype=int)
    )
    scene = sv.MaskAnnotator(opacity=opacity).annotate(scene, detections)
    scene = sv.PolygonAnnotator(thickness=1).annotate(scene, detections)
    if any(captions):
        annotator = sv.LabelAnnotator(text_scale=0.35, text_padding=2, smart_position=True)
        scene = annotator.annotate(scene, detections, labels=list(captions))
    return np.asarray(scene)


def pca_basis(features: Float[Tensor, "N D"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the mean, the three leading directions, and the range of features along them, for `pca_colours`."""
    mean = features.mean(dim=0)
    _, _, directions = torch.linalg.svd(features - mean, full_matrices=False)
    # Of fewer than three patches there are fewer directions.
    leading = torch.nn.functional.pad(directions[:3], (0, 0, 0, max(0, 3 - len(directions))))
    projected = (features - mean) @ leading.T
    # A few outlying patches would leave the others grey.
    low, high = torch.quantile(projected, torch.tensor([0.02, 0.98]), dim=0)
    return mean, leading, low, high


def pca_colours(features: Float[Tensor, "N D"], basis: tuple[Tensor, Tensor, Tensor, Tensor]) -> UInt8[Tensor, "N 3"]:
    """Colour features by their three leading principal components."""
    mean, leading, low, high = basis
    scaled = ((features - mean) @ leading.T - low) / (high - low).clamp(min=1e-6)
    return (scaled.clamp(0, 1) * 255).round().to(torch.uint8)


def save_panels(panels: Sequence[UInt8[np.ndarray, "H W 3"]], path: Path) -> None:
    """Write pictures of one height beside each other as a PNG file."""
    height = panels[0].shape[0]
    gap = np.full((height, _GAP, 3), 255, dtype=np.uint8)
    row = [part for panel in panels for part in (panel, gap)][:-1]
    with atomic_path(path) as temporary:
        Image.fromarray(np.concatenate(row, axis=1)).save(temporary)
