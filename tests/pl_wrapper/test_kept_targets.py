"""The main job goes on where it stopped, and shares its targets with other runs into the same folder."""

import json
from pathlib import Path

import pytest
from PIL import Image

from no_time_to_train.configs.pipeline import MatcherConfig
from no_time_to_train.errors import ConfigError
from no_time_to_train.pl_wrapper.kept_targets import KeptTargets
from tests.pl_wrapper.colours import colour_config, run_colours
from tests.tiny import TinyData, write_dataset

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning"),
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
]
RESUME = {"resume": True}


@pytest.fixture
def data(tmp_path: Path) -> TinyData:
    return write_dataset(tmp_path / "data", targets=5)


@pytest.fixture
def config(tmp_path: Path) -> MatcherConfig:
    return colour_config(tmp_path)


def test_a_resumed_run_matches_what_is_missing_and_writes_the_same_bytes(
    config: MatcherConfig, data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, baseline = run_colours(config, data, tmp_path / "alone", data.targets)
    assert baseline.looked_at == 5
    assert not (tmp_path / "alone" / "instances").exists()

    write = KeptTargets.write
    written: list[object] = []

    def interrupted(*args: object) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(args)
        write(*args)  # type: ignore[arg-type] # as they came

    with monkeypatch.context() as patch:
        patch.setattr(KeptTargets, "write", interrupted)
        with pytest.raises(SystemExit):
            run_colours(config, data, tmp_path / "resumed", data.targets, model=RESUME)
    assert not (tmp_path / "resumed" / "results.json").exists()
    assert len(list((tmp_path / "resumed" / "instances").glob("*.json"))) == 3
    resumed, baseline = run_colours(config, data, tmp_path / "resumed", data.targets, model=RESUME, batch_size=2)
    assert baseline.looked_at == 2
    assert resumed == pytest.approx(alone, rel=0, abs=0, nan_ok=True)
    for name in ("results.json", "predictions.json"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    metrics = json.loads((tmp_path / "resumed" / "metrics.json").read_text())
    assert metrics["seconds_per_image"] > 0
    assert metrics["images"] == 5


def test_shards_share_the_targets_and_a_last_run_collects_them(
    config: MatcherConfig, data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, _ = run_colours(config, data, tmp_path / "alone", data.targets)
    for shard, count in (("1/2", 3), ("2/2", 2)):
        _, baseline = run_colours(config, data, tmp_path / "shared", data.targets, shard=shard)
        assert baseline.looked_at == count
        assert f"shard {shard}: {count} images" in capsys.readouterr().out
        assert not list((tmp_path / "shared").glob("*.json"))
    shared, baseline = run_colours(config, data, tmp_path / "shared", data.targets, model=RESUME)
    assert baseline.looked_at == 0
    assert shared == pytest.approx(alone, rel=0, abs=0, nan_ok=True)
    assert (tmp_path / "shared/results.json").read_bytes() == (tmp_path / "alone/results.json").read_bytes()


def test_what_has_changed_is_matched_again(config: MatcherConfig, data: TinyData, tmp_path: Path) -> None:
    run_colours(config, data, tmp_path / "run", data.targets, model=RESUME)
    document = json.loads(data.targets.read_text())
    names = [image["file_name"] for image in document["images"]]
    with Image.open(data.images / names[1]) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(data.images / names[1])
    _, baseline = run_colours(config, data, tmp_path / "run", data.targets, model=RESUME)
    assert baseline.looked_at == 1
    _, baseline = run_colours(config, data, tmp_path / "run", data.targets, model=RESUME | {"overlays": 2})
    assert baseline.looked_at == 2
    assert len(list((tmp_path / "run" / "overlays").glob("*.png"))) == 2

    _, baseline = run_colours(config, data, tmp_path / "run", data.targets, model=RESUME, precision="bf16-mixed")
    assert baseline.looked_at == 5

    references = json.loads(data.references.read_text())
    for category in references["categories"]:
        category["name"] = {"disc": "square", "square": "disc"}[category["name"]]
    data.references.write_text(json.dumps(references))
    _, baseline = run_colours(config, data, tmp_path / "run", data.targets, model=RESUME)
    assert baseline.looked_at == 5


def test_ids_of_categories_and_images_are_those_of_the_annotations_at_hand(
    config: MatcherConfig, data: TinyData, tmp_path: Path
) -> None:
    run_colours(config, data, tmp_path / "run", data.targets, model=RESUME)
    document = json.loads(data.targets.read_text())
    for category in document["categories"]:
        category["id"] += 100
    for annotation in document["annotations"]:
        annotation["category_id"] += 100
    (tmp_path / "renumbered.json").write_text(json.dumps(document))
    before = json.loads((tmp_path / "run" / "results.json").read_text())
    _, baseline = run_colours(config, data, tmp_path / "run", tmp_path / "renumbered.json", model=RESUME)
    assert baseline.looked_at == 0
    after = json.loads((tmp_path / "run" / "results.json").read_text())
    assert after == [result | {"category_id": result["category_id"] + 100} for result in before]


def test_a_shard_of_a_mode_without_targets_is_refused(config: MatcherConfig, data: TinyData, tmp_path: Path) -> None:
    memory = {"test_mode": "fill_memory", "out_path": tmp_path / "memory.safetensors"}
    with pytest.raises(ConfigError, match=r"data\.shard is of targets, and test_mode fill_memory reads none"):
        run_colours(config, data, tmp_path / "run", data.targets, model=memory, shard="1/2")
    with pytest.raises(ConfigError, match="expected I/N with I from 1 to N"):
        run_colours(config, data, tmp_path / "run", data.targets, shard="3/2")
