import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from no_time_to_train.data.coco import load_coco
from no_time_to_train.data.datasets import ReferenceDataset, TargetDataset
from no_time_to_train.data.masks import decode_mask
from no_time_to_train.data.references import load_references
from no_time_to_train.errors import (
    AnnotationError,
    ConfigError,
    DataNotFoundError,
    ImageReadError,
    ImageSizeError,
    UnknownNameError,
)
from no_time_to_train.pl_wrapper.datamodule import ReferenceTargetDataModule
from no_time_to_train.pl_wrapper.distributed import NonRepeatingSampler
from tests.tiny import TinyData, write_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    return write_dataset(tmp_path_factory.mktemp("data") / "here")


def module(data: TinyData, **changes: Any) -> ReferenceTargetDataModule:
    settings = {
        "references": data.references,
        "reference_images": data.images,
        "targets": data.targets,
        "target_images": data.images,
    }
    return ReferenceTargetDataModule(**(settings | changes))


def test_reference_items(data: TinyData) -> None:
    references = load_references(data.references).references
    items = list(map(ReferenceDataset(references, data.images).__getitem__, range(4)))
    assert [item.index for item in items] == [0, 1, 2, 3]
    assert [item.reference.class_index for item in items] == [0, 0, 1, 1]
    for item in items:
        assert item.image.shape == (48, 64, 3)
        assert item.image.dtype == np.uint8
        assert item.mask is not None
        expected = decode_mask(item.reference.annotation, 48, 64)
        assert np.array_equal(item.mask, expected)
    # A disc is red where its mask is.
    red = items[0].image[..., 0].astype(float) - items[0].image[..., 1]
    assert items[0].mask is not None
    assert red[items[0].mask].mean() > 100 > red[~items[0].mask].mean()


