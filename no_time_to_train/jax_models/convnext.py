"""DINOv3's ConvNeXt as an Equinox module, of any size: a batch as `tokens`, one image as a call.

Source: the architecture of facebookresearch/dinov3 at 6876159, in the field names of this package's key maps.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from no_time_to_train.configs.encoders import Architecture, EncoderConfig
from no_time_to_train.configs.image_size import check_image_size, grid_size
from no_time_to_train.jax_models import layers
from no_time_to_train.jax_models.features import EncoderFeatures, features_of
from no_time_to_train.jax_models.layers import Tap, map_tokens


class ConvNeXtBlock(eqx.Module):
    """A ConvNeXt block: a wide depthwise convolution, then a feed-forward network on every pixel."""

    depthwise_conv: eqx.nn.Conv2d
    norm: eqx.nn.LayerNorm
    pointwise_conv1: eqx.nn.Linear
    pointwise_conv2: eqx.nn.Linear
    gamma: Float[Array, " D"]

    def __init__(self, dim: int, *, eps: float, key: PRNGKeyArray) -> None:
        keys = jax.random.split(key, 3)
        self.depthwise_conv = eqx.nn.Conv2d(dim, dim, 7, padding=3, groups=dim, key=keys[0])
        self.norm = eqx.nn.LayerNorm(dim, eps=eps)
        self.pointwise_conv1 = eqx.nn.Linear(dim, 4 * dim, key=keys[1])
        self.pointwise_conv2 = eqx.nn.Linear(4 * dim, dim, key=keys[2])
        self.gamma = jnp.ones(dim)

    def __call__(self, pixels: Float[Array, "B H W D"], tap: Tap = layers.no_tap) -> Float[Array, "B H W D"]:
        """Add what the branch gives."""
        tap("conv_raw", convolved := _channels_last(layers.convolve(self.depthwise_conv, _channels_first(pixels))))
        tap("mlp_in", stream := map_tokens(self.norm, layers.flatten_tokens(convolved)))
        hidden = jax.nn.gelu(map_tokens(self.pointwise_conv1, stream), approximate=False)
        tap("mlp_raw", stream := map_tokens(self.pointwise_conv2, hidden))
        tap("mlp_scaled", stream := layers.scaled(stream, self.gamma))
        tap("output", pixels := pixels + layers.reshaped(stream, pixels.shape, like=pixels))
        return pixels


class Stage(eqx.Module):
    """A stage: downsampling, then blocks.

    Attributes:
        downsample: Convolution and norm in the first stage, norm and convolution in the others.
    """

    downsample: tuple[eqx.nn.Conv2d | eqx.nn.LayerNorm, eqx.nn.Conv2d | eqx.nn.LayerNorm]
    blocks: tuple[ConvNeXtBlock, ...]

    def __call__(
        self, pixels: Float[Array, "B H W C"], tap: Tap = layers.no_tap, first: int = 0
    ) -> Float[Array, "B h w D"]:
        """Shrink the images, then transform them; `first` counts the blocks before."""
        for layer in self.downsample:
            if isinstance(layer, eqx.nn.LayerNorm):
                pixels = layers.reshaped(map_tokens(layer, layers.flatten_tokens(pixels)), pixels.shape, like=pixels)
            else:
                pixels = _channels_last(layers.convolve(layer, _channels_first(pixels)))
        layers.block_tap(tap, first)("downsample", pixels)
        for index, block in enumerate(self.blocks, first):
            pixels = block(pixels, layers.block_tap(tap, index))
        return pixels


class DinoV3ConvNeXt(eqx.Module):
    """DINOv3's ConvNeXt.

    Attributes:
        config: The registry entry, or one made for this architecture.
        architecture: What the weights show.
        layer_norm_eps: Of all norms.
    """

    stages: tuple[Stage, ...]
    norm: eqx.nn.LayerNorm
    config: EncoderConfig = eqx.field(static=True)
    architecture: Architecture = eqx.field(static=True)
    layer_norm_eps: float = eqx.field(static=True)

    def __init__(
        self, architecture: Architecture, config: EncoderConfig, *, key: PRNGKeyArray, layer_norm_eps: float = 1e-6
    ) -> None:
        self.config, self.architecture, self.layer_norm_eps = config, architecture, layer_norm_eps
        sizes = list(zip(architecture.stage_dims, architecture.stage_depths, strict=True))
        stages = []
        for index, (dim, depth) in enumerate(sizes):
            key, sample_key, *keys = jax.random.split(key, 2 + depth)
            if index == 0:
                stem = eqx.nn.Conv2d(3, dim, 4, stride=4, key=sample_key)
                downsample: tuple[eqx.nn.Conv2d | eqx.nn.LayerNorm, ...] = (stem, eqx.nn.LayerNorm(dim, layer_norm_eps))
            else:
                before = sizes[index - 1][0]
                shrink = eqx.nn.Conv2d(before, dim, 2, stride=2, key=sample_key)
                downsample = (eqx.nn.LayerNorm(before, layer_norm_eps), shrink)
            blocks = tuple(ConvNeXtBlock(dim, eps=layer_norm_eps, key=key) for key in keys)
            stages.append(Stage(downsample=(downsample[0], downsample[1]), blocks=blocks))
        self.stages = tuple(stages)
        self.norm = eqx.nn.LayerNorm(architecture.embed_dim, layer_norm_eps)

    def __call__(self, pixel_values: Float[Array, "3 H W"]) -> EncoderFeatures:
        """Encode one image.

        Args:
            pixel_values: RGB, normalised by the entry's mean and standard deviation; sides are floored at each stage.

        Raises:
            ImageSizeError: H or W is less than the total stride.
        """
        height, width = pixel_values.shape[-2:]
        check_image_size(height, width, self.config)
        return features_of(self.tokens(pixel_values[None])[0], grid_size(height, width, self.config))

    def tokens(self, pixel_values: Float[Array, "B 3 H W"], tap: Tap = layers.no_tap) -> Float[Array, "B N D"]:
        """Encode a batch: the mean of the last feature map, then its pixels, all after the final norm.

        Args:
            pixel_values: As for a call, whose size is not checked.
            tap: Is told of the stages `conv_raw`, `mlp_in`, `mlp_raw`, `mlp_scaled` and `output` of every block, which
                are counted through all stages, and of `downsample` before the first of each; pixels of all images in
                their order, channels last.
        """
        pixels, first = _channels_last(pixel_values.astype(self.stages[0].blocks[0].gamma.dtype)), 0
        for stage in self.stages:
            pixels = stage(pixels, tap, first)
            first += len(stage.blocks)
        batch, height, width, dim = pixels.shape
        patches = layers.reshaped(pixels, (batch, height * width, dim))
        tokens = lax.concatenate([jnp.mean(patches, 1, keepdims=True), patches], 1)
        return layers.reshaped(map_tokens(self.norm, layers.flatten_tokens(tokens)), tokens.shape, like=tokens)


def _channels_last(images: Float[Array, "B D H W"]) -> Float[Array, "B H W D"]:
    return lax.transpose(images, (0, 2, 3, 1))


def _channels_first(pixels: Float[Array, "B H W D"]) -> Float[Array, "B D H W"]:
    return lax.transpose(pixels, (0, 3, 1, 2))
