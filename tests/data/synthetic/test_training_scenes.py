"""Training scenes: what they hold, that they are the same each time, that nothing foreign is overwritten."""

from pathlib import Path

import numpy as np
import pytest
import torch

from no_time_to_train.data.synthetic.dataset import NOVEL_CLASSES
from no_time_to_train.data.synthetic.training_scenes import TRAINING_KINDS, training_scenes
from no_time_to_train.errors import ConfigError, OutputError
from no_time_to_train.training.scenes_datamodule import TrainingScenesDataModule


def test_kinds_hold_every_base_combination_and_nothing_novel() -> None:
    assert len(TRAINING_KINDS) == len(set(TRAINING_KINDS)) == 12 * 8 * 8
    shapes, textures = {kind.shape for kind in TRAINING_KINDS}, {kind.texture for kind in TRAINING_KINDS}
    for novel in NOVEL_CLASSES:
        assert novel.shape not in shapes or novel.texture not in textures


def test_scenes_are_whole_and_the_same_each_time(tmp_path: Path) -> None:
    scenes = training_scenes(tmp_path / "one", size=48, count=5)
    assert scenes.images.shape == (5, 48, 48, 3)
    assert scenes.images.dtype == np.uint8
    for instances, kinds in zip(scenes.instances, scenes.kinds, strict=True):
        present = int((kinds >= 0).sum())
        assert 1 <= present <= 6
        assert (kinds[:present] >= 0).all()
        assert set(np.unique(instances)) - {0} == set(range(1, present + 1))
    more = training_scenes(tmp_path / "two", size=48, count=7)
    np.testing.assert_array_equal(more.images[:5], scenes.images)
    np.testing.assert_array_equal(more.kinds[:5], scenes.kinds)
    other = training_scenes(tmp_path / "three", size=48, count=5, seed=1)
    assert (other.images != scenes.images).any()


def test_processes_draw_what_one_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = training_scenes(tmp_path / "one", size=32, count=5)
    monkeypatch.setattr("no_time_to_train.data.synthetic.training_scenes._CHUNK", 3)
    several = training_scenes(tmp_path / "several", size=32, count=5)
    np.testing.assert_array_equal(several.images, one.images)
    np.testing.assert_array_equal(several.instances, one.instances)


def test_written_scenes_are_found_and_others_replaced(tmp_path: Path) -> None:
    root = tmp_path / "scenes"
    training_scenes(root, size=32, count=2)
    written = (root / "images.npy").stat().st_mtime_ns
    training_scenes(root, size=32, count=2)
    assert (root / "images.npy").stat().st_mtime_ns == written
    assert len(training_scenes(root, size=32, count=3)) == 3
    (root / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds notes\.txt, which is not of training scenes and would be lost"):
        training_scenes(root, size=32, count=2)
    assert (root / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]


def test_foreign_folders_and_bad_numbers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="something else"):
        training_scenes(tmp_path / "mine", count=1)
    with pytest.raises(ConfigError, match="training scenes is 0"):
        training_scenes(tmp_path / "none", count=0)
    with pytest.raises(ConfigError, match="scenes of size 8"):
        training_scenes(tmp_path / "small", count=1, size=8)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert not (tmp_path / "small").exists()


def test_data_module_gives_whole_batches_and_keeps_validation_apart(tmp_path: Path) -> None:
    data = TrainingScenesDataModule(tmp_path / "scenes", size=32, num_scenes=9, num_val=3, batch_size=2)
    data.prepare_data()
    scenes = training_scenes(tmp_path / "scenes", size=32, count=9)
    train = list(data.train_dataloader())
    assert [len(batch.images) for batch in train] == [2, 2, 2]
    seen = {image.numpy().tobytes() for batch in train for image in batch.images}
    assert seen == {image.tobytes() for image in scenes.images[:6]}
    validation = [*data.val_dataloader()]
    assert [len(batch.images) for batch in validation] == [2, 1]
    kinds = torch.cat([batch.kinds for batch in validation])
    np.testing.assert_array_equal(kinds.numpy(), scenes.kinds[6:])
    validation_loader = data.val_dataloader()
    next(iter(validation_loader))
    assert len(list(validation_loader)) == 2
    again = list(data.train_dataloader())
    assert all(torch.equal(one.kinds, two.kinds) for one, two in zip(train, again, strict=True))
    with pytest.raises(ConfigError, match="leave no batch"):
        TrainingScenesDataModule(tmp_path, num_scenes=4, num_val=3, batch_size=2)


def test_batches_go_on_where_they_stopped(tmp_path: Path) -> None:
    data = TrainingScenesDataModule(tmp_path / "scenes", size=32, num_scenes=9, num_val=1, batch_size=2)
    whole = data.train_dataloader()
    epochs = [[batch.images for batch in whole] for _ in range(2)]
    assert any(not torch.equal(one, two) for one, two in zip(*epochs, strict=True))
    stopped = data.train_dataloader()
    list(stopped)
    iteration = iter(stopped)
    next(iteration)
    resumed = data.train_dataloader()
    resumed.load_state_dict(stopped.state_dict())
    rest = [batch.images for batch in resumed]
    assert len(rest) == 3
    assert all(torch.equal(one, two) for one, two in zip(rest, epochs[1][1:], strict=True))
