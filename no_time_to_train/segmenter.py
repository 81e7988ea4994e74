"""The Python API: references in, instances out."""

import difflib
import inspect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from no_time_to_train.data.arguments import (
    Box,
    checked_box,
    checked_label,
    checked_number,
    checked_path,
    checked_points,
)
from no_time_to_train.data.arrays import ImageLike, as_image, as_mask
from no_time_to_train.data.datasets import ReferenceDataset
from no_time_to_train.data.references import load_negative_references, load_references
from no_time_to_train.encoders.devices import checked_device
from no_time_to_train.errors import ConfigError, EmptyMaskError, ImageSizeError
from no_time_to_train.matching import Instances, MemoryBank
from no_time_to_train.matching.tiled_masks import resize_masks
from no_time_to_train.models.baseline import MatchingBaseline
from no_time_to_train.models.Sam2MatchingBaseline_noAMG import Sam2MatchingBaseline_noAMG
from no_time_to_train.proposers.sam2.predictor import Prompts
from no_time_to_train.results.drawing import draw_masks
from no_time_to_train.results.evaluation import Result, coco_results

if TYPE_CHECKING:
    import supervision as sv


@dataclass(frozen=True)
class FoundInstances(Instances):
    """Instances of one image, with their classes' names.

    Attributes:
        class_names: In the order of the labels.
        far_pixel: Whether COCO results count the far pixels into width and height, see `coco_results`.
    """

    class_names: tuple[str, ...]
    far_pixel: int = 1

    def __repr__(self) -> str:
        """Tell how many of which class, in a line: the masks of one image fill a screen."""
        counts = Counter(self.names)
        found = ", ".join(f"{counts[name]} {name}" for name in self.class_names if counts[name]) or "none"
        return f"FoundInstances({found}; {self.masks.shape[1]}x{self.masks.shape[2]})"

    @property
    def names(self) -> list[str]:
        """The class of each instance."""
        return [self.class_names[label] for label in self.labels.tolist()]

    def above(self, score: float) -> "FoundInstances":
        """Return those of at least this score.

        Raises:
            ConfigError: The score is not a number.
        """
        kept = self.scores >= checked_number(score, "score")
        return replace(
            self, masks=self.masks[kept], boxes=self.boxes[kept], scores=self.scores[kept], labels=self.labels[kept]
        )

    def to_supervision(self) -> "sv.Detections":
        """Return them as `supervision.Detections`; boxes end behind the last pixel, names are in `data`."""
        import supervision as sv

        boxes = self.boxes.clone()
        boxes[:, 2:] += 1
        return sv.Detections(
            xyxy=boxes.cpu().numpy(),
            mask=self.masks.cpu().numpy(),
            confidence=self.scores.cpu().numpy(),
            class_id=self.labels.cpu().numpy(),
            data={"class_name": np.array(self.names, dtype=object)},
        )

    def to_coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[Result]:
        """Return them as COCO results, best first.

        Args:
            image_id: Of the image.
            category_ids: Of the classes, in their order; 1, 2, 3 and so on if None.

        Raises:
            ConfigError: There are more or fewer ids than classes.
        """
        if category_ids is None:
            category_ids = range(1, len(self.class_names) + 1)
        if len(category_ids) != len(self.class_names):
            raise ConfigError(
                f"got {len(category_ids)} category_ids for {len(self.class_names)} classes",
                remedy=f"give one for each of {', '.join(self.class_names)}",
            )
        return coco_results(image_id, self, category_ids, far_pixel=self.far_pixel)

    def draw(self, image: ImageLike, *, opacity: float = 0.5) -> Image.Image:
        """Draw them over their image, each with its class and score.

        Raises:
            ImageSizeError: The image is of another size than the masks.
            ConfigError: The opacity is not from 0 to 1.
        """
        pixels = as_image(image).permute(1, 2, 0).numpy()
        if pixels.shape[:2] != self.masks.shape[1:]:
            raise ImageSizeError(
                f"the image is {pixels.shape[1]} wide and {pixels.shape[0]} high, the masks are of one of "
                f"{self.masks.shape[2]} by {self.masks.shape[1]}",
                remedy="give the image in which they were found",
            )
        if not 0 <= checked_number(opacity, "opacity") <= 1:
            raise ConfigError(f"opacity is {opacity}, expected 0 to 1", remedy="0 draws outlines alone")
        captions = [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores.tolist(), strict=True)]
        return Image.fromarray(
            draw_masks(pixels, self.masks.cpu().numpy(), self.labels.tolist(), captions, opacity=opacity)
        )


