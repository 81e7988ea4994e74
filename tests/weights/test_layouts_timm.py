"""timm's layout against timm's own models, small and random, and where the key maps are imported from."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from no_time_to_train.encoders.torch_encoder import build_encoder, build_encoder_from_checkpoint
from no_time_to_train.errors import KeyMismatchError
from no_time_to_train.weights import layouts
from no_time_to_train.weights.layouts import dino

VITS: dict[str, dict[str, Any]] = {
    "vit_small_patch16_dinov3": {},
    "vit_small_patch16_dinov3_qkvb": {},
    "vit_small_plus_patch16_dinov3": {"mlp_ratio": 4},
    "vit_small_plus_patch16_dinov3_qkvb": {},
}


def randomised(model: nn.Module) -> nn.Module:
    """Give every parameter values that matter: timm begins with zeros and ones."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


@pytest.mark.parametrize("name", VITS)
@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
def test_vit_features_are_timms(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    theirs = randomised(
        timm.create_model(
            name,
            pretrained=False,
            embed_dim=128,
            depth=3,
            num_heads=2,
            num_classes=0,
            dynamic_img_size=True,
            **VITS[name],
        )
    )
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    ours = build_encoder_from_checkpoint(tmp_path)
    assert (ours.config.num_heads, ours.config.depth, ours.config.num_storage_tokens) == (2, 3, 4)
    pixels = torch.randn(2, 3, *size)
    with torch.inference_mode():
        tokens: Tensor = theirs.forward_features(pixels)  # type: ignore[operator] # of timm
        found = ours(pixels)
    torch.testing.assert_close(found.cls, tokens[:, 0], rtol=0, atol=2e-5)
    torch.testing.assert_close(found.storage, tokens[:, 1:5], rtol=0, atol=2e-5)
    torch.testing.assert_close(found.patches.flatten(1, 2), tokens[:, 5:], rtol=0, atol=2e-5)


def test_convnext_features_are_timms(tmp_path: Path) -> None:
    theirs = randomised(
        timm.create_model("convnext_tiny", pretrained=False, depths=(1, 1, 2, 1), dims=(8, 16, 24, 32), num_classes=0)
    )
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    ours = build_encoder_from_checkpoint(tmp_path)
    assert ours.config.stage_depths == (1, 1, 2, 1)
    pixels = torch.randn(2, 3, 96, 64)
    with torch.inference_mode():
        pooled: Tensor = theirs(pixels)
        torch.testing.assert_close(ours(pixels).cls, pooled, rtol=0, atol=2e-5)


def test_timm_weights_load_by_the_registrys_name(tmp_path: Path) -> None:
    for name in ("vit_small_patch16_dinov3", "vit_small_patch16_dinov3_qkvb"):
        theirs = timm.create_model(name, pretrained=False, num_classes=0)
        save_file(theirs.state_dict(), tmp_path / f"{name}.safetensors")
        assert build_encoder("dinov3_small", tmp_path / f"{name}.safetensors").config.name == "dinov3_small"


def test_names_that_timm_does_not_have_are_refused(tmp_path: Path) -> None:
    theirs = timm.create_model("vit_small_patch16_dinov3", pretrained=False, depth=1, num_classes=3)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(KeyMismatchError, match=r"2 tensors .* timm DINOv3 ViT: head\.bias, head\.weight"):
        build_encoder_from_checkpoint(tmp_path)


def test_the_key_maps_of_encoders_are_where_they_were() -> None:
    assert layouts.META_DINOV2 is dino.META_DINOV2
    with pytest.raises(AttributeError, match="has no attribute '__wrapped__'"):
        layouts.__wrapped__  # noqa: B018 # asking is the test
