"""An exported encoder over NumPy arrays."""

import numpy as np
import pytest
import torch

from no_time_to_train.encoders.torch_encoder import build_encoder_from_checkpoint
from no_time_to_train.errors import ConfigError, ImageSizeError
from no_time_to_train.runtime.encoder import OnnxImageEncoder, fingerprint_of
from no_time_to_train.runtime.onnx_session import read_onnx_file
from tests.runtime.quickstart import FOLDER


@pytest.fixture(scope="module")
def encoder() -> OnnxImageEncoder:
    return OnnxImageEncoder(read_onnx_file(FOLDER / "encoder"), img_size=64)


def test_features_are_those_of_torch(encoder: OnnxImageEncoder) -> None:
    reference = build_encoder_from_checkpoint(FOLDER / "encoder")
    pixels = np.random.default_rng(0).normal(size=(2, 3, 64, 96)).astype(np.float32)
    with torch.inference_mode():
        expected = reference(torch.from_numpy(pixels))
    found = encoder(pixels)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == tuple(theirs.shape)
        # Rounding of float32 through the blocks; features are of up to 10.
        np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-5)
    assert np.array_equal(encoder.outputs(pixels)[1], found.cls)
    assert (encoder.embed_dim, encoder.patch_size) == (reference.embed_dim, reference.patch_size)


def test_one_memory_serves_both(encoder: OnnxImageEncoder) -> None:
    """The files that are shipped are of the weights that are shipped."""
    assert encoder.fingerprint == build_encoder_from_checkpoint(FOLDER / "encoder").fingerprint
    assert fingerprint_of(encoder.file) == encoder.fingerprint


def test_what_is_refused(encoder: OnnxImageEncoder) -> None:
    with pytest.raises(ImageSizeError, match="multiples"):
        encoder(np.zeros((1, 3, 61, 64), np.float32))
    with pytest.raises(ConfigError, match="no images"):
        encoder.outputs(np.zeros((0, 3, 64, 64), np.float32))
    with pytest.raises(ConfigError, match="no device 'tpu'"):
        encoder.open_on("tpu")
    with pytest.raises(ConfigError, match="onnxruntime-directml"):
        OnnxImageEncoder(encoder.file, provider="directml")
    with pytest.raises(ImageSizeError, match="leave img_size out"):
        OnnxImageEncoder(encoder.file, img_size=61)
