"""The instances found in one image, as NumPy arrays."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float32, Int64
from PIL import Image

from no_time_to_train.data.inputs import ImageLike, as_image, checked_number
from no_time_to_train.data.masks import encode_masks
from no_time_to_train.data.records import COCO_HEADER
from no_time_to_train.errors import ConfigError, ImageSizeError
from no_time_to_train.io.atomic import write_text_atomic

if TYPE_CHECKING:
    import supervision as sv

    from no_time_to_train.results.formats import ExportName

Result = dict[str, Any]
"""An instance as COCO's result files have it: `image_id`, `category_id`, `bbox`, `score`, `segmentation`."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """The instances that were found in one image, best first.

    Attributes:
        masks: At the image's size.
        boxes: Of the masks, in pixels: the first and the last column and row that the mask touches (x1, y1, x2, y2).
        scores: In [0, 1].
        labels: Indices into `class_names`.
        class_names: All classes that were looked for.
        image_size: Height and width of the image, in pixels.
        far_pixel: What a COCO box's width and height have beyond x2 - x1 and y2 - y1: 1 as COCO's annotations; 0 as
            the original project's results.
        encoded_masks: The masks as compressed RLE, where something else has encoded them; see `segmentations`.
    """

    masks: Bool[np.ndarray, "M H W"]
    boxes: Float32[np.ndarray, "M 4"]
    scores: Float32[np.ndarray, " M"]
    labels: Int64[np.ndarray, " M"]
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    far_pixel: int = 1
    encoded_masks: Sequence[dict[str, Any]] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        """Return how many of which class, in a line: the masks of one image fill a screen."""
        counts = Counter(self.names)
        found = ", ".join(f"{counts[name]} {name}" for name in self.class_names if counts[name]) or "none"
        return f"Prediction({found}; {self.image_size[0]}x{self.image_size[1]})"

    @property
    def names(self) -> list[str]:
        """The class of each instance."""
        return [self.class_names[label] for label in self.labels]

    @cached_property
    def segmentations(self) -> Sequence[dict[str, Any]]:
        """The masks as COCO's compressed RLE; encoded once."""
        return encode_masks(self.masks) if self.encoded_masks is None else self.encoded_masks

    def filter(self, min_score: float) -> "Prediction":
        """Return the instances of at least this score.

        Raises:
            ConfigError: The score is not a number.
        """
        kept = self.scores >= checked_number(min_score, "min_score")
        if kept.all():
            return self
        encoded = (
            None if self.encoded_masks is None else [self.encoded_masks[row] for row in np.flatnonzero(kept).tolist()]
        )
        return replace(
            self,
            masks=self.masks[kept],
            boxes=self.boxes[kept],
            scores=self.scores[kept],
            labels=self.labels[kept],
            encoded_masks=encoded,
        )

    def above(self, score: float) -> "Prediction":
        """See `filter`, of which this is the older name."""
        return self.filter(score)

    def to_coco(self, image_id: int | None = None, category_ids: Sequence[int] | None = None) -> list[Result]:
        """Return COCO results, best first.

        Args:
            image_id: Of the image; None leaves the key out.
            category_ids: Of the classes, in their order; 1, 2, 3 and so on if None.

        Raises:
            ConfigError: There are more or fewer ids than classes.
        """
        ids = range(1, len(self.class_names) + 1) if category_ids is None else category_ids
        if len(ids) != len(self.class_names):
            raise ConfigError(
                f"got {len(ids)} category_ids for {len(self.class_names)} classes",
                remedy=f"give one for each of {', '.join(self.class_names)}",
            )
        image = {} if image_id is None else {"image_id": image_id}
        far = self.far_pixel
        return [
            {
                **image,
                "category_id": ids[label],
                "bbox": [x1, y1, x2 - x1 + far, y2 - y1 + far],
                "score": score,
                "segmentation": segmentation,
            }
            for label, (x1, y1, x2, y2), score, segmentation in zip(
                self.labels.tolist(), self.boxes.tolist(), self.scores.tolist(), self.segmentations, strict=True
            )
        ]

    def to_supervision(self) -> "sv.Detections":
        """Return `supervision.Detections`: boxes end after the last pixel, names are in `data`."""
        import supervision as sv

        return sv.Detections(
            xyxy=self.boxes + np.array([0, 0, 1, 1], np.float32),
            mask=self.masks,
            confidence=self.scores,
            class_id=self.labels,
            data={"class_name": np.array(self.names, dtype=object)},
        )

    def draw(self, image: ImageLike, *, opacity: float = 0.5) -> Image.Image:
        """Draw the instances over their image, each with its class and score.

        Args:
            image: The one in which they were found.
            opacity: From 0, for outlines alone, to 1.

        Raises:
            ImageSizeError: The image is of another size than the masks.
            ConfigError: The opacity is not from 0 to 1.
        """
        from no_time_to_train.data.drawing import draw_masks

        pixels = as_image(image)
        if pixels.shape[:2] != self.image_size:
            raise ImageSizeError(
                f"the image is {pixels.shape[1]} wide and {pixels.shape[0]} high, the masks are of one of "
                f"{self.image_size[1]} by {self.image_size[0]}",
                remedy="give the image in which they were found",
            )
        if not 0 <= checked_number(opacity, "opacity") <= 1:
            raise ConfigError(f"opacity is {opacity}, expected 0 to 1", remedy="0 draws outlines alone")
        captions = [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores.tolist(), strict=True)]
        return Image.fromarray(draw_masks(pixels, self.masks, self.labels.tolist(), captions, opacity=opacity))

    def save(
        self,
        path: Path | str,
        format: "ExportName" = "coco",
        *,
        file_name: str = "image",
        image: Path | str | None = None,
    ) -> Path:
        """Write the instances for other programs, whole or not at all.

        Args:
            path: A file for `coco`, else a folder; an earlier one of this method is replaced.
            format: `coco`: a COCO JSON of this one image, with masks as compressed RLE and scores. The others are
                those of `ntt predict --format`, and `crops`.
            file_name: For `coco`, the image's name in the file.
            image: For the others, the file in which the instances were found.

        Returns:
            `path`.

        Raises:
            ConfigError: The format is not known, or needs the image.
            ImageSizeError: The image is of another size.
            OutputError: The file or folder cannot be written, or the folder holds something else.
        """
        if format != "coco":
            from no_time_to_train.results.formats.predictions import check_format, write_predictions

            check_format(format)
            if image is None:
                raise ConfigError(
                    f"format {format!r:.40} needs the image's file, got none",
                    remedy="give image=PATH, or format='coco'",
                )
            return write_predictions({image: self}, path, format)
        height, width = self.image_size
        document = {
            **COCO_HEADER,
            "images": [{"id": 1, "file_name": file_name, "height": height, "width": width}],
            "annotations": [
                {"id": number, **result, "area": int(mask.sum()), "iscrowd": 0}
                for number, (result, mask) in enumerate(zip(self.to_coco(1), self.masks, strict=True), start=1)
            ],
            "categories": [{"id": number, "name": name} for number, name in enumerate(self.class_names, start=1)],
        }
        write_text_atomic(Path(path), json.dumps(document) + "\n")
        return Path(path)
