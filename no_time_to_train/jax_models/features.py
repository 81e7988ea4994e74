"""What an Equinox encoder gives."""

from typing import NamedTuple

from jaxtyping import Array, Float


class EncoderFeatures(NamedTuple):
    """What an encoder gives for one image, all after the final norm.

    Attributes:
        cls: The CLS token; for a ConvNeXt the normed mean of the feature map.
        storage: The storage (register) tokens; S is 0 for encoders without.
        patches: The patch tokens on their grid, row by row.
    """

    cls: Float[Array, " D"]
    storage: Float[Array, "S D"]
    patches: Float[Array, "h w D"]


def features_of(tokens: Float[Array, "N D"], grid: tuple[int, int]) -> EncoderFeatures:
    """Tell an image's tokens apart: the last ones are the patches, the first is the CLS token."""
    prefix = tokens.shape[0] - grid[0] * grid[1]
    return EncoderFeatures(cls=tokens[0], storage=tokens[1:prefix], patches=tokens[prefix:].reshape(*grid, -1))
