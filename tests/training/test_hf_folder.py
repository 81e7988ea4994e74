"""Written folders are whole and open elsewhere."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel

from no_time_to_train.encoders.torch_encoder import build_encoder
from no_time_to_train.errors import OutputError
from no_time_to_train.training.hf_folder import normalised, save_folder
from no_time_to_train.training.quickstart.encoder_module import QuickstartEncoderTraining
from no_time_to_train.weights.hf_config import preprocessor_config


def test_transformers_opens_the_folder(tmp_path: Path) -> None:
    training = QuickstartEncoderTraining(tmp_path, img_size=64)
    training.save(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    theirs = AutoModel.from_pretrained(tmp_path).eval()
    assert theirs.dtype == torch.float32
    ours = build_encoder("dinov3_quickstart", tmp_path)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = theirs(pixel_values=pixels).last_hidden_state[:, 5:].reshape(1, 4, 4, 128)
        torch.testing.assert_close(ours(pixels).patches, expected, rtol=0, atol=1e-6)
    processor = AutoImageProcessor.from_pretrained(tmp_path)  # type: ignore[no-untyped-call] # of transformers
    values = processor(torch.zeros(3, 80, 100, dtype=torch.uint8), return_tensors="pt")["pixel_values"]
    assert values.shape == (1, 3, 384, 384)
    black = -torch.tensor(ours.image_mean) / torch.tensor(ours.image_std)
    torch.testing.assert_close(values[0, :, 0, 0], black, rtol=0, atol=1e-5)


def test_normalisation_is_by_channel() -> None:
    images = torch.rand(2, 3, 4, 4)
    found = normalised(images, (0.1, 0.2, 0.3), (1.0, 2.0, 4.0))
    for channel, (mean, std) in enumerate(((0.1, 1.0), (0.2, 2.0), (0.3, 4.0))):
        torch.testing.assert_close(found[:, channel], (images[:, channel] - mean) / std)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        save_folder(tmp_path / "file", {}, config={}, preprocessor={})
    save_folder(
        tmp_path / "new",
        {"a": torch.ones(2)},
        config={"b": 1},
        preprocessor=preprocessor_config(8, (0.0,), (1.0,), processor="P"),
    )
    assert json.loads((tmp_path / "new" / "config.json").read_text()) == {"b": 1, "dtype": "float32"}
