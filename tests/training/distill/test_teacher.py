"""The teacher: whole folders alone, the folder's preprocessing, frozen features."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from no_time_to_train.configs.encoders import ENCODER_CONFIGS, SAT493M_MEAN, SAT493M_STD
from no_time_to_train.encoders.torch_encoder import build_encoder_from_checkpoint
from no_time_to_train.errors import ChecksumMismatchError, ConfigError, ImageSizeError, LocalEntryNotFoundError
from no_time_to_train.training.distill import DinoV3Config, DinoV3Teacher
from no_time_to_train.weights import identify as entries
from no_time_to_train.weights.conversion import convert_weights
from no_time_to_train.weights.hub.manifest import Manifest
from no_time_to_train.weights.inspect import sha256_of
from tests.golden_files import golden


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return convert_weights(golden("vit_mlp_released"), tmp_path / "dino", "hf")


def image(height: int = 50, width: int = 70) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


def test_preprocessing_is_the_folders(root: Path) -> None:
    teacher = DinoV3Teacher(DinoV3Config(root=root))
    pixels = image()
    # In float before it is resized: uint8 first is up to 1.7e-2 off.
    resized = F.interpolate(pixels[None] / 255, size=(224, 224), mode="bilinear", antialias=True, align_corners=False)
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = (resized - mean) / std
    assert torch.allclose(teacher.preprocess([pixels]), expected, atol=1e-5)  # fp32 at values up to 3
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    assert torch.allclose(teacher.preprocess([picture]), expected, atol=1e-5)
    assert teacher.preprocess([image(30, 40), image(80, 20)]).shape == (2, 3, 224, 224)
    assert teacher.preprocess(torch.stack([image(), image()])).shape == (2, 3, 224, 224)
    grey = Image.fromarray(np.full((40, 40), 128, np.uint8))
    assert teacher.preprocess([grey]).shape == (1, 3, 224, 224)


def test_features_are_the_encoders_and_frozen(root: Path) -> None:
    teacher = DinoV3Teacher(DinoV3Config(root=root, image_size=64))
    pixels = teacher.preprocess([image(), image()])
    assert pixels.shape == (2, 3, 64, 64)
    features = teacher(pixels)
    with torch.inference_mode():
        expected = build_encoder_from_checkpoint(golden("vit_mlp_released"))(pixels)
    for ours, theirs in zip(features, expected, strict=True):
        assert torch.equal(ours, theirs)
        assert not ours.requires_grad
    # Not inference tensors: a student's loss has to go through them.
    assert not features.cls.is_inference()
    module = nn.ModuleDict({"teacher": teacher, "student": nn.Linear(1, 1)})
    module.train()
    assert not any(part.training for part in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    picture = image(64, 64)
    assert torch.equal(teacher.features_of([picture]).cls, teacher(teacher.preprocess([picture])).cls)


def test_half_precision(root: Path) -> None:
    teacher = DinoV3Teacher(DinoV3Config(root=root, dtype="bfloat16", image_size=64))
    assert teacher.features_of([image()]).patches.dtype == torch.bfloat16
    assert (teacher.embed_dim, teacher.patch_size) == (64, 16)


def record(root: Path, encoder: str | None, *, kind: str = "hub") -> None:
    Manifest(
        kind=kind,
        source="someone/dinov3",
        revision="1",
        encoder=encoder,
        fetched="2026-11-21T00:00:00+00:00",
        files={
            path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)}
            for path in sorted(root.iterdir())
            if not path.name.startswith(".")
        },
    ).write(root)


def test_damaged_folders_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(LocalEntryNotFoundError, match="ntt fetch"):
        DinoV3Teacher(DinoV3Config(root=tmp_path / "none"))
    record(root, None)
    weights = root / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    DinoV3Teacher(DinoV3Config(root=root))
    with pytest.raises(ChecksumMismatchError, match="fetch it again"):
        DinoV3Teacher(DinoV3Config(root=root, deep=True))
    weights.write_bytes(bytes(content[:-8]))
    with pytest.raises(LocalEntryNotFoundError, match="expected the"):
        DinoV3Teacher(DinoV3Config(root=root))


def test_wrong_settings(root: Path) -> None:
    with pytest.raises(ImageSizeError, match="use 96x96"):
        DinoV3Teacher(DinoV3Config(root=root, image_size=100))
    with pytest.raises(ConfigError, match="expected float32"):
        DinoV3Config(root=root, dtype="int8")  # type: ignore[arg-type] # what a YAML may say
    with pytest.raises(ImageSizeError, match="give one or more"):
        DinoV3Teacher(DinoV3Config(root=root)).preprocess([])
    config = json.loads((root / "preprocessor_config.json").read_text())
    (root / "preprocessor_config.json").write_text(json.dumps(config | {"size": {"height": 30, "width": 32}}))
    with pytest.raises(ImageSizeError, match="use 32x32"):
        DinoV3Teacher(DinoV3Config(root=root))


def test_folders_without_a_preprocessor(tmp_path: Path) -> None:
    folder = tmp_path / "link"
    folder.mkdir()
    shutil.copy(golden("vit_mlp_released"), folder / "dinov3.pth")
    record(folder, None, kind="url")
    teacher = DinoV3Teacher(DinoV3Config(root=folder, deep=True))
    assert teacher.preprocess([image()]).shape == (1, 3, 224, 224)


def test_satellite_folders_with_imagenets_normalisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By public accounts the Hub's satellite folders state ImageNet's: the manifest knows better."""
    root = convert_weights(golden("vit_mlp_released"), tmp_path / "dino", "hf")
    tiny = build_encoder_from_checkpoint(root).config
    satellite = replace(tiny, name="dinov3_large_sat", image_mean=SAT493M_MEAN, image_std=SAT493M_STD)
    monkeypatch.setattr(entries, "ENCODER_CONFIGS", {**ENCODER_CONFIGS, "dinov3_large_sat": satellite})
    record(root, "dinov3_large_sat")
    with pytest.warns(UserWarning, match="which is used"):
        teacher = DinoV3Teacher(DinoV3Config(root=root, image_size=32))
    assert teacher.encoder.config.name == "dinov3_large_sat"
    black = torch.zeros(3, 32, 32, dtype=torch.uint8)
    expected = -torch.tensor(SAT493M_MEAN) / torch.tensor(SAT493M_STD)
    assert torch.allclose(teacher.preprocess([black])[0, :, 0, 0], expected, atol=1e-5)
