"""Training of the tiny encoder that the project ships."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from no_time_to_train.configs.encoders import resolve_encoder
from no_time_to_train.configs.image_size import check_image_size
from no_time_to_train.encoders.torch_encoder import build_torch_encoder
from no_time_to_train.encoders.transformers_models import build_model
from no_time_to_train.training.hf_folder import normalised, save_folder
from no_time_to_train.training.quickstart.augmentation import View, random_view, whole_view
from no_time_to_train.training.quickstart.encoder_losses import AttributeProxies, PooledObjects, pool_objects
from no_time_to_train.training.scenes_datamodule import SceneBatch
from no_time_to_train.training.scenes_module import QuickstartTraining
from no_time_to_train.weights.hf_config import preprocessor_config
from no_time_to_train.weights.load import hub_state

_WEIGHTS = {"objects": 1.0, "patches": 0.5, "attributes": 0.3}


class QuickstartEncoderTraining(QuickstartTraining):
    """Objects pooled over their true masks, and single patches, classified by shape, texture and colour.

    Args:
        output: Folder that the trained encoder is written to.
        name: Registry entry whose architecture is trained.
        init_from: Weights to begin with; None begins with random ones.
        img_size: Side of the square input in pixels.
        learning_rate: Peak of Muon's, for matrices.
        adamw_learning_rate: Peak of AdamW's, for everything else.
        warmup_steps: Steps of the linear rise to the peak.
        smallest_crop: Smallest square cut out of a scene, as a share of its side.
        seed: Of the random weights.
    """

    def __init__(
        self,
        output: Path,
        *,
        name: str = "dinov3_quickstart",
        init_from: Path | None = None,
        img_size: int = 256,
        learning_rate: float = 3e-3,
        adamw_learning_rate: float = 1.5e-3,
        warmup_steps: int = 200,
        smallest_crop: float = 0.4,
        seed: int = 0,
    ) -> None:
        super().__init__(output, learning_rate, adamw_learning_rate, warmup_steps, smallest_crop)
        self.img_size = img_size
        self.entry = resolve_encoder(name)
        check_image_size(img_size, img_size, self.entry)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if init_from is None:
                self.model = build_model(self.entry, num_heads=self.entry.num_heads)
            else:
                self.model = build_torch_encoder(name, init_from).model.requires_grad_(True).train()
            self.proxies = AttributeProxies(self.entry.embed_dim)

    def training_step(self, batch: SceneBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch of scenes."""
        view = random_view(batch.images, batch.instances, self.img_size, smallest_crop=self.smallest_crop)
        losses = self.proxies(self.pool(view, batch))
        loss = torch.stack([weight * losses[name] for name, weight in _WEIGHTS.items()]).sum()
        for name, value in losses.items():
            self.log(f"train/{name}", value, prog_bar=name == "accuracy")
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: SceneBatch, batch_idx: int) -> None:
        """Log the same figures for scenes that were not trained on, as they are."""
        pooled = self.pool(whole_view(batch.images, batch.instances, self.img_size), batch)
        for name, value in self.proxies(pooled).items():
            self.log(f"val/{name}", value, prog_bar=name == "accuracy", batch_size=len(pooled.vectors))

    def save(self, folder: Path) -> None:
        """Write the encoder without the proxies that only training needs."""
        entry = self.entry
        preprocessor = preprocessor_config(
            entry.default_img_size, entry.image_mean, entry.image_std, processor="DINOv3ViTImageProcessorFast"
        )
        config = {**self.model.config.to_dict(), "architectures": [type(self.model).__name__]}
        save_folder(folder, hub_state(self.model.state_dict(), entry.family), config=config, preprocessor=preprocessor)

    def pool(self, view: View, batch: SceneBatch) -> PooledObjects:
        """Encode a view and pool its objects, features in float32."""
        patches = self.encode(view.images)
        return pool_objects(patches, view.instances, batch.kinds, view.channel_order)

    def encode(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B h w D"]:
        """Return the patch features of images in [0, 1]."""
        pixels = normalised(images, self.entry.image_mean, self.entry.image_std)
        tokens: Tensor = self.model(pixel_values=pixels).last_hidden_state
        side = images.shape[-1] // self.entry.patch_size
        patches = tokens[:, -side * side :].float()
        return patches.reshape(len(images), side, side, -1)
