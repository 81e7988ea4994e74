"""What every encoder gives, whatever runs it."""

from typing import NamedTuple

from jaxtyping import Float

from no_time_to_train.configs.encoders import EncoderConfig
from no_time_to_train.configs.image_size import grid_size
from no_time_to_train.matching.array_ops import Array, array_namespace


class EncoderFeatures(NamedTuple):
    """What an encoder gives for a batch of images, all after the final norm; torch tensors or NumPy arrays.

    Attributes:
        cls: The CLS token; for a ConvNeXt the normed mean of the feature map.
        storage: The storage (register) tokens; S is 0 for encoders without.
        patches: The patch tokens on their grid, row by row.
    """

    cls: Float[Array, "B D"]
    storage: Float[Array, "B S D"]
    patches: Float[Array, "B h w D"]


class EncoderSizes:
    """Sizes and normalization of an encoder, read from its registry entry.

    Attributes:
        config: The entry.
    """

    config: EncoderConfig

    @property
    def patch_size(self) -> int:
        """Pixels that a patch token covers on a side."""
        return self.config.patch_size

    @property
    def embed_dim(self) -> int:
        """Width of the tokens, D."""
        return self.config.embed_dim

    @property
    def image_mean(self) -> tuple[float, float, float]:
        """Mean per channel (R, G, B) that the pixels are normalized by, for pixels in [0, 1]."""
        return self.config.image_mean

    @property
    def image_std(self) -> tuple[float, float, float]:
        """Standard deviation per channel (R, G, B) that the pixels are normalized by, for pixels in [0, 1]."""
        return self.config.image_std


def split_tokens(tokens: Float[Array, "B N D"], config: EncoderConfig, image_size: tuple[int, int]) -> EncoderFeatures:
    """Split an encoder's tokens by what they are.

    Args:
        tokens: The CLS token, the storage tokens, the patches.
        config: The encoder's registry entry.
        image_size: Height and width of the images, in pixels.
    """
    grid = grid_size(*image_size, config)
    prefix = tokens.shape[1] - grid[0] * grid[1]
    patches = array_namespace(tokens).reshape(tokens[:, prefix:], (len(tokens), *grid, tokens.shape[2]))
    return EncoderFeatures(cls=tokens[:, 0], storage=tokens[:, 1:prefix], patches=patches)
