"""Draw masks over images."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8


def draw_masks(
    image: UInt8[np.ndarray, "H W 3"],
    masks: Bool[np.ndarray, "M H W"],
    labels: Sequence[int],
    captions: Sequence[str],
    *,
    opacity: float = 0.5,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw masks over an image (RGB), colored by label, each with its caption; `opacity` 0 draws outlines alone."""
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
