"""Measure how well SAM2 segments the object of a close crop, for boxes at several distances from the border.

Each annotated object is cut out with several margins around its box, and the mask that is drawn by a box, or by a point
in the middle, is compared with the annotated one. Without annotations, on the embedded references.

    python -m benchmarks.close_crops
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from no_time_to_train import Segmenter
from no_time_to_train.data.coco import load_coco
from no_time_to_train.data.datasets import ReferenceDataset
from no_time_to_train.data.references import reference_set
from no_time_to_train.data.synthetic.dataset import write_shapes

# Parts of the crop's width and height.
INSETS = (0.0, 0.02, 0.05, 0.1, 0.15)
# Parts of the object's longer side, on each side of its box.
MARGINS = (0.0, 0.05, 0.1, 0.2, 0.4)


def main() -> None:
    """Print the mean IoU, and the share of objects below 0.5, for each margin and rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", type=int, default=5, help="embedded references a class")
    parser.add_argument("--seed", type=int, default=1, help="of the embedded references")
    parser.add_argument("--annotations", type=Path, help="COCO JSON of objects with masks, one of each image")
    parser.add_argument("--images", type=Path, help="folder of its images")
    arguments = parser.parse_args()
    segmenter = Segmenter.from_bundle("quickstart")
    with tempfile.TemporaryDirectory() as folder:
        annotations, images = arguments.annotations, arguments.images
        if annotations is None:
            paths = write_shapes(Path(folder) / "data", seed=arguments.seed, shots=arguments.shots, num_targets=1)
            annotations, images = paths.references_json, paths.image_dir
        dataset = ReferenceDataset(reference_set(load_coco(annotations)).references, images)
        items = [dataset[index] for index in range(len(dataset))]
    rules = [f"inset {inset:.0%}" for inset in INSETS] + ["middle"]
    table: dict[float, list[np.ndarray]] = {}
    for margin in MARGINS:
        rows = []
        for item in items:
            assert item.mask is not None
            x1, y1, x2, y2 = cut(item.reference.annotation.bbox, margin, item.mask.shape)
            pixels, truth = np.ascontiguousarray(item.image[y1:y2, x1:x2]), item.mask[y1:y2, x1:x2]
            rows.append([(drawn & truth).sum() / (drawn | truth).sum() for drawn in each_rule(segmenter, pixels)])
        table[margin] = list(np.array(rows).T)
    print(f"mean IoU (share below 0.5) of {len(items)} objects\nmargin  " + "  ".join(f"{rule:>12}" for rule in rules))
    for margin, columns in table.items():
        print(f"{margin:6.0%}  " + "  ".join(f"{part.mean():.3f} ({(part < 0.5).mean():4.0%})" for part in columns))
    means = np.array([[part.mean() for part in columns] for columns in table.values()]).mean(axis=0)
    print("   all  " + "  ".join(f"{mean:<12.3f}" for mean in means))


def cut(box: tuple[float, float, float, float], margin: float, size: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return the crop of a box with a margin, within its image: x1, y1, x2, y2."""
    x, y, width, height = box
    free = margin * max(width, height)
    x1, y1 = max(0, round(x - free)), max(0, round(y - free))
    return x1, y1, min(size[1], round(x + width + free)), min(size[0], round(y + height + free))


def each_rule(segmenter: Segmenter, pixels: UInt8[np.ndarray, "H W 3"]) -> list[Bool[np.ndarray, "H W"]]:
    """Draw a crop's object by a box of each inset, and by the point in its middle."""
    height, width = pixels.shape[:2]
    drawn = []
    for inset in INSETS:
        x, y = inset * width, inset * height
        drawn.append(segmenter.mask_of_box(pixels, (x, y, width - 2 * x, height - 2 * y)))
    image = segmenter.baseline.to_image(pixels)
    return [*drawn, np.asarray(segmenter.baseline.mask_of_points(image, [(width / 2, height / 2)]))]


if __name__ == "__main__":
    main()