def test_masks_outside_their_box_are_refused(data: TinyData, tmp_path: Path) -> None:
    """The surroundings of the box would show a part of the object, or none."""
    document = json.loads(data.references.read_text())
    x, y, width, height = document["annotations"][0]["bbox"]
    path = tmp_path / "refs.json"
    for box, refused in (([x + 1, y + 1, width - 2, height - 2], False), ([x, y, width // 2, height], True)):
        document["annotations"][0]["bbox"] = box
        path.write_text(json.dumps(document))
        items = ReferenceDataset(load_references(path).references, data.images)
        if refused:
            with pytest.raises(AnnotationError, match=r"pixels of the mask of annotation 10 in 001.jpg are outside"):
                items[0]
        else:
            assert items[0].mask is not None


def test_box_only_references_have_no_mask(data: TinyData, tmp_path: Path) -> None:
    document = json.loads(data.references.read_text())
    for annotation in document["annotations"]:
        annotation["segmentation"] = []
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    dataset = ReferenceDataset(load_references(tmp_path / "boxes.json").references, data.images)
    assert dataset[0].mask is None


def test_an_image_of_another_size_than_annotated_is_refused(data: TinyData, tmp_path: Path) -> None:
    document = json.loads(data.targets.read_text())
    document["images"][0].update(width=48, height=64)
    (tmp_path / "turned.json").write_text(json.dumps(document))
    with pytest.raises(ImageSizeError, match="is 48x64 pixels high and wide, its annotations say 64x48"):
        TargetDataset(load_coco(tmp_path / "turned.json").images, data.images)[0]


@given(count=st.integers(0, 40), world=st.integers(1, 9))
def test_items_are_dealt_out_once_each(count: int, world: int) -> None:
    dataset: Any = list(range(count))
    shares = [list(NonRepeatingSampler(dataset, world, rank)) for rank in range(world)]
    assert sorted(index for share in shares for index in share) == list(range(count))
    assert all(share == sorted(share) for share in shares)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [len(NonRepeatingSampler(dataset, world, rank)) for rank in range(world)] == [len(share) for share in shares]


def test_loaders_give_items_one_by_one(data: TinyData) -> None:
    items = list(module(data).reference_dataloader())
    assert [item.index for item in items] == [0, 1, 2, 3]


@pytest.mark.parametrize(("batch_size", "expected"), [(1, [[5], [6], [7]]), (2, [[5, 6], [7]]), (8, [[5, 6, 7]])])
def test_loaders_give_lists_of_targets(data: TinyData, batch_size: int, expected: list[list[int]]) -> None:
    loader = module(data, max_targets=3, batch_size=batch_size).target_dataloader(["disc", "square"])
    assert [[item.record.id for item in items] for items in loader] == expected


def test_negative_references_are_marked(data: TinyData) -> None:
    loader = module(data, negative_references=data.negatives).negative_dataloader(["square", "disc"])
    assert [(item.reference.negative, item.reference.class_index) for item in loader] == [(True, 0)]
    with pytest.raises(ConfigError, match="no annotation of the memory's classes: circle"):
        module(data, negative_references=data.negatives).negative_dataloader(["circle"])


def test_a_folder_alone_gives_targets_without_annotations(data: TinyData) -> None:
    found = module(data, targets=None).target_dataset(["disc"])
    assert [image.file_name for image in found.images] == [f"{number:03d}.jpg" for number in range(1, 11)]
    assert {(image.width, image.height) for image in found.images} == {(64, 48)}
    assert not found.annotations
    assert len(module(data, targets=None, max_targets=3).target_dataset(["disc"]).images) == 3


def test_images_of_a_folder_are_found_as_they_will_be_read(data: TinyData, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (30, 20)).save(tmp_path / "deep" / "turned.JPG", exif=exif)
    (tmp_path / "notes.txt").write_text("no image")
    found = module(data, targets=None, target_images=tmp_path)
    (record,) = found.target_dataset(["disc"]).images
    assert (record.file_name, record.height, record.width) == ("deep/turned.JPG", 30, 20)
    ((item,),) = found.target_dataloader(["disc"])
    assert item.image.shape == (30, 20, 3)
    (tmp_path / "fake.png").write_text("no image")
    with pytest.raises(ImageReadError, match=r"fake.png is not an image"):
        module(data, targets=None, target_images=tmp_path).target_dataset(["disc"])


def test_an_image_that_is_not_there_is_named(data: TinyData, tmp_path: Path) -> None:
    references = load_references(data.references).references
    with pytest.raises(ImageReadError, match=r"no image at .*001.jpg"):
        ReferenceDataset(references, tmp_path)[0]


def test_targets_take_the_order_of_the_classes_looked_for(data: TinyData) -> None:
    found = module(data).target_dataset(["square", "disc"])
    assert found.class_names == ("square", "disc")
    with pytest.raises(UnknownNameError, match="circle"):
        module(data).target_dataset(["circle"])


def test_classes_by_split_or_by_name(data: TinyData) -> None:
    assert module(data).class_names is None
    assert module(data).reference_set().class_names == ("disc", "square")
    assert module(data, class_names=["square"]).reference_set().class_names == ("square",)
    named = module(data, split="coco_fewshot_novel20")
    assert named.class_names is not None
    assert len(named.class_names) == 20
    with pytest.raises(UnknownNameError, match="person"):
        named.reference_set()
    with pytest.raises(UnknownNameError, match=r"coco81.*did you mean coco80\?"):
        module(data, split="coco81")
    with pytest.raises(UnknownNameError, match=r"circle"):
        module(data, class_names=["circle"]).reference_set()
    with pytest.raises(ConfigError, match="no class names"):
        module(data, class_names=[]).reference_set()


def test_settings_that_are_missing_or_contradict_each_other(data: TinyData, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="both split and class_names"):
        module(data, split="coco80", class_names=["disc"])
    with pytest.raises(ConfigError, match=r"data.references is not set.*sample-references"):
        module(data, references=None).reference_set()
    with pytest.raises(ConfigError, match=r"data.reference_images is not set"):
        module(data, reference_images=None).reference_dataloader()
    with pytest.raises(ConfigError, match=r"data.target_images is not set"):
        module(data, target_images=None).check_targets()
    with pytest.raises(ConfigError, match=r"data.negative_references is not set"):
        module(data).negative_dataloader(["disc"])
    with pytest.raises(DataNotFoundError, match=r"data.negative_images: there is no folder"):
        module(data, negative_references=data.negatives, negative_images=tmp_path / "nowhere").negative_dataloader(
            ["disc"]
        )
    with pytest.raises(DataNotFoundError, match=r"data.reference_images: there is no folder"):
        module(data, reference_images=tmp_path / "nowhere").reference_dataloader()
    with pytest.raises(DataNotFoundError, match=r"data.target_images: there is no folder"):
        module(data, target_images=tmp_path / "nowhere").check_targets()
    with pytest.raises(DataNotFoundError, match="there is no file"):
        module(data, targets=tmp_path / "nowhere.json").check_targets()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataNotFoundError, match="no images in"):
        module(data, targets=None, target_images=tmp_path / "empty").target_dataset(["disc"])


@pytest.mark.parametrize("wrong", [{"max_targets": 0}, {"max_targets": -1}, {"num_workers": -1}, {"batch_size": 0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{next(iter(wrong))}"):
        ReferenceTargetDataModule(**wrong)  # type: ignore[arg-type] # mypy takes them for any parameter


def test_crowds_are_no_negative_references(tmp_path: Path) -> None:
    data = write_dataset(tmp_path)
    document = json.loads(data.negatives.read_text())
    names = module(data).reference_set().class_names
    before = len(list(module(data, negative_references=data.negatives).negative_dataloader(names)))
    document["annotations"].append(document["annotations"][0] | {"id": 99, "iscrowd": 1})
    data.negatives.write_text(json.dumps(document))
    assert len(list(module(data, negative_references=data.negatives).negative_dataloader(names))) == before
