"""Outlines, rasters, colours and backgrounds of the synthetic dataset."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image, ImageDraw

from no_time_to_train.data.synthetic.textures import Plane, bands, smooth_noise, soft_step
from no_time_to_train.errors import UnknownNameError

Outline = Float[np.ndarray, "N 2"]
Part = tuple[Outline, bool]
Colour = Float32[np.ndarray, "3"]
T = TypeVar("T")

_SUPERSAMPLE = 4


def lookup(table: Mapping[str, T], name: str, kind: str) -> T:
    """Return `table[name]`.

    Raises:
        UnknownNameError: There is no such `kind`; the message lists the known ones.
    """
    if name not in table:
        raise UnknownNameError(f"unknown {kind} {name!r}", remedy=f"known are {', '.join(table)}")
    return table[name]


def _polar(radius: Float[np.ndarray, " N"], angle: Float[np.ndarray, " N"]) -> Outline:
    return np.stack((radius * np.sin(angle), -radius * np.cos(angle)), axis=1)


def _turn(count: int) -> Float[np.ndarray, " N"]:
    return np.arange(count) * (2 * np.pi / count)


def _regular(corners: int) -> Outline:
    return _polar(np.ones(corners), _turn(corners))


def _points(*flat: float) -> Outline:
    return np.array(flat, dtype=float).reshape(-1, 2)


def _heart() -> Outline:
    t = _turn(96)
    down = -13 * np.cos(t) + 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t)
    return np.stack((16 * np.sin(t) ** 3, down), axis=1)


def _crescent() -> Outline:
    outer = np.linspace(np.radians(48), np.radians(312), 64)
    outer_arc = np.stack((np.cos(outer), np.sin(outer)), axis=1)
    tip, centre = outer_arc[-1], 0.62
    reach = np.hypot(tip[0] - centre, tip[1])
    start = np.arctan2(tip[1], tip[0] - centre) % (2 * np.pi)
    inner = np.linspace(start, 2 * np.pi - start, 64)
    inner_arc = np.stack((centre + reach * np.cos(inner), reach * np.sin(inner)), axis=1)
    return np.concatenate((outer_arc, inner_arc[1:-1]))


def _drop() -> Outline:
    t = _turn(96)
    return np.stack((0.85 * np.sin(t) * np.sin(t / 2) ** 1.4, -np.cos(t)), axis=1)


def _gear() -> Outline:
    # Eight teeth of four corners: foot, tip, tip, foot.
    angle = (_turn(8)[:, None] + np.array([-0.27, -0.17, 0.17, 0.27])).ravel()
    return _polar(np.tile([0.72, 1.0, 1.0, 0.72], 8), angle)


def _fish() -> tuple[Part, ...]:
    t = _turn(64)
    body = np.stack((0.22 + 0.78 * np.cos(t), 0.56 * np.sin(t)), axis=1)
    tail = _points(-0.3, 0, -1, -0.62, -0.78, 0, -1, 0.62)
    fin = _points(0.0, -0.4, 0.15, -0.86, 0.55, -0.4)
    return (body, True), (tail, True), (fin, True)


def _fitted(*parts: Part) -> tuple[Part, ...]:
    """Centre a shape on its bounding box and scale it to fill the unit circle."""
    points = np.concatenate([outline for outline, _ in parts])
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    radius = np.hypot(*(points - centre).T).max()
    return tuple(((outline - centre) / radius, filled) for outline, filled in parts)


# A shape is a list of polygons in the unit circle, y down, drawn in turn: filled, or cut out of what is there.
OUTLINES: dict[str, tuple[Part, ...]] = {
    "disc": _fitted((_regular(96), True)),
    "square": _fitted((_points(-1, -1, 1, -1, 1, 1, -1, 1), True)),
    "triangle": _fitted((_regular(3), True)),
    "star": _fitted((_polar(np.tile([1.0, 0.45], 5), _turn(10)), True)),
    "hexagon": _fitted((_regular(6), True)),
    "cross": _fitted(
        (_points(-3, -1, -1, -1, -1, -3, 1, -3, 1, -1, 3, -1, 3, 1, 1, 1, 1, 3, -1, 3, -1, 1, -3, 1), True)
    ),
    "heart": _fitted((_heart(), True)),
    "ring": _fitted((_regular(96), True), (0.46 * _regular(64), False)),
    "crescent": _fitted((_crescent(), True)),
    "arrow": _fitted((_points(-1, -0.34, 0, -0.34, 0, -0.85, 1, 0, 0, 0.85, 0, 0.34, -1, 0.34), True)),
    "drop": _fitted((_drop(), True)),
    "bow": _fitted((_points(-1, -0.8, 0, -0.24, 1, -0.8, 1, 0.8, 0, 0.24, -1, 0.8), True)),
    "bolt": _fitted((_points(0.2, -1, -0.72, 0.2, -0.12, 0.2, -0.4, 1, 0.76, -0.3, 0.16, -0.3, 0.66, -1), True)),
    "gear": _fitted((_gear(), True), (0.28 * _regular(48), False)),
    "flower": _fitted((_polar(0.72 + 0.28 * np.cos(6 * _turn(144)), _turn(144)), True)),
    "fish": _fitted(*_fish()),
}


def rasterise(
    parts: tuple[Part, ...], matrix: Float[np.ndarray, "2 2"], centre: Float[np.ndarray, "2"]
) -> tuple[UInt8[np.ndarray, "h w"], int, int]:
    """Draw a shape, antialiased by supersampling.

    Args:
        parts: Polygons of `OUTLINES`.
        matrix: Maps the shape's coordinates to pixels, without the shift.
        centre: (x, y) of the shape's centre in pixels; pixel (0, 0) covers 0-1 in both.

    Returns:
        Coverage 0-255 on the smallest window of whole pixels that holds the shape, and the window's left and top in
        pixels, which may lie outside the image.
    """
    moved = [(outline @ matrix.T + centre, filled) for outline, filled in parts]
    points = np.concatenate([outline for outline, _ in moved])
    left, top = (int(edge) for edge in np.floor(points.min(axis=0)))
    right, bottom = (int(edge) for edge in np.ceil(points.max(axis=0)))
    canvas = Image.new("L", ((right - left) * _SUPERSAMPLE, (bottom - top) * _SUPERSAMPLE))
    pen = ImageDraw.Draw(canvas)
    for outline, filled in moved:
        # Pillow's polygons take the whole numbers as sample centres; samples lie half a step inside their cell.
        corners = np.rint((outline - (left, top)) * _SUPERSAMPLE - 0.5).astype(int)
        pen.polygon(corners.ravel().tolist(), fill=255 if filled else 0)
    return np.asarray(canvas.reduce(_SUPERSAMPLE)), left, top


def hsv_colour(hue: float, saturation: float, value: float) -> Colour:
    """Return the sRGB colour, 0-255, of hue, saturation and value, each in 0-1."""
    ramp = np.abs((6 * hue + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    return (255 * value * (1 - saturation * (1 - np.clip(ramp, 0, 1)))).astype(np.float32)


def jitter_colour(colour: tuple[int, int, int], gains: Colour, saturation: float) -> Colour:
    """Return a palette's colour, 0-255, with its channels scaled by `gains` and its `saturation` scaled."""
    rgb = np.array(colour, dtype=np.float32)
    grey = rgb.mean()
    return (grey + (rgb - grey) * np.float32(saturation)) * gains


