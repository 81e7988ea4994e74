"""The name of everything but the images that decides what a run finds."""

from collections.abc import Iterable
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from no_time_to_train import __version__
from no_time_to_train.configs.pipeline import FeatureCacheConfig
from no_time_to_train.encoders.torch_encoder import ONNX, is_file_of_weights
from no_time_to_train.models.cache.feature_cache import content_key
from no_time_to_train.models.pipeline import MatchingPipeline


def run_fingerprint(
    pipeline: MatchingPipeline, references: Iterable[tuple[str, Float[Tensor, " D"], bool]], min_score: float
) -> str:
    """Name everything but the images that decides what is found: weights, settings, references, version.

    Args:
        pipeline: With its models and settings.
        references: Label, mean feature and whether it is negative, of each reference in their order.
        min_score: Instances of a lower score are left out.

    Returns:
        16 hexadecimal digits.
    """
    rows = [(label, negative, content_key(mean)) for label, mean, negative in references]
    # The content of the weights counts, not their path.
    config, encoder = pipeline.config, pipeline.config.encoder_cfg
    if encoder.name.startswith(ONNX):
        encoder = replace(encoder, name=ONNX)
    elif is_file_of_weights(encoder.name):
        encoder = replace(encoder, name="")
    settings = replace(
        config, encoder_cfg=encoder, encoder_ckpt_path=None, sam2_ckpt_path=None, feature_cache=FeatureCacheConfig()
    )
    weights = (pipeline.memory_fingerprint, pipeline.promptable.fingerprint())
    return content_key(*map(str, (__version__, weights, settings, rows, min_score)))[:16]
