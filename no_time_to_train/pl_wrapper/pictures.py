"""Pictures of a run: instances with their ground truth, and the features of references in color."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from no_time_to_train.data.coco import CocoDataset
from no_time_to_train.data.datasets import ReferenceItem, TargetItem
from no_time_to_train.data.masks import decode_mask
from no_time_to_train.matching import Instances
from no_time_to_train.models.baseline import MatchingBaseline
from no_time_to_train.results.drawing import draw_masks, pca_basis, pca_colours, save_panels

# The old module of these pictures had the functions too.
__all__ = ["Overlays", "ReferencePictures", "draw_masks", "pca_basis", "pca_colours", "save_panels"]

_PCA_SIDE = 448


class Overlays:
    """Draws targets: the ground truth on the left where there is one, what was found on the right.

    Args:
        folder: Where the PNG files go.
        targets: The targets' annotations.
        count: The first this many targets are drawn; -1 draws all.
        min_score: Instances of a lower score are left out.
    """

    def __init__(self, folder: Path, targets: CocoDataset | None, count: int, min_score: float) -> None:
        self.folder = folder
        self.targets = targets
        self.count = count
        self.min_score = min_score

    def draw(self, item: TargetItem, instances: Instances, class_names: Sequence[str]) -> None:
        """Draw one target, if it is among those to draw."""
        if 0 <= self.count <= item.index:
            return
        image = item.image.permute(1, 2, 0).numpy()
        found = instances.to("cpu")
        shown = found.scores >= self.min_score
        labels, scores = found.labels[shown].tolist(), found.scores[shown].tolist()
        captions = [f"{class_names[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
        panels = [draw_masks(image, found.masks[shown].numpy(), labels, captions)]
        if self.targets is not None and self.targets.annotations:
            truth = self.targets.annotations_of(item.record.id)
            size = (item.record.height, item.record.width)
            masks = [decode_mask(entry, *size) for entry in truth if entry.segmentation is not None]
            indices = [self.targets.class_indices[entry.category_id] for entry in truth if entry.segmentation]
            drawn = np.stack(masks) if masks else np.zeros((0, *size), dtype=bool)
            panels.insert(0, draw_masks(image, drawn, indices, [class_names[index] for index in indices]))
        save_panels(panels, self.folder / f"{Path(item.record.file_name).stem}_{item.record.id}.png")


class ReferencePictures:
    """Draws references: the cut-out with its mask beside its patch features, coloured by their principal components.

    The components are those of the first reference of each class, so that a colour means the same in all of a class.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bases: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def draw(self, item: ReferenceItem, baseline: MatchingBaseline) -> None:
        """Draw one reference."""
        reference = item.reference
        box = reference.annotation.bbox
        mask = item.mask if item.mask is not None else baseline.mask_of_box(item.image, box).cpu()
        patches, _ = baseline.encode_reference(item.image, mask, box)
        x1, y1, x2, y2 = baseline.window_of(box, (item.image.shape[1], item.image.shape[2]))
        cut = item.image[:, y1:y2, x1:x2].permute(1, 2, 0).numpy()
        framed = draw_masks(cut, mask[None, y1:y2, x1:x2].numpy(), [reference.class_index], [""])
        features = patches.flatten(0, 1).cpu()
        basis = self._bases.setdefault(reference.class_index, pca_basis(features))
        colours = pca_colours(features, basis).reshape(*patches.shape[:2], 3).numpy()
        panels = [
            np.asarray(Image.fromarray(framed).resize((_PCA_SIDE, _PCA_SIDE), Image.Resampling.BILINEAR)),
            np.asarray(Image.fromarray(colours).resize((_PCA_SIDE, _PCA_SIDE), Image.Resampling.NEAREST)),
        ]
        memory = baseline.memory
        name = memory.class_names[reference.class_index] if memory else f"class{reference.class_index}"
        safe = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)
        save_panels(panels, self.folder / f"{safe}_{item.index:05d}.png")
