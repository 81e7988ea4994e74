"""What the shipped models reach on fresh synthetic data: the figures that their model cards state."""

import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from no_time_to_train.configs.limits import MOST_IMAGES, check_number
from no_time_to_train.configs.parsing import as_config, settings_of
from no_time_to_train.configs.pipeline import MatcherConfig
from no_time_to_train.configs.shipped import find_settings
from no_time_to_train.data.coco import CocoDataset, load_coco
from no_time_to_train.data.images import load_image
from no_time_to_train.data.masks import decode_mask
from no_time_to_train.data.prediction import Result
from no_time_to_train.data.records import ImageRecord
from no_time_to_train.data.references import load_references
from no_time_to_train.data.synthetic.dataset import BASE_CLASSES, NOVEL_CLASSES, ShapesPaths, write_shapes
from no_time_to_train.data.synthetic.scenes import check_drawable
from no_time_to_train.errors import ConfigError, DataNotFoundError
from no_time_to_train.io.strict_yaml import read_yaml
from no_time_to_train.matching import MemoryBank
from no_time_to_train.matching.similarity import class_similarity, pool_masks
from no_time_to_train.models.pipeline import MatchingPipeline
from no_time_to_train.models.predictions import to_prediction
from no_time_to_train.proposers.sam2.predictor import Sam2Predictor
from no_time_to_train.results.evaluation import evaluate
from no_time_to_train.training.quickstart.mean_color import colour_bank, colour_patches, mean_colour
from no_time_to_train.training.quickstart.prompt_scores import score_prompts

CONFIG = Path("pl_configs/quickstart.yaml")
TEST_SEED = 2026
_CLASS_NAMES = tuple(kind.name for kind in NOVEL_CLASSES)
_TIMED_IMAGES = 20
_SIZE = 256  # pixels


@dataclass(frozen=True)
class Memories:
    """The memories of one draw of references.

    Attributes:
        encoder: By number of references a class, filled with the encoder's features.
        colour: The same with mean colours.
    """

    encoder: Mapping[int, MemoryBank]
    colour: Mapping[int, MemoryBank]


@dataclass(frozen=True)
class Metrics:
    """What one set of targets gave by number of references a class, each figure the mean over the draws.

    Attributes:
        ap: Mask AP in points.
        ap_colour: The same for mean colours, with the same masks.
        accuracy: Share of objects given the right class by their true masks.
        accuracy_colour: The same for mean colours.
    """

    ap: dict[int, float]
    ap_colour: dict[int, float]
    accuracy: dict[int, float]
    accuracy_colour: dict[int, float]


