"""The forms in which `ntt predict --format` writes what was found."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from no_time_to_train.results.coco_output import FoundDataset
from no_time_to_train.results.formats import FormatName
from no_time_to_train.results.formats.label_studio import write_label_studio
from no_time_to_train.results.formats.labelme import write_labelme
from no_time_to_train.results.formats.masks import write_masks
from no_time_to_train.results.formats.voc import write_voc
from no_time_to_train.results.formats.yolo_seg import write_yolo_seg

COCO_ANNOTATIONS = Path("annotations", "instances_default.json")


@dataclass(frozen=True)
class Format:
    """A form of annotations.

    Attributes:
        write: Writes the annotations into a folder. It gets the images' names and folder there, if they are there.
        images: The folder within for links to the images; None leaves them out.
        endings: Of the files that go with an image; None keeps the images' names but for their being distinct.
        reserved: Names that folders of images may not have.
    """

    write: Callable[[Path, FoundDataset], None]
    images: str | None = None
    endings: tuple[str, ...] | None = None
    reserved: tuple[str, ...] = ()


FORMATS: Mapping[FormatName, Format] = MappingProxyType(
    {
        "coco": Format(lambda folder, dataset: dataset.write(folder / COCO_ANNOTATIONS), "images/default"),
        "coco-polygons": Format(
            lambda folder, dataset: dataset.write(folder / COCO_ANNOTATIONS, polygons=True), "images/default"
        ),
        # The image of a label is looked for where `images` is in the place of the last `labels` in its path.
        "yolo-seg": Format(write_yolo_seg, "images", (".txt",), ("images", "labels")),
        "labelme": Format(write_labelme, ".", (".json",)),
        "voc": Format(write_voc, "JPEGImages", (".xml", ".png")),
        "labelstudio": Format(write_label_studio, "images", ()),
        "masks": Format(write_masks),
    }
)
