"""The main job for Lightning: fill the memory from references, match targets, write results and AP."""

import itertools
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule

from no_time_to_train.configs.encoders import resolve_encoder
from no_time_to_train.configs.pipeline import MatcherConfig
from no_time_to_train.data.coco import CocoDataset
from no_time_to_train.data.datasets import ReferenceItem, TargetItem
from no_time_to_train.data.inputs import check_not_replaced
from no_time_to_train.data.prediction import Prediction, Result
from no_time_to_train.encoders.preprocessing import image_tensor
from no_time_to_train.errors import ConfigError
from no_time_to_train.io.atomic import remove_file
from no_time_to_train.io.messages import plain_console
from no_time_to_train.io.redact import printable
from no_time_to_train.matching import Instances, MemoryBank
from no_time_to_train.models.pipeline import MatchingPipeline
from no_time_to_train.models.predictions import to_prediction
from no_time_to_train.pl_wrapper.datamodule import ReferenceTargetDataModule
from no_time_to_train.pl_wrapper.distributed import gather_objects
from no_time_to_train.pl_wrapper.kept_targets import KeptTargets
from no_time_to_train.pl_wrapper.memory_checks import check_memory
from no_time_to_train.pl_wrapper.pictures import OverlayWriter, ReferenceVisualizer
from no_time_to_train.pl_wrapper.run_modes import NEEDS_MEMORY, READS, WRITES_MEMORY, TestMode, check_mode
from no_time_to_train.pl_wrapper.run_results import METRICS, RESULTS, write_metrics, write_results
from no_time_to_train.pl_wrapper.run_settings import check_limit, check_precision
from no_time_to_train.results.coco_output import PREDICTIONS
from no_time_to_train.results.evaluation import ApReport, ap_table, evaluate, reports_as_json
from no_time_to_train.weights.identify import ONNX, is_file_of_weights

log = logging.getLogger(__name__)


