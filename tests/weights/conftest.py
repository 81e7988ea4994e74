"""A Hub on this machine with one small encoder, and a client that finds it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import close_session
from safetensors.torch import save_file

from no_time_to_train.configs.encoders import ENCODER_CONFIGS
from no_time_to_train.weights.architecture import shapes_of
from no_time_to_train.weights.conversion import convert_weights
from tests.golden_files import golden
from tests.weights.hub_server import TOKEN, Hub, running_hub

REPOSITORY = "someone/dinov3-tiny"
SMALL = ("facebook/dinov3-vits16-pretrain-lvd1689m", "timm/vit_small_patch16_dinov3.lvd1689m")
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of 0.4 MB as a Hugging Face folder."""
    folder = convert_weights(golden("vit_mlp_released"), tmp_path_factory.mktemp("tiny") / "hf", "hf")
    (folder / "LICENSE.md").write_text("a licence")
    return folder


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A folder of the size and names of dinov3_small, 43 MB of zeros."""
    folder = tmp_path_factory.mktemp("small") / "hf"
    folder.mkdir()
    shapes = shapes_of(ENCODER_CONFIGS["dinov3_small"])
    save_file({name: torch.zeros(shape, dtype=torch.float16) for name, shape in shapes.items()}, folder / WEIGHTS)
    (folder / "config.json").write_text('{"model_type": "dinov3_vit", "hidden_size": 384}')
    shutil.copy(tiny_folder / "preprocessor_config.json", folder)
    return folder


@pytest.fixture
def hub(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    close_session()  # it keeps the proxies that it was made with
    with running_hub() as server:
        server.add(REPOSITORY, tiny_folder)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        yield server
    close_session()
