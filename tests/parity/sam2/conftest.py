"""A small SAM2 with random weights, and what is made of it."""

from pathlib import Path
from typing import Any

import pytest

from no_time_to_train.export.onnx import export_onnx
from no_time_to_train.proposers.sam2.configs import resolve_sam2_config
from tests.jax_models.sam2.random_models import random_torch_model
from tests.tiny import config_settings, write_config


@pytest.fixture(scope="package")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of transformers' whose windows do not fill the image, as in all released models."""
    settings = config_settings()
    settings["vision_config"]["backbone_config"] |= {"window_size_per_stage": [8, 4, 6, 3]}
    folder = write_config(tmp_path_factory.mktemp("parity") / "tiny_sam2", settings)
    model: Any = random_torch_model(resolve_sam2_config(folder))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="package")
def exported(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(weights, output=tmp_path_factory.mktemp("parity") / "onnx", verify=False)
