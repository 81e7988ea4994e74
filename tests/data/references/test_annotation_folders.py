"""LabelMe, YOLO, Pascal VOC and CVAT: their kinds of shapes, and what is hostile or wrong in their files."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from no_time_to_train.data.masks import decode_mask
from no_time_to_train.data.references import LabeledImages, read_references
from no_time_to_train.errors import AnnotationError, ImageSizeError, MaskSizeError, NoTimeToTrainError
from tests.data.references import forms


def masks(found: LabeledImages) -> list[np.ndarray]:
    return [decode_mask(annotation, 48, 64) for annotation in found.dataset.annotations]


def disc(x: float, y: float, across: float, down: float) -> np.ndarray:
    rows, columns = np.mgrid[:48, :64] + 0.5
    return np.asarray(((columns - x) / across) ** 2 + ((rows - y) / down) ** 2 <= 1)


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def shape(kind: str, points: list[Any], **more: Any) -> dict[str, Any]:
    return {"label": "apple", "shape_type": kind, "points": points, **more}


def labelme_of(root: Path, *shapes: Any) -> LabeledImages:
    return read_references(forms.labelme(root, shapes=list(shapes)))


def test_labelme_shapes(tmp_path: Path) -> None:
    part = forms.mask_of((2, 1, 6, 5), (10, 7))
    stream = io.BytesIO()
    Image.fromarray(part).save(stream, "PNG")
    encoded = base64.b64encode(stream.getvalue()).decode()
    found = labelme_of(
        tmp_path,
        shape("circle", [[30, 20], [30, 32]]),
        shape("mask", [[20, 10], [29, 16]], mask=encoded),
        shape("point", [[5, 6]]),
        shape("rectangle", forms.corners(forms.PEAR)),
    )
    circle, mask, point, box = found.dataset.annotations
    # A polygon of 64 corners, by pixels' centers.
    assert iou(decode_mask(circle, 48, 64), disc(30, 20, 12, 12)) > 0.98
    assert np.array_equal(decode_mask(mask, 48, 64), forms.mask_of((22, 11, 6, 5)))
    assert point.points == ((5.0, 6.0),)
    assert (list(box.bbox), box.segmentation) == (list(forms.PEAR), None)


def test_shapes_of_a_group_are_one_object(tmp_path: Path) -> None:
    first, second = forms.corners(forms.APPLE), forms.corners(forms.PEAR)
    found = labelme_of(
        tmp_path, *(shape("polygon", points, group_id=group) for group in (3, None) for points in (first, second))
    )
    both, apple, pear = masks(found)
    assert np.array_equal(both, forms.mask_of(forms.APPLE) | forms.mask_of(forms.PEAR))
    assert found.dataset.annotations[0].bbox == (10.0, 8.0, 42.0, 32.0)
    assert np.array_equal(apple | pear, both)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (
            shape("line", [[1, 2], [3, 4]]),
            r"a.json: shapes\[0\]: a shape of type 'line' with 2 points, expected polygon",
        ),
        (shape("polygon", [[1, 2], [3, 4]]), "expected a polygon of at least three corners"),
        (shape("polygon", [[1, 2], [3, 4], [1e300, 5]]), "expected points as a list"),
        (shape("polygon", [[1, 2], [3, 4], [900, 5]]), r"shapes\[0\]: it ends 836 pixels outside of a.jpg of 64x48"),
        (shape("polygon", [["1", 2], [3, 4], [9, 5]]), "expected points as a list"),
        (shape("rectangle", [[5, 5], [5, 9]]), "expected a box of finite numbers"),
        (shape("circle", [[30, 20], [30, 20]]), "expected a center and radii above 0"),
        (shape("circle", [[300, 20], [30, 20]]), "ends 236 pixels outside"),
        (shape("mask", [[1, 1], [5, 5]], mask="no"), "its mask cannot be read: it is not an image in base64"),
        (shape("mask", [[1, 1], [5, 5]]), "its mask cannot be read"),
        (shape("point", [[-1, 5]]), "expected points within"),
        ({"points": []}, "expected an object with a label"),
        ({**shape("polygon", forms.corners(forms.APPLE)), "label": " "}, "expected the name of a class"),
        ({**shape("polygon", forms.corners(forms.APPLE)), "label": chr(0xD800)}, "expected the name of a class"),
    ],
)
def test_labelme_shapes_that_are_wrong(tmp_path: Path, bad: Any, says: str) -> None:
    with pytest.raises(AnnotationError, match=says):
        labelme_of(tmp_path, bad)


def test_labelme_files_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(ImageSizeError, match=r"a\.json: .*a\.jpg is 64x48 pixels, its annotations say 48x64"):
        read_references(forms.labelme(tmp_path, imageWidth=48, imageHeight=64))
    for outside in ("../a.jpg", "/etc/a.jpg", "b/../../a.jpg", "..\\a.jpg"):
        with pytest.raises(AnnotationError, match="is outside of"):
            read_references(forms.labelme(tmp_path, imagePath=outside))
    with pytest.raises(AnnotationError, match="expected imagePath, got nothing"):
        read_references(forms.labelme(tmp_path, imagePath=None))
    with pytest.raises(NoTimeToTrainError, match="names the image"):
        read_references(forms.labelme(tmp_path, imagePath="x" * 5000))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("3 0.5 0.5 0.1 0.1", r"a.txt: line 1: class 3, and .*data.yaml names 3 classes"),
        ("\n-1 0.5 0.5 0.1 0.1", "line 2: expected the number of a class, got '-1'"),
        ("0 0.5 0.5 0.1", "expected 5 numbers, or 7, 9, 11 ..., got 4"),
        ("0 0.5 0.5 0.1 0.1 0.9", "got 6"),
        ("0 10 12 30 40", "expected parts of the image's size, got 40"),
        ("0 0.5 0.5 1.4 0.1", "ends 12.8 pixels outside"),
        ("0 0.5 0.5 0 0.1", "width and a height above 0"),
        ("0 0.5 inf 0.1 0.1", "expected coordinates as a number, got 'inf'"),
        ("apple 0.5 0.5 0.1 0.1", "expected the number of a class, got 'apple'"),
    ],
)
def test_yolo_rows_that_are_wrong(tmp_path: Path, rows: str, says: str) -> None:
    with pytest.raises(AnnotationError, match=says):
        read_references(forms.yolo(tmp_path, rows))


def test_yolo_labels_beside_images(tmp_path: Path) -> None:
    forms.picture(tmp_path / "photos" / "a.jpg")
    forms.picture(tmp_path / "photos" / "empty.jpg")
    forms.text(tmp_path / "photos" / "a.txt", forms.yolo_rows())
    forms.text(tmp_path / "photos" / "empty.txt", "")
    forms.text(tmp_path / "classes.txt", "pear\n\nplum\napple\n")
    found = read_references(tmp_path)
    assert [image.file_name for image in found.dataset.images] == ["photos/a.jpg"]
    assert found.dataset.class_names == ("pear", "apple")
    assert found.files[0] == tmp_path / "classes.txt"


def test_names_of_classes_are_where_tools_put_them(tmp_path: Path) -> None:
    root = forms.yolo(tmp_path)
    among = forms.text(root / "labels" / "classes.txt", "a\nb\nc\n")
    forms.text(root / "train" / "run.yaml", "epochs: 3")
    assert read_references(root).dataset.class_names == ("pear", "apple")
    (root / "data.yaml").unlink()
    assert read_references(root).dataset.class_names == ("a", "c")
    forms.text(root / "classes.txt", "d\ne\nf\n")
    assert read_references(root).dataset.class_names == ("d", "f")
    among.rename(root / "obj.names")
    with pytest.raises(AnnotationError, match=r"2 files that could be its annotations: classes\.txt, obj\.names"):
        read_references(root)


def test_yolo_folders_that_are_wrong(tmp_path: Path) -> None:
    root = forms.yolo(tmp_path)
    forms.text(root / "data.yaml", "names: 3\n")
    with pytest.raises(AnnotationError, match="expected names as a list, got 3"):
        read_references(root)
    forms.text(root / "data.yaml", "names: {0: pear, 2: apple}\n")
    with pytest.raises(AnnotationError, match="expected names as a list"):
        read_references(root)
    forms.yolo(tmp_path)
    forms.picture(root / "images" / "train" / "a.png")
    with pytest.raises(AnnotationError, match=r"a\.txt may be of .*a\.jpg or of a\.png"):
        read_references(root)
    (root / "labels" / "train" / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AnnotationError, match=r"a\.txt is not text in UTF-8"):
        read_references(root)


def test_voc_masks_are_of_the_object_with_their_box(tmp_path: Path) -> None:
    found = read_references(forms.voc(tmp_path, masks=True))
    apple, pear = found.dataset.annotations
    assert np.array_equal(decode_mask(apple, 48, 64), forms.mask_of(forms.APPLE))
    assert pear.segmentation is None


def test_voc_masks_in_colors(tmp_path: Path) -> None:
    root = forms.voc(tmp_path)
    colors = np.zeros((48, 64, 3), np.uint8)
    colors[forms.mask_of(forms.PEAR)] = (128, 128, 0)
    colors[0] = (224, 224, 192)  # what is around an object
    (root / "SegmentationObject").mkdir()
    Image.fromarray(colors).save(root / "SegmentationObject" / "a.png")
    apple, pear = read_references(root).dataset.annotations
    assert apple.segmentation is None
    assert np.array_equal(decode_mask(pear, 48, 64), forms.mask_of(forms.PEAR))
    Image.fromarray(colors[:40]).save(root / "SegmentationObject" / "a.png")
    with pytest.raises(MaskSizeError, match="is of 64x40 pixels, and its image of 64x48"):
        read_references(root)


def voc_object(**box: str) -> str:
    inside = "".join(f"<{name}>{value}</{name}>" for name, value in box.items())
    return f"<object><name>apple</name><bndbox>{inside}</bndbox></object>"


@pytest.mark.parametrize(("left", "has_mask"), [(15, True), (20, False)])
def test_voc_masks_have_to_be_like_the_box(tmp_path: Path, left: int, has_mask: bool) -> None:
    """The mask is 20 pixels wide: moved by 5 the IoU is 15 / 25, by 10 it is 10 / 30."""
    box = voc_object(xmin=str(left), ymin="8", xmax=str(left + 20), ymax="24")
    (apple,) = read_references(forms.voc(tmp_path, masks=True, objects=box)).dataset.annotations
    assert (apple.segmentation is not None) == has_mask


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"objects": "<object><name>apple</name></object>"}, r"a.xml: object 1: expected <bndbox>"),
        ({"objects": "<object><name> </name></object>"}, "expected <name>"),
        ({"objects": voc_object(xmin="1", ymin="2", xmax="9")}, "expected ymax as a number, got nothing"),
        ({"objects": voc_object(xmin="1", ymin="2", xmax="nan", ymax="4")}, "expected xmax as a number"),
        ({"objects": voc_object(xmin="9", ymin="2", xmax="1", ymax="4")}, "width and a height above 0"),
        ({"objects": voc_object(xmin="1", ymin="2", xmax="1e12", ymax="4")}, "pixels outside of JPEGImages/a.jpg"),
        ({"width": 65}, "is 64x48 pixels, its annotations say 65x48"),
        ({"name": "../../../etc/passwd"}, "is outside of"),
        ({"name": ""}, "expected <filename>"),
    ],
)
def test_voc_files_that_are_wrong(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(NoTimeToTrainError, match=says):
        read_references(forms.voc(tmp_path, **changes))


def test_cvat_shapes(tmp_path: Path) -> None:
    shapes = (
        '<polygon label="apple" points="10,8;30,8;30,24;10,24" group_id="4"/>'
        '<polygon label="apple" points="40,20;52,20;52,40;40,40" group_id="4"/>'
        '<ellipse label="apple" cx="30" cy="20" rx="20" ry="10"/>'
        '<box label="apple" xtl="20" ytl="14" xbr="40" ybr="24" rotation="90.0"/>'
        '<box label="apple" xtl="20" ytl="14" xbr="40" ybr="24" rotation="30.0"/>'
        '<points label="apple" points="5,6;7,8"/>'
    )
    found = read_references(forms.cvat(tmp_path, shapes=shapes))
    group, ellipse, turned, steep, points = found.dataset.annotations
    assert np.array_equal(decode_mask(group, 48, 64), forms.mask_of(forms.APPLE) | forms.mask_of(forms.PEAR))
    assert iou(decode_mask(ellipse, 48, 64), disc(30, 20, 20, 10)) > 0.98
    assert np.array_equal(decode_mask(turned, 48, 64), forms.mask_of((25, 9, 10, 20)))
    # Clockwise by 30 degrees, as one sees it: the upper left corner, 10 to the left and 5 above the middle of 30, 19.
    assert isinstance(steep.segmentation, list)
    assert steep.segmentation[0][:4] == pytest.approx([23.8397, 9.6699, 41.1603, 19.6699], abs=1e-4)  # digits given
    assert points.points == ((5.0, 6.0), (7.0, 8.0))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"shapes": '<polyline label="a" points="1,2;3,4"/>'}, "image '0': polyline 1: expected box.*got a polyline"),
        ({"shapes": '<tag label="apple"/>'}, "got a tag"),
        ({"shapes": '<box label="a" xtl="x" ytl="1" xbr="2" ybr="3"/>'}, "expected xtl as a number, got 'x'"),
        ({"shapes": '<box xtl="0" ytl="1" xbr="2" ybr="3"/>'}, "expected the name of a class"),
        ({"shapes": '<polygon label="a" points="1,2;3"/>'}, "expected points as x,y;x,y"),
        (
            {"shapes": '<mask label="a" rle="0, 9" left="1" top="1" width="2" height="2"/>'},
            "sum to its 4 pixels, got.* 9",
        ),
        ({"shapes": '<mask label="a" rle="-4, 8" left="1" top="1" width="2" height="2"/>'}, "sum to its 4 pixels"),
        ({"shapes": '<mask label="a" rle="1e9" left="0" top="0" width="99999" height="9"/>'}, "is not within"),
        ({"image": 'id="0" name="a.jpg" width="32" height="48"'}, "is 64x48 pixels, its annotations say 32x48"),
        ({"image": 'id="0" name="/a.jpg" width="64" height="48"'}, "is outside of"),
        ({"image": 'id="0" width="64" height="48"'}, "an image without a name"),
        ({"shapes": '</image><image id="0" name="b.jpg" width="1" height="1">'}, "whose id is there twice"),
    ],
)
def test_cvat_files_that_are_wrong(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(NoTimeToTrainError, match=says):
        read_references(forms.cvat(tmp_path, **changes))


def test_cvat_for_video_is_refused(tmp_path: Path) -> None:
    forms.text(tmp_path / "annotations.xml", "<annotations><track id='0' label='apple'/></annotations>")
    with pytest.raises(AnnotationError, match=r"tracks are not read \(export it as CVAT for images"):
        read_references(tmp_path)


ENTITY = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>'
LAUGHS = '<!DOCTYPE a [<!ENTITY x "xxxxxxxx"><!ENTITY y "&x;&x;&x;&x;">]><annotation>&y;</annotation>'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (ENTITY, "it declares a document type, a, which may hold entities"),
        (LAUGHS, "it declares a document type"),
        ("<annotation><filename>", "not valid XML: no element found"),
        ("", "not valid XML"),
        ("<annotation>&x;</annotation>", "not valid XML: undefined entity"),
        ("<annotation>" + "<a>" * 100_000, "nested deeper than 50"),
        ('<?xml version="1.0" encoding="nothing-known"?><annotation/>', "not valid XML"),
    ],
)
def test_xml_that_is_hostile(tmp_path: Path, content: str, says: str) -> None:
    root = forms.voc(tmp_path)
    forms.text(root / "Annotations" / "b.xml", content)
    with pytest.raises(AnnotationError, match=says):
        read_references(root)


def test_json_that_is_broken_is_named(tmp_path: Path) -> None:
    root = forms.labelme(tmp_path)
    forms.text(root / "b.json", json.dumps(forms.labelme_document())[:-3])
    with pytest.raises(AnnotationError, match=r"b\.json is not valid JSON"):
        read_references(root)
