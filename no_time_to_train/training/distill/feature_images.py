"""Pictures while a student learns: images, the teacher's features and the student's in the same colours."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor

from no_time_to_train.configs.limits import MOST_IN_BATCH, TOGETHER, check_number
from no_time_to_train.results.drawing import pca_basis, pca_colors, save_panels

_SIDE = 224


class FeaturePictures(Callback):
    """Draws teacher and student side by side, coloured by the teacher's principal components, as PNG and in the log.

    The student's features are shown as the loss projects them to the teacher's width. Loggers that take images
    (TensorBoard's among them) get the picture too.

    Args:
        every_n_steps: How often.
        num_images: How many of the batch.
        dirpath: Where the PNG files go; `features/` in the run's folder if None.

    Raises:
        ConfigError: A setting that makes no sense.
    """

    def __init__(self, every_n_steps: int = 500, num_images: int = 4, dirpath: Path | None = None) -> None:
        super().__init__()
        check_number("FeaturePictures.every_n_steps", every_n_steps, 1, 10**12, "it would never draw")
        check_number("FeaturePictures.num_images", num_images, 1, MOST_IN_BATCH, TOGETHER)
        self.every_n_steps, self.num_images, self.dirpath = every_n_steps, num_images, dirpath
        self._drawn = -1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw, and keep the first process's picture."""
        step = trainer.global_step
        if step % self.every_n_steps or step == self._drawn:
            return
        self._drawn = step
        # On all processes, which may have parts of the teacher each.
        picture = draw_features(pl_module, batch.images[: self.num_images])
        if not trainer.is_global_zero:
            return
        folder = self.dirpath or Path(trainer.default_root_dir) / "features"
        save_panels([picture], folder / f"step_{step:07d}.png")
        for logger in trainer.loggers:
            add_image = getattr(getattr(logger, "experiment", None), "add_image", None)
            if add_image is not None:
                add_image("features", picture, step, dataformats="HWC")


def draw_features(module: Any, images: Float[Tensor, "B 3 S S"]) -> UInt8[np.ndarray, "H W 3"]:
    """Draw a row an image: the image, the teacher's patches, the student's.

    Args:
        module: A `DistillationModule`; left in its mode.
        images: RGB in [0, 1].
    """
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            teacher, student = module.teacher_features(images).patches, module.student_features(images).patches
            projection = module.distances.patches
            projected = projection(student.to(projection.weight.dtype))
    finally:
        module.train(training)
    rows = []
    for image, taught, learnt in zip(images, teacher, projected, strict=True):
        basis = pca_basis(taught.float().flatten(0, 1).cpu().numpy())
        panels = [(image.permute(1, 2, 0).cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()]
        panels += [pca_colors(patches.float().cpu().numpy(), basis) for patches in (taught, learnt)]
        rows.append(np.concatenate([_enlarged(panel) for panel in panels], axis=1))
    return np.concatenate(rows)


def _enlarged(panel: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
    return np.asarray(Image.fromarray(panel).resize((_SIDE, _SIDE), Image.Resampling.NEAREST))
