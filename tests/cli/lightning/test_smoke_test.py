"""`smoke_test: true`: a YAML that runs as it stands, before there is data or weights."""

from pathlib import Path

import pytest
import yaml
from jsonargparse import Namespace, dict_to_namespace

from no_time_to_train.cli import main as ntt
from no_time_to_train.cli.lightning.command import main
from no_time_to_train.cli.lightning.smoke_test import DATA_MODULE, use_embedded_data

YAML = "no_time_to_train/pl_configs/matching_baseline_dinov3_test.yaml"
QUICK = {"sam2_cfg_file": "checkpoints/quickstart/sam2", "sam2_ckpt_path": None, "random_init": False}
MODEL_CFG = QUICK | {"encoder_cfg": {"name": "dinov3_quickstart", "img_size": 64}}


def data(**given: Path) -> Namespace:
    names = ("references", "reference_images", "targets", "target_images", "shard")
    known = dict.fromkeys(names, None) | {"num_workers": 0, "batch_size": 1} | given
    made: Namespace = dict_to_namespace({"class_path": DATA_MODULE, "init_args": known})
    return made


def settings(of_data: Namespace) -> Namespace:
    weights = {"encoder_ckpt_path": None, "sam2_ckpt_path": "nowhere/sam2.pt", "random_init": False}
    own: Namespace = dict_to_namespace(
        {"model": {"init_args": {"model_cfg": weights}}, "trainer": {"default_root_dir": "run"}}
    )
    own["data"] = of_data
    return own


def test_data_that_is_named_stays_and_weights_are_wanted() -> None:
    own = settings(data(references=Path("refs.json")))
    assert use_embedded_data(own) is None
    assert own.data.class_path == DATA_MODULE
    assert own.model.init_args.model_cfg.random_init is False


def test_without_data_a_little_of_the_embedded_dataset_is_taken() -> None:
    own = settings(data())
    notice = use_embedded_data(own)
    assert notice is not None
    assert "results mean nothing; there is no nowhere/sam2.pt" in notice
    assert own.data.init_args.root == Path("run", "shapes")
    config = own.model.init_args.model_cfg
    assert (config.random_init, config.sam2_ckpt_path) == (True, None)


def small(folder: Path) -> str:
    """The shipped YAML with small models, since its own are large."""
    from no_time_to_train.configs.shipped import find_settings

    document = yaml.safe_load(find_settings(YAML).read_text())
    assert document["smoke_test"] is True
    document["model"]["init_args"]["model_cfg"] |= MODEL_CFG
    document["model"]["init_args"]["model_cfg"]["sam2_infer_cfgs"]["points_per_side"] = 4
    document["trainer"] |= {"callbacks": None, "default_root_dir": str(folder / "run"), "enable_progress_bar": False}
    (folder / "small.yaml").write_text(yaml.safe_dump(document))
    return str(folder / "small.yaml")


@pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers")
def test_it_runs_without_further_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ntt(["test", "-c", small(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "smoke test: no data is named" in captured.err
    assert (tmp_path / "run" / "predictions.json").is_file()


def test_a_shipped_yaml_is_found_by_name_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--config", YAML, "--data.references", "nowhere.json", "--model.model_cfg.nonsense", "1"]) == 2
    assert "nonsense" in capsys.readouterr().err
    for spelled in (["-c", "custom_dataset"], ["--config=pl_configs/custom_dataset.yaml"]):
        assert ntt(["validate", *spelled, "--model.model_cfg.nonsense", "1"]) == 2
        assert "nonsense" in capsys.readouterr().err
