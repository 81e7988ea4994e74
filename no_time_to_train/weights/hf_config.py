"""The JSON files next to the weights in a Hugging Face folder."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from no_time_to_train.configs.encoders import Architecture, EncoderConfig
from no_time_to_train.errors import WeightsFormatError
from no_time_to_train.io.atomic import write_text_atomic
from no_time_to_train.weights.formats.stored_tensor import StoredTensor

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
PROCESSORS = {
    "dinov3_vit": "DINOv3ViTImageProcessorFast",
    "dinov3_convnext": "DINOv3ViTImageProcessorFast",
    "dinov2": "BitImageProcessorFast",
}
# transformers' classes by `model_type`.
MODEL_CLASSES = {
    "dinov3_vit": "DINOv3ViTModel",
    "dinov3_convnext": "DINOv3ConvNextModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
}
HUB_SIZE = 224  # pixels; what the Hub's own files state
# What a folder's config.json may decide; sizes come from the tensors.
_SETTINGS = ("layer_norm_eps", "rope_theta", "hidden_act")
# Those that transformers knows.
_ACTIVATIONS = frozenset(
    (
        *("gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh"),
        *("gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear", "mish", "prelu", "quick_gelu", "relu"),
        *("relu2", "relu6", "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh", "xielu"),
    )
)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write one of them.

    Raises:
        OutputError: It cannot be written.
    """
    write_text_atomic(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def common_dtype(tensors: Iterable[StoredTensor]) -> str:
    """Return the `dtype` of a `config.json`, in which transformers opens a folder: that of all weights, or float32."""
    dtypes = {tensor.dtype.name for tensor in tensors if tensor.is_floating}
    return dtypes.pop() if len(dtypes) == 1 else "float32"


def default_settings(architecture: Architecture) -> dict[str, Any]:
    """Return the epsilon of the norms and the activation of an encoder whose files state none."""
    gated_v3 = architecture.family == "dinov3_vit" and architecture.ffn == "swiglu"
    return {
        "layer_norm_eps": 1e-5 if architecture.family == "dinov3_vit" else 1e-6,
        "hidden_act": "silu" if gated_v3 else "gelu",
    }


def model_config(
    architecture: Architecture, *, num_heads: int, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the `config.json` of an architecture, without `dtype`.

    Args:
        architecture: As read from tensors, or a registry entry.
        num_heads: Used where the architecture does not tell its heads.
        settings: Another `config.json`, of which the norms' epsilon, the RoPE base and the activation are taken.

    Raises:
        WeightsFormatError: The sizes contradict each other, or the activation is not known.
    """
    heads = num_heads if architecture.num_heads is None else architecture.num_heads
    if architecture.family != "dinov3_convnext" and (heads < 1 or architecture.embed_dim % heads):
        raise WeightsFormatError(
            f"a width of {architecture.embed_dim} cannot be shared by {heads} attention heads",
            remedy="check num_attention_heads in config.json",
        )
    taken = {key: value for key, value in (settings or {}).items() if key in _SETTINGS}
    if taken.get("hidden_act", "gelu") not in _ACTIVATIONS:
        raise WeightsFormatError(
            f"the activation {taken['hidden_act']!r} is not known", remedy="correct hidden_act in config.json"
        )
    kind: str = architecture.family
    if kind == "dinov2" and architecture.num_storage_tokens:
        kind = "dinov2_with_registers"
    sizes = _convnext_sizes if kind == "dinov3_convnext" else _dinov3_sizes if kind == "dinov3_vit" else _dinov2_sizes
    if kind != "dinov3_convnext":
        taken = {
            "hidden_size": architecture.embed_dim,
            "num_hidden_layers": architecture.depth,
            "num_attention_heads": heads,
            "patch_size": architecture.patch_size,
            **taken,
        }
    return {
        "model_type": kind,
        "architectures": [MODEL_CLASSES[kind]],
        "num_channels": 3,
        "drop_path_rate": 0.0,
        "initializer_range": 0.02,
        **default_settings(architecture),
        **sizes(architecture),
        **taken,
    }


def _convnext_sizes(architecture: Architecture) -> dict[str, Any]:
    return {
        "hidden_sizes": list(architecture.stage_dims),
        "depths": list(architecture.stage_depths),
        "layer_scale_init_value": 1e-6,
        "image_size": HUB_SIZE,
    }


def _dinov3_sizes(architecture: Architecture) -> dict[str, Any]:
    return {
        "intermediate_size": architecture.ffn_dim,
        "num_register_tokens": architecture.num_storage_tokens,
        "query_bias": architecture.query_bias,
        "key_bias": architecture.key_bias,
        "value_bias": architecture.query_bias,
        "proj_bias": True,
        "mlp_bias": True,
        "use_gated_mlp": architecture.ffn == "swiglu",
        "rope_theta": 100.0,
        "pos_embed_rescale": 2.0,
        "pos_embed_shift": None,
        "pos_embed_jitter": None,
        "attention_dropout": 0.0,
        "layerscale_value": 1.0,
        "image_size": HUB_SIZE,
    }


def _dinov2_sizes(architecture: Architecture) -> dict[str, Any]:
    gated = architecture.ffn == "swiglu"
    return {
        # transformers gives the width of a gated network as two thirds of the ratio's, rounded up to a multiple of 8.
        "mlp_ratio": architecture.ffn_dim * (3 if gated else 2) // (architecture.embed_dim * 2),
        "use_swiglu_ffn": gated,
        "qkv_bias": architecture.query_bias,
        "image_size": math.isqrt(architecture.num_positions - 1) * architecture.patch_size,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layerscale_value": 1.0,
        **({"num_register_tokens": architecture.num_storage_tokens} if architecture.num_storage_tokens else {}),
    }


def preprocessor_of(entry: EncoderConfig, size: int = HUB_SIZE) -> dict[str, Any]:
    """Return the `preprocessor_config.json` of an encoder; see `preprocessor_config`."""
    return preprocessor_config(size, entry.image_mean, entry.image_std, processor=PROCESSORS[entry.family])


def preprocessor_config(
    size: int, mean: tuple[float, ...], std: tuple[float, ...], *, processor: str
) -> dict[str, Any]:
    """Return what `preprocessor_config.json` says of a square input that images are stretched to.

    Args:
        size: Side in pixels.
        mean: Per channel, for pixels in [0, 1].
        std: Per channel, for pixels in [0, 1].
        processor: transformers' name of the image processor.
    """
    return {
        "image_processor_type": processor,
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }
