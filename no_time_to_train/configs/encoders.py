"""The registry of encoders: every DINOv3 variant, DINOv2 beside it, and the names that people use for them.

Pure data. Neither torch nor transformers is imported here.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from no_time_to_train.configs.shipped import find_weights, weights_folder
from no_time_to_train.errors import UnknownEncoderError

Family = Literal["dinov3_vit", "dinov3_convnext", "dinov2"]
Ffn = Literal["mlp", "swiglu"]
Rgb = tuple[float, float, float]

IMAGENET_MEAN: Rgb = (0.485, 0.456, 0.406)
IMAGENET_STD: Rgb = (0.229, 0.224, 0.225)
SAT493M_MEAN: Rgb = (0.430, 0.411, 0.296)
SAT493M_STD: Rgb = (0.213, 0.156, 0.143)

DINOV3_LICENSE = "DINOv3 License"
DINOV2_LICENSE = "Apache-2.0"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """An encoder's architecture, as its tensors show it or the registry states it.

    Attributes:
        family: Which transformers model takes the tensors.
        embed_dim: Width of the final tokens, D.
        depth: Transformer blocks, or the sum of the ConvNeXt stages' blocks.
        num_heads: Attention heads; None where the tensors don't tell, 0 for a ConvNeXt.
        ffn: Kind of the feed-forward network.
        ffn_dim: Its hidden width; 0 for a ConvNeXt.
        patch_size: Side of a patch in pixels; the total stride of a ConvNeXt.
        num_storage_tokens: Storage (register) tokens.
        stage_depths: Blocks per ConvNeXt stage.
        stage_dims: Width per ConvNeXt stage.
        query_bias: Whether queries have a bias; values have one exactly when queries do.
        key_bias: Whether keys have an effective bias.
        num_positions: Number of stored position embeddings, the CLS token's included (DINOv2); 0 if none are stored.
        untied_norm: Whether the file carries the separate norm of Meta's local crops, which inference leaves out.
    """

    family: Family
    embed_dim: int
    depth: int
    num_heads: int | None = 0
    ffn: Ffn = "mlp"
    ffn_dim: int = 0
    patch_size: int = 16
    num_storage_tokens: int = 0
    stage_depths: tuple[int, ...] = ()
    stage_dims: tuple[int, ...] = ()
    query_bias: bool = True
    key_bias: bool = False
    num_positions: int = 0
    untied_norm: bool = False


@dataclass(frozen=True, kw_only=True)
class EncoderSpec(Architecture):
    """One encoder: its architecture, its names elsewhere, and how its pixels are normalised.

    Attributes:
        name: The registry's name.
        num_heads: Attention heads; 0 for a ConvNeXt.
        image_mean: Per channel (R, G, B), for pixels in [0, 1].
        image_std: Per channel (R, G, B), for pixels in [0, 1].
        default_img_size: Side of the square input in pixels that the matching protocol uses.
        meta_name: Name in Meta's torch.hub, if any.
        meta_file: Name of Meta's weights file, if any.
        hub_id: Repository on the Hugging Face Hub, if released there.
        file_hash: First eight hex digits of the sha256 of Meta's file.
        num_parameters: Parameters in Meta's file.
        num_meta_tensors: Tensors in Meta's file.
        license: Licence of the released weights.
        ffn_from_checkpoint: The checkpoint decides the kind of feed-forward network.
        folder: Where this project's own weights are under `checkpoints/`; None for everyone else's.
    """

    name: str
    num_heads: int = 0
    image_mean: Rgb = IMAGENET_MEAN
    image_std: Rgb = IMAGENET_STD
    default_img_size: int = 592
    meta_name: str | None = None
    meta_file: str | None = None
    hub_id: str | None = None
    file_hash: str | None = None
    num_parameters: int | None = None
    num_meta_tensors: int | None = None
    license: str = DINOV3_LICENSE
    ffn_from_checkpoint: bool = False
    folder: str | None = None

    @property
    def own(self) -> bool:
        """Return whether the weights are this project's own, made and shipped by it."""
        return self.folder is not None


