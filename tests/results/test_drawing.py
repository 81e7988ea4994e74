from pathlib import Path

import numpy as np
import torch
from PIL import Image

from no_time_to_train.data.coco import Annotation, Category, CocoDataset, ImageRecord
from no_time_to_train.data.datamodule import TargetItem
from no_time_to_train.data.masks import encode_mask
from no_time_to_train.matching import Instances
from no_time_to_train.results.drawing import Overlays, draw_masks, pca_basis, pca_colours, save_panels


def grey(height: int = 60, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), 128, dtype=np.uint8)


def square() -> np.ndarray:
    mask = np.zeros((1, 60, 64), dtype=bool)
    mask[0, 20:40, 20:40] = True
    return mask


def test_only_the_mask_and_its_edge_are_drawn() -> None:
    image = grey()
    scene = draw_masks(image, square(), [0], [""])
    changed = (scene != 128).any(axis=-1)
    assert changed[22:38, 22:38].all()
    outside = np.ones_like(changed)
    outside[18:42, 18:42] = False
    assert not changed[outside].any()
    assert (image == 128).all()
    assert np.array_equal(draw_masks(image, np.zeros((0, 60, 64), dtype=bool), [], []), image)


def test_captions_are_drawn_beside_and_change_nothing_else() -> None:
    plain, labelled = (draw_masks(grey(), square(), [0], [caption]) for caption in ("", "cat"))
    assert np.array_equal(labelled, draw_masks(grey(), square(), [0], ["cat"]))
    rows, columns = (plain != labelled).any(axis=-1).nonzero()
    # One line of small letters.
    assert 4 < np.ptp(rows) < 20
    assert 10 < np.ptp(columns) < 40


def test_classes_have_colours_of_their_own() -> None:
    first, second = (draw_masks(grey(), square(), [label], [""])[30, 30] for label in (0, 1))
    assert not np.array_equal(first, second)


def item(index: int) -> TargetItem:
    record = ImageRecord(index + 10, f"deep/name {index}.jpg", 64, 60)
    return TargetItem(index, record, torch.from_numpy(grey()).permute(2, 0, 1))


def instances(score: float) -> Instances:
    return Instances(
        torch.from_numpy(square()), torch.tensor([[20.0, 20, 39, 39]]), torch.tensor([score]), torch.tensor([0])
    )


def test_as_many_overlays_as_asked_for(tmp_path: Path) -> None:
    for count, expected in ((0, 0), (2, 2), (-1, 3)):
        overlays = Overlays(tmp_path / str(count), None, count, 0.5)
        for index in range(3):
            overlays.draw(item(index), instances(0.9), ["thing"])
        assert len(list((tmp_path / str(count)).glob("*.png"))) == expected


def test_only_scores_of_at_least_the_least_are_drawn(tmp_path: Path) -> None:
    masks = np.concatenate([square(), np.roll(square(), 20, axis=2)])
    masks[0, :, 30:] = False
    both = Instances(torch.from_numpy(masks), torch.zeros(2, 4), torch.tensor([0.5, 0.25]), torch.tensor([0, 0]))
    for score, right_changed in ((0.5, False), (0.25, True)):
        Overlays(tmp_path / str(score), None, -1, score).draw(item(0), both, ["thing"])
        with Image.open(tmp_path / str(score) / "name 0_10.png") as picture:
            pixels = np.asarray(picture)
        assert pixels.shape == (60, 64, 3)
        assert (pixels[36, 24] != 128).any()
        assert (pixels[36, 54] != 128).any() == right_changed


def test_truth_on_the_left_and_what_was_found_on_the_right(tmp_path: Path) -> None:
    annotation = Annotation(1, 10, 4, (20, 20, 20, 20), 400, encode_mask(square()[0]))
    truth = CocoDataset((item(0).record,), (annotation,), (Category(4, "thing"),))
    Overlays(tmp_path, truth, -1, 0.5).draw(item(0), instances(0.4), ["thing"])
    with Image.open(tmp_path / "name 0_10.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (60, 64 + 8 + 64, 3)
    left, right = pixels[:, :64], pixels[:, 72:]
    assert (left[30, 30] != 128).any()
    # The instance scores less than asked for.
    assert (right == 128).all()


def test_principal_components_become_colours() -> None:
    features = torch.randn(200, 16) * torch.tensor([9.0, 5, 3, *[0.1] * 13])
    basis = pca_basis(features)
    colours = pca_colours(features, basis)
    assert (colours.shape, colours.dtype) == ((200, 3), torch.uint8)
    # The strongest direction drives the first channel over its whole range.
    assert abs(np.corrcoef(features[:, 0], colours[:, 0].float())[0, 1]) > 0.95
    assert (colours.float().amin(dim=0) == 0).all()
    assert (colours.float().amax(dim=0) == 255).all()
    assert torch.equal(pca_colours(features, pca_basis(features)), colours)
    # Other features on the same basis stay within the range.
    assert torch.equal(pca_colours(100 * features, basis).float().amin(dim=0), torch.zeros(3))
    assert pca_colours(torch.ones(4, 16), pca_basis(torch.ones(4, 16))).shape == (4, 3)


def test_panels_stand_beside_each_other(tmp_path: Path) -> None:
    save_panels([grey(), grey(60, 10)], tmp_path / "deep" / "x.png")
    with Image.open(tmp_path / "deep" / "x.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape == (60, 64 + 8 + 10, 3)
    assert (pixels[:, 64:72] == 255).all()
    assert (pixels[:, :64] == 128).all()
    assert (pixels[:, 72:] == 128).all()


def test_pca_of_fewer_patches_than_colours() -> None:
    for count in (1, 2):
        features = torch.randn(count, 16)
        assert pca_colours(features, pca_basis(features)).shape == (count, 3)
