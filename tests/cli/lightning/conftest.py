"""Small stand-ins for models and data, shared by the tests of the main job."""

from pathlib import Path

import pytest

from tests.cli.lightning.runs import BASE
from tests.tiny import TinyData, small_model_arguments, write_config, write_dataset


@pytest.fixture(scope="module")
def sam2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("sam2"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    return write_dataset(tmp_path_factory.mktemp("data") / "made here")


@pytest.fixture(scope="module")
def small(sam2: Path, data: TinyData) -> list[str]:
    """Arguments that make the base YAML small and give it data."""
    grid = ["--model.model_cfg.sam2_infer_cfgs.points_per_side", "4"]
    progress = ["--trainer.enable_progress_bar", "false", "--trainer.callbacks", "null"]
    return ["--config", str(BASE), *small_model_arguments(sam2), *grid, *data.arguments, *progress]