EncoderConfig = EncoderSpec
"""The name that it had in the first release."""


def _dinov3_vit(
    name: str,
    arch: str,
    dim: int,
    depth: int,
    heads: int,
    ffn: Ffn,
    ffn_dim: int,
    params: int,
    tensors: int,
    file_hash: str,
    *,
    data: Literal["lvd1689m", "sat493m"] = "lvd1689m",
    on_hub: bool = True,
    query_bias: bool = True,
) -> EncoderConfig:
    satellite = data == "sat493m"
    return EncoderConfig(
        name=name,
        family="dinov3_vit",
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        ffn=ffn,
        ffn_dim=ffn_dim,
        num_storage_tokens=4,
        query_bias=query_bias,
        image_mean=SAT493M_MEAN if satellite else IMAGENET_MEAN,
        image_std=SAT493M_STD if satellite else IMAGENET_STD,
        meta_name=f"dinov3_{arch}",
        meta_file=f"dinov3_{arch}_pretrain_{data}-{file_hash}.pth",
        hub_id=f"facebook/dinov3-{arch}-pretrain-{data}" if on_hub else None,
        file_hash=file_hash,
        num_parameters=params,
        num_meta_tensors=tensors,
    )


def _dinov3_convnext(
    size: str, dims: tuple[int, ...], depths: tuple[int, ...], params: int, tensors: int, file_hash: str
) -> EncoderConfig:
    return EncoderConfig(
        name=f"dinov3_convnext_{size}",
        family="dinov3_convnext",
        embed_dim=dims[-1],
        depth=sum(depths),
        patch_size=32,
        stage_depths=depths,
        stage_dims=dims,
        default_img_size=608,
        meta_name=f"dinov3_convnext_{size}",
        meta_file=f"dinov3_convnext_{size}_pretrain_lvd1689m-{file_hash}.pth",
        hub_id=f"facebook/dinov3-convnext-{size}-pretrain-lvd1689m",
        file_hash=file_hash,
        num_parameters=params,
        num_meta_tensors=tensors,
    )


