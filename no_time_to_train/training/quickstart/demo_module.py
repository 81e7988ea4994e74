"""`make demo`: the main job on the embedded dataset, beside the plainest baseline, with a picture of it all."""

import itertools
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool
from lightning.pytorch.utilities import rank_zero_only

from no_time_to_train.data.coco import CocoDataset
from no_time_to_train.data.datasets import ReferenceDataset, ReferenceItem, TargetItem
from no_time_to_train.data.drawing import draw_masks
from no_time_to_train.data.prediction import Prediction, Result
from no_time_to_train.encoders.preprocessing import image_tensor
from no_time_to_train.errors import ConfigError
from no_time_to_train.io.messages import plain_console
from no_time_to_train.io.redact import printable
from no_time_to_train.matching import MemoryBank
from no_time_to_train.pl_wrapper.distributed import gather_objects
from no_time_to_train.pl_wrapper.sam2matcher_pl import Sam2MatcherLightningModel
from no_time_to_train.results.contact_sheet import Picture, contact_sheet
from no_time_to_train.results.evaluation import ApReport, comparison_table, evaluate, reports_as_json
from no_time_to_train.training.quickstart.mean_color import colour_bank, colour_patches, mean_colour

_SHEET = "contact_sheet.png"
_SHEET_TARGETS = 12
_NEXT_STEPS = """Next:
  your own images    docs/start.md; pl_configs/custom_dataset.yaml is the template
  real weights       checkpoints/README.md says where they go; then pl_configs/matching_baseline_dinov3_large.yaml
  these models       checkpoints/quickstart/*/README.md says how they were made, and what they cannot do"""


class QuickstartDemo(Sam2MatcherLightningModel):
    """The main job in test mode `full`, with mean colours matched to the same masks, and a contact sheet.

    Arguments as of `Sam2MatcherLightningModel`.
    """

    def setup(self, stage: str) -> None:
        """Refuse what the comparison is not made for.

        Raises:
            ConfigError: The baseline is not the one over a grid of points, or the mode is not `full`.
        """
        if self.model_cfg.name != "matching_baseline_noAMG" or self.test_mode != "full":
            raise ConfigError(
                f"the demo runs matching_baseline_noAMG in test_mode full, not {self.model_cfg.name} in "
                f"{self.test_mode}",
                remedy="for others take Sam2MatcherLightningModel as model.class_path",
            )
        if self.keeps_targets:
            raise ConfigError(
                "the demo compares on all targets, and resume and data.shard would leave some out",
                remedy="leave them out, or take Sam2MatcherLightningModel as model.class_path",
            )
        super().setup(stage)
        self._shown: Sequence[ApReport] = ()
        self._by_colour: Sequence[ApReport] = ()
        self._title = ""
        self._colours: MemoryBank | None = None
        self._colour_results: list[tuple[int, list[Result]]] = []
        self._reference_pictures: list[tuple[Picture, str]] = []
        self._target_pictures: list[Picture] = []

    def _predict(self, items: list[TargetItem]) -> list[Prediction]:
        baseline = self._model
        images = [image_tensor(item.image) for item in items]
        patches = baseline.encode_batch(images)
        found = []
        for item, image, features, proposals in zip(
            items, images, patches, baseline.propose(images, patches), strict=True
        ):
            size = item.image.shape[:2]
            found.append(self._prediction(baseline.match(features, proposals, size)))
            colours = colour_patches(image.to(self.device))
            by_colour = baseline.match(colours, proposals, size, self._colour_memory())
            results = self._prediction(by_colour).to_coco(item.record.id, list(self._categories()))
            self._colour_results.append((item.index, results))
            if len(self._target_pictures) < _SHEET_TARGETS:
                picture = found[-1].filter(self.overlay_score).draw(item.image, opacity=0.25)
                self._target_pictures.append(np.asarray(picture))
        return found

    def _colour_memory(self) -> MemoryBank:
        """Return the colours of the references, which every process reads for itself: they are few and small."""
        if self._colours is None:
            references = self._data.reference_set()
            self._colours = colour_bank(references.class_names)
            folder = self._data.reference_images
            assert folder is not None
            dataset = ReferenceDataset(references.references, folder)
            for item in (dataset[index] for index in range(len(dataset))):
                index = item.reference.class_index
                x, y, width, height = (round(side) for side in item.reference.annotation.bbox)
                mask = item.mask
                if mask is None:
                    mask = np.zeros(item.image.shape[:2], dtype=bool)
                    mask[y : y + height, x : x + width] = True
                self._colours.add_mean(index, mean_colour(image_tensor(item.image), torch.from_numpy(mask)))
                if len(self._reference_pictures) == index:
                    self._reference_pictures.append((self._cut_out(item, mask), references.class_names[index]))
            self._colours.finalize()
            self._colours.to(self.device)
        return self._colours

    def _cut_out(self, item: ReferenceItem, mask: Bool[np.ndarray, "H W"]) -> Picture:
        """Return the window that a reference is encoded in, with its outline."""
        x1, y1, x2, y2 = self._model.window_of(item.reference.annotation.bbox, mask.shape)
        image = np.ascontiguousarray(item.image[y1:y2, x1:x2])
        return draw_masks(image, mask[None, y1:y2, x1:x2], [item.reference.class_index], [""], opacity=0)

    def _show(self, reports: Sequence[ApReport], title: str) -> None:
        """Keep what the run gave, to be shown beside the baseline."""
        self._shown, self._title = reports, f"mask {title}: the encoder, and mean colour on the same masks"

    def _write_results(self) -> None:
        gathered = itertools.chain.from_iterable(gather_objects(self._colour_results))
        self._colour_results = sorted(gathered, key=lambda row: row[0])
        super()._write_results()
        self._compare()

    def _further_metrics(self) -> dict[str, Any]:
        """Evaluate mean colours, and write the contact sheet."""
        targets = cast(CocoDataset, self._targets)
        seen = targets.only_images({targets.images[index].id for index, _ in self._colour_results})
        if seen.annotations:
            self._by_colour = evaluate(seen, [result for _, found in self._colour_results for result in found])
        contact_sheet(self._reference_pictures, self._target_pictures, self.output_dir / _SHEET)
        return {"mean_colour": reports_as_json(self._by_colour)} if self._by_colour else {}

    @rank_zero_only
    def _compare(self) -> None:
        """Print both averages beside each other, and say what comes next."""
        console = plain_console()
        compared = {"encoder": self._shown, "mean\ncolour": self._by_colour}
        masks = {name: report for name, reports in compared.items() for report in reports if report.iou_type == "segm"}
        if masks:
            console.print(comparison_table(masks, title=self._title))
        pictures = printable(f"{self.output_dir / _SHEET} and {self.output_dir / 'overlays'}")
        console.print(f"pictures: {pictures}\n{_NEXT_STEPS}")
