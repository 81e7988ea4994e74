"""References and targets in COCO JSON, and what can be wrong in it."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tests.bad_inputs.conftest import Judge
from tests.bad_inputs.table import DROP, Case, Edit, Given, annotation, category, image, twice, whole

pytestmark = pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")

IN_PLACE = "correct the file at this place"


def coco(name: str, says: list[str], *edits: Edit) -> Case:
    """`ntt predict` with references of which something is changed."""
    return Case(f"references: {name}", lambda f: f.predict("--references", f.coco(*edits)), says)


def file(name: str, content: str | bytes, says: list[str]) -> Case:
    """`ntt predict` with references that are something else."""
    return Case(f"references: {name}", lambda f: f.predict("--references", f.text("r.json", content)), says)


def pickled(content: object, *says: str) -> Case:
    """The main job with a pickle of references."""

    def argv(f: Given) -> list[str | Path]:
        path = f.text("refs.pkl", pickle.dumps(content))
        return f.match("--data.references", path, "--data.reference_annotations", f.shop.data.references)

    return Case(f"references: a pickle of {content!r:.30}", argv, ["refs.pkl", *says])


class Runs:
    """A pickle of it runs a command when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch executed",)


def unmasked(document: dict[str, Any]) -> None:
    for entry in document["annotations"]:
        del entry["segmentation"]


def renamed(document: dict[str, Any]) -> None:
    for entry in document["categories"]:
        entry["name"] = f"no {entry['name']}"


NOTHING = {"size": [48, 64], "counts": [48 * 64]}
OUTSIDE = [[200.0, 200.0, 220.0, 200.0, 220.0, 220.0]]
FLAT = [[10.0, 10.0, 30.0, 10.0, 20.0, 10.0]]
FAR = [[1e9, 1.0, 2.0, 3.0, 4.0, 5.0]]
SHORT = coco_mask.encode(np.zeros((5, 5), np.uint8, order="F"))["counts"].decode()

