"""Predictions of Python are written as those of the command line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from no_time_to_train.data.masks import decode_mask
from no_time_to_train.data.prediction import Prediction
from no_time_to_train.data.references import read_references
from no_time_to_train.errors import ConfigError, ImageSizeError, OutputError
from no_time_to_train.results.formats.folders import EXPORTS, check_export
from no_time_to_train.results.formats.predictions import write_predictions
from tests.results.found import photographs, ring_mask


def found(class_names: tuple[str, ...] = ("ring", "disc"), mask: np.ndarray | None = None) -> Prediction:
    masks = (ring_mask() if mask is None else mask)[None]
    box = np.array([[1, 1, 7, 7]], np.float32)
    height, width = masks.shape[1:]
    return Prediction(masks, box, np.array([0.5], np.float32), np.array([0]), class_names, (height, width))


@pytest.mark.parametrize("name", EXPORTS)
def test_each_format_is_written(tmp_path: Path, name: str) -> None:
    (path,) = photographs(tmp_path, "a.png")
    form = next(each for each in EXPORTS if each == name)
    file = tmp_path / "found" / name
    if form == "coco":  # A file, as ever.
        assert found().save(file) == file
        assert file.is_file()
        return
    for _ in range(2):
        assert found().save(file, form, image=path) == file
    check_export(file, form)


def test_several_images_are_read_back(tmp_path: Path) -> None:
    paths = photographs(tmp_path / "in", "one/a.png", "two/a.png")
    write_predictions({str(path): found() for path in paths}, tmp_path / "out", "yolo-seg")
    dataset = read_references(tmp_path / "out").dataset
    assert [image.file_name for image in dataset.images] == ["images/one/a.png", "images/two/a.png"]
    for annotation in dataset.annotations:
        np.testing.assert_array_equal(decode_mask(annotation, 12, 10), ring_mask())


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    (path,) = photographs(tmp_path, "a.png")
    with pytest.raises(ConfigError, match=r"format 'voc' needs the image's file.*image=PATH"):
        found().save(tmp_path / "out", "voc")
    with pytest.raises(ConfigError, match=r"format is 'vox', expected one of coco, coco-polygons, .*crops"):
        found().save(tmp_path / "out", "vox", image=path)  # type: ignore[arg-type] # what is refused
    with pytest.raises(ConfigError, match="of the same classes, got none"):
        write_predictions({}, tmp_path / "out", "voc")
    with pytest.raises(ConfigError, match="of the same classes, got other and ring, disc"):
        write_predictions({path: found(), tmp_path / "b.png": found(("other",))}, tmp_path / "out", "voc")
    Image.new("RGB", (11, 12)).save(path)
    with pytest.raises(ImageSizeError, match=r"a\.png is 11 wide and 12 high, the masks are of an image of 10 by 12"):
        found().save(tmp_path / "out", "voc", image=path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(OutputError, match="holds something else"):
        found(mask=np.ones((12, 11), dtype=bool)).save(tmp_path / "out", "voc", image=path)
