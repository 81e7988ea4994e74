"""Label Studio's tasks, with what was found as predictions.

Source: label-studio-sdk 2, ``label_studio_sdk/converter/brush.py``, for the packed runs of a mask.
"""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np
from jaxtyping import Bool

from no_time_to_train import __version__
from no_time_to_train.data.records import ImageRecord
from no_time_to_train.results.coco_output import FoundDataset
from no_time_to_train.results.formats.instances import FoundInstance, by_image, voc_palette, write_text
from no_time_to_train.results.formats.names import plain_text

# Label Studio serves files of its document root at this address.
_ADDRESS = "/data/local-files/?d="
_WORD_BITS, _CHANNELS = 8, 4
# Bits of the lengths that a run may have; each run names one of them.
_LENGTH_BITS = (4, 8, 12, 16)


def write_label_studio(folder: Path, dataset: FoundDataset) -> None:
    """Write `tasks.json`, and `label_config.xml`, the labeling interface of a project for it.

    Masks are brushes, which have holes. The images are in `images/`.

    Args:
        folder: Where to; it is to be Label Studio's document root for local files.
        dataset: With the names that images have there.
    """
    names = [plain_text(category.name) for category in dataset.categories]
    with (folder / "tasks.json").open("w", encoding="utf-8", newline="\n") as stream:
        stream.write("[")
        # One at a time: all together may not fit the memory.
        for number, (image, instances) in enumerate(by_image(dataset)):
            stream.write(("" if number == 0 else ",\n") + json.dumps(_task(image, instances)))
        stream.write("]\n")
    view = Element("View")
    SubElement(view, "Image", name="image", value="$image", zoom="true")
    labels = SubElement(view, "BrushLabels", name="label", toName="image")
    colors = voc_palette()
    for index, name in enumerate(names):
        red, green, blue = colors[index % 255 + 1]
        SubElement(labels, "Label", value=name, background=f"#{red:02x}{green:02x}{blue:02x}")
    indent(view)
    write_text(folder / "label_config.xml", tostring(view, encoding="unicode") + "\n")


def _task(image: ImageRecord, instances: list[FoundInstance]) -> dict[str, Any]:
    prediction: dict[str, Any] = {
        "model_version": f"no_time_to_train {__version__}",
        "result": [_region(image, instance) for instance in instances],
    }
    if instances:
        prediction["score"] = round(sum(instance.score for instance in instances) / len(instances), 6)
    return {"data": {"image": _ADDRESS + quote(f"images/{image.file_name}")}, "predictions": [prediction]}


def _region(image: ImageRecord, instance: FoundInstance) -> dict[str, Any]:
    return {
        "id": f"image{image.id}-{instance.number}",
        "type": "brushlabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": image.width,
        "original_height": image.height,
        "image_rotation": 0,
        "score": instance.score,
        "value": {"format": "rle", "rle": brush(instance.mask()), "brushlabels": [plain_text(instance.class_name)]},
    }


def brush(mask: Bool[np.ndarray, "H W"]) -> list[int]:
    """Return a mask as the bytes of a brush: the values of red, green, blue and alpha of each pixel, in runs.

    The head has the count of values in 32 bits, the bits of a value less 1 in 5, and four times the bits of a length
    less 1 in 4. A run has a 1, the number of its kind of length in 2 bits, its length less 1, and its value.
    """
    flat = mask.reshape(-1)
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    lengths = np.diff(starts, append=flat.size) * _CHANNELS
    head = f"{flat.size * _CHANNELS:032b}{_WORD_BITS - 1:05b}" + "".join(f"{bits - 1:04b}" for bits in _LENGTH_BITS)
    parts = [head]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        value = f"{255 * int(flat[start]):0{_WORD_BITS}b}"
        rest = length
        while rest:
            run = min(rest, 1 << _LENGTH_BITS[-1])
            kind = next(kind for kind, bits in enumerate(_LENGTH_BITS) if run <= 1 << bits)
            parts.append(f"1{kind:02b}{run - 1:0{_LENGTH_BITS[kind]}b}{value}")
            rest -= run
    text = "".join(parts)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))