def quickstart_report(
    *, seed: int = TEST_SEED, num_images: int = 200, draws: int = 3, config: Path | str = CONFIG
) -> dict[str, Any]:
    """Measure the shipped models on data of a seed that no training and no tuning has seen.

    Args:
        seed: Of scenes, targets and references.
        num_images: Targets with and without distractors each; half as many scenes of base and novel classes each for
            the prompts.
        draws: Sets of references, over which AP and accuracy are averaged.
        config: The YAML whose models and thresholds are measured.

    Returns:
        ``sam2``: mean IoU of masks, 0-1; ``encoder``: accuracy, 0-1; ``ap``: points; ``seconds_per_image``.

    Raises:
        ConfigError: The YAML has no matching baseline, or there would be nothing to measure.
        NoTimeToTrainError: Its models cannot be built.
    """
    if num_images < 2 or draws < 1:
        raise ConfigError(
            f"cannot measure {num_images} images and {draws} draws", remedy="take 2 images and one draw at least"
        )
    check_number("the number of images", num_images, 2, MOST_IMAGES, "every one is drawn and matched")
    check_drawable(_SIZE, seed)
    baseline = build_baseline(config)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        memories = [fill_memories(baseline, root / f"references{k}", seed=seed + k, shots=(1, 5)) for k in range(draws)]
        sets = {
            distractors: write_shapes(
                root / ("targets_with distractors" if distractors else "targets_alone"),
                seed=seed,
                shots=1,
                num_targets=num_images,
                distractors=distractors,
            )
            for distractors in (False, True)
        }
        plain, crowded = (measure(baseline, memories, sets[distractors]) for distractors in (False, True))
        baseline.memory = memories[0].encoder[5]
        seconds = _seconds_per_image(baseline, sets[False])
    base, novel = (
        score_prompts(cast(Sam2Predictor, baseline.promptable), classes, seed=seed, num_images=num_images // 2)
        for classes in (BASE_CLASSES, NOVEL_CLASSES)
    )
    return {
        "sam2": {
            "best_of_3_base": statistics.fmean(base.best_of_3),
            "best_of_3_novel": statistics.fmean(novel.best_of_3),
            "top_scored": statistics.fmean(base.top_scored + novel.top_scored),
            "box": statistics.fmean(base.box + novel.box),
        },
        "encoder": {"novel_1shot": plain.accuracy[1], "novel_5shot": plain.accuracy[5]},
        "ap": {
            "no_distractors": plain.ap[5],
            "distractors": crowded.ap[5],
            "mean_colour_no_distractors": plain.ap_colour[5],
            "mean_colour_distractors": crowded.ap_colour[5],
        },
        "seconds_per_image": seconds,
    }


def as_json(figures: Mapping[str, Any]) -> str:
    """Return the figures as JSON, rounded to what the number of images supports."""

    def rounded(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: rounded(entry) for key, entry in value.items()}
        return round(value, 4)

    return json.dumps(rounded(figures), indent=2)


def as_text(figures: Mapping[str, Any]) -> str:
    """Return the figures line by line."""
    sam2, encoder, ap = figures["sam2"], figures["encoder"], figures["ap"]
    return "\n".join(
        [
            f"SAM2, mean IoU: one click, best of 3: base {sam2['best_of_3_base']:.3f}, "
            f"novel {sam2['best_of_3_novel']:.3f}; top-scored {sam2['top_scored']:.3f}; box {sam2['box']:.3f}",
            f"encoder, novel 8-way accuracy with true masks: 1 shot {encoder['novel_1shot']:.3f}, "
            f"5 shots {encoder['novel_5shot']:.3f}",
            f"5-shot mask AP: {ap['no_distractors']:.1f} without distractors, {ap['distractors']:.1f} with; "
            f"by mean colour {ap['mean_colour_no_distractors']:.1f} and {ap['mean_colour_distractors']:.1f}",
            f"{figures['seconds_per_image']:.2f} s an image",
        ]
    )


def build_baseline(config: Path | str = CONFIG) -> MatchingPipeline:
    """Build the baseline that a YAML describes.

    Raises:
        ConfigError: It describes none over a grid of points, or is not there.
    """
    try:
        settings = dict(settings_of(read_yaml(find_settings(config))))
    except (DataNotFoundError, ConfigError) as error:
        raise ConfigError(
            f"{config} does not describe a matching baseline: {error.message}",
            remedy=f"run in the repository's folder, or give a YAML like {CONFIG}",
        ) from error
    if settings.get("name") != "matching_baseline_noAMG":
        raise ConfigError(f"{config} is not of matching_baseline_noAMG", remedy=f"give a YAML like {CONFIG}")
    return MatchingPipeline(as_config(MatcherConfig, settings, "model_cfg"))


def fill_memories(
    baseline: MatchingPipeline, root: Path, *, seed: int, shots: Sequence[int], size: int = _SIZE
) -> Memories:
    """Draw references of the novel classes and fill a memory for each number of them.

    Args:
        baseline: Encodes the references.
        root: Folder that the references are written to.
        seed: Of the references.
        shots: Numbers of references a class; the smaller are the first of the larger.
        size: Side of the images in pixels.
    """
    paths = write_shapes(root, seed=seed, size=size, shots=max(shots), num_targets=1)
    encoder = {count: baseline.start_memory(_CLASS_NAMES) for count in shots}
    colour = {count: colour_bank(_CLASS_NAMES) for count in shots}
    seen = dict.fromkeys(range(len(_CLASS_NAMES)), 0)
    for reference in load_references(paths.references_json, class_names=_CLASS_NAMES).references:
        image = _read(paths.image_dir, reference.image)
        mask = torch.from_numpy(decode_mask(reference.annotation, *image.shape[1:]))
        patches, on_grid = baseline.encode_reference(image, mask, reference.annotation.bbox)
        index = reference.class_index
        for count in shots:
            if seen[index] < count:
                encoder[count].add(index, patches, on_grid)
                colour[count].add_mean(index, mean_colour(image, mask))
        seen[index] += 1
    for bank in (*encoder.values(), *colour.values()):
        bank.finalize()
    return Memories(encoder, colour)


def measure(
    baseline: MatchingPipeline,
    memories: Sequence[Memories],
    paths: ShapesPaths,
    *,
    ap_shots: Sequence[int] = (5,),
) -> Metrics:
    """Match the targets with every memory, the masks of an image being drawn once.

    Args:
        baseline: The models and their thresholds.
        memories: One for each draw of references.
        paths: The targets.
        ap_shots: Numbers of references whose AP is wanted; accuracy is measured for all that the memories have.
    """
    dataset = load_coco(paths.targets_json)
    shots = list(memories[0].encoder)
    # Draw, number of references, and whether it is of colours.
    results: dict[tuple[int, int, bool], list[Result]] = {
        (draw, count, colour): [] for draw in range(len(memories)) for count in ap_shots for colour in (False, True)
    }
    right: dict[tuple[int, bool], list[float]] = {(count, colour): [] for count in shots for colour in (False, True)}
    category_ids = [category.id for category in dataset.categories]
    targets = track(
        _targets(dataset, paths.image_dir),
        f"targets {paths.root.name.removeprefix('targets_')}",
        total=len(dataset.images),
        console=Console(stderr=True),
        transient=True,
    )
    for image_id, image, masks, labels in targets:
        features = {False: baseline.encode(image), True: colour_patches(image)}
        (proposals,) = baseline.propose([image], [features[False]])
        size = (image.shape[1], image.shape[2])
        for (draw, count, colour), found in results.items():
            bank = (memories[draw].colour if colour else memories[draw].encoder)[count]
            instances = baseline.match(features[colour], proposals, size, bank)
            prediction = to_prediction(instances, _CLASS_NAMES, far_pixel=baseline.protocol.far_pixel)
            found += prediction.to_coco(image_id, category_ids)
        for (count, colour), hits in right.items():
            pooled = functional.normalize(pool_masks(features[colour], masks), dim=1)
            for memory in memories:
                cosines = class_similarity(pooled, (memory.colour if colour else memory.encoder)[count])
                hits += (cosines.argmax(dim=1) == labels).float().tolist()
    ap = {key: 100 * _mask_ap(dataset, found) for key, found in results.items()}

    def over_draws(colour: bool) -> dict[int, float]:
        return {count: statistics.fmean(ap[draw, count, colour] for draw in range(len(memories))) for count in ap_shots}

    accuracy = {key: statistics.fmean(hits) for key, hits in right.items()}
    return Metrics(
        over_draws(False),
        over_draws(True),
        {count: accuracy[count, False] for count in shots},
        {count: accuracy[count, True] for count in shots},
    )


def _targets(
    dataset: CocoDataset, folder: Path
) -> Iterator[tuple[int, UInt8[Tensor, "3 H W"], Bool[Tensor, "N H W"], Tensor]]:
    """Go through the targets with the masks and class indices of their objects."""
    for record in dataset.images:
        truth = dataset.annotations_of(record.id)
        masks = np.stack([decode_mask(entry, record.height, record.width) for entry in truth])
        labels = torch.tensor([dataset.class_indices[entry.category_id] for entry in truth])
        yield record.id, _read(folder, record), torch.from_numpy(masks), labels


def _mask_ap(dataset: CocoDataset, results: Sequence[Result]) -> float:
    (report,) = (report for report in evaluate(dataset, results) if report.iou_type == "segm")
    return report.overall["AP"]


def _seconds_per_image(baseline: MatchingPipeline, paths: ShapesPaths) -> float:
    """Return the median time of a whole prediction."""
    records = load_coco(paths.targets_json).images[:_TIMED_IMAGES]
    images = [_read(paths.image_dir, record) for record in records]
    seconds = []
    for image in images:
        begin = time.perf_counter()
        baseline.predict(image)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def _read(folder: Path, record: ImageRecord) -> UInt8[Tensor, "3 H W"]:
    return torch.from_numpy(np.array(load_image(folder / record.file_name))).permute(2, 0, 1).contiguous()
