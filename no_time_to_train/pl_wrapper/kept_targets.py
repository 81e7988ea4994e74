"""Targets that an earlier run of the same models, settings and references has matched, and those of other shards."""

from collections.abc import Sequence
from pathlib import Path

from no_time_to_train.batch.image_paths import InputImage
from no_time_to_train.batch.journal import Journal
from no_time_to_train.batch.run import INSTANCES
from no_time_to_train.data.datasets import TargetItem
from no_time_to_train.data.prediction import Prediction, Result
from no_time_to_train.models.feature_extractor import autocast_state
from no_time_to_train.models.pipeline import MatchingPipeline
from no_time_to_train.models.steps import run_fingerprint

# All results are kept: average precision wants them down to the lowest score.
_LEAST_SCORE = -1.0


class KeptTargets:
    """Keeps the results of each target as soon as it is matched, in the journal that `ntt predict` has too.

    To be made where the targets are matched: the trainer's autocast, which is on there, belongs to what is kept.

    Args:
        folder: The run's; the journal is within it.
        pipeline: With its memory.
        images: The folder of the targets.
        category_ids: Of the classes, in the memory's order.
    """

    def __init__(self, folder: Path, pipeline: MatchingPipeline, images: Path, category_ids: Sequence[int]) -> None:
        memory = pipeline.memory
        assert memory is not None
        names = memory.class_names
        references = [(names[index], mean, negative) for mean, index, negative in memory.rows()]
        settings = run_fingerprint(pipeline, references, _LEAST_SCORE)
        run = f"{settings} {autocast_state(pipeline.promptable.device)}"
        self._journal = Journal(folder / INSTANCES, run, names, _LEAST_SCORE)
        self._images = images
        self._category_ids = category_ids

    def read(self, item: TargetItem) -> list[Result] | None:
        """Return the COCO results of a target that is done; None of one that is not."""
        entry = self._journal.read(self._image(item))
        if entry is None:
            return None
        kept = ("bbox", "score", "segmentation")
        return [
            {
                "image_id": item.record.id,
                "category_id": self._category_ids[found["category_id"] - 1],
                **{key: found[key] for key in kept},
            }
            for found in entry["instances"]
        ]

    def write(self, item: TargetItem, prediction: Prediction) -> None:
        """Keep what was found in a target.

        Raises:
            OutputError: The run's folder cannot be written to.
        """
        assert item.stamp is not None
        self._journal.write(self._image(item), prediction, item.stamp)

    def _image(self, item: TargetItem) -> InputImage:
        # An annotation file may name images outside its folder; the id keeps those of one name apart.
        path = Path(item.record.file_name)
        return InputImage(self._images / path, f"{path.stem}_{item.record.id}{path.suffix}")
