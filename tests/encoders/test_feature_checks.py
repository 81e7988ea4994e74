"""Features that cannot be matched are refused, whatever made them; those of random weights and flat images pass."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from no_time_to_train.encoders.base import Encoder
from no_time_to_train.encoders.feature_checks import check_features
from no_time_to_train.encoders.torch_encoder import build_encoder, build_encoder_from_checkpoint
from no_time_to_train.errors import WeightsFormatError
from no_time_to_train.export.onnx import export_onnx
from no_time_to_train.models.cache.feature_cache import FeatureCache
from no_time_to_train.models.feature_extractor import ImageFeatures
from no_time_to_train.models.Sam2MatchingBaseline_noAMG import Sam2MatchingBaseline_noAMG
from no_time_to_train.proposers.sam2.predictor import Sam2Predictor, build_sam2
from no_time_to_train.weights.conversion import convert_weights
from tests.golden_files import golden
from tests.tiny import write_config

pytestmark = pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")
# What weights may be by mistake: all zero, or as large as float32 goes.
USELESS = [0.0, 3e38]


@pytest.fixture(scope="module")
def sam2(tmp_path_factory: pytest.TempPathFactory) -> Sam2Predictor:
    return build_sam2(write_config(tmp_path_factory.mktemp("sam2")), random_init=True)


def picture() -> Tensor:
    """Noise with a dark half."""
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image[:, 32:] //= 4
    return image


def weights_filled_with(value: float, name: str, folder: Path) -> Path:
    convert_weights(golden(name), folder, "hf")
    tensors = load_file(folder / "model.safetensors")
    save_file({key: torch.full_like(tensor, value) for key, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("backend", ["torch", "onnx"])
@pytest.mark.parametrize("name", ["vit_mlp", "convnext"])
@pytest.mark.parametrize("value", USELESS)
def test_encoders_of_useless_weights(
    value: float, name: str, backend: str, sam2: Sam2Predictor, tmp_path: Path
) -> None:
    folder = weights_filled_with(value, name, tmp_path / "hf")
    if backend == "onnx":
        export_onnx(folder, verify=False)
        encoder: Encoder = build_encoder(f"onnx:{folder}", img_size=64)
    else:
        encoder = build_encoder_from_checkpoint(folder, img_size=64)
    cache = FeatureCache(tmp_path / "cache", 10**9)
    with pytest.raises(WeightsFormatError, match=r"the encoder dinov3_.* its weights are damaged.*ntt inspect"):
        ImageFeatures(encoder, sam2, cache=cache).patches([picture()])
    assert cache.written == 0


@pytest.mark.parametrize("value", USELESS)
def test_a_sam2_of_useless_weights(value: float, tmp_path: Path) -> None:
    sam2 = build_sam2(write_config(tmp_path / "sam2"), random_init=True)
    for parameter in sam2.parameters():
        parameter.data.fill_(value)
    encoder = build_encoder("dinov3_quickstart_tiny", random_init=True, img_size=64)
    with pytest.raises(WeightsFormatError, match=r"SAM2 .* its weights are damaged"):
        ImageFeatures(encoder, sam2).embeddings([picture()])


def test_references_are_checked_too(tmp_path: Path) -> None:
    baseline = Sam2MatchingBaseline_noAMG(
        str(write_config(tmp_path / "sam2")),
        encoder_cfg={"name": "dinov3_quickstart_tiny", "img_size": 64},
        random_init=True,
    )
    for parameter in baseline.encoder.parameters():
        parameter.data.zero_()
    with pytest.raises(WeightsFormatError, match="the same feature at every place"):
        baseline.reference_mean(picture(), torch.ones(64, 64, dtype=torch.bool), (0.0, 0.0, 64.0, 64.0), "a reference")


@pytest.mark.parametrize("name", ["dinov3_quickstart_tiny", "dinov3_convnext_tiny"])
def test_random_weights_and_flat_images_pass(name: str, sam2: Sam2Predictor) -> None:
    encoder = build_encoder(name, random_init=True, img_size=64)
    features = ImageFeatures(encoder, sam2)
    black = torch.zeros(3, 64, 64, dtype=torch.uint8)
    dot = black.clone()
    dot[:, 30, 30] = 255
    for image in (picture(), black, black + 200, dot):
        assert len(features.patches([image])) == len(features.embeddings([image])) == 1


def test_what_counts_as_alike() -> None:
    image, flat = picture(), torch.full((3, 64, 64), 7, dtype=torch.uint8)
    check_features(torch.ones(4, 4, 8), flat, "one")
    check_features(torch.ones(1, 1, 8), image, "one")
    nearly = torch.ones(4, 4, 8)
    nearly[2, 2, 3] += 1e-5
    check_features(nearly, image, "one")
    with pytest.raises(WeightsFormatError, match="one gives the same feature at every place"):
        check_features(torch.ones(4, 4, 8), image, "one")
    for value in (float("nan"), float("inf"), 3e38):
        nearly[0, 0] = value
        with pytest.raises(WeightsFormatError, match="NaN, infinite or too large"):
            check_features(nearly, flat, "one")
