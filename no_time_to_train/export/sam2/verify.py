"""SAM2's exported files against the Equinox model that they were made from."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from no_time_to_train.configs.sam2 import IMAGE_MEAN, IMAGE_STD
from no_time_to_train.export.sam2.trace import EMBEDDINGS, PROMPTS
from no_time_to_train.export.trace import PIXEL_VALUES
from no_time_to_train.export.verify import Drift, drift_between, natural_noise, normalise
from no_time_to_train.jax_models.sam2 import ImageEmbeddings, Masks, Sam2, box_points
from no_time_to_train.runtime.onnx_session import OnnxFile, open_session

_NUM_PROMPTS = 4


def measure_image_drift(file: OnnxFile, model: Sam2, batches: Sequence[int]) -> Drift:
    """Compare the embeddings that a file and a model give of the same images, position by position.

    Args:
        file: The file.
        model: What it was made from, in float32.
        batches: How many images at a time.

    Raises:
        WeightsFormatError: onnxruntime refuses the file.
        ExportError: It gives other shapes than it should.
    """
    session, side = open_session(file), model.architecture.image_size
    shapes, pairs = [(count, 3, side, side) for count in batches], []
    for seed, shape in enumerate(shapes):
        pixels = normalise(natural_noise(shape, seed=seed), IMAGE_MEAN, IMAGE_STD)
        found = session.run(None, {PIXEL_VALUES: pixels})
        # One image at a time: the model is compiled once, whatever the batches.
        expected = zip(
            *(_embed(model, jnp.asarray(pixels[index : index + 1])) for index in range(shape[0])), strict=True
        )
        for wanted, got in zip(expected, found, strict=True):
            pairs.append((np.moveaxis(np.concatenate(wanted), 1, -1), np.moveaxis(got, 1, -1)))
    return drift_between(pairs, shapes)


def measure_prompt_drift(file: OnnxFile, model: Sam2) -> Drift:
    """Compare the masks that a file and a model draw of the same prompts, points and then boxes, mask by mask.

    Arguments and errors as of `measure_image_drift`.
    """
    session, side = open_session(file), model.architecture.image_size
    pixels = normalise(natural_noise((1, 3, side, side), seed=0), IMAGE_MEAN, IMAGE_STD)
    stride4, stride8, coarse = _embed(model, jnp.asarray(pixels))
    random, pairs = np.random.default_rng(0), []
    places = np.sort(random.uniform(0, side, (_NUM_PROMPTS, 2, 2)), axis=1).astype(np.float32)
    labels = np.asarray([[1, 0], [1, 1], [1, -10], [1, 0]], np.int64)
    boxes = places.reshape(_NUM_PROMPTS, 4)
    no_points = (places[None, :1, :0], labels[None, :, :0])
    for (given_points, given_labels, given_boxes), (points, kinds) in (
        ((places[None], labels[None], boxes[None, :0]), (places, labels)),
        ((*no_points, boxes[None]), box_points(jnp.asarray(boxes))),
    ):
        expected = _decode(
            model, (stride4[0], stride8[0], coarse[0]), jnp.asarray(points), jnp.asarray(kinds, jnp.int32)
        )
        inputs = dict(zip(EMBEDDINGS, map(np.asarray, (stride4, stride8, coarse)), strict=True))
        inputs |= dict(zip(PROMPTS, (given_points, given_labels, given_boxes), strict=True))
        iou, logits, score = session.run(None, inputs)
        pairs += [
            (np.asarray(expected.predicted_iou)[None], iou),
            (np.asarray(expected.logits).reshape(1, _NUM_PROMPTS, 3, -1), logits.reshape(*logits.shape[:3], -1)),
            (np.asarray(expected.object_score_logits)[None], score),
        ]
    return drift_between(pairs, [(1, 3, side, side)])


@eqx.filter_jit
def _embed(model: Sam2, pixels: Float[Array, "B 3 S S"]) -> ImageEmbeddings:
    return model.embed(pixels)


@eqx.filter_jit
def _decode(
    model: Sam2, embeddings: ImageEmbeddings, points: Float[Array, "N P 2"], labels: Int[Array, "N P"]
) -> Masks:
    return model.decode(embeddings, points, labels)