def _dinov2(size: str, letter: str, dim: int, depth: int, heads: int, ffn: Ffn, ffn_dim: int) -> list[EncoderConfig]:
    return [
        EncoderConfig(
            name=f"dinov2_{size}_registers" if registers else f"dinov2_{size}",
            family="dinov2",
            embed_dim=dim,
            depth=depth,
            num_heads=heads,
            ffn=ffn,
            ffn_dim=ffn_dim,
            patch_size=14,
            num_storage_tokens=4 if registers else 0,
            key_bias=True,
            num_positions=(518 // 14) ** 2 + 1,
            default_img_size=518,
            meta_name=f"dinov2_vit{letter}14_reg" if registers else f"dinov2_vit{letter}14",
            meta_file=f"dinov2_vit{letter}14_{'reg4_' if registers else ''}pretrain.pth",
            hub_id=f"facebook/dinov2-with-registers-{size}" if registers else f"facebook/dinov2-{size}",
            license=DINOV2_LICENSE,
        )
        for registers in (False, True)
    ]


def _by_name(entries: list[EncoderConfig]) -> Mapping[str, EncoderConfig]:
    return MappingProxyType({entry.name: entry for entry in entries})


_NARROW, _MIDDLE, _WIDE = (96, 192, 384, 768), (128, 256, 512, 1024), (192, 384, 768, 1536)
_SHALLOW, _DEEP = (3, 3, 9, 3), (3, 3, 27, 3)

# The file's hash, parameters and tensors are Meta's own figures for the released files.
DINOV3_CONFIGS: Mapping[str, EncoderConfig] = _by_name(
    [
        _dinov3_vit("dinov3_small", "vits16", 384, 12, 6, "mlp", 1536, 21_601_152, 188, "08c60483"),
        _dinov3_vit("dinov3_small_plus", "vits16plus", 384, 12, 6, "swiglu", 1536, 28_697_472, 212, "4057cbaa"),
        _dinov3_vit("dinov3_base", "vitb16", 768, 12, 12, "mlp", 3072, 85_669_632, 188, "73cec8be"),
        _dinov3_vit("dinov3_large", "vitl16", 1024, 24, 16, "mlp", 4096, 303_154_176, 368, "8aa4cbdd"),
        _dinov3_vit(
            "dinov3_large_sat", "vitl16", 1024, 24, 16, "mlp", 4096, 303_156_224, 370, "eadcf0ff", data="sat493m"
        ),
        _dinov3_vit(
            "dinov3_large_plus", "vitl16plus", 1024, 24, 16, "swiglu", 4096, 403_915_776, 416, "46503df0", on_hub=False
        ),
        _dinov3_vit("dinov3_huge_plus", "vith16plus", 1280, 32, 20, "swiglu", 5120, 840_633_600, 552, "7c1da9a5"),
        _dinov3_vit(
            "dinov3_7b", "vit7b16", 4096, 40, 32, "swiglu", 8192, 6_716_043_264, 610, "a955f4ea", query_bias=False
        ),
        _dinov3_vit(
            "dinov3_7b_sat",
            "vit7b16",
            4096,
            40,
            32,
            "swiglu",
            8192,
            6_716_043_264,
            610,
            "a6675841",
            data="sat493m",
            query_bias=False,
        ),
        _dinov3_convnext("tiny", _NARROW, _SHALLOW, 27_820_128, 182, "21b726bb"),
        _dinov3_convnext("small", _NARROW, _DEEP, 49_454_688, 344, "296db49d"),
        _dinov3_convnext("base", _MIDDLE, _DEEP, 87_566_464, 344, "801f2ba9"),
        _dinov3_convnext("large", _WIDE, _DEEP, 196_230_336, 344, "61fa432d"),
        EncoderConfig(
            name="dinov3_giant",
            family="dinov3_vit",
            embed_dim=1536,
            depth=40,
            num_heads=24,
            ffn="mlp",
            ffn_dim=6144,
            num_storage_tokens=4,
            ffn_from_checkpoint=True,
        ),
        # This project's own, trained on synthetic scenes: pl_configs/train_quickstart_encoder.yaml.
        EncoderConfig(
            name="dinov3_quickstart",
            family="dinov3_vit",
            embed_dim=128,
            depth=6,
            num_heads=4,
            ffn_dim=512,
            num_storage_tokens=4,
            default_img_size=384,
            license="Apache-2.0",
            folder="quickstart/encoder",
        ),
        # A third of it, for distillation to be tried on: pl_configs/distill_quickstart.yaml.
        EncoderConfig(
            name="dinov3_quickstart_tiny",
            family="dinov3_vit",
            embed_dim=128,
            depth=2,
            num_heads=4,
            ffn_dim=512,
            num_storage_tokens=4,
            default_img_size=384,
            license="Apache-2.0",
        ),
    ]
)

DINOV2_CONFIGS: Mapping[str, EncoderConfig] = _by_name(
    [
        *_dinov2("small", "s", 384, 12, 6, "mlp", 1536),
        *_dinov2("base", "b", 768, 12, 12, "mlp", 3072),
        *_dinov2("large", "l", 1024, 24, 16, "mlp", 4096),
        *_dinov2("giant", "g", 1536, 40, 24, "swiglu", 4096),
    ]
)

ENCODER_CONFIGS: Mapping[str, EncoderConfig] = MappingProxyType({**DINOV3_CONFIGS, **DINOV2_CONFIGS})

SHORT_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "small": "dinov3_small",
        "base": "dinov3_base",
        "large": "dinov3_large",
        "giant": "dinov3_huge_plus",
        "mega": "dinov3_7b",
    }
)
PLUS_VARIANTS: Mapping[str, str] = MappingProxyType(
    {"dinov3_small": "dinov3_small_plus", "dinov3_large": "dinov3_large_plus"}
)

