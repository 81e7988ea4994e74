"""DINOv3 in JAX: the encoders as Equinox modules, loaded from any layout."""

from no_time_to_train.jax_models.features import EncoderFeatures
from no_time_to_train.jax_models.load import load_eqx_encoder, save_eqx_encoder

__all__ = ["EncoderFeatures", "load_eqx_encoder", "save_eqx_encoder"]
