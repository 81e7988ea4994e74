"""The Python API: references in, instances out."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, cast, overload

import numpy as np
from jaxtyping import Bool, Float, UInt8

from no_time_to_train.configs.pipeline import MatcherConfig
from no_time_to_train.data.datasets import ReferenceDataset, ReferenceItem
from no_time_to_train.data.inputs import (
    Box,
    ImageLike,
    as_image,
    as_mask,
    checked_box,
    checked_label,
    checked_number,
    checked_path,
    checked_points,
)
from no_time_to_train.data.masks import box_of_mask
from no_time_to_train.data.prediction import Prediction
from no_time_to_train.data.references import Sources, negative_references, read_references, reference_set
from no_time_to_train.errors import ConfigError, EmptyMaskError
from no_time_to_train.io.paths import path_as_named
from no_time_to_train.matching import Instances, MemoryBank
from no_time_to_train.matching.array_ops import Array, array_on, as_like, on_cpu, to_numpy
from no_time_to_train.models import Runtime, build_pipeline
from no_time_to_train.models.cache.feature_cache import content_key
from no_time_to_train.models.feature_extractor import autocast_state
from no_time_to_train.models.predictions import to_prediction
from no_time_to_train.models.steps import PipelineSteps
from no_time_to_train.proposers.base import MaskProposals
from no_time_to_train.runtime.bundle import default_models, read_bundle
from no_time_to_train.weights.identify import ONNX

__all__ = ["FoundInstances", "Prediction", "Segmenter"]

# The name of the first release.
FoundInstances = Prediction


# Bytes of masks up to which an image is remembered: those of 1,024 proposals of SAM2.
_MOST_KEPT = 1 << 28


class _Latest(NamedTuple):
    """Features and proposals of one image, and the memory that was in use when they were computed."""

    key: str
    patches: Float[Array, "h w D"]
    proposals: MaskProposals
    memory: MemoryBank | None


class Segmenter:
    """Finds objects that resemble a few references.

    Args:
        encoder: Any name that the registry knows, such as `dinov3_base`; or a weights file or folder, whose tensors
            tell the architecture; or `onnx:` and a folder of `ntt export`. With no model named, those of `ntt setup`
            are taken, or those that the project ships, which have seen no photograph.
        encoder_weights: Its weights; None looks under `checkpoints/`.
        sam2: Meta's name of a SAM2 configuration, or a Hugging Face folder; SAM2-T next to an encoder that is named.
        sam2_weights: SAM2's weights; None takes those of the folder.
        img_size: Side in pixels at which images are encoded; the encoder's default if None.
        device: Where it runs: a `torch.device` or its name; with ONNX Runtime `cpu`, `cuda`, `coreml`, `directml` or
            `openvino`, where the onnxruntime that is installed has it.
        runtime: `torch`, or `onnx` for ONNX Runtime and NumPy alone, with folders of `ntt export` as encoder and sam2;
            torch where it is installed if None.
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
        encoder: str | None = None,
        encoder_weights: Path | str | None = None,
        sam2: str | None = None,
        sam2_weights: Path | str | None = None,
        *,
        img_size: int | None = None,
        device: Any = "cpu",
        runtime: Runtime | None = None,
        **settings: Any,
    ) -> None:
        _check_settings(settings)
        for name, given in (("encoder_weights", encoder_weights), ("sam2", sam2), ("sam2_weights", sam2_weights)):
            if given is not None:
                checked_path(given, name)
        if any((encoder, encoder_weights, sam2, sam2_weights, settings.get("random_init"))):
            config: dict[str, Any] = {
                "name": "matching_baseline_noAMG",
                "sam2_cfg_file": sam2 or "sam2_hiera_t.yaml",
                "sam2_ckpt_path": sam2_weights,
                "encoder_cfg": {"name": encoder or "dinov3_base", "img_size": img_size},
                "encoder_ckpt_path": encoder_weights,
            }
        else:
            config, runtime = default_models(runtime)
            if img_size is not None:
                config["encoder_cfg"] = {**config["encoder_cfg"], "img_size": img_size}
        self._take(build_pipeline(MatcherConfig.from_settings(**config, **settings), device, runtime))

    @classmethod
    def of(cls, baseline: PipelineSteps) -> "Segmenter":
        """Wrap a matching baseline that was built before; its memory is taken too."""
        segmenter = cls.__new__(cls)
        segmenter._take(baseline)
        # Whoever has a pipeline already goes through many images.
        segmenter._keeps_latest = False
        return segmenter

    @classmethod
    def from_bundle(cls, folder: Path | str, *, device: str = "cpu") -> "Segmenter":
        """Open a folder of `ntt export-pipeline`, which ONNX Runtime runs; its references are taken if it has any.

        Args:
            folder: The bundle, or the name of one that the project ships: `quickstart`.
            device: As of the constructor, with ONNX Runtime.

        Raises:
            DataNotFoundError: There is no bundle in the folder.
            NoTimeToTrainError: A part of it is missing or damaged.
        """
        bundle = read_bundle(checked_path(folder, "folder"))
        segmenter = cls.__new__(cls)
        segmenter._take(build_pipeline(MatcherConfig.from_settings(**bundle.settings), device, "onnx"))
        if bundle.memory is not None:
            segmenter.load_memory(bundle.memory)
        return segmenter

    def _take(self, baseline: PipelineSteps) -> None:
        self.baseline = baseline
        # Label, mean feature, and whether it is negative, in the order in which they came.
        self._references: list[tuple[str, Float[Array, " D"], bool]] = []
        self._class_names: list[str] = []
        # The image that was looked at last: asked again with other references or scores, it needs no network.
        self._latest: _Latest | None = None
        self._keeps_latest = True
        # Made of these references; None after a change.
        self._memory: MemoryBank | None = None
        if baseline.memory is not None:
            self._take_memory(baseline.memory)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The labels of the references, in the order in which they first came."""
        return tuple(self._class_names)

    @property
    def references(self) -> list[tuple[str, Float[Array, " D"], bool]]:
        """Label, mean feature and whether it is negative, of each reference in the order in which they came."""
        return list(self._references)

    @property
    def random_weights(self) -> list[str]:
        """Names of the models whose weights are random, so that what is found means nothing."""
        return self.baseline.random_weights

    @property
    def kind(self) -> str:
        """Name of the model that draws masks, such as `SAM2`."""
        return self.baseline.promptable.kind

    def describe(self) -> dict[str, str]:
        """Return the models and their settings, for people; nothing of the machine's paths."""
        config, encoder = self.baseline.config, self.baseline.encoder
        onnx = config.encoder_cfg.name.startswith(ONNX) or self.baseline.runtime != "torch"
        by = ", ONNX Runtime" if onnx else ""
        return {
            "Encoder": f"{encoder.config.name}, {encoder.img_size} px{by}",
            self.kind: path_as_named(config.sam2_cfg_file),
            "Method": config.name,
            "Precision": config.precision,
        }

    def mask_of_box(self, image: ImageLike, box: tuple[float, float, float, float]) -> Bool[np.ndarray, "H W"]:
        """Draw the object in a box (x, y, width and height in pixels)."""
        drawn = self.baseline.mask_of_box(self.baseline.to_image(as_image(image)), box)
        mask: Bool[np.ndarray, "H W"] = to_numpy(drawn)
        return mask

    def object_of(self, item: ReferenceItem) -> tuple[Bool[np.ndarray, "H W"], Box]:
        """Return a reference's mask and box; a mask that it does not have is drawn by its points or its box."""
        drawn, box = self.baseline.object_of(item)
        return to_numpy(drawn), box

    def mean_of(self, item: ReferenceItem) -> Float[np.ndarray, " D"]:
        """Return the mean feature of a reference, without adding it."""
        mean: Float[np.ndarray, " D"] = to_numpy(self.baseline.mean_of(item))
        return mean

    def add_reference(
        self,
        image: ImageLike,
        *,
        label: str,
        mask: ImageLike | None = None,
        box: Box | None = None,
        points: Iterable[tuple[float, float]] | None = None,
        negative: bool = False,
    ) -> Bool[Array, "H W"]:
        """Add an object of which more are to be found.

        Args:
            image: Where it is seen: path, Pillow image, array (H, W, 3) or tensor (3, H, W).
            label: Its class.
            mask: The object: path, Pillow image, array or tensor (H, W), of the image's size.
            box: Instead of a mask: x1, y1, x2, y2 in pixels, x2 and y2 behind the last one. The mask is drawn by it.
            points: Instead of a mask: x and y in pixels of points on the object. The mask is drawn by it.
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
        pixels = self.baseline.to_image(as_image(image))
        size = (pixels.shape[1], pixels.shape[2])
        if mask is not None:
            drawn = as_like(as_mask(mask, size), pixels)
        elif box is not None:
            x1, y1, x2, y2 = checked_box(box, size)
            drawn = on_cpu(self.baseline.mask_of_box(pixels, (x1, y1, x2 - x1, y2 - y1)))
        else:
            drawn = on_cpu(self.baseline.mask_of_points(pixels, checked_points(points, size)))
        if not drawn.any():
            raise EmptyMaskError(
                f"the reference of {label!r} has no object in its mask", remedy="give a mask with some foreground"
            )
        around = box_of_mask(to_numpy(drawn))
        self._add(label, self.baseline.reference_mean(pixels, drawn, around, f"the reference of {label!r}"), negative)
        return drawn

    def add_references(
        self,
        references: Sources,
        images: Path | str | None = None,
        *,
        negative: bool = False,
        class_names: Sequence[str] | None = None,
    ) -> None:
        """Add all references of files or folders; a mask that one does not have is drawn by its points or its box.

        Args:
            references: One or several of: a COCO JSON, as `ntt sample-references` writes it; a folder with a folder of
                images for each class; a folder of annotations by LabelMe, YOLO, Pascal VOC or CVAT for images; text
                such as `photo.jpg:apple@12,40,200,180` (x, y, width, height) or `photo.jpg:apple@90,120` (a point).
            images: Folder of the images of annotation files; looked for near these if not given.
            negative: They show what classes of references that came before are taken for and are not.
            class_names: The classes to take, in this order; all those of the references if not given, or for negative
                references those at hand.

        Raises:
            NoTimeToTrainError: A file is missing or malformed, or a reference shows nothing.
        """
        for source in references if isinstance(references, list | tuple) else [references]:
            checked_path(source, "references")
        read = read_references(references, None if images is None else checked_path(images, "images"))
        if negative:
            names = self.class_names if class_names is None else tuple(class_names)
            items = ReferenceDataset(negative_references(read.dataset, names), read.images)
        else:
            found = reference_set(read.dataset, class_names)
            names, items = found.class_names, ReferenceDataset(found.references, read.images)
        means = [
            (item.reference, self.baseline.mean_of(item)) for item in (items[index] for index in range(len(items)))
        ]
        # All or none: a reference that is wrong leaves what was there before.
        for reference, mean in means:
            self._add(names[reference.class_index], mean, reference.negative)

    @overload
    def predict(  # type: ignore[overload-overlap] # a str is a sequence of str, and names one image
        self, images: ImageLike, *, min_score: float = ...
    ) -> Prediction: ...

    @overload
    def predict(self, images: Sequence[ImageLike], *, min_score: float = ...) -> list[Prediction]: ...

    def predict(
        self, images: ImageLike | Sequence[ImageLike], *, min_score: float = 0.0
    ) -> Prediction | list[Prediction]:
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
        tensors = [self.baseline.to_image(as_image(image)) for image in images]
        found = [self._predict_one(tensors[0])] if len(tensors) == 1 else self.baseline.predict_batch(tensors)
        far_pixel = self.baseline.protocol.far_pixel
        return [to_prediction(each, self.class_names, far_pixel=far_pixel).filter(min_score) for each in found]

    def _predict_one(self, image: UInt8[Array, "3 H W"]) -> Instances:
        """Look at an image, unless it is the one that was looked at last, and match it with the references."""
        baseline, key = self.baseline, ""
        if self._keeps_latest:
            key = content_key(image, autocast_state(baseline.promptable.device))
        latest = self._latest if self._latest is not None and self._latest.key == key else None
        patches = baseline.encode(image) if latest is None else latest.patches
        if latest is None or (baseline.proposer.uses_memory and latest.memory is not baseline.memory):
            (proposals,) = baseline.propose([image], [patches])
        else:
            proposals = latest.proposals
        self._latest = None
        if key and proposals.mask_logits.nbytes <= _MOST_KEPT:
            self._latest = _Latest(key, patches, proposals, baseline.memory)
        return baseline.match(patches, proposals, (image.shape[1], image.shape[2]))

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
            self._add(memory.class_names[index], on_cpu(mean), negative)

    def _add(self, label: str, mean: Float[Array, " D"], negative: bool) -> None:
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
        self.baseline.memory = self._memory.like(array_on(self.baseline.encoder.device))
        return self._memory


def _check_settings(settings: Mapping[str, Any]) -> None:
    # What arguments of this class stand for is not among them, nor what is for automatic masks.
    given = {"name", "sam2_cfg_file", "sam2_ckpt_path", "encoder_cfg", "encoder_ckpt_path"}
    known = [each.name for each in fields(MatcherConfig) if each.name not in {*given, "sam2_amg_cfg", "max_instances"}]
    for name in settings:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"there is no setting {name!r} (nearest: {nearest})", remedy=f"known are {', '.join(sorted(known))}"
            )