def mix(first: Colour, second: Colour, share: Plane) -> Float32[np.ndarray, "H W 3"]:
    """Blend two colours by the `share` of the second, 0-1."""
    return first + share[:, :, None] * (second - first)


def _ramp(rng: np.random.Generator, size: int) -> Plane:
    """Return a straight ramp through the image in a random direction, in 0-1 on average pixels."""
    angle = rng.random() * 2 * np.pi
    axis = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    return 0.5 + axis[None] * np.float32(np.cos(angle)) + axis[:, None] * np.float32(np.sin(angle))


def _turned_axes(rng: np.random.Generator, size: int) -> tuple[Plane, Plane]:
    """Return two perpendicular coordinates in pixels, turned by a random angle."""
    angle = rng.random() * 2 * np.pi
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    axis = np.arange(size, dtype=np.float32)
    x, y = axis[None], axis[:, None]
    return cosine * x + sine * y, cosine * y - sine * x


def _gradient(rng: np.random.Generator, size: int) -> Plane:
    return _ramp(rng, size)


def _cloud(rng: np.random.Generator, size: int) -> Plane:
    coarsest = int(rng.integers(2, 7))
    octaves = ((1.0, 1), (0.5, 2), (0.3, 4), (0.2, 8))
    layers = [np.float32(weight) * smooth_noise(rng, size, coarsest * n) for weight, n in octaves]
    return np.sum(layers, axis=0) / 2


def _grain(rng: np.random.Generator, size: int) -> Plane:
    """Return fine noise, like sand or cloth."""
    fine = smooth_noise(rng, size, size // int(rng.integers(2, 5)))
    return 0.6 * fine + 0.4 * smooth_noise(rng, size, 5)


def _stripes(rng: np.random.Generator, size: int) -> Plane:
    along, across = _turned_axes(rng, size)
    bend = size * rng.uniform(0, 0.08) * smooth_noise(rng, size, 3)
    del along
    return bands(across + bend.astype(np.float32), size * rng.uniform(0.06, 0.3), 1.0)


def _checker(rng: np.random.Generator, size: int) -> Plane:
    period = size * rng.uniform(0.1, 0.4)
    one, two = (bands(axis, period, 1.0) for axis in _turned_axes(rng, size))
    return one * two + (1 - one) * (1 - two)


def _blotches(rng: np.random.Generator, size: int) -> Plane:
    cells = int(rng.integers(4, 14))
    noise = smooth_noise(rng, size, cells) + np.float32(0.3) * smooth_noise(rng, size, 3 * cells)
    return soft_step((noise - np.float32(0.66)) * np.float32(size / cells / 2), float(rng.uniform(1, 4)))


_BACKGROUNDS: tuple[Callable[[np.random.Generator, int], Plane], ...] = (
    _gradient,
    _cloud,
    _grain,
    _stripes,
    _checker,
    _blotches,
)


def draw_background(rng: np.random.Generator, size: int) -> Float32[np.ndarray, "H W 3"]:
    """Draw a textured background of one of six kinds.

    Args:
        rng: Source of all its choices.
        size: Height and width in pixels.

    Returns:
        sRGB values, about 0-255, not yet clipped.
    """
    pattern = _BACKGROUNDS[int(rng.integers(len(_BACKGROUNDS)))](rng, size)
    first = hsv_colour(rng.random(), 0.6 * rng.random(), rng.uniform(0.25, 0.95))
    second = hsv_colour(rng.random(), 0.6 * rng.random(), rng.uniform(0.25, 0.95))
    # Real backgrounds are seldom as contrasted as the objects on them.
    second = first + np.float32(rng.uniform(0.25, 0.9)) * (second - first)
    relief = np.float32(rng.uniform(4, 22)) * (smooth_noise(rng, size, int(rng.integers(8, 33))) - np.float32(0.5))
    light = np.float32(rng.uniform(0, 0.35)) * (_ramp(rng, size) - np.float32(0.5))
    return (mix(first, second, pattern) + relief[:, :, None]) * (1 + light[:, :, None])