class Segmenter:
    """Finds objects that resemble a few references.

    Args:
        encoder: Any name that the registry knows, such as `dinov3_base`; or a weights file or folder, whose tensors
            tell the architecture; or `onnx:` and a folder of `ntt export`.
        encoder_weights: Its weights; None looks under `checkpoints/`.
        sam2: Meta's name of a SAM2 configuration, or a Hugging Face folder.
        sam2_weights: SAM2's weights; None takes those of the folder.
        img_size: Side in pixels at which images are encoded; the encoder's default if None.
        device: Where it runs.
        settings: More of the matching baseline's settings by name, such as `precision`, `protocol`,
            `sam2_infer_cfgs`, `memory_bank_cfg`, `feature_cache`, `random_init`.

    Examples:
        >>> segmenter = Segmenter("dinov3_base", sam2="sam2_hiera_t.yaml", sam2_weights="sam2.pt")  # doctest: +SKIP
        >>> segmenter.add_reference("boat.jpg", mask="boat.png", label="boat")  # doctest: +SKIP
        >>> segmenter.predict("harbour.jpg").draw("harbour.jpg").save("out.png")  # doctest: +SKIP

    Raises:
        NoTimeToTrainError: Weights are missing or do not fit, or a name is unknown.
    """

    def __init__(
        self,
        encoder: str = "dinov3_base",
        encoder_weights: Path | str | None = None,
        sam2: str = "sam2_hiera_t.yaml",
        sam2_weights: Path | str | None = None,
        *,
        img_size: int | None = None,
        device: torch.device | str = "cpu",
        **settings: Any,
    ) -> None:
        _check_settings(settings)
        chosen = checked_device(device)
        checked_path(sam2, "sam2")
        for name, weights in (("encoder_weights", encoder_weights), ("sam2_weights", sam2_weights)):
            if weights is not None:
                checked_path(weights, name)
        baseline = Sam2MatchingBaseline_noAMG(
            sam2,
            sam2_weights,
            encoder_cfg={"name": encoder, "img_size": img_size},
            encoder_ckpt_path=encoder_weights,
            **settings,
        )
        self._take(baseline.to(chosen))

    @classmethod
    def of(cls, baseline: MatchingBaseline) -> "Segmenter":
        """Wrap a matching baseline that was built before; its memory is taken too."""
        segmenter = cls.__new__(cls)
        segmenter._take(baseline)
        return segmenter

    def _take(self, baseline: MatchingBaseline) -> None:
        self.baseline = baseline
        # Label, mean feature, and whether it is negative, in the order in which they came.
        self._references: list[tuple[str, Float[Tensor, " D"], bool]] = []
        self._class_names: list[str] = []
        # Made of these references; None after a change.
        self._memory: MemoryBank | None = None
        if baseline.memory is not None:
            self._take_memory(baseline.memory)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The labels of the references, in the order in which they first came."""
        return tuple(self._class_names)

    @property
    def references(self) -> list[tuple[str, Float[Tensor, " D"], bool]]:
        """Label, mean feature and whether it is negative, of each reference in the order in which they came."""
        return list(self._references)

    def add_reference(
        self,
        image: ImageLike,
        *,
        label: str,
        mask: ImageLike | None = None,
        box: Box | None = None,
        points: Iterable[tuple[float, float]] | None = None,
        negative: bool = False,
    ) -> Bool[Tensor, "H W"]:
        """Add an object of which more are to be found.

        Args:
            image: Where it is seen: path, Pillow image, array (H, W, 3) or tensor (3, H, W).
            label: Its class.
            mask: The object: path, Pillow image, array or tensor (H, W), of the image's size.
            box: Instead of a mask: x1, y1, x2, y2 in pixels, x2 and y2 behind the last one. SAM2 draws the mask.
            points: Instead of a mask: x and y in pixels of points on the object. SAM2 draws the mask.
            negative: It shows what the class is taken for and is not.

        Returns:
            The mask that is used.

        Raises:
            ConfigError: Not exactly one of mask, box and points is given; or a box or a point is not one within the
                image; or the label is not text.
            EmptyMaskError: There is no object in the mask.
            NoTimeToTrainError: The image or the mask cannot be read.
        """
        if sum(part is not None for part in (mask, box, points)) != 1:
            raise ConfigError("a reference needs a mask, a box or points", remedy="give exactly one of the three")
        label = checked_label(label)
        pixels = as_image(image)
        size = (pixels.shape[1], pixels.shape[2])
        if mask is not None:
            drawn = as_mask(mask, size)
        elif box is not None:
            x1, y1, x2, y2 = checked_box(box, size)
            drawn = self.baseline.mask_of_box(pixels, (x1, y1, x2 - x1, y2 - y1)).cpu()
        else:
            drawn = self._mask_of_points(pixels, checked_points(points, size))
        if not drawn.any():
            raise EmptyMaskError(
                f"the reference of {label!r} has no object in its mask", remedy="give a mask with some foreground"
            )
        ys, xs = drawn.any(dim=1).nonzero()[:, 0], drawn.any(dim=0).nonzero()[:, 0]
        x, y = int(xs[0]), int(ys[0])
        around = (float(x), float(y), float(xs[-1] - x + 1), float(ys[-1] - y + 1))
        self._add(label, self.baseline.reference_mean(pixels, drawn, around, f"the reference of {label!r}"), negative)
        return drawn

    def add_references(
        self,
        references: Path | str,
        images: Path | str,
        *,
        negative: bool = False,
        class_names: Sequence[str] | None = None,
    ) -> None:
        """Add all references of a COCO JSON; those without a mask get theirs from SAM2, by their box.

        Args:
            references: As `ntt sample-references` writes it.
            images: Folder of their images.
            negative: They show what classes of references that came before are taken for and are not.
            class_names: The classes to take, in this order; all those of the file if not given, or for negative
                references those at hand.

        Raises:
            NoTimeToTrainError: A file is missing or malformed, or a reference shows nothing.
        """
        references, images = checked_path(references, "references"), checked_path(images, "images")
        if negative:
            names = self.class_names if class_names is None else tuple(class_names)
            items = ReferenceDataset(load_negative_references(references, names), images)
        else:
            found = load_references(references, class_names=class_names)
            names, items = found.class_names, ReferenceDataset(found.references, images)
        means = [
            (
                item.reference,
                self.baseline.reference_mean(item.image, item.mask, item.reference.annotation.bbox, item.name),
            )
            for item in (items[index] for index in range(len(items)))
        ]
        # All or none: a reference that is wrong leaves what was there before.
        for reference, mean in means:
            self._add(names[reference.class_index], mean, reference.negative)

    @overload
    def predict(  # type: ignore[overload-overlap] # a str is a sequence of str, and names one image
        self, images: ImageLike, *, min_score: float = ...
    ) -> FoundInstances: ...

    @overload
    def predict(self, images: Sequence[ImageLike], *, min_score: float = ...) -> list[FoundInstances]: ...

    def predict(
        self, images: ImageLike | Sequence[ImageLike], *, min_score: float = 0.0
    ) -> FoundInstances | list[FoundInstances]:
        """Find the references' classes.

        Args:
            images: One image, or a list of them, which go through the networks together: paths, Pillow images, arrays
                (H, W, 3) or tensors (3, H, W).
            min_score: Instances of a lower score are left out.

        Returns:
            The instances of the image, best first; or a list of such.

        Raises:
            ConfigError: There is no reference yet, or min_score is not a number.
            EmptyClassError: A class has negative references only.
            NoTimeToTrainError: An image cannot be read.
        """
        checked_number(min_score, "min_score")
        self._remember()
        if not isinstance(images, list | tuple):
            return self.predict([cast(ImageLike, images)], min_score=min_score)[0]
        found = self.baseline.predict_batch([as_image(image) for image in images])
        return [
            FoundInstances(
                each.masks, each.boxes, each.scores, each.labels, self.class_names, self.baseline.protocol.far_pixel
            ).above(min_score)
            for each in found
        ]

    def save_memory(self, path: Path | str) -> None:
        """Write the references' memory as safetensors, for `load_memory` and for the command line's `--ckpt_path`."""
        self._remember().save(checked_path(path, "path"))

    def load_memory(self, path: Path | str) -> None:
        """Take the references of a memory file in the place of those at hand; more may be added.

        Raises:
            EncoderMismatchError: It was filled with another encoder, or with other settings.
            NoTimeToTrainError: The file is missing or damaged.
        """
        memory = MemoryBank.load(
            checked_path(path, "path"),
            encoder_fingerprint=self.baseline.memory_fingerprint,
            embed_dim=self.baseline.encoder.embed_dim,
        )
        self._references, self._class_names = [], []
        self._take_memory(memory)

    def _take_memory(self, memory: MemoryBank) -> None:
        self._class_names = list(memory.class_names)
        for mean, index, negative in memory.rows():
            self._add(memory.class_names[index], mean.cpu(), negative)

    def _add(self, label: str, mean: Float[Tensor, " D"], negative: bool) -> None:
        if label not in self._class_names:
            self._class_names.append(label)
        self._references.append((label, mean, negative))
        self._memory = None

    def _remember(self) -> MemoryBank:
        """Bring the references into the baseline's memory."""
        if not self._references:
            raise ConfigError("there is no reference yet", remedy="add_reference or load_memory first")
        if self._memory is None:
            memory = self.baseline.start_memory(self._class_names)
            for label, mean, negative in self._references:
                memory.add_mean(self._class_names.index(label), mean, negative)
            memory.finalize()
            self._memory = memory
        # Another segmenter of the same baseline puts its own there.
        self.baseline.memory = self._memory.to(self.baseline.encoder.device)
        return self._memory

    def _mask_of_points(self, pixels: Tensor, points: list[tuple[float, float]]) -> Bool[Tensor, "H W"]:
        """Let SAM2 draw the object that lies under all the points."""
        sam2, size = self.baseline.sam2, (pixels.shape[1], pixels.shape[2])
        (embedding,) = self.baseline.features.embeddings([pixels])
        prompts = Prompts(points=sam2.scale_points(torch.tensor([points], device=sam2.device), size))
        logits = sam2.best_masks(embedding, prompts).mask_logits
        mask: Tensor = resize_masks(logits, size)[0]
        return mask.cpu()


def _check_settings(settings: Mapping[str, Any]) -> None:
    # What arguments of this class stand for is not among them.
    given = {"sam2_cfg_file", "sam2_ckpt_path", "encoder_cfg", "encoder_ckpt_path"}
    known = [name for name in inspect.signature(Sam2MatchingBaseline_noAMG).parameters if name not in given]
    for name in settings:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"there is no setting {name!r} (nearest: {nearest})", remedy=f"known are {', '.join(sorted(known))}"
            )
