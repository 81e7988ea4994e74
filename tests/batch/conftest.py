"""A small data set, and a YAML of small random models, for `ntt predict`."""

from pathlib import Path

import pytest
import yaml

from tests.tiny import TinyData, write_config, write_dataset


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    return write_dataset(tmp_path_factory.mktemp("data") / "made here", targets=4)


@pytest.fixture(scope="package")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("settings")
    model = {
        "name": "matching_baseline_noAMG",
        "sam2_cfg_file": str(write_config(folder / "sam2")),
        "encoder_cfg": {"name": "dinov3_small", "img_size": 64},
        "sam2_infer_cfgs": {"points_per_side": 4, "iou_thr": 0.0},
        "random_init": True,
    }
    init = {"model_cfg": model, "test_mode": "full"}
    class_path = "no_time_to_train.pl_wrapper.sam2matcher_pl.Sam2MatcherLightningModel"
    path = folder / "small.yaml"
    document = {"seed_everything": 33, "model": {"class_path": class_path, "init_args": init}}
    path.write_text(yaml.safe_dump(document))
    return path
