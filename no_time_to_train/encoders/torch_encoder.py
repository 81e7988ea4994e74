"""The frozen feature encoder: DINOv3 (ViT and ConvNeXt) and DINOv2 behind one interface."""

import json
import logging
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from no_time_to_train.configs.encoders import ENCODER_CONFIGS, TIMM_IDS, EncoderConfig, resolve_encoder
from no_time_to_train.encoders.base import Encoder, EncoderFeatures
from no_time_to_train.encoders.fingerprint import weights_digest
from no_time_to_train.errors import ConfigError, WeightsNotFoundError
from no_time_to_train.weights.architecture import matches
from no_time_to_train.weights.identify import (
    ONNX,
    architecture_mismatch_error,
    identify_encoder,
    is_file_of_weights,
    stated_normalisation,
)
from no_time_to_train.weights.load import as_tensor, assign_tensors
from no_time_to_train.weights.rope import rope_periods
from no_time_to_train.weights.source import WeightsSource, read_source

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["EncoderFeatures", "FeatureEncoder", "build_encoder", "build_encoder_from_checkpoint", "build_torch_encoder"]

log = logging.getLogger(__name__)

# What decides features beside the tensors. The rest of a config.json says how its file was made.
_NOT_IN_TENSORS = ("model_type", "num_attention_heads", "layer_norm_eps", "hidden_act")


