"""SAM2 for single images in JAX: an image is embedded once, then prompts are decoded into masks."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from no_time_to_train.configs.sam2 import Sam2Architecture
from no_time_to_train.jax_models import layers
from no_time_to_train.jax_models.layers import Tap
from no_time_to_train.jax_models.sam2.decoder.mask_decoder import MaskDecoder, Masks
from no_time_to_train.jax_models.sam2.image_encoder import VisionEncoder
from no_time_to_train.jax_models.sam2.prompt_encoder import NOT_A_POINT, PromptEncoder

ImageEmbeddings = tuple[Float[Array, "*B C4 H4 W4"], Float[Array, "*B C8 H8 W8"], Float[Array, "*B C H W"]]


class Sam2(eqx.Module):
    """SAM2's image model.

    Attributes:
        no_memory_embedding: Is added to an image that no other one came before.
        architecture: Its sizes.
    """

    no_memory_embedding: Float[Array, "1 1 C"]
    vision_encoder: VisionEncoder
    prompt_encoder: PromptEncoder
    mask_decoder: MaskDecoder
    architecture: Sam2Architecture = eqx.field(static=True)

    def __init__(self, architecture: Sam2Architecture, *, key: PRNGKeyArray) -> None:
        keys = jax.random.split(key, 3)
        self.no_memory_embedding = jnp.zeros((1, 1, architecture.dim))
        self.vision_encoder = VisionEncoder(architecture, key=keys[0])
        self.prompt_encoder = PromptEncoder(architecture, key=keys[1])
        self.mask_decoder = MaskDecoder(architecture, key=keys[2])
        self.architecture = architecture

    def embed(self, pixel_values: Float[Array, "B 3 S S"], tap: Tap = layers.no_tap) -> ImageEmbeddings:
        """Embed a batch of images: at strides 4 and 8 for the upscaling, at stride 16 for the prompts.

        Args:
            pixel_values: RGB of the model's size, normalised as for ImageNet.
            tap: Is told of the Hiera's stages.
        """
        finest, finer, coarse = self.vision_encoder(pixel_values.astype(self.no_memory_embedding.dtype), tap)
        return (
            layers.convolve(self.mask_decoder.conv_s0, finest),
            layers.convolve(self.mask_decoder.conv_s1, finer),
            coarse + lax.reshape(self.no_memory_embedding, (1, self.architecture.dim, 1, 1)),
        )

    def decode(
        self,
        embeddings: ImageEmbeddings,
        points: Float[Array, "N P 2"],
        labels: Int[Array, "N P"],
        *,
        multimask: bool = True,
    ) -> Masks:
        """Decode N prompts of P points each on one image.

        Args:
            embeddings: Of one image, without an axis for the batch.
            points: x and y in pixels of the model's input; (0, 0) is the centre of the top left pixel.
            labels: 1 on the object, 0 on the background, -10 padding; 2 and 3 the corners of a box, see `box_points`.
            multimask: Three masks a prompt; if false the single one, whatever its stability.
        """
        labels = jnp.asarray(labels, jnp.int32)
        end = layers.repeated(jnp.full((1, 1, 2), 0.0, points.dtype), points)
        ends = layers.repeated(jnp.full((1, 1), NOT_A_POINT, labels.dtype), points)
        prompts = self.prompt_encoder(lax.concatenate([points, end], 1), lax.concatenate([labels, ends], 1))
        *fine, coarse = embeddings
        features = coarse + lax.reshape(self.prompt_encoder.no_mask_embed.weight, (coarse.shape[0], 1, 1))
        positions = self.prompt_encoder.image_positions(*coarse.shape[1:])
        return self.mask_decoder((fine[0], fine[1], features), positions, prompts, multimask=multimask)
