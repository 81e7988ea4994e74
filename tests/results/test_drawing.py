from pathlib import Path

import numpy as np
from PIL import Image

from no_time_to_train.data.drawing import draw_masks
from no_time_to_train.results.drawing import pca_basis, pca_colors, save_panels


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


def test_principal_components_become_colours() -> None:
    features = np.random.default_rng(0).normal(size=(200, 16)) * [9.0, 5, 3, *[0.1] * 13]
    basis = pca_basis(features)
    colours = pca_colors(features, basis)
    assert colours.shape == (200, 3)
    assert colours.dtype == np.uint8
    # The strongest direction drives the first channel over its whole range.
    assert abs(np.corrcoef(features[:, 0], colours[:, 0])[0, 1]) > 0.95
    assert (colours.min(axis=0) == 0).all()
    assert (colours.max(axis=0) == 255).all()
    assert np.array_equal(pca_colors(features, pca_basis(features)), colours)
    # Other features on the same basis stay within the range.
    assert (pca_colors(100 * features, basis).min(axis=0) == 0).all()
    assert pca_colors(np.ones((4, 16)), pca_basis(np.ones((4, 16)))).shape == (4, 3)


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
        features = np.random.default_rng(count).normal(size=(count, 16))
        assert pca_colors(features, pca_basis(features)).shape == (count, 3)
