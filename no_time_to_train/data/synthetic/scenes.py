"""Scenes of the synthetic dataset: objects placed, hidden behind each other, lit and painted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image, ImageFilter

from no_time_to_train.configs.limits import shown_number
from no_time_to_train.data.synthetic.classes import PALETTES, ShapeClass
from no_time_to_train.data.synthetic.drawing import OUTLINES, draw_background, jitter_colour, lookup, mix, rasterise
from no_time_to_train.data.synthetic.textures import TEXTURES
from no_time_to_train.errors import ConfigError

MIN_SIZE = 32
MAX_SIZE = 8192
SCALE = (0.15, 0.45)
_MIN_DIAMETER = 12.0  # pixels; below it a bolt and a star are the same few pixels
_MIN_VISIBLE_SHARE = 0.3
_MIN_VISIBLE_AREA = 0.0008  # of the image
_DISTRACTOR_SHARE = 0.5
_MAX_DRAWS = 1000


@dataclass(frozen=True)
class SceneInstance:
    """One annotated object of a scene.

    Attributes:
        class_index: Index into the classes that the scene was drawn from.
        mask: Pixels of the object that are seen, at least half covered by it; never shared with another object.
        occluded: Share of the whole object that other objects or the image's border hide, 0-1.
    """

    class_index: int
    mask: Bool[np.ndarray, "H W"]
    occluded: float


@dataclass(frozen=True)
class Scene:
    """An image with its annotated objects, from the lowest to the topmost.

    Attributes:
        image: sRGB, 0-255.
        instances: The annotated objects; at least one.
    """

    image: UInt8[np.ndarray, "H W 3"]
    instances: tuple[SceneInstance, ...]


@dataclass(frozen=True)
class _Placed:
    """An object before painting: where it is, and what of it is seen."""

    class_index: int | None  # None for a distractor
    kind: ShapeClass
    matrix: Float32[np.ndarray, "2 2"]
    centre: Float32[np.ndarray, "2"]
    coverage: Float32[np.ndarray, "h w"]  # 0-1, of the part within the image
    window: tuple[slice, slice]
    whole_area: int


def check_drawable(size: int, seed: int) -> None:
    """Refuse what no scene can be drawn with, before the first one is.

    Args:
        size: Height and width in pixels.
        seed: Of the scenes.

    Raises:
        ConfigError: The size is below 32 or above 8192, or the seed is negative.
    """
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ConfigError(
            f"cannot draw scenes of size {shown_number(size)}", remedy=f"give a size of {MIN_SIZE} to {MAX_SIZE} pixels"
        )
    if seed < 0:
        raise ConfigError(f"cannot draw scenes of seed {seed}", remedy="give a seed of 0 or more")


def render_scene(
    rng: np.random.Generator,
    classes: Sequence[ShapeClass],
    *,
    size: int = 256,
    num_objects: tuple[int, int] = (1, 6),
    distractors: Sequence[ShapeClass] = (),
) -> Scene:
    """Draw one square scene with exact masks of what is visible.

    Objects of which less than 30 % is visible, or next to nothing, are left out of the picture altogether, so there
    may be fewer than drawn for, but always one of `classes`.

    Args:
        rng: Source of all choices; the same state gives the same scene.
        classes: Classes of the annotated objects.
        size: Height and width in pixels, at least 32.
        num_objects: Fewest and most objects, distractors included.
        distractors: Classes of objects that are drawn but not annotated. Where there are some, each object but one
            is a distractor with probability one half.

    Returns:
        The image with its annotated instances.

    Raises:
        ConfigError: No classes, a size below 32, or a range of numbers that is empty or begins below one.
        UnknownNameError: A class with an unknown shape, texture or palette.
    """
    fewest, most = num_objects
    if not classes or size < MIN_SIZE or not 1 <= fewest <= most:
        raise ConfigError(
            f"cannot draw {fewest} to {most} objects of {len(classes)} classes at {size} px",
            remedy=f"give a class at least, a size of {MIN_SIZE} or more, and numbers of objects from 1 in order",
        )
    for _ in range(_MAX_DRAWS):
        placed = _place_objects(rng, classes, size, int(rng.integers(fewest, most + 1)), distractors)
        kept = _keep_visible(placed, size)
        if any(item.class_index is not None for item, _ in kept):
            break
    else:
        raise AssertionError("a lone object is always visible, so this range cannot end")
    image = draw_background(rng, size)
    for item, _ in kept:
        _paint(rng, image, item)
    instances = tuple(
        SceneInstance(item.class_index, visible, 1.0 - int(visible.sum()) / item.whole_area)
        for item, visible in kept
        if item.class_index is not None
    )
    return Scene(_expose(rng, image), instances)


def _place_objects(
    rng: np.random.Generator,
    classes: Sequence[ShapeClass],
    size: int,
    count: int,
    distractors: Sequence[ShapeClass],
) -> list[_Placed]:
    """Choose classes and poses, from the lowest object to the topmost."""
    annotated_anyway = int(rng.integers(count))
    circles: list[tuple[float, float, float]] = []
    placed = []
    for place in range(count):
        index: int | None = int(rng.integers(len(classes)))
        if distractors and place != annotated_anyway and rng.random() < _DISTRACTOR_SHARE:
            index, kind = None, distractors[int(rng.integers(len(distractors)))]
        else:
            kind = classes[int(index or 0)]
        radius = max(size * rng.uniform(*SCALE), _MIN_DIAMETER) / 2
        centre = _find_room(rng, radius, circles, size)
        circles.append((float(centre[0]), float(centre[1]), radius))
        placed.append(_pose(rng, index, kind, radius, centre, size))
    return placed


def _find_room(
    rng: np.random.Generator, radius: float, circles: Sequence[tuple[float, float, float]], size: int
) -> Float32[np.ndarray, "2"]:
    """Choose a centre; overlaps are wanted, but one object on top of the other is tried to be avoided."""
    margin = 0.7 * radius
    for _ in range(4):
        centre = rng.uniform(margin, size - margin, 2)
        if all(np.hypot(centre[0] - x, centre[1] - y) > 0.6 * (radius + other) for x, y, other in circles):
            break
    return centre.astype(np.float32)


def _pose(
    rng: np.random.Generator,
    index: int | None,
    kind: ShapeClass,
    radius: float,
    centre: Float32[np.ndarray, "2"],
    size: int,
) -> _Placed:
    """Turn, mirror and slightly squeeze an object, and find the pixels that it covers."""
    angle, squeeze = rng.uniform(0, 2 * np.pi), rng.uniform(0.82, 1.0)
    mirror = 1.0 if rng.random() < 0.5 else -1.0
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[cosine, -sine], [sine, cosine]])
    matrix = (radius * turn @ np.diag([mirror, squeeze])).astype(np.float32)
    coverage, left, top = rasterise(lookup(OUTLINES, kind.shape, "shape"), matrix, centre)
    height, width = coverage.shape
    window = (slice(max(top, 0), min(top + height, size)), slice(max(left, 0), min(left + width, size)))
    inside = coverage[window[0].start - top : window[0].stop - top, window[1].start - left : window[1].stop - left]
    whole_area = int((coverage >= 128).sum())
    return _Placed(index, kind, matrix, centre, inside.astype(np.float32) / 255, window, whole_area)


def _keep_visible(placed: Sequence[_Placed], size: int) -> list[tuple[_Placed, Bool[np.ndarray, "H W"]]]:
    """Drop the objects of which too little is seen, and give the others the mask of what is seen."""
    least = max(8.0, _MIN_VISIBLE_AREA * size * size)
    taken = np.zeros((size, size), dtype=bool)
    kept = []
    # From the topmost down: what a dropped object would have hidden stays free for those below it.
    for item in reversed(placed):
        visible = np.zeros((size, size), dtype=bool)
        visible[item.window] = (item.coverage >= 0.5) & ~taken[item.window]
        if visible.sum() >= max(least, _MIN_VISIBLE_SHARE * item.whole_area):
            taken |= visible
            kept.append((item, visible))
    return kept[::-1]


def _paint(rng: np.random.Generator, image: Float32[np.ndarray, "H W 3"], item: _Placed) -> None:
    """Draw an object with its shadow into the image, in place."""
    rows, columns = item.window
    x = np.arange(columns.start, columns.stop, dtype=np.float32) + np.float32(0.5) - item.centre[0]
    y = np.arange(rows.start, rows.stop, dtype=np.float32) + np.float32(0.5) - item.centre[1]
    inverse = np.linalg.inv(item.matrix)
    u = inverse[0, 0] * x[None] + inverse[0, 1] * y[:, None]
    v = inverse[1, 0] * x[None] + inverse[1, 1] * y[:, None]
    pixel = float(1 / np.sqrt(abs(np.linalg.det(item.matrix))))

    # The pattern's own scale and direction vary a little, so that it is not locked to the outline.
    zoom, twist = rng.uniform(0.85, 1.15), rng.uniform(-0.25, 0.25)
    cosine, sine = np.float32(zoom * np.cos(twist)), np.float32(zoom * np.sin(twist))
    pattern = lookup(TEXTURES, item.kind.texture, "texture")
    share = pattern(cosine * u - sine * v, sine * u + cosine * v, zoom * pixel, rng)

    gains, saturation = rng.uniform(0.84, 1.16, 3).astype(np.float32), rng.uniform(0.7, 1.1)
    first, second = (jitter_colour(c, gains, saturation) for c in lookup(PALETTES, item.kind.palette, "palette"))
    surface = mix(first, second, np.asarray(share, dtype=np.float32))

    direction = rng.uniform(0, 2 * np.pi)
    tilt = np.float32(rng.uniform(0.05, 0.3))
    bulge = np.float32(rng.uniform(0, 0.25))
    slope = np.float32(np.cos(direction)) * u + np.float32(np.sin(direction)) * v
    light = np.float32(rng.uniform(0.75, 1.2)) * (1 + tilt * slope - bulge * (u * u + v * v - np.float32(0.4)))

    _cast_shadow(rng, image, item)
    alpha = item.coverage[:, :, None]
    image[item.window] += alpha * (np.clip(surface * light[:, :, None], 0, 255) - image[item.window])


def _cast_shadow(rng: np.random.Generator, image: Float32[np.ndarray, "H W 3"], item: _Placed) -> None:
    """Darken the surroundings of an object by its soft shadow; what lies below it is painted over anyway."""
    size = image.shape[0]
    strength, softness = np.float32(rng.uniform(0, 0.45)), size * rng.uniform(0.006, 0.02)
    shift = np.rint(size * rng.uniform(-0.02, 0.02, 2)).astype(int)
    reach = int(3 * softness) + int(np.abs(shift).max()) + 1
    rows, columns = item.window
    top, bottom = max(rows.start - reach, 0), min(rows.stop + reach, size)
    left, right = max(columns.start - reach, 0), min(columns.stop + reach, size)
    blot = Image.new("L", (right - left, bottom - top))
    shape = Image.fromarray((item.coverage * 255).astype(np.uint8))
    blot.paste(shape, (columns.start - left + int(shift[0]), rows.start - top + int(shift[1])))
    shade = np.asarray(blot.filter(ImageFilter.GaussianBlur(softness)), dtype=np.float32) / 255
    image[top:bottom, left:right] *= 1 - strength * shade[:, :, None]


def _expose(rng: np.random.Generator, image: Float32[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Take the picture: a cast over all colours, a little blur, a little noise, eight bits."""
    image *= rng.uniform(0.92, 1.08, 3).astype(np.float32)
    blurred = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.8)))
    )
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(1, 6))
    return np.clip(np.asarray(blurred) + noise + np.float32(0.5), 0, 255).astype(np.uint8)
