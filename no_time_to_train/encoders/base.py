"""What every feature encoder is, whatever runs it."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from no_time_to_train.configs.encoders import EncoderConfig
from no_time_to_train.configs.image_size import check_image_size, check_img_size
from no_time_to_train.runtime.features import EncoderFeatures, EncoderSizes, split_tokens

__all__ = ["Encoder", "EncoderFeatures"]


class Encoder(EncoderSizes, nn.Module, ABC):
    """A frozen feature encoder with its registry entry.

    Attributes:
        config: The registry entry, or one made from the checkpoint where no entry fits.
        img_size: Side in pixels of the square input that the matching baselines use.
        random_weights: Whether the weights are random, so that features mean nothing.
    """

    def __init__(self, config: EncoderConfig, *, img_size: int | None = None, random_weights: bool = False) -> None:
        super().__init__()
        self.config = config
        self.img_size = config.default_img_size if img_size is None else img_size
        self.random_weights = random_weights
        check_img_size(self.img_size, config)

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The type in which features are returned."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where pixels are wanted, and features come from."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Identity of architecture and weights: the entry's name and a hash over everything that decides features."""

    def forward(self, pixel_values: Float[Tensor, "B 3 H W"]) -> EncoderFeatures:
        """Encode images.

        Args:
            pixel_values: RGB, normalised by `image_mean` and `image_std`. H and W are multiples of the patch size;
                a ConvNeXt takes any size from its total stride (32) on and floors at each stage.

        Raises:
            ImageSizeError: H or W is none that the encoder takes.
        """
        height, width = pixel_values.shape[-2:]
        check_image_size(height, width, self.config)
        return split_tokens(self.tokens(pixel_values), self.config, (height, width))

    @abstractmethod
    def tokens(self, pixel_values: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        """Encode images of a size that was checked: the CLS token, the storage tokens, the patches."""
