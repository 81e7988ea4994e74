"""Points and boxes as tokens, and the positions of an image."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from no_time_to_train.configs.sam2 import Sam2Architecture
from no_time_to_train.jax_models import layers

# Labels of points that are none: one that says that nothing follows, and one that fills a row.
NOT_A_POINT = -1
PADDING = -10
# Labels of the corners of a box.
CORNERS = (2, 3)


class Embedding(eqx.Module):
    """Learned tokens."""

    weight: Float[Array, "K C"]

    def __init__(self, count: int, dim: int, *, key: PRNGKeyArray) -> None:
        self.weight = jax.random.normal(key, (count, dim))


class PositionalEmbedding(eqx.Module):
    """Random waves over the image."""

    positional_embedding: Float[Array, "2 half"]

    def __init__(self, dim: int, *, key: PRNGKeyArray) -> None:
        self.positional_embedding = jax.random.normal(key, (2, dim // 2))

    def __call__(self, places: Float[Array, "T 2"]) -> Float[Array, "T C"]:
        """Embed places, x and y in [0, 1]."""
        turns = 2 * math.pi * ((2 * places - 1) @ self.positional_embedding)
        return lax.concatenate([jnp.sin(turns), jnp.cos(turns)], 1)


class PromptEncoder(eqx.Module):
    """Points, of which a box is two, as tokens.

    Attributes:
        shared_embedding: Of the places of points and of the image's positions.
        no_mask_embed: Is added to the image where a prompt has no mask.
        point_embed: By label: background, object, top left corner, bottom right corner.
        not_a_point_embed: Takes the place of a point with the label -1.
        image_size: Side of the image, in pixels.
    """

    shared_embedding: PositionalEmbedding
    no_mask_embed: Embedding
    point_embed: Embedding
    not_a_point_embed: Embedding
    image_size: int = eqx.field(static=True)

    def __init__(self, architecture: Sam2Architecture, *, key: PRNGKeyArray) -> None:
        keys = jax.random.split(key, 4)
        self.shared_embedding = PositionalEmbedding(architecture.dim, key=keys[0])
        self.no_mask_embed = Embedding(1, architecture.dim, key=keys[1])
        self.point_embed = Embedding(4, architecture.dim, key=keys[2])
        self.not_a_point_embed = Embedding(1, architecture.dim, key=keys[3])
        self.image_size = architecture.image_size

    def __call__(self, points: Float[Array, "N P 2"], labels: Int[Array, "N P"]) -> Float[Array, "N P C"]:
        """Embed points.

        Args:
            points: x and y in pixels of the model's input; (0, 0) is the centre of the top left pixel.
            labels: 1 on the object, 0 on the background, 2 and 3 the corners of a box, -1 no point, -10 padding.
        """
        count, number = labels.shape
        places = layers.reshaped(points, (count * number, 2))
        kinds = layers.reshaped(labels, (count * number, 1))
        tokens = self.shared_embedding((places + 0.5) / self.image_size)
        nowhere = (kinds == NOT_A_POINT) | (kinds == PADDING)
        tokens = tokens * (1 - nowhere.astype(tokens.dtype))
        rows = [lax.slice_in_dim(self.point_embed.weight, row, row + 1) for row in range(4)]
        for label, row in ((NOT_A_POINT, self.not_a_point_embed.weight), *enumerate(rows)):
            tokens = tokens + (kinds == label).astype(tokens.dtype) * row
        return layers.reshaped(tokens, (count, number, tokens.shape[1]), like=points)

    def image_positions(self, height: int, width: int) -> Float[Array, "L C"]:
        """Embed the centres of an image's positions, row by row."""
        rows, columns = np.indices((height, width))
        places = np.stack([(columns + 0.5) / width, (rows + 0.5) / height], axis=-1).reshape(-1, 2)
        return self.shared_embedding(jnp.asarray(places, self.shared_embedding.positional_embedding.dtype))


def box_points(boxes: Float[Array, "N 4"]) -> tuple[Float[Array, "N 2 2"], Int[Array, "N 2"]]:
    """Return boxes, xyxy, as the points and labels that the prompt encoder takes."""
    return boxes.reshape(-1, 2, 2), jnp.broadcast_to(jnp.asarray(CORNERS), (boxes.shape[0], 2))
