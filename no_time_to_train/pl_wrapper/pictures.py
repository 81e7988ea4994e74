"""Pictures of a run: instances with their ground truth, and the features of references in color."""

from pathlib import Path

import numpy as np
from PIL import Image

from no_time_to_train.data.coco import CocoDataset
from no_time_to_train.data.datasets import ReferenceItem, TargetItem
from no_time_to_train.data.drawing import draw_masks
from no_time_to_train.data.masks import decode_mask
from no_time_to_train.data.prediction import Prediction
from no_time_to_train.encoders.preprocessing import image_tensor
from no_time_to_train.models.pipeline import MatchingPipeline
from no_time_to_train.results.drawing import ColorBasis, pca_basis, pca_colors, save_panels

_PCA_SIDE = 448


class OverlayWriter:
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

    def has(self, item: TargetItem) -> bool:
        """Return whether a target is drawn already, or is not among those to draw."""
        return not self._is_wanted(item) or self._path(item).is_file()

    def draw(self, item: TargetItem, prediction: Prediction) -> None:
        """Draw one target, if it is among those to draw."""
        if not self._is_wanted(item):
            return
        image, class_names = item.image, prediction.class_names
        panels = [np.asarray(prediction.filter(self.min_score).draw(image))]
        if self.targets is not None and self.targets.annotations:
            truth = self.targets.annotations_of(item.record.id)
            size = (item.record.height, item.record.width)
            masks = [decode_mask(entry, *size) for entry in truth if entry.segmentation is not None]
            indices = [self.targets.class_indices[entry.category_id] for entry in truth if entry.segmentation]
            drawn = np.stack(masks) if masks else np.zeros((0, *size), dtype=bool)
            panels.insert(0, draw_masks(image, drawn, indices, [class_names[index] for index in indices]))
        save_panels(panels, self._path(item))

    def _is_wanted(self, item: TargetItem) -> bool:
        return self.count < 0 or item.index < self.count

    def _path(self, item: TargetItem) -> Path:
        return self.folder / f"{Path(item.record.file_name).stem}_{item.record.id}.png"


class ReferenceVisualizer:
    """Draws references: the cut-out with its mask beside its patch features, coloured by their principal components.

    The components are those of the first reference of each class, so that a colour means the same in all of a class.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bases: dict[int, ColorBasis] = {}

    def draw(self, item: ReferenceItem, baseline: MatchingPipeline) -> None:
        """Draw one reference."""
        reference = item.reference
        image = image_tensor(item.image)
        drawn, box = baseline.object_of(item)
        mask = drawn.cpu()
        patches, _ = baseline.encode_reference(image, mask, box)
        x1, y1, x2, y2 = baseline.window_of(box, (mask.shape[0], mask.shape[1]))
        cut = np.ascontiguousarray(item.image[y1:y2, x1:x2])
        framed = draw_masks(cut, mask[None, y1:y2, x1:x2].numpy(), [reference.class_index], [""])
        features = patches.cpu().numpy()
        basis = self._bases.setdefault(reference.class_index, pca_basis(features.reshape(-1, features.shape[2])))
        colors = pca_colors(features, basis)
        panels = [
            np.asarray(Image.fromarray(framed).resize((_PCA_SIDE, _PCA_SIDE), Image.Resampling.BILINEAR)),
            np.asarray(Image.fromarray(colors).resize((_PCA_SIDE, _PCA_SIDE), Image.Resampling.NEAREST)),
        ]
        memory = baseline.memory
        name = memory.class_names[reference.class_index] if memory else f"class{reference.class_index}"
        safe = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)
        save_panels(panels, self.folder / f"{safe}_{item.index:05d}.png")
