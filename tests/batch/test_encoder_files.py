"""`--encoder FILE`: an encoder of an architecture that is in no registry entry, from its tensors alone."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from no_time_to_train import Segmenter
from no_time_to_train.cli import main
from no_time_to_train.cli.predictor import load_settings
from no_time_to_train.configs.pipeline import EncoderConfigArgs, MatcherConfig
from no_time_to_train.data.synthetic.dataset import write_shapes
from no_time_to_train.errors import UnknownEncoderError
from no_time_to_train.models.pipeline import MatchingPipeline
from no_time_to_train.pl_wrapper.sam2matcher_pl import Sam2MatcherLightningModel
from tests.golden_files import golden

QUICKSTART = Path(__file__).parents[2] / "checkpoints" / "quickstart"


def test_predict_takes_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes = write_shapes(tmp_path / "shapes", seed=3, shots=1, num_targets=1)
    given = ["--images", str(shapes.image_dir), "--references", str(shapes.references_json), "--reference-images"]
    given += [str(shapes.image_dir), "--sam2", str(QUICKSTART / "sam2"), "--output", str(tmp_path / "out")]
    assert main(["predict", *given, "--encoder", str(golden("vit_mlp_untied"))]) == 0
    capsys.readouterr()
    # Where the file is does not count, so that nothing is computed again.
    moved = shutil.copyfile(golden("vit_mlp_untied"), tmp_path / "moved.pth")
    assert main(["predict", *given, "--encoder", str(moved)]) == 0
    assert "from an earlier run" in capsys.readouterr().out
    assert main(["predict", *given, "--encoder", str(moved), "--encoder-weights", str(moved)]) == 2
    assert "holds the encoder's weights, yet" in capsys.readouterr().err


def test_the_segmenter_takes_a_file() -> None:
    segmenter = Segmenter(str(golden("convnext")), sam2=str(QUICKSTART / "sam2"), img_size=64)
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    segmenter.add_reference(image, box=(4, 4, 40, 40), label="one")
    assert torch.isfinite(segmenter.baseline.encode(torch.from_numpy(image).permute(2, 0, 1))).all()


def test_yaml_takes_a_file() -> None:
    def module(name: str) -> Any:
        return Sam2MatcherLightningModel(
            MatcherConfig(
                name="matching_baseline_noAMG",
                sam2_cfg_file=str(QUICKSTART / "sam2"),
                encoder_cfg=EncoderConfigArgs(name),
            )
        )

    assert MatchingPipeline(module(str(golden("vit_swiglu"))).model_cfg).encoder.config.name == "dinov3_vit_64x3"
    with pytest.raises(UnknownEncoderError):
        module("no_such_encoder")


def test_the_size_of_a_yaml_is_kept_for_the_same_encoder(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "model: {init_args: {model_cfg: {name: matching_baseline_noAMG, sam2_cfg_file: sam2_hiera_t.yaml, "
        "encoder_cfg: {name: dinov3_quickstart, img_size: 320}}}}"
    )
    for encoder, size in ((QUICKSTART / "encoder", 320), (golden("vit_mlp_untied"), None)):
        assert load_settings([tmp_path / "run.yaml"], encoder=str(encoder)).encoder_cfg.img_size == size
