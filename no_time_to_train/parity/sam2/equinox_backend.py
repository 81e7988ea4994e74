"""SAM2 in Equinox."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Array, Float, Int

from no_time_to_train.jax_models.sam2 import ImageEmbeddings, Masks, Sam2, box_points
from no_time_to_train.jax_models.sam2.load import read_sam2_source
from no_time_to_train.parity.backends import leaves_digest
from no_time_to_train.parity.sam2.backends import Outputs, Sam2Backend, as_trace, canonical_outputs
from no_time_to_train.parity.sam2.torch_models import load_torch_sam2
from no_time_to_train.parity.stages import Trace, with_inputs
from no_time_to_train.proposers.sam2.predictor import Sam2Predictor


@dataclass(frozen=True)
class EquinoxSam2(Sam2Backend):
    """The Equinox model, in float32.

    Attributes:
        model: The model.
        weights: The file or folder that it was loaded from; None if that is not known.
    """

    kind = "eqx"
    model: Sam2
    weights: Path | None = None

    @property
    def device(self) -> str:
        """Where the weights are."""
        platform: str = next(iter(self.model.no_memory_embedding.devices())).platform
        return platform

    @property
    def side(self) -> int:
        """Height and width of the images that it takes, in pixels."""
        return self.model.architecture.image_size

    @property
    def fingerprint(self) -> str:
        """Identity of architecture and weights; reads all of them."""
        said = hashlib.sha256(f"{self.model.architecture} {leaves_digest(self.model)}".encode())
        return f"eqx-sam2-{said.hexdigest()[:16]}"

    def outputs(self, pixels: Float[np.ndarray, "B 3 S S"]) -> Outputs:
        """Embed images, and decode the prompts on each."""
        return self._decoded(_embed(self.model, jnp.asarray(pixels)))

    def trace(self, pixels: Float[np.ndarray, "B 3 S S"]) -> Trace:
        """Return what comes out of every stage, on the CPU."""
        embeddings, stages = _embed_and_trace(self.model, jnp.asarray(pixels))
        seen = with_inputs({name: torch.from_numpy(np.array(values)) for name, values in stages})
        return seen | as_trace(self._decoded(embeddings))

    def torch_twin(self) -> Sam2Predictor | None:
        """Return a torch model of the file that this one was loaded from."""
        return None if self.weights is None else load_torch_sam2(read_sam2_source(self.weights))

    def _decoded(self, embeddings: ImageEmbeddings) -> Outputs:
        prompts = self.prompts
        corners, kinds = box_points(jnp.asarray(prompts.boxes))
        points = jnp.concatenate([jnp.asarray(prompts.points), corners])
        labels = jnp.concatenate([jnp.asarray(prompts.labels, jnp.int32), kinds])
        found = []
        for image in range(len(embeddings[0])):
            stride4, stride8, coarse = (level[image] for level in embeddings)
            masks = _decode(self.model, (stride4, stride8, coarse), points, labels)
            found.append(tuple(map(np.asarray, (masks.predicted_iou, masks.logits, masks.object_score_logits))))
        return canonical_outputs([np.asarray(level) for level in embeddings], found)


@eqx.filter_jit
def _embed(model: Sam2, pixels: Float[Array, "B 3 S S"]) -> ImageEmbeddings:
    # A GPU would multiply in TF32.
    with jax.default_matmul_precision("highest"):
        return model.embed(pixels)


# In pairs: JIT gives dictionaries back sorted by their keys.
@eqx.filter_jit
def _embed_and_trace(
    model: Sam2, pixels: Float[Array, "B 3 S S"]
) -> tuple[ImageEmbeddings, tuple[tuple[str, Array], ...]]:
    stages: dict[str, Array] = {}
    with jax.default_matmul_precision("highest"):
        embeddings = model.embed(pixels, stages.__setitem__)
    return embeddings, tuple(stages.items())


@eqx.filter_jit
def _decode(
    model: Sam2, embeddings: ImageEmbeddings, points: Float[Array, "N P 2"], labels: Int[Array, "N P"]
) -> Masks:
    with jax.default_matmul_precision("highest"):
        return model.decode(embeddings, points, labels)
