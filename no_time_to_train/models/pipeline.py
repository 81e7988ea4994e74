"""The method with its networks in torch; `steps` has what is done with them."""

import logging
from functools import partial
from typing import cast

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from no_time_to_train.configs.encoders import resolve_encoder, weights_at_hand
from no_time_to_train.configs.pipeline import MatcherConfig, ResizePolicy
from no_time_to_train.encoders.base import Encoder
from no_time_to_train.encoders.cuda_graphs import Replayed, is_one_half_image
from no_time_to_train.encoders.onednn_linear import use_onednn
from no_time_to_train.encoders.preprocessing import image_tensor
from no_time_to_train.encoders.torch_encoder import build_encoder
from no_time_to_train.errors import ConfigError
from no_time_to_train.models.cache.feature_cache import FeatureCache, open_cache
from no_time_to_train.models.feature_extractor import ImageFeatures, embedding_of, patches_of
from no_time_to_train.models.protocols import IMPROVED, Protocol, protocol_of
from no_time_to_train.models.steps import PipelineSteps
from no_time_to_train.proposers.base import TorchPromptableModel
from no_time_to_train.proposers.factory import build_promptable
from no_time_to_train.weights.identify import ONNX, is_file_of_weights

log = logging.getLogger(__name__)


class MatchingPipeline(PipelineSteps, nn.Module):
    """References into memory; masks that are proposed for a target matched with it.

    Args:
        config: All settings.

    Raises:
        NoTimeToTrainError: Weights are missing or do not fit, or a name is unknown.
    """

    encoder: Encoder
    promptable: TorchPromptableModel
    runtime = "torch"

    def __init__(self, config: MatcherConfig) -> None:
        nn.Module.__init__(self)
        protocol = protocol_of(config.protocol)
        # A folder that cannot be written to is known before weights are read.
        cache = open_cache(config.feature_cache)
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        encoder = _encoder(config, dtype)
        promptable = cast(
            TorchPromptableModel,
            build_promptable(
                config.sam2_cfg_file, config.sam2_ckpt_path, rules=protocol.prompting, random_init=config.random_init
            ),
        )
        promptable.set_precision(dtype)
        features = replayed_features(encoder, promptable, config.encoder_cfg.resize_policy, cache, protocol)
        self.set_up(config, encoder, promptable, features, protocol)
        if config.compile:
            _compile(encoder, promptable)
        elif protocol.fastest_products:
            use_onednn(self)

    def to_image(self, pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[Tensor, "3 H W"]:
        """Return an image as a tensor with its channels first, on the CPU."""
        image: UInt8[Tensor, "3 H W"] = image_tensor(pixels)
        return image


def replayed_features(
    encoder: Encoder,
    promptable: TorchPromptableModel,
    policy: ResizePolicy = "stretch",
    cache: FeatureCache | None = None,
    protocol: Protocol = IMPROVED,
) -> ImageFeatures:
    """Return what networks give for images; on a GPU from recorded graphs where that is faster. See `ImageFeatures`."""
    encode = Replayed(partial(patches_of, encoder), encoder, is_one_half_image)
    embed = Replayed(partial(embedding_of, promptable), promptable.image_encoder, is_one_half_image)
    return ImageFeatures(encoder, promptable, policy, cache, protocol, encode=encode, embed=embed)


# The name of the first release.
MatchingBaseline = MatchingPipeline


def _compile(encoder: Encoder, promptable: TorchPromptableModel) -> None:
    """Compile the networks that see images, at their first call; weights and their names stay."""
    network = getattr(encoder, "model", None)
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"compile is true and the encoder {encoder.config.name} is a {type(encoder).__name__}, which torch cannot "
            "compile",
            remedy="set model_cfg.compile to false, or give weights of torch",
        )
    for part in (network, promptable.image_encoder):
        part.compile(dynamic=False)


def _encoder(config: MatcherConfig, dtype: torch.dtype) -> Encoder:
    encoder, path = config.encoder_cfg, config.encoder_ckpt_path
    if encoder.name.startswith(ONNX) or is_file_of_weights(encoder.name):
        return build_encoder(encoder.name, path, img_size=encoder.img_size, dtype=dtype)
    entry = resolve_encoder(encoder.name, prefer_plus=encoder.prefer_plus)
    if path is None:
        path = weights_at_hand(entry)
        if path is not None:
            log.info("weights of %s: %s", entry.name, path)
    return build_encoder(entry.name, path, img_size=encoder.img_size, random_init=config.random_init, dtype=dtype)
