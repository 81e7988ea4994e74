"""Batches of views: the same whoever draws them and whenever, whatever cannot be read."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from no_time_to_train.errors import ConfigError, DataNotFoundError, ImageReadError
from no_time_to_train.training.distill import views as views_module
from no_time_to_train.training.distill.datamodule import ViewsDataModule
from no_time_to_train.training.distill.image_sources import FileImages, SubsetImages, images_in_folders, images_of_coco
from no_time_to_train.training.distill.views import ViewBatch, ViewBatches, ViewConfig, Views

SMALL = ViewConfig(size=16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images in folders of folders."""
    random = np.random.default_rng(0)
    for index in range(12):
        path = (
            tmp_path
            / "images"
            / ("cats" if index % 2 else "dogs/small")
            / f"{index:02d} ü.{'png' if index % 3 else 'jpg'}"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20 + index, 30, 3), np.uint8)).save(path)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    (tmp_path / "images" / ".hidden").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / ".hidden" / "thumb.png")
    return tmp_path / "images"


def batches(source: FileImages, size: int = 4, seed: int | None = 0, **options: int) -> ViewBatches:
    return ViewBatches(Views(source, SMALL, seed=seed), size, seed=seed, **options)


def test_folders_and_their_classes(folder: Path, tmp_path: Path) -> None:
    source = images_in_folders([folder], labelled=True)
    assert len(source) == 12
    assert [Path(source.name(index)).parts[-2] for index in range(12)] == ["cats"] * 6 + ["small"] * 6
    assert [source.label(index) for index in range(12)] == [0] * 6 + [1] * 6
    assert source.load(3).mode == "RGB"
    assert images_in_folders([folder]).label(0) == -1
    chosen = SubsetImages(source, [7, 2])
    assert (len(chosen), chosen.label(0), chosen.name(1)) == (2, 1, source.name(2))
    with pytest.raises(DataNotFoundError, match="there is no folder"):
        images_in_folders([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataNotFoundError, match="holds no image"):
        images_in_folders([tmp_path / "empty"])


def test_images_of_coco(folder: Path, tmp_path: Path) -> None:
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.png")) if ".hidden" not in path.parts]
    images = [{"id": index, "file_name": name, "height": 8, "width": 8} for index, name in enumerate(names)]
    json_path = tmp_path / "images.json"
    json_path.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    source = images_of_coco(json_path, folder)
    assert [source.name(index) for index in range(len(source))] == [str(folder / name) for name in names]


def test_views_depend_on_seed_epoch_and_image_alone(folder: Path) -> None:
    source = images_in_folders([folder])
    torch.manual_seed(1)
    first = list(batches(source))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = list(batches(source))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(first) == 3
    for one, other in zip(first, second, strict=True):
        assert one.images.shape == (4, 3, 16, 16)
        assert one.images.dtype == torch.float32
        assert 0 <= one.images.min() <= one.images.max() <= 1
        assert torch.equal(one.images, other.images)
    assert not torch.equal(first[0].images, next(iter(batches(source, seed=1))).images)
    twice = batches(source)
    epochs = [torch.cat([batch.images for batch in twice]) for _ in range(2)]
    assert not torch.equal(*epochs)
    assert not torch.equal(epochs[0].sum(), epochs[1].sum())  # not the same views in another order


def test_worker_processes_draw_the_same(folder: Path) -> None:
    source = images_in_folders([folder])
    here, elsewhere = (torch.cat([batch.images for batch in batches(source, num_workers=count)]) for count in (0, 2))
    assert torch.equal(here, elsewhere)


def test_an_iteration_goes_on_where_it_stood(folder: Path) -> None:
    source = images_in_folders([folder])
    whole = batches(source)
    expected = [batch.images for _ in range(2) for batch in whole]
    stopped = batches(source)
    iterator = iter(stopped)
    begun = [next(iterator).images for _ in range(2)]
    resumed = batches(source)
    resumed.load_state_dict(stopped.state_dict())
    rest = [batch.images for _ in range(2) for batch in resumed]
    assert all(torch.equal(one, other) for one, other in zip(expected, [*begun, *rest], strict=False))
    assert len(begun) + len(rest) == 6


def test_processes_share_what_one_would_see(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two with batches of two see, together, batches of four."""
    source = images_in_folders([folder])
    alone = [batch.images for batch in batches(source)]
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(views_module, "rank_and_world", lambda rank=rank: (rank, 2))
        parts.append([batch.images for batch in batches(source, 2)])
    for whole, one, other in zip(alone, *parts, strict=True):
        assert torch.equal(whole, torch.stack([one, other], dim=1).flatten(0, 1))
    held_out = []
    for rank in (0, 1):
        monkeypatch.setattr(views_module, "rank_and_world", lambda rank=rank: (rank, 2))
        held_out.append(sum(len(batch.images) for batch in batches(source, 5, None)))
    assert held_out == [6, 6]


def test_validation_sees_all_images_as_they_are(folder: Path) -> None:
    found = list(batches(images_in_folders([folder], labelled=True), 5, None))
    assert [len(batch.images) for batch in found] == [5, 5, 2]
    assert torch.cat([batch.labels for batch in found]).tolist() == [0] * 6 + [1] * 6
    again = list(batches(images_in_folders([folder]), 5, None))
    assert all(torch.equal(one.images, other.images) for one, other in zip(found, again, strict=True))


@pytest.mark.filterwarnings("ignore:.*it is skipped")
def test_unreadable_images_are_named_once_and_skipped(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for index in range(200):
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / f"{index:03d}.png")
    (tmp_path / "017.png").write_bytes(b"")
    (tmp_path / "117.png").write_bytes((tmp_path / "118.png").read_bytes()[:60])
    source = batches(images_in_folders([tmp_path]), 20)
    with pytest.warns(UserWarning, match="it is skipped") as told:
        found: list[ViewBatch] = [batch for _ in range(2) for batch in source]
    assert all(len(batch.images) == 20 for batch in found)
    assert len(found) == 20
    named = [str(warning.message) for warning in told if "skipped" in str(warning.message)]
    assert sorted(Path(name).name for name in source.unreadable) == ["017.png", "117.png"]
    assert len(named) == 2
    (tmp_path / "050.png").write_text("no image either")
    with pytest.raises(ImageReadError, match=r"3 of 200 images cannot be read, more than 1 %"):
        list(batches(images_in_folders([tmp_path]), 20))
    for path in tmp_path.iterdir():
        path.write_text("nothing")
    with pytest.raises(ImageReadError, match=r"3 of 200 images cannot be read, more than 1 %: .*\.png"):
        list(batches(images_in_folders([tmp_path]), 20))


def test_the_datamodule_holds_images_out(folder: Path, tmp_path: Path) -> None:
    data = ViewsDataModule(folders=[folder], num_val=4, batch_size=4, views={"size": 16})
    train, val = data.train_dataloader(), data.val_dataloader()
    names = [{batch.views.source.name(i) for i in range(len(batch.views))} for batch in (train, val)]
    assert [len(found) for found in names] == [8, 4]
    assert not names[0] & names[1]
    labelled = ViewsDataModule(folders=[folder], val_folders=[folder], val_labelled=True, batch_size=4)
    assert len(labelled.train_dataloader().views) == len(labelled.val_dataloader().views) == 12
    scenes = ViewsDataModule(scenes=tmp_path / "scenes", num_scenes=6, num_val=2, batch_size=2, views={"size": 32})
    scenes.prepare_data()
    assert next(iter(scenes.train_dataloader())).images.shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "named by nothing"),
        ({"scenes": Path("a"), "coco": Path("b"), "coco_images": Path("c")}, "named by"),
        ({"coco": Path("b")}, "named by"),
        ({"scenes": Path("a"), "batch_size": 0}, "batch_size is 0"),
        ({"scenes": Path("a"), "num_workers": -1}, "num_workers is -1"),
        ({"scenes": Path("a"), "val_labelled": True}, "without data.val_folders"),
        ({"scenes": Path("a"), "views": {"hue": 0.7}}, "makes no sense"),
        ({"scenes": Path("a"), "views": {"contrast": -1.0}}, "makes no sense"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ViewsDataModule(**settings)  # type: ignore[arg-type] # wrong on purpose


def test_too_few_images(folder: Path) -> None:
    with pytest.raises(ConfigError, match="12 of 12 images were to be held out"):
        ViewsDataModule(folders=[folder], num_val=12).train_dataloader()
    with pytest.raises(ConfigError, match="8 images for training make no batch of 16"):
        ViewsDataModule(folders=[folder], num_val=4, batch_size=16).train_dataloader()