class FeatureEncoder(Encoder):
    """A transformers encoder with its registry entry.

    Attributes:
        model: The transformers model.
    """

    def __init__(
        self,
        model: nn.Module,
        config: EncoderConfig,
        *,
        img_size: int | None = None,
        random_weights: bool = False,
    ) -> None:
        super().__init__(config, img_size=img_size, random_weights=random_weights)
        self.model = cast("PreTrainedModel", model)
        self.requires_grad_(False)
        self.eval()

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights, in which features are computed and returned."""
        return next(self.model.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def fingerprint(self) -> str:
        """Identity of architecture and weights: the entry's name and a hash over every parameter and buffer.

        A normalisation that is not the registry's counts too, since a folder may state any.

        Computed anew at each access, so that it is true after training too; it reads all weights once.
        """
        settings = {name: getattr(self.model.config, name, None) for name in _NOT_IN_TENSORS}
        normalisation = (self.image_mean, self.image_std)
        entry = ENCODER_CONFIGS.get(self.config.name)
        if entry is None or normalisation != (entry.image_mean, entry.image_std):
            settings["normalisation"] = normalisation
        # The rotary frequencies are a buffer that is not persistent, yet they decide the features.
        digest = weights_digest(self, json.dumps(settings, sort_keys=True, default=str))
        return f"{self.config.name}-{digest[:16]}"

    def tokens(self, pixel_values: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        """Encode images of a size that was checked."""
        states: Tensor = self.model(pixel_values=pixel_values.to(self.dtype)).last_hidden_state
        return states


def build_encoder(
    name: str,
    ckpt_path: Path | str | None = None,
    *,
    img_size: int | None = None,
    random_init: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Encoder:
    """Build an encoder by its registry name, from a checkpoint of any architecture, or from an ONNX file.

    Args:
        name: Any name that `resolve_encoder` takes; or a weights file or folder, whose tensors tell the architecture,
            see `build_encoder_from_checkpoint`; or `onnx:` and a folder that `ntt export` wrote, whose features are in
            float32.
        ckpt_path: The weights of an encoder that is named by the registry, see `build_torch_encoder`.
        img_size: Side in pixels of the square input that the matching baselines use; the entry's default if None.
        random_init: Without a checkpoint, draw random weights, with a warning.
        seed: Of the random weights.
        dtype: Of the weights and features.
        device: Where the weights go.

    Raises:
        ConfigError: Weights were named for a file that has its own, or a dtype for an ONNX file.
        UnknownEncoderError: It is neither a path nor the name of an entry.
    """
    if is_file_of_weights(name):
        if ckpt_path is not None:
            raise ConfigError(
                f"{name} holds the encoder's weights, yet {ckpt_path} was named too",
                remedy="leave one of them out: --encoder-weights, encoder_ckpt_path",
            )
        return build_encoder_from_checkpoint(name, img_size=img_size, dtype=dtype, device=device)
    if not name.startswith(ONNX):
        return build_torch_encoder(
            name, ckpt_path, img_size=img_size, random_init=random_init, seed=seed, dtype=dtype, device=device
        )
    if ckpt_path is not None:
        raise ConfigError(
            f"{name} has its weights beside it, yet {ckpt_path} was named too",
            remedy="leave the encoder's weights out: --encoder-weights, encoder_ckpt_path",
        )
    if dtype != torch.float32:
        raise ConfigError(
            f"{name} gives float32, yet {str(dtype).removeprefix('torch.')} was asked for",
            remedy="set precision: fp32; ntt export --precision decides what a file computes in",
        )
    from no_time_to_train.encoders.onnx_encoder import build_onnx_encoder

    return build_onnx_encoder(name.removeprefix(ONNX), img_size=img_size).to(device)


def build_torch_encoder(
    name: str,
    ckpt_path: Path | str | None = None,
    *,
    img_size: int | None = None,
    random_init: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> FeatureEncoder:
    """Build an encoder by its registry name.

    Args:
        name: Any name that `resolve_encoder` takes.
        ckpt_path: A Hugging Face folder, a `.safetensors` file or Meta's `.pth`.
        img_size: Side in pixels of the square input that the matching baselines use; the entry's default if None.
        random_init: Without a checkpoint, draw random weights, with a warning. A checkpoint goes before.
        seed: Of the random weights; the global random state is left as it was.
        dtype: Of the weights and features.
        device: Where the weights go.

    Raises:
        UnknownEncoderError: No entry has that name.
        WeightsNotFoundError: No checkpoint is named and `random_init` is false, or it is not there.
        ShapeMismatchError: The file holds another architecture; the message says which encoder it is.
        ImageSizeError: `img_size` does not fit the patch size.
    """
    entry = resolve_encoder(name)
    if ckpt_path is not None:
        source = read_source(ckpt_path)
        if not matches(entry, source.architecture):
            raise architecture_mismatch_error(entry, source.path, source.architecture)
        if entry.ffn_from_checkpoint:
            entry = replace(entry, ffn=source.architecture.ffn, ffn_dim=source.architecture.ffn_dim)
        _warn_about_preprocessor(entry, source)
        return encoder_from_source(source, entry, img_size=img_size, dtype=dtype, device=device)
    if not random_init:
        raise _no_weights_named(entry)
    warnings.warn(f"{entry.name} has random weights: its features mean nothing", UserWarning, stacklevel=2)
    from no_time_to_train.encoders.transformers_models import build_model  # seconds to import

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(entry, num_heads=entry.num_heads)
    nn.Module.to(model, device=device, dtype=dtype)
    _restore_rope(model, None)
    return FeatureEncoder(model, entry, img_size=img_size, random_weights=True)


def _no_weights_named(entry: EncoderConfig) -> WeightsNotFoundError:
    name_them = "name a file or folder as encoder_ckpt_path (ntt predict --encoder-weights)"
    if entry.own:
        return WeightsNotFoundError(
            f"no weights were named for {entry.name}, whose own are the repository's checkpoints/{entry.folder}",
            remedy=f"run in the repository's folder, or {name_them}",
        )
    where, fetch = entry.hub_id or "no released weights: give your own checkpoint", ""
    if entry.name == "dinov3_giant":
        where = "Meta released none for this architecture; dinov3_huge_plus is the largest released under 1B"
    if entry.hub_id is not None:
        ungated = ", with --source timm without a token" if entry.name in TIMM_IDS else ""
        fetch = f"ntt fetch {entry.name} brings them{ungated}; or "
    return WeightsNotFoundError(
        f"no weights were named for {entry.name} ({where})",
        remedy=f"{fetch}{name_them}; pl_configs/quickstart.yaml has models that are shipped; random_init: true tries "
        "the pipeline with meaningless features",
    )


def build_encoder_from_checkpoint(
    path: Path | str,
    *,
    img_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> FeatureEncoder:
    """Build the encoder that a checkpoint holds, of any size, also one that is in no registry entry.

    The architecture is read from the tensors. The normalisation is the registry's where a fetched folder's manifest
    names the encoder; else the one in the folder's `preprocessor_config.json`; else that of the registry entry of this
    architecture, or ImageNet's.

    Args:
        path: A Hugging Face folder, a `.safetensors` file or Meta's `.pth`.
        img_size: Side in pixels of the square input that the matching baselines use.
        dtype: Of the weights and features.
        device: Where the weights go.

    Raises:
        WeightsNotFoundError: There is nothing there.
        WeightsFormatError: The file is damaged, or in no known layout.
        ImageSizeError: `img_size` does not fit the patch size.
    """
    source = read_source(path)
    entry = identify_encoder(source)
    _warn_about_preprocessor(entry, source)
    return encoder_from_source(source, entry, img_size=img_size, dtype=dtype, device=device)


def encoder_from_source(
    source: WeightsSource,
    entry: EncoderConfig,
    *,
    img_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> FeatureEncoder:
    """Build an encoder of weights that were opened; see `build_torch_encoder`."""
    with torch.device("meta"):
        from no_time_to_train.encoders.transformers_models import build_model

        model = build_model(source.architecture, num_heads=entry.num_heads, settings=source.model_config)
    # The mask token serves pre-training only; files without it are whole.
    optional = [name for name in ("embeddings.mask_token",) if name not in source.tensors]
    tensors = {name: as_tensor(tensor) for name, tensor in source.tensors.items()}
    assign_tensors(model, tensors, source=str(source.path), dtype=dtype, device=device, optional=optional)
    for name in optional:
        if name in model.state_dict():
            model.get_submodule("embeddings").mask_token = nn.Parameter(
                torch.zeros(model.get_parameter(name).shape, dtype=dtype, device=device)
            )
    _restore_rope(model, None if source.rope_periods is None else as_tensor(source.rope_periods), device=device)
    if source.architecture.family == "dinov3_vit":
        origin = "stored in the file" if source.rope_periods is not None else "recomputed, the layout stores none"
        log.info("RoPE periods of %s: %s", source.path, origin)
    return FeatureEncoder(model, entry, img_size=img_size)


def _restore_rope(
    model: nn.Module, periods: Float[Tensor, " quarter_head"] | None, *, device: torch.device | str | None = None
) -> None:
    """Put RoPE frequencies in fp32 into the model: from the stored periods, else by the formula."""
    rope = getattr(model, "rope_embeddings", None)
    if rope is None:
        return
    if periods is None:
        periods = torch.from_numpy(rope_periods(rope.head_dim, rope.base))
    rope.inv_freq = (1 / periods.float()).to(device if device is not None else next(model.parameters()).device)


def _warn_about_preprocessor(entry: EncoderConfig, source: WeightsSource) -> None:
    stated = stated_normalisation(source.preprocessor)
    if stated and not all(
        math.isclose(a, b, abs_tol=5e-4)  # the Hub's files round to three digits
        for a, b in zip((*stated[0], *stated[1]), (*entry.image_mean, *entry.image_std), strict=True)
    ):
        warnings.warn(
            f"{source.path} states the normalisation {stated[0]}, {stated[1]}; {entry.name} was trained with "
            f"{entry.image_mean}, {entry.image_std}, which is used",
            UserWarning,
            stacklevel=3,
        )
