"""The encoders, under the import path that stays: `build_encoder` and what it gives."""

from no_time_to_train.encoders.torch_encoder import (
    EncoderFeatures,
    FeatureEncoder,
    build_encoder,
    build_encoder_from_checkpoint,
    build_torch_encoder,
)

__all__ = ["EncoderFeatures", "FeatureEncoder", "build_encoder", "build_encoder_from_checkpoint", "build_torch_encoder"]