# Ungated copies on the Hub, in timm's layout; timm 1.0.31.
TIMM_IDS: Mapping[str, str] = MappingProxyType(
    {
        "dinov3_small": "timm/vit_small_patch16_dinov3.lvd1689m",
        "dinov3_small_plus": "timm/vit_small_plus_patch16_dinov3.lvd1689m",
        "dinov3_base": "timm/vit_base_patch16_dinov3.lvd1689m",
        "dinov3_large": "timm/vit_large_patch16_dinov3.lvd1689m",
        "dinov3_large_sat": "timm/vit_large_patch16_dinov3.sat493m",
        "dinov3_huge_plus": "timm/vit_huge_plus_patch16_dinov3.lvd1689m",
        "dinov3_7b": "timm/vit_7b_patch16_dinov3.lvd1689m",
        "dinov3_7b_sat": "timm/vit_7b_patch16_dinov3.sat493m",
        "dinov3_convnext_tiny": "timm/convnext_tiny.dinov3_lvd1689m",
        "dinov3_convnext_small": "timm/convnext_small.dinov3_lvd1689m",
        "dinov3_convnext_base": "timm/convnext_base.dinov3_lvd1689m",
        "dinov3_convnext_large": "timm/convnext_large.dinov3_lvd1689m",
    }
)


def _aliases() -> Mapping[str, str]:
    aliases = dict(SHORT_NAMES)
    for entry in ENCODER_CONFIGS.values():
        for alias in (entry.meta_name, entry.hub_id, entry.hub_id and entry.hub_id.removeprefix("facebook/")):
            if alias and alias not in ENCODER_CONFIGS:
                # Meta names the satellite encoders as the others: the entry that comes first, LVD, keeps the name.
                aliases.setdefault(alias, entry.name)
    return MappingProxyType(aliases)


ALIASES: Mapping[str, str] = _aliases()


def resolve_encoder(name: str, *, prefer_plus: bool = False, root: Path | str | None = None) -> EncoderConfig:
    """Find the encoder that a name stands for.

    Args:
        name: A registry name, a name of Meta's torch.hub, a Hub id, or one of `small base large giant mega`.
        prefer_plus: Take the plus variant of the encoder instead, where its weights lie under `root`.
        root: Folder in which weights are looked for, `weights_folder()` if None; read only with `prefer_plus`.

    Raises:
        UnknownEncoderError: No entry has that name; the message gives the nearest one and all of them.

    Examples:
        >>> resolve_encoder("giant").name
        'dinov3_huge_plus'
        >>> resolve_encoder("facebook/dinov3-vitb16-pretrain-lvd1689m").embed_dim
        768
    """
    entry = ENCODER_CONFIGS.get(ALIASES.get(name, name))
    if entry is None:
        raise _unknown(name)
    plus = PLUS_VARIANTS.get(entry.name)
    if prefer_plus and plus and weights_at_hand(ENCODER_CONFIGS[plus], root):
        return ENCODER_CONFIGS[plus]
    return entry


def weights_at_hand(entry: EncoderConfig, root: Path | str | None = None) -> Path | None:
    """Return where the weights of an encoder are in `root`, or in `weights_folder()` if that is None; None if nowhere.

    Looks for the entry's own folder, or one named as the entry or as its Hub repository, that holds safetensors or
    Meta's file, and for Meta's file itself.
    """
    root = weights_folder() if root is None else Path(root)
    if entry.folder and root == weights_folder():
        own = find_weights(Path("checkpoints") / entry.folder)
        if own.is_dir():
            return own
    for folder in (entry.folder, entry.name, entry.hub_id and entry.hub_id.removeprefix("facebook/")):
        if folder and any(any((root / folder).glob(f"*{suffix}")) for suffix in (".safetensors", ".pth")):
            return root / folder
    if entry.meta_file and (root / entry.meta_file).is_file():
        return root / entry.meta_file
    return None


def _unknown(name: str) -> UnknownEncoderError:
    known = [*ENCODER_CONFIGS, *SHORT_NAMES]
    folded = {candidate.lower(): candidate for candidate in (*known, *ALIASES)}
    nearest = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    hint = f"did you mean {folded[nearest[0]]}?" if nearest else "no known name is near it"
    return UnknownEncoderError(f"unknown encoder {name!r}, {hint}", remedy=f"known are: {', '.join(known)}")
