"""A fetched encoder as a teacher: frozen, and fed as its folder's preprocessor says."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, DINOv3ViTImageProcessor

from no_time_to_train.configs.image_size import check_image_size
from no_time_to_train.encoders.torch_encoder import EncoderFeatures, FeatureEncoder, build_encoder_from_checkpoint
from no_time_to_train.errors import ConfigError, ImageSizeError, WeightsFormatError
from no_time_to_train.weights.hf_config import PROCESSORS, preprocessor_config
from no_time_to_train.weights.hub.manifest import check_folder

Dtype = Literal["float32", "bfloat16", "float16"]
_HUB_SIZE = 224


@dataclass(frozen=True, kw_only=True)
class DinoV3Config:
    """Which teacher, and how it is run.

    Attributes:
        root: A fetched folder.
        dtype: Of its weights and features.
        image_size: Side in pixels of the square that images are brought to; the preprocessor's if None.
        deep: Compare every file with its recorded sha256 first.
    """

    root: Path | str
    dtype: Dtype = "float32"
    image_size: int | None = None
    deep: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ConfigError(
                f"the teacher's dtype is {self.dtype!r}, expected float32, bfloat16 or float16", remedy="correct it"
            )


class DinoV3Teacher(nn.Module):
    """A frozen encoder from a fetched folder.

    Its weights never train: they want no gradient, and `train()` leaves it in evaluation mode.

    Args:
        config: Which folder, and how it is run.
        device: Where the weights go.

    Attributes:
        encoder: The encoder.
        config: As it was given.

    Raises:
        LocalEntryNotFoundError: The folder is missing or not whole; the message says what is wrong and how to fetch it.
        ChecksumMismatchError: `deep`, and a file was changed.
        ImageSizeError: `image_size` does not fit the patch size.
    """

    def __init__(self, config: DinoV3Config, device: torch.device | str = "cpu") -> None:
        super().__init__()
        root = Path(config.root)
        check_folder(root, deep=config.deep)
        self.config = config
        self.encoder: FeatureEncoder = build_encoder_from_checkpoint(
            root, dtype=getattr(torch, config.dtype), device=device
        )
        self._processor = _processor(root, self.encoder, config.image_size)
        _check_size(self._processor, self.encoder)

    def train(self, mode: bool = True) -> "DinoV3Teacher":
        """Stay in evaluation mode, whatever a training module around it does."""
        return super().train(mode=False)

    @property
    def embed_dim(self) -> int:
        """Width of the tokens, D."""
        return self.encoder.embed_dim

    @property
    def patch_size(self) -> int:
        """Pixels that a patch token covers on a side."""
        return self.encoder.patch_size

    def preprocess(
        self, images: Sequence[Image.Image] | Sequence[UInt8[Tensor, "3 H0 W0"]] | UInt8[Tensor, "B 3 H0 W0"]
    ) -> Float[Tensor, "B 3 H W"]:
        """Bring images to the encoder as the folder's `preprocessor_config.json` says.

        Args:
            images: RGB in [0, 255]; PIL images are converted to RGB.

        Returns:
            Normalised pixels, in float32, on the encoder's device. H and W are the preprocessor's.
        """
        if len(images) == 0:
            raise ImageSizeError("the teacher got no images", remedy="give one or more")
        device = next(self.encoder.parameters()).device
        given = list(images) if isinstance(images, Tensor) else images
        pixels: Tensor = self._processor(images=given, return_tensors="pt", device=device)["pixel_values"]
        return pixels

    @torch.no_grad()
    def forward(self, pixel_values: Float[Tensor, "B 3 H W"]) -> EncoderFeatures:
        """Give the features of preprocessed pixels, without gradients.

        Args:
            pixel_values: As `preprocess` gives them, or augmented views normalised alike; sides of whole patches.
        """
        features: EncoderFeatures = self.encoder(pixel_values)
        return features

    def features_of(
        self, images: Sequence[Image.Image] | Sequence[UInt8[Tensor, "3 H0 W0"]] | UInt8[Tensor, "B 3 H0 W0"]
    ) -> EncoderFeatures:
        """Preprocess images and give their features."""
        features: EncoderFeatures = self(self.preprocess(images))
        return features


def _processor(root: Path, encoder: FeatureEncoder, image_size: int | None) -> Any:
    """Build transformers' image processor: the folder's, or the family's where the folder has none.

    The mean and standard deviation are the encoder's, which knows better than some satellite folders.
    """
    given: Mapping[str, Any] = {}
    if image_size is not None:
        given = {"size": {"height": image_size, "width": image_size}, "do_center_crop": False}
    normalisation = {"image_mean": list(encoder.image_mean), "image_std": list(encoder.image_std)}
    if (root / "preprocessor_config.json").is_file():
        try:
            load: Callable[..., Any] = AutoImageProcessor.from_pretrained
            return load(root, local_files_only=True, **normalisation, **given)
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise WeightsFormatError(
                f"{root / 'preprocessor_config.json'} describes no image processor: {str(error).splitlines()[0]}",
                remedy="fetch the folder again, or convert the weights anew with ntt convert --to hf",
            ) from error
    settings = preprocessor_config(
        _HUB_SIZE, encoder.image_mean, encoder.image_std, processor=PROCESSORS[encoder.config.family]
    )
    return DINOv3ViTImageProcessor(**{**settings, **given})


def _check_size(processor: Any, encoder: FeatureEncoder) -> None:
    """Refuse a preprocessor whose images the encoder would crop silently."""
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    height, width = getattr(size, "height", None), getattr(size, "width", None)
    if height and width:  # otherwise images keep their own proportions, and are looked at one by one
        check_image_size(height, width, encoder.config)
