"""Distillation of a frozen teacher into a student encoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torchmetrics import MeanMetric

from no_time_to_train.configs.image_size import check_image_size
from no_time_to_train.configs.parsing import as_config
from no_time_to_train.encoders.live_weights import EncoderSnapshot, save_encoder_snapshot
from no_time_to_train.io.atomic import write_text_atomic
from no_time_to_train.pl_wrapper.distributed import gather_objects
from no_time_to_train.training.distill.configs import LossConfig, OptimizerConfig, StudentConfig, TeacherConfig
from no_time_to_train.training.distill.encoders import FrozenTeacher, build_student, build_teacher, under_dinov3
from no_time_to_train.training.distill.features import DenseFeatures, check_layers, dense_features
from no_time_to_train.training.distill.knn import knn_accuracy
from no_time_to_train.training.distill.losses import DistillationLoss, LossTerms
from no_time_to_train.training.distill.views import ViewBatch
from no_time_to_train.training.exporting_module import ExportsHfFolder
from no_time_to_train.training.hf_folder import normalised
from no_time_to_train.training.schedule import build_adamw
from no_time_to_train.weights.license import NOTICE, NOTICE_FILE

_METRICS = ("loss", "cls_cosine", "patch_cosine")


class DistillationModule(ExportsHfFolder):
    """A student learns its teacher's features: CLS token, every patch, and what else the loss asks for.

    The teacher is not part of the module's state: checkpoints hold the student and the projections of the loss.

    Args:
        teacher: Which encoder teaches.
        student: Which encoder learns.
        loss: The weights of the terms.
        optimizer: AdamW and its schedule.
        output: Folder that the trained student is written to at the end, as transformers reads it.
        compile: Compile teacher and student with `torch.compile`.

    Raises:
        ConfigError: A setting that makes no sense.
        UnknownEncoderError: An encoder's name is not known.
        WeightsNotFoundError: The teacher's weights are not there.

    Attributes:
        model: The student's transformers model.
        entry: Its registry entry.
        distances: The loss, with its projections.
    """

    def __init__(
        self,
        teacher: TeacherConfig | Mapping[str, Any],
        student: StudentConfig | Mapping[str, Any],
        loss: LossConfig | Mapping[str, Any] | None = None,
        optimizer: OptimizerConfig | Mapping[str, Any] | None = None,
        *,
        output: Path | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.loss_config = as_config(LossConfig, loss or {}, "loss")
        self.optimizer_config = as_config(OptimizerConfig, optimizer or {}, "optimizer")
        self.output, self.compiled = output, compile
        self.teacher: FrozenTeacher = build_teacher(as_config(TeacherConfig, teacher, "teacher"))
        student_config = as_config(StudentConfig, student, "student")
        learner = build_student(student_config)
        self.model, self.entry = learner.model, learner.config
        begun = student_config.folder or student_config.ckpt_path
        self.is_dinov3 = self.teacher.is_dinov3 or under_dinov3(begun, self.entry)
        check_layers(list(self.loss_config.layers), self.entry, "student")
        check_layers(list(self.loss_config.layers.values()), self.teacher.config, "teacher")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.distances = DistillationLoss(self.loss_config, self.entry, self.teacher.config)
        # Sums over all images and processes, whatever the sizes of batches.
        self.means: Any = torch.nn.ModuleDict({name: MeanMetric() for name in (*_METRICS, *self._terms())})
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def _terms(self) -> list[str]:
        config = self.loss_config
        wanted = {"cls": 1, "patches": 1, "gram": config.gram, "layer": config.layer and len(config.layers)}
        return [name for name, weight in wanted.items() if weight]

    # Lightning's hooks ----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Bring the teacher to the device, in shards if it is to be, and compile.

        Raises:
            OutputError: The student could not be written at the end.
        """
        super().setup(stage)
        self.teacher.prepare(self.device)
        if self.compiled:
            self.teacher.model.compile()
            self.model.compile()

    def on_fit_start(self) -> None:
        """Put the licence's notice where checkpoints will be, which exports and conversions carry along."""
        super().on_fit_start()
        folders = {
            Path(part.dirpath)
            for part in self.trainer.checkpoint_callbacks
            if isinstance(part, ModelCheckpoint) and part.dirpath
        }
        for folder in folders:
            self._write_notice(folder)

    def training_step(self, batch: ViewBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch of views."""
        found = self.compare(batch.images)
        count = len(batch.images)
        self.log("train/loss", found.total, prog_bar=True, batch_size=count, sync_dist=True)
        for name, value in found.terms.items():
            self.log(f"train/{name}", value, batch_size=count, sync_dist=True)
        return found.total

    def validation_step(self, batch: ViewBatch, batch_idx: int) -> None:
        """Take images that were not trained on into account."""
        pixels = batch.images
        student, teacher = self.student_features(pixels), self.teacher_features(pixels)
        found = self.distances(student, teacher)
        count = len(pixels)
        self.means["loss"].update(found.total, count)
        for name, value in found.terms.items():
            self.means[name].update(value, count)
        self.means["cls_cosine"].update(found.cls_cosine)
        self.means["patch_cosine"].update(found.patch_cosine)
        if (batch.labels >= 0).any():
            self._seen.append((student.cls.float().cpu(), teacher.cls.float().cpu(), batch.labels.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Log the means over all images, and what neighbours say where there are labels."""
        for name, mean in self.means.items():
            self.log(f"val/{name}", mean, prog_bar=name == "patch_cosine")
        seen = [part for parts in gather_objects(self._seen) for part in parts]
        self._seen = []
        if seen and self.trainer.is_global_zero:
            student, teacher, labels = (torch.cat(parts) for parts in zip(*seen, strict=True))
            self.log("val/knn_accuracy", knn_accuracy(student, labels), rank_zero_only=True)
            self.log("val/knn_accuracy_teacher", knn_accuracy(teacher, labels), rank_zero_only=True)

    def configure_optimizers(self) -> Any:
        """Set up AdamW and its schedule over all steps."""
        return build_adamw(self, self.optimizer_config, max_steps=int(self.trainer.estimated_stepping_batches))

    def save(self, folder: Path) -> None:
        """Write the student as a folder."""
        self._write_notice(folder)
        save_encoder_snapshot(EncoderSnapshot(self.model, self.entry), folder)

    # Features -------------------------------------------------------------------------------------------------------

    def compare(self, images: Float[Tensor, "B 3 S S"]) -> LossTerms:
        """Compare the student's features of images in [0, 1] with the teacher's."""
        distances: LossTerms = self.distances(self.student_features(images), self.teacher_features(images))
        return distances

    def student_features(self, images: Float[Tensor, "B 3 S S"]) -> DenseFeatures:
        """Encode images in [0, 1] by the student."""
        check_image_size(images.shape[2], images.shape[3], self.entry)
        pixels = normalised(images, self.entry.image_mean, self.entry.image_std)
        return dense_features(self.model, self.entry, pixels, list(self.loss_config.layers))

    def teacher_features(self, images: Float[Tensor, "B 3 S S"]) -> DenseFeatures:
        """Encode images in [0, 1] by the teacher, without gradients."""
        config = self.teacher.config
        check_image_size(images.shape[2], images.shape[3], config)
        pixels = normalised(images, config.image_mean, config.image_std)
        with torch.no_grad():
            return dense_features(self.teacher.model, config, pixels, list(self.loss_config.layers.values()))

    def _write_notice(self, folder: Path) -> None:
        if self.is_dinov3 and self.trainer.is_global_zero:
            write_text_atomic(folder / NOTICE_FILE, NOTICE.format(source=f"distilled from {self.teacher.config.name}"))