class Sam2MatcherLightningModel(LightningModule):
    """References in, instances out; no training.

    Args:
        model_cfg: Which baseline, with which models.
        test_mode: `full` fills the memory, matches the targets and evaluates, in one run. The steps alone, for those
            who split them over machines: `fill_memory`, `fill_memory_neg`, `postprocess_memory` write a memory file,
            `test` matches with one, `vis_memory` draws the references' features.
        memory_path: The memory file that a step begins with; `--ckpt_path` of the command line.
        out_path: The memory file that a step writes; `--out_path` of the command line.
        overlays: How many targets to draw beside their ground truth; -1 draws all.
        overlay_score: Instances of a lower score are not drawn.
        resume: Keep the results of each target in the run's folder as soon as it is matched, and match no target again
            that an earlier run of the same models, settings and references has kept there. A run of a shard
            (`data.shard`) does so in any case.

    Attributes:
        baseline: The models and the memory; None until the run begins.
        output_dir: The run's folder, where results go; known once the run has begun.

    Raises:
        UnknownEncoderError: No encoder has that name.
        ConfigError: A number of overlays or a score that is none.
    """

    def __init__(
        self,
        model_cfg: MatcherConfig,
        test_mode: TestMode = "full",
        memory_path: Path | None = None,
        out_path: Path | None = None,
        overlays: int = 0,
        overlay_score: float = 0.3,
        resume: bool = False,
    ) -> None:
        super().__init__()
        name = model_cfg.encoder_cfg.name
        if not name.startswith(ONNX) and not is_file_of_weights(name):
            resolve_encoder(name)
        if overlays < -1 or not 0 <= overlay_score <= 1:
            raise ConfigError(
                f"overlays is {overlays} and overlay_score is {overlay_score}, expected a number and a score of 0 to 1",
                remedy="-1 draws all, 0 none; 0.3 is a usual score",
            )
        self.model_cfg = model_cfg
        self.test_mode: TestMode = test_mode
        self.memory_path = memory_path
        self.out_path = out_path
        self.overlays = overlays
        self.overlay_score = overlay_score
        self.resume = resume
        self.baseline: MatchingPipeline | None = None
        self._targets: CocoDataset | None = None
        self._filled: list[tuple[tuple[int, int], torch.Tensor, int, bool]] = []
        self._memory_whole = False
        self._results: list[tuple[int, list[Result]]] = []
        self._seconds, self._matched = 0.0, 0
        self._kept: KeptTargets | None = None
        self.output_dir = Path()

    # Set-up ---------------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Check what the mode needs before anything large is loaded."""
        check_precision(str(self.trainer.precision))
        check_limit(self.trainer, stage)
        check_mode(self.test_mode, memory_path=self.memory_path, out_path=self.out_path, shard=self._data.shard)
        for kind in READS[self.test_mode]:
            if kind == "references":
                self._data.reference_set()
            elif kind == "targets":
                self._data.check_targets()

    def configure_model(self) -> None:
        """Build the baseline, once."""
        if self.baseline is None:
            self.baseline = MatchingPipeline(self.model_cfg)

    def wanted_data(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Tell the data module what the mode reads, in order, and the classes; begins the memory on the way."""
        kinds, names = READS[self.test_mode], self._begin_memory()
        if "targets" in kinds:
            self._targets = self._data.target_dataset(names)
        return kinds, names

    # Steps ----------------------------------------------------------------------------------------------------------

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Take in a reference, or match some targets."""
        if isinstance(batch, list):
            self._match(batch)
        elif isinstance(batch, ReferenceItem):
            if self.test_mode == "vis_memory":
                self._pictures.draw(batch, self._model)
            else:
                self._fill(batch, dataloader_idx)

    validation_step = test_step

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> list[Result]:
        """See `test_step`; returns the targets' COCO results, and nothing for a reference."""
        before = len(self._results)
        self.test_step(batch, batch_idx, dataloader_idx)
        return [result for _, results in self._results[before:] for result in results]

    def on_test_start(self) -> None:
        """Put away an earlier run's metrics: they are written last, and where they are all else is of the same run."""
        # Lightning broadcasts log_dir: every process has to ask for it, so all do here.
        self.output_dir = Path(self.trainer.log_dir or self.trainer.default_root_dir)
        if self.test_mode in ("full", "test"):
            check_not_replaced((self.output_dir / name for name in (RESULTS, PREDICTIONS, METRICS)), self._data.files())
            if self.trainer.is_global_zero:
                remove_file(self.output_dir / METRICS)

    on_validation_start = on_predict_start = on_test_start

    def on_test_epoch_start(self) -> None:
        """Forget what an earlier run of this module left."""
        self._results, self._seconds, self._matched, self._kept = [], 0.0, 0, None
        self._pictures = ReferenceVisualizer(self.output_dir / "memory")
        self._overlays = OverlayWriter(self.output_dir / "overlays", self._targets, self.overlays, self.overlay_score)

    on_validation_epoch_start = on_predict_epoch_start = on_test_epoch_start

    def on_test_epoch_end(self) -> None:
        """Bring the processes' parts together and write them."""
        self._finish_memory()
        if self.test_mode in WRITES_MEMORY:
            self._write_memory(cast(Path, self.out_path))
        elif self.test_mode == "vis_memory":
            self._say(f"pictures: {self.output_dir / 'memory'}")
        elif self._data.shard is not None:
            count = sum(gather_objects(len(self._results)))
            self._say(f"shard {self._data.shard}: {count} images; without data.shard, {RESULTS} is written of all")
        elif self.test_mode in ("full", "test"):
            self._write_results()

    on_validation_epoch_end = on_predict_epoch_end = on_test_epoch_end

    # Memory ---------------------------------------------------------------------------------------------------------

    def _begin_memory(self) -> tuple[str, ...]:
        """Start a memory, or load the one that the mode begins with, and return its classes."""
        self._filled, self._memory_whole = [], False
        if self.test_mode in NEEDS_MEMORY:
            memory = MemoryBank.load(cast(Path, self.memory_path))
            check_memory(memory, cast(Path, self.memory_path), self._data, self.test_mode)
            self._model.use_memory(memory)
            return memory.class_names
        references = self._data.reference_set()
        self._model.start_memory(references.class_names)
        return references.class_names

    def _fill(self, item: ReferenceItem, loader: int) -> None:
        """Encode a reference, to be added to the memory when all processes have theirs."""
        mean = self._model.mean_of(item)
        # A bank takes references in the order in which one process reads them, so that its sums are the same.
        self._filled.append(((loader, item.index), mean, item.reference.class_index, item.reference.negative))

    def _finish_memory(self) -> None:
        """Put the references of all processes into every process's memory; once, by all processes."""
        if self._memory_whole or self.test_mode == "vis_memory":
            return
        self._memory_whole = True
        memory = cast(MemoryBank, self._model.memory)
        rows = sorted(itertools.chain.from_iterable(gather_objects(self._filled)), key=lambda row: row[0])
        for loader, (kind, wanted) in enumerate(self._wanted_references()):
            read = sum(number == loader for (number, _), *_ in rows)
            if read < wanted:
                raise ConfigError(
                    f"{read} of {wanted} {kind} were read: the trainer's limit on batches holds for them too",
                    remedy="set data.max_targets to try fewer targets",
                )
        for _, mean, class_index, negative in rows:
            memory.add_mean(class_index, mean, negative)
        self._filled = []
        if self.test_mode != "fill_memory":
            memory.finalize()

    def _wanted_references(self) -> list[tuple[str, int]]:
        """Return what each loader of references is of, and how many it has over all processes, in their order."""
        names, reads = cast(MemoryBank, self._model.memory).class_names, READS[self.test_mode]
        wanted = [("references", len(self._data.reference_set().references))] if "references" in reads else []
        if "negatives" in reads or ("optional negatives" in reads and self._data.negative_references is not None):
            wanted.append(("negative references", len(self._data.negative_set(names))))
        return wanted

    def _write_memory(self, path: Path) -> None:
        if self.trainer.is_global_zero:
            cast(MemoryBank, self._model.memory).save(path)
            self._say(f"memory: {path}")

    # Targets --------------------------------------------------------------------------------------------------------

    def _match(self, items: list[TargetItem]) -> None:
        self._finish_memory()
        category_ids = list(self._categories())
        if self._kept is None and self.keeps_targets:
            folder = cast(Path, self._data.target_images)
            self._kept = KeptTargets(self.output_dir, self._model, folder, category_ids)
        missing = []
        for item in items:
            done = self._kept.read(item) if self._kept is not None and self._overlays.has(item) else None
            if done is None:
                missing.append(item)
            else:
                self._results.append((item.index, done))
        if not missing:
            return
        begin = time.perf_counter()
        found = self._predict(missing)
        self._seconds += time.perf_counter() - begin
        self._matched += len(missing)
        for item, prediction in zip(missing, found, strict=True):
            self._results.append((item.index, prediction.to_coco(item.record.id, category_ids)))
            self._overlays.draw(item, prediction)
            if self._kept is not None:
                self._kept.write(item, prediction)

    def _predict(self, items: list[TargetItem]) -> list[Prediction]:
        found = self._model.predict_batch([image_tensor(item.image) for item in items])
        return [self._prediction(instances) for instances in found]

    def _prediction(self, instances: Instances) -> Prediction:
        names = list(self._categories().values())
        return to_prediction(instances, names, far_pixel=self._model.protocol.far_pixel)

    def _categories(self) -> dict[int, str]:
        """Return COCO's id and the name of each class, in the memory's order.

        The ids are the targets' own; where those are a plain folder, the references', or 1, 2, 3 for a memory file.
        """
        names = cast(MemoryBank, self._model.memory).class_names
        ids: Sequence[int] = [category.id for category in cast(CocoDataset, self._targets).categories]
        if not ids and "references" in READS[self.test_mode]:
            ids = self._data.reference_set().category_ids
        return dict(zip(ids or range(1, len(names) + 1), names, strict=True))

    def _write_results(self) -> None:
        """Gather, write and evaluate; every process takes part, the first one writes."""
        gathered = list(itertools.chain.from_iterable(gather_objects(self._results)))
        gathered.sort(key=lambda entry: entry[0])
        seconds = sum(gather_objects(self._seconds)) / max(1, sum(gather_objects(self._matched)))
        overall: dict[str, float] = {}
        if self.trainer.is_global_zero:
            results = [result for _, found in gathered for result in found]
            overall = self._write_and_evaluate([index for index, _ in gathered], results, seconds)
        # The first process's own, for Lightning's loggers on all of them.
        overall = gather_objects(overall)[0]
        if not self.trainer.predicting:
            for name, value in overall.items():
                self.log(name, value, sync_dist=True, add_dataloader_idx=False)

    def _write_and_evaluate(self, indices: list[int], results: list[Result], seconds: float) -> dict[str, float]:
        """Write results, memory and metrics, print the table, and return the metrics over all classes."""
        targets, random = cast(CocoDataset, self._targets), self._model.random_weights
        folder, categories = cast(Path, self._data.target_images), self._categories()
        write_results(self.output_dir, targets, indices, results, categories, image_root=folder)
        cast(MemoryBank, self._model.memory).save(self.output_dir / "memory.safetensors")
        metrics: dict[str, Any] = {
            "encoder": self._model.encoder.config.name,
            "protocol": self._model.protocol.name,
            "random_weights": random,
            "categories": categories,
            "images": len(indices),
            "instances": len(results),
            "seconds_per_image": seconds,
        }
        # Lightning's limit on batches leaves images out.
        seen = targets.only_images({targets.images[index].id for index in indices})
        reports = evaluate(seen, results) if seen.annotations else []
        if reports:
            self._show(reports, "average precision, in points" + (", of RANDOM weights" if random else ""))
        else:
            self._say("nothing is annotated in these images: no average precision")
        write_metrics(self.output_dir, metrics | reports_as_json(reports) | self._further_metrics())
        if random:
            self._say(f"random weights ({', '.join(random)}): the instances mean nothing")
        self._say(f"{len(results)} instances in {len(indices)} images: {self.output_dir / PREDICTIONS}")
        return {f"{report.iou_type}/{name}": value for report in reports for name, value in report.overall.items()}

    def _further_metrics(self) -> dict[str, Any]:
        """Return what else goes into the metrics, and write what else belongs to the run, before them."""
        return {}

    def _show(self, reports: Sequence[ApReport], title: str) -> None:
        plain_console().print(ap_table(reports, title=title))

    # Odds and ends --------------------------------------------------------------------------------------------------

    @property
    def writes_run_folder(self) -> bool:
        """Whether results go into the run's folder, rather than a memory to `out_path`."""
        return self.test_mode not in WRITES_MEMORY

    @property
    def keeps_targets(self) -> bool:
        """True if each target's results are written to the journal as soon as it is matched."""
        return self.resume or self._data.shard is not None

    @property
    def _model(self) -> MatchingPipeline:
        assert self.baseline is not None
        return self.baseline

    @property
    def _data(self) -> ReferenceTargetDataModule:
        return self.check_data(getattr(self.trainer, "datamodule", None))

    @staticmethod
    def check_data(data: object) -> ReferenceTargetDataModule:
        """Return the data, if it is of references and targets.

        Raises:
            ConfigError: It is not.
        """
        if not isinstance(data, ReferenceTargetDataModule):
            raise ConfigError(
                f"the matching baselines take a ReferenceTargetDataModule as data, got {type(data).__name__}",
                remedy="name it, or ShapesDataModule, as data.class_path",
            )
        return data

    def _say(self, text: str) -> None:
        if self.trainer.is_global_zero:
            plain_console().print(printable(text))
