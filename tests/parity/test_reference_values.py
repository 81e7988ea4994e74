"""Published values are checked where they can be, and only there."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import DINOv3ViTImageProcessor

from no_time_to_train.configs.encoders import DINOV3_CONFIGS, resolve_encoder
from no_time_to_train.encoders.torch_encoder import FeatureEncoder, build_encoder_from_checkpoint
from no_time_to_train.parity.inputs import preprocess_images
from no_time_to_train.parity.reference_values import PUBLISHED, check_known_answer
from no_time_to_train.weights.hub.manifest import Manifest
from no_time_to_train.weights.inspect import sha256_of
from tests.golden_files import golden


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    path = tmp_path / "000000039769.png"
    Image.fromarray(pixels).resize((640, 480), Image.Resampling.BILINEAR).save(path)
    return path


def encoder_named(name: str) -> FeatureEncoder:
    """A small encoder that goes by another's name."""
    encoder = build_encoder_from_checkpoint(golden("vit_mlp_untied"))
    encoder.config = replace(encoder.config, name=name)
    return encoder


def test_the_table_is_of_released_encoders() -> None:
    assert PUBLISHED.keys() <= DINOV3_CONFIGS.keys()
    assert all(len(values) == 5 for answers in PUBLISHED.values() for values in answers)


def test_what_is_said_is_what_transformers_would_say(photograph: Path) -> None:
    """Read, resized and normalised as the maintainers' processor does it."""
    encoder = encoder_named("dinov3_small")
    image = Image.open(photograph)
    pixels = DINOv3ViTImageProcessor()(images=image, return_tensors="pt")["pixel_values"]
    ours = torch.from_numpy(preprocess_images([image], (224, 224), encoder.config))
    assert (ours - pixels).abs().max() < 5e-6  # it multiplies by 1 / 255: some last places of values up to 2.6
    with torch.inference_mode():
        tokens = encoder.model(pixel_values=pixels).last_hidden_state[0]
    first_patch = 1 + encoder.config.num_storage_tokens
    published = {"dinov3_small": (tuple(tokens[0, :5].tolist()), tuple(tokens[first_patch, :5].tolist()))}
    weights = golden("vit_mlp_untied")
    answer = check_known_answer(encoder, weights, photograph, published=published)
    assert answer is not None
    assert answer.max_abs < 1e-5
    assert (answer.agrees, answer.ok, answer.genuine) == (True, True, False)
    assert str(answer).endswith("from the published values, as it should be")


def test_others_that_are_not_the_released_weights_are_told_and_no_more(photograph: Path) -> None:
    answer = check_known_answer(encoder_named("dinov3_small"), golden("vit_mlp_untied"), photograph)
    assert answer is not None
    assert not answer.agrees
    assert answer.ok
    assert str(answer).endswith("these are other weights, or it is another photograph")


def test_released_weights_have_to_agree(photograph: Path, tmp_path: Path) -> None:
    """They are known by the hash of Meta's file, or by the repository that they were fetched from."""
    encoder, weights = encoder_named("dinov3_small"), golden("vit_mlp_untied")
    encoder.config = replace(encoder.config, file_hash=sha256_of(weights)[:8])
    answer = check_known_answer(encoder, weights, photograph)
    assert answer is not None
    assert answer.genuine
    assert not answer.ok
    assert "although these are the released weights: expected at most 5e-04" in str(answer)
    encoder.config = replace(encoder.config, file_hash=None, hub_id=resolve_encoder("dinov3_small").hub_id)
    for source, genuine in ((encoder.config.hub_id, True), ("somebody/finetuned", False)):
        Manifest(
            kind="hub", source=str(source), revision="1", encoder="dinov3_small", fetched="2026-01-01", files={}
        ).write(tmp_path)
        answer = check_known_answer(encoder, tmp_path, photograph)
        assert answer is not None
        assert answer.genuine is genuine


def test_other_photographs_and_encoders_have_no_answers(photograph: Path, tmp_path: Path) -> None:
    weights = golden("vit_mlp_untied")
    assert check_known_answer(build_encoder_from_checkpoint(weights), weights, photograph) is None
    other = tmp_path / "000000000139.png"
    Image.open(photograph).save(other)
    assert check_known_answer(encoder_named("dinov3_small"), weights, other) is None
    cut = tmp_path / "cut_000000039769.png"
    Image.open(photograph).crop((0, 0, 100, 100)).save(cut)
    assert check_known_answer(encoder_named("dinov3_small"), weights, cut) is None


def test_the_command_tells_it(photograph: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Random weights in the shapes of the smallest released encoder: not the answers, and no failure."""
    from safetensors.torch import save_file

    from no_time_to_train.cli import main
    from no_time_to_train.encoders.torch_encoder import build_torch_encoder

    with pytest.warns(UserWarning, match="random weights"):
        encoder = build_torch_encoder("dinov3_small", random_init=True)
    weights = tmp_path / "small.safetensors"
    save_file(encoder.model.state_dict(), weights)
    given = ["--encoder", "dinov3_small", "--weights", str(weights), str(weights), "--image", str(photograph)]
    assert main(["compare", *given, "--image-size", "64", "--json"]) == 0
    known = json.loads(capsys.readouterr().out)["known_answer"]
    assert known["encoder"] == "dinov3_small"
    assert known["max_abs"] > 0.1
    assert (known["genuine"], known["ok"]) == (False, True)