CASES = [
    Case(
        "references: not there",
        lambda f: f.predict("--references", "nowhere.json"),
        ["there are no references 'nowhere.json'", "give a COCO JSON, a folder by class"],
    ),
    Case(
        "references: a folder",
        lambda f: f.predict("--references", f.folder("refs.json")),
        ["refs.json holds no files", "give a COCO JSON, a folder by class"],
    ),
    Case(
        "references: not to be read",
        lambda f: f.predict("--references", f.unreadable(f.shop.data.references)),
        ["references.json cannot be read: Permission denied", "check its permissions"],
    ),
    Case(
        "references: cut off",
        lambda f: f.predict("--references", f.cut(f.shop.data.references)),
        ["references.json is not valid JSON", "export the file again"],
    ),
    Case(
        "references: an image",
        lambda f: f.predict("--references", f.shop.data.images / "001.jpg"),
        ["001.jpg is an image, and what it shows is not said", "write 001.jpg:CLASS@x,y,width,height"],
    ),
    file("empty", "", ["r.json is not valid JSON", "export the file again"]),
    file("nested without end", "[" * 100_000, ["r.json is not valid JSON", "export the file again"]),
    file("a list", "[]", ["the document: expected an object, got []", IN_PLACE]),
    file("a number", "7", ["the document: expected an object, got 7", IN_PLACE]),
    coco("no images", ["expected the list 'images'", IN_PLACE], whole(images=DROP)),
    coco("no categories", ["expected the list 'categories'", IN_PLACE], whole(categories=DROP)),
    coco(
        "no annotations",
        ["no reference for 2 of its 2 classes: disc, square", "add a reference"],
        whole(annotations=[]),
    ),
    coco("images as an object", ["images: expected a list, got an object", IN_PLACE], whole(images={"1": "a.jpg"})),
    coco("annotations as text", ["annotations: expected a list, got 'many'", IN_PLACE], whole(annotations="many")),
    coco(
        "an image as a list",
        ["images[0]: expected an object, got [1, 'a.jpg']", IN_PLACE],
        whole(images=[[1, "a.jpg"]]),
    ),
    coco(
        "categories as names", ["categories[0]: expected an object, got 'disc'", IN_PLACE], whole(categories=["disc"])
    ),
    coco("an image without an id", ["images[0]: expected id as an integer, got nothing", IN_PLACE], image(id=DROP)),
    coco("an image's id as text", ["images[0]: expected id as an integer, got 'one'", IN_PLACE], image(id="one")),
    coco("an image's id as a fraction", ["images[0]: expected id as an integer, got 1.5", IN_PLACE], image(id=1.5)),
    coco("an image twice", ["images[4]: id 1 is there twice", IN_PLACE], twice("images")),
    coco("an image without a file", ["images[0]: expected file_name as text", IN_PLACE], image(file_name=DROP)),
    coco("an image of no width", ["images[0]: expected a size of at least 1x1", "0x48"], image(width=0)),
    coco("an image of negative height", ["images[0]: expected a size", "64x-48", IN_PLACE], image(height=-48)),
    coco("an annotation without an id", ["annotations[0]: expected id as an integer", IN_PLACE], annotation(id=DROP)),
    coco("an annotation twice", ["annotations[4]: id 10 is there twice", IN_PLACE], twice("annotations")),
    coco("an annotation's id as text", ["annotations[0]: expected id", "'ten'", IN_PLACE], annotation(id="ten")),
    coco(
        "an unknown image", ["annotations[0]: image_id 99 is not among the images", IN_PLACE], annotation(image_id=99)
    ),
    coco(
        "an unknown category",
        ["annotations[0]: category_id 5 is not among the categories", IN_PLACE],
        annotation(category_id=5),
    ),
    coco("no category", ["annotations[0]: expected category_id as an integer", IN_PLACE], annotation(category_id=None)),
    coco(
        "NaN in a box",
        ["references.json is not valid JSON: NaN is not a JSON number"],
        annotation(bbox=[1, 2, 3, float("nan")]),
    ),
    coco(
        "an endless box",
        ["references.json is not valid JSON: Infinity is not a JSON number"],
        annotation(bbox=[1, 2, float("inf"), 3]),
    ),
    coco("a box of three numbers", ["annotations[0]: expected bbox [x, y, width, height]"], annotation(bbox=[1, 2, 3])),
    coco("a box as text", ["annotations[0]: expected bbox", "'1 2 3 4'", IN_PLACE], annotation(bbox="1 2 3 4")),
    coco("a box of negative width", ["annotations[0]: expected a bbox of no negative"], annotation(bbox=[9, 9, -5, 5])),
    coco("no box", ["annotations[0]: expected bbox", "got nothing", IN_PLACE], annotation(bbox=DROP)),
    coco("half a crowd", ["annotations[0]: expected iscrowd as 0 or 1, got 0.5", IN_PLACE], annotation(iscrowd=0.5)),
    coco(
        "a mask as text", ["annotations[0]: expected segmentation as polygons or RLE"], annotation(segmentation="disc")
    ),
    coco(
        "a category without annotations",
        ["no reference for 1 of its 3 classes: blue"],
        twice("categories", id=9, name="blue"),
    ),
    coco("a category without a name", ["categories[0]: expected name as text", IN_PLACE], category(name="")),
    coco(
        "two categories of one name", ["categories[2]: name 'disc' is there twice", IN_PLACE], twice("categories", id=9)
    ),
    coco("a category twice", ["categories[2]: id 3 is there twice", IN_PLACE], twice("categories", name="blue")),
    coco(
        "a polygon of two points",
        ["polygon 0 of annotation 10", "got 4 numbers"],
        annotation(segmentation=[[1, 1, 9, 9]]),
    ),
    coco(
        "half a point", ["polygon 0 of annotation 10", "even count"], annotation(segmentation=[[1, 1, 9, 9, 1, 9, 5]])
    ),
    coco("a polygon with text", ["polygon 0 of annotation 10", "'x'"], annotation(segmentation=[[1, 1, 9, 9, 1, "x"]])),
    coco("a polygon far away", ["polygon 0 of annotation 10", "64x48", "1000000000.0"], annotation(segmentation=FAR)),
    coco(
        "a polygon outside", ["annotation 10 in 001.jpg has no foreground", "correct"], annotation(segmentation=OUTSIDE)
    ),
    coco("a polygon without area", ["annotation 10 in 001.jpg has no foreground"], annotation(segmentation=FLAT)),
    coco(
        "two corners as a box",
        ["ends 40 pixels outside of 001.jpg of 64x48 pixels", "not two corners"],
        annotation(segmentation=None, bbox=[40, 10, 64, 38]),
    ),
    coco("RLE without foreground", ["annotation 10 in 001.jpg has no foreground"], annotation(segmentation=NOTHING)),
    coco(
        "RLE of another size",
        ["mask of annotation 10", "expected 64x48", "got 5x5", "correct the image's width"],
        annotation(segmentation={"size": [5, 5], "counts": SHORT}),
    ),
    coco(
        "RLE that is too short",
        ["RLE of annotation 10", "3072 pixels", "counts that sum to 30"],
        annotation(segmentation={"size": [48, 64], "counts": [10, 20]}),
    ),
    coco(
        "RLE of noise",
        ["RLE of annotation 10", "malformed counts", "correct this annotation"],
        annotation(segmentation={"size": [48, 64], "counts": "~~~ ~~"}),
    ),
    coco(
        "RLE without a size",
        ["RLE of annotation 10", "expected size [height, width]"],
        annotation(segmentation={"counts": [10, 20]}),
    ),
    coco(
        "a box beside its mask",
        ["149 of 149 pixels of the mask of annotation 10 in 001.jpg are outside its box"],
        annotation(bbox=[50, 40, 5, 5]),
    ),
    coco(
        "a box outside its image",
        ["annotation 10 in 001.jpg", "box [500.0, 500.0, 9.0, 9.0]", "64x48", "correct"],
        annotation(bbox=[500, 500, 9, 9], segmentation=DROP),
    ),
    coco(
        "a box without area",
        ["annotation 10 in 001.jpg", "box [5.0, 5.0, 0.0, 9.0]", "correct"],
        annotation(bbox=[5, 5, 0, 9], segmentation=DROP),
    ),
    coco(
        "another size than the image's",
        ["001.jpg is 48x64 pixels high and wide", "say 50x64", "give the images that were annotated"],
        image(height=50),
        annotation(segmentation=DROP),
    ),
    coco("an image that is not there", ["no image at", "gone.jpg", "check the path"], image(file_name="gone.jpg")),
    coco("an image that is a folder", ["is a folder, expected an image file"], image(file_name="..")),
    Case(
        "references: only crowds",
        lambda f: f.predict(
            "--references", f.coco(annotation(iscrowd=1), lambda d: d["annotations"].__delitem__(slice(1, 4)))
        ),
        ["no reference for 2 of its 2 classes: disc, square", "add a reference"],
    ),
    Case(
        "predict: a pickle of references",
        lambda f: f.predict("--references", f.text("refs.pkl", pickle.dumps({3: [[1, [10]]]}))),
        ["refs.pkl", "ntt sample-references"],
    ),
    Case(
        "negative references: of other classes",
        lambda f: f.predict(
            "--negative-references",
            f.coco(renamed, base="negatives"),
        ),
        ["negatives.json has no annotation of the memory's classes: disc, square", "as the references do"],
    ),
    Case(
        "negative references: cut off",
        lambda f: f.predict("--negative-references", f.cut(f.shop.data.negatives)),
        ["negatives.json is not valid JSON", "export the file again"],
    ),
    pickled(Runs(), "was not loaded", "system", "use a COCO JSON"),
    pickled([1, 2], "expected a dict", "ntt sample-references"),
    pickled({"disc": [[1, [10]]]}, "expected a category id", "ntt sample-references"),
    pickled({3: {1: "ten"}}, "expected a list of annotation ids", "ntt sample-references"),
    Case(
        "references: a pickle, and annotations that it is not of",
        lambda f: f.match(
            *("--data.references", f.text("refs.pkl", pickle.dumps({3: [[1, [77]]]}))),
            *("--data.reference_annotations", f.shop.data.references),
        ),
        ["refs.pkl names annotation 77", "not there", "sampled from"],
    ),
    Case(
        "references: a pickle alone",
        lambda f: f.match("--data.references", f.text("refs.pkl", pickle.dumps({3: [[1, [10]]]}))),
        ["refs.pkl holds only ids", "as annotations"],
    ),
    Case(
        "references: JSON, and annotations",
        lambda f: f.match("--data.reference_annotations", f.shop.data.references),
        ["is not a pickle", "leave out annotations"],
    ),
    Case(
        "targets: an annotation of an unknown image",
        lambda f: f.match("--data.targets", f.coco(annotation(image_id=99), base="targets")),
        ["targets.json: annotations[0]: image_id 99", IN_PLACE],
    ),
    Case(
        "targets: no class of the references",
        lambda f: f.match("--data.targets", f.coco(category(name="ring"), base="targets")),
        ["targets.json has no category 'disc'", "its 2 categories are ring, square"],
    ),
    Case(
        "targets: cut off",
        lambda f: f.match("--data.targets", f.cut(f.shop.data.targets)),
        ["targets.json is not valid JSON", "export the file again"],
    ),
    Case(
        "targets: RLE of another size",
        lambda f: f.match(
            "--data.targets", f.coco(annotation(segmentation={"size": [3, 4], "counts": [12]}), base="targets")
        ),
        ["is of another size than its image: expected 64x48 pixels, got 4x3", "correct the image's width and height"],
    ),
    Case(
        "targets: another size than the image's",
        lambda f: f.match("--data.targets", f.coco(image(width=65), unmasked, base="targets")),
        ["005.jpg is 48x64 pixels high and wide", "give the images that were annotated"],
    ),
    Case(
        "targets: an image that is not there",
        lambda f: f.match("--data.targets", f.coco(image(file_name="gone.jpg"), base="targets")),
        ["no image at", "gone.jpg", "check the path"],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_refused(case: Case, refused: Judge) -> None:
    refused(case)
