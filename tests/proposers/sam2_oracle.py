"""Meta's own SAM2 code (the PyPI package sam2) as a small model with random weights, to compare with."""

import functools
from pathlib import Path
from typing import Any

import torch
from sam2.build_sam import build_sam2 as build_meta_sam2
from sam2.sam2_image_predictor import SAM2ImagePredictor
from torch import Tensor

from tests.tiny import CHANNELS, DIM, GLOBAL_BLOCKS, IMAGE_SIZE, STAGES, WIDTH, WINDOWS

# SAM2Transforms scripts its resizing, which torch has deprecated since; the package cannot help it.
SCRIPT_WARNING = "ignore:`torch.jit.script` is deprecated:FutureWarning"


@functools.cache
def tiny_meta(version: str) -> Any:
    """Build Meta's model from its YAML with small figures, and move every parameter off its initial value."""
    overrides = [
        f"model.image_size={IMAGE_SIZE}",
        f"model.image_encoder.trunk.embed_dim={WIDTH}",
        f"model.image_encoder.trunk.stages={STAGES}",
        f"model.image_encoder.trunk.global_att_blocks={GLOBAL_BLOCKS}",
        f"++model.image_encoder.trunk.window_spec={WINDOWS}",
        f"model.image_encoder.neck.backbone_channel_list={CHANNELS}",
        f"model.image_encoder.neck.d_model={DIM}",
        f"model.image_encoder.neck.position_encoding.num_pos_feats={DIM}",
        "model.memory_attention.num_layers=1",
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = build_meta_sam2(
            f"configs/sam{version}/sam{version}_hiera_t.yaml", device="cpu", hydra_overrides_extra=overrides
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def save_meta(folder: Path, version: str = "2.1") -> Path:
    """Save the small model as Meta saves its models."""
    path = folder / f"sam{version}_hiera_small.pt"
    torch.save({"model": tiny_meta(version).state_dict()}, path)
    return path


def meta_predictor(image: Tensor, version: str = "2.1") -> SAM2ImagePredictor:
    """Embed a (3, H, W) uint8 image in Meta's predictor."""
    predictor = SAM2ImagePredictor(tiny_meta(version))
    # It knows the feature sizes of 1024-pixel models only.
    predictor._bb_feat_sizes = [(IMAGE_SIZE // stride,) * 2 for stride in (4, 8, 16)]
    predictor.set_image(image.permute(1, 2, 0).numpy())
    return predictor


@torch.no_grad()
def meta_masks(
    predictor: SAM2ImagePredictor, points: Tensor, labels: Tensor, *, multimask: bool = True
) -> tuple[Tensor, Tensor]:
    """Decode prompts as Meta's predictor does, without its clamping of the logits."""
    model = predictor.model
    sparse, dense = model.sam_prompt_encoder(points=(points, labels), boxes=None, masks=None)
    masks, iou, _, _ = model.sam_mask_decoder(
        image_embeddings=predictor._features["image_embed"],
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
        repeat_image=True,
        high_res_features=predictor._features["high_res_feats"],
    )
    return masks, iou


def meta_box_masks(predictor: SAM2ImagePredictor, boxes: Tensor, *, multimask: bool = True) -> tuple[Tensor, Tensor]:
    """Decode boxes as Meta's predictor does: as two corner points with labels of their own."""
    return meta_masks(predictor, boxes.reshape(-1, 2, 2), torch.tensor([[2, 3]] * len(boxes)), multimask=multimask)
