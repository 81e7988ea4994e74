"""SAM2 in JAX: the image model as Equinox modules, loaded from Meta's files or transformers' folders."""

from no_time_to_train.jax_models.sam2.decoder.mask_decoder import Masks
from no_time_to_train.jax_models.sam2.load import load_eqx_sam2
from no_time_to_train.jax_models.sam2.model import ImageEmbeddings, Sam2
from no_time_to_train.jax_models.sam2.prompt_encoder import box_points

__all__ = ["ImageEmbeddings", "Masks", "Sam2", "box_points", "load_eqx_sam2"]
