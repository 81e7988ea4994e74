"""One root rules all files of a run: what a YAML writes is under trainer.default_root_dir, wherever that is."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from no_time_to_train.cli.lightning.command import main
from no_time_to_train.pl_wrapper.run_settings import ROOT
from tests.bad_inputs.table import listing

CONFIGS = sorted((Path(__file__).parents[3] / "pl_configs").glob("*.yaml"))
ENCODER = "dinov3_quickstart_tiny"

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning"),
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
]


def texts(node: Any) -> list[str]:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else None
    return [str(node)] if children is None else [text for child in children for text in texts(child)]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_shipped_yamls_name_their_root_once(config: Path) -> None:
    document = yaml.safe_load(config.read_text())
    root = document["trainer"].pop("default_root_dir")
    assert root.startswith("runs/")
    assert not [text for text in texts(document) if text.startswith("runs/")]
    outputs = re.findall(r"^ *(?:output|scenes|root|save_dir|dirpath): (.+)$", config.read_text(), re.MULTILINE)
    assert all(output.startswith(ROOT) for output in outputs)


@pytest.mark.parametrize("times", [1, 2])
def test_all_files_of_a_training_are_under_its_root(
    times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the settings that it wrote are run again, in another root."""
    monkeypatch.chdir(tmp_path)
    document = yaml.safe_load((CONFIGS[0].parent / "distill_quickstart.yaml").read_text())
    document["model"]["init_args"]["teacher"] = {"name": ENCODER, "random_init": True}
    document["data"]["init_args"] |= {"num_scenes": 12, "num_val": 4, "batch_size": 4, "views": {"size": 64}}
    document["trainer"] |= {"max_steps": 2, "val_check_interval": 1.0, "precision": "32-true"}
    document["trainer"] |= {"check_val_every_n_epoch": 1, "num_sanity_val_steps": 0, "enable_progress_bar": False}
    document["trainer"]["log_every_n_steps"] = 1
    loggers, callbacks = document["trainer"]["logger"], document["trainer"]["callbacks"]
    document["trainer"]["logger"] = [entry for entry in loggers if "CSVLogger" in entry["class_path"]]
    kept = ("ModelCheckpoint", "FeaturePictures")
    document["trainer"]["callbacks"] = [entry for entry in callbacks if entry["class_path"].endswith(kept)]
    config = Path("own.yaml")
    config.write_text(yaml.safe_dump(document))
    for number in range(times):
        root = f"moved{number}"
        assert main(["fit", "--config", str(config), "--trainer.default_root_dir", root]) == 0
        assert capsys.readouterr().out.endswith(f"trained model: {root}/student\nrun: {root}\n")
        assert {path.name for path in Path(root).iterdir()} == {"student", "scenes", "csv", "checkpoints"}
        (config,) = Path(root).rglob("config.yaml")
    moved = {f"moved{number}" for number in range(times)}
    assert {name.split("/")[0] for name in listing(tmp_path)} == {"own.yaml", *moved}
