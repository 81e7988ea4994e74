"""SAM2 in ONNX Runtime over NumPy arrays gives what torch gives."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from no_time_to_train.errors import ConfigError, ImageSizeError, WeightsFormatError, WeightsNotFoundError
from no_time_to_train.proposers.base import Embedding, PromptableModel, Prompts
from no_time_to_train.proposers.sam2.onnx_predictor import OnnxSam2
from no_time_to_train.proposers.sam2.predictor import Sam2Predictor, build_sam2

FOLDER = Path(__file__).parents[2] / "checkpoints" / "quickstart" / "sam2"
POINTS = np.array([[[20.0, 30.0]], [[100.0, 90.0]], [[150.0, 40.0]]], np.float32)


@pytest.fixture(scope="module")
def sam2() -> OnnxSam2:
    return OnnxSam2(FOLDER)


@pytest.fixture(scope="module")
def reference() -> Sam2Predictor:
    return build_sam2(FOLDER)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    y, x = np.mgrid[:130, :170]
    return np.stack([(x // 20 % 2) * 200, (y // 30 % 2) * 180, x + y]).astype(np.uint8)


@pytest.fixture(scope="module")
def embedding(sam2: OnnxSam2, image: np.ndarray) -> Embedding:
    return sam2.embed(sam2.preprocess(image))


def test_it_keeps_to_the_protocol(sam2: OnnxSam2, reference: Sam2Predictor) -> None:
    assert isinstance(sam2, PromptableModel)
    assert (sam2.image_size, sam2.mask_size) == (reference.image_size, reference.mask_size)
    assert sam2.embedding_shapes == reference.embedding_shapes
    assert list(sam2.embedding_shapes) == list(reference.embedding_shapes)
    assert sam2.fingerprint().startswith("onnx-sam2-")
    assert sam2.fingerprint() == OnnxSam2(FOLDER).fingerprint()


def test_embeddings_are_those_of_torch(
    sam2: OnnxSam2, reference: Sam2Predictor, image: np.ndarray, embedding: Embedding
) -> None:
    pixels = reference.preprocess(torch.from_numpy(image))
    # Pillow computes its kernels in float64, torch in float32: up to 1e-5 of a channel, divided by its deviation.
    np.testing.assert_allclose(sam2.preprocess(image), pixels.numpy(), atol=1e-4)
    expected = reference.embed(pixels)
    for name, part in embedding.items():
        # What is left of that after the Hiera; values are of up to 10.
        np.testing.assert_allclose(part, expected[name].numpy(), atol=5e-4)


@pytest.mark.parametrize(
    "prompts",
    [
        Prompts(points=POINTS),
        Prompts(points=np.repeat(POINTS, 2, axis=1), labels=np.array([[1, 0], [1, -10], [1, 1]])),
        Prompts(boxes=np.array([[10.0, 20.0, 100.0, 90.0], [60.0, 5.0, 170.0, 150.0]], np.float32)),
        Prompts(points=POINTS[:0]),
    ],
)
def test_masks_are_those_of_torch(
    sam2: OnnxSam2, reference: Sam2Predictor, embedding: Embedding, prompts: Prompts
) -> None:
    same = {name: torch.from_numpy(part) for name, part in embedding.items()}
    expected = reference.best_masks(reference.prepare(same), prompts.like(torch.empty(0)))
    for batch_size in (1, 2, 128):
        found = sam2.best_masks(sam2.prepare(embedding), prompts, batch_size=batch_size)
        assert found.mask_logits.shape == tuple(expected.mask_logits.shape)
        # Rounding of float32; logits are of up to 30.
        np.testing.assert_allclose(found.mask_logits, expected.mask_logits.numpy(), atol=1e-3)
        np.testing.assert_allclose(found.predicted_iou, expected.predicted_iou.numpy(), atol=1e-5)
    sure = sam2.best_masks(sam2.prepare(embedding), prompts, min_iou=2.0)
    assert sure.mask_logits.shape == (0, sam2.mask_size, sam2.mask_size)


def test_what_is_refused(sam2: OnnxSam2, embedding: Embedding, tmp_path: Path) -> None:
    with pytest.raises(ImageSizeError, match="convert the image to RGB"):
        sam2.preprocess(np.zeros((1, 20, 20), np.uint8))
    with pytest.raises(ImageSizeError, match="expected \\(B, 3, 192, 192\\)"):
        sam2.embed(np.zeros((1, 3, 64, 64), np.float32))
    with pytest.raises(ConfigError, match="of 2 images"):
        sam2.prepare({name: np.repeat(part, 2, axis=0) for name, part in embedding.items()})
    with pytest.raises(ConfigError, match="batch_size is 0"):
        list(sam2.mask_batches(sam2.prepare(embedding), Prompts(points=POINTS), np.isfinite, batch_size=0))
    with pytest.raises(WeightsNotFoundError, match=r"vision_encoder.onnx"):
        OnnxSam2(tmp_path)
    for name in ("model.safetensors", "vision_encoder.onnx"):
        shutil.copy(FOLDER / name, tmp_path)
    shutil.copy(FOLDER / "vision_encoder.onnx", tmp_path / "prompt_encoder_mask_decoder.onnx")
    with pytest.raises(WeightsFormatError, match="are not a SAM2"):
        OnnxSam2(tmp_path)
