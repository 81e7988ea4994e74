"""Surface patterns of the synthetic dataset's objects, and the noise that its backgrounds are made of.

Patterns are functions of the object's own coordinates, so they turn and grow with it. Their edges are softened over
one pixel by distance, which is antialiasing without drawing at a higher resolution.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32
from PIL import Image

Plane = Float32[np.ndarray, "H W"]
Texture = Callable[[Plane, Plane, float, np.random.Generator], Plane]


def soft_step(distance: Plane, pixel: float) -> Plane:
    """Turn a signed distance into coverage: 0 outside, 1 inside, linear over one pixel.

    Args:
        distance: Signed distance to an edge, positive inside, in the coordinates' unit.
        pixel: Width of a pixel in that unit.

    Returns:
        Coverage in 0-1.
    """
    return np.clip(distance / np.float32(pixel) + np.float32(0.5), 0, 1)


def bands(position: Plane, period: float, pixel: float, *, share: float = 0.5) -> Plane:
    """Return parallel bands across `position`: 1 on a `share` of each `period`, 0 elsewhere, soft over a pixel."""
    phase = position / np.float32(period)
    from_centre = np.abs(phase - np.floor(phase) - np.float32(0.5)) * np.float32(period)
    return soft_step(np.float32(share * period / 2) - from_centre, pixel)


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Plane:
    """Return noise over a square image that varies on the scale of `size / cells` pixels, in about 0-1."""
    grid = rng.random((cells + 1, cells + 1), dtype=np.float32)
    return np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC))


def _lattice_noise(u: Plane, v: Plane, frequency: float, rng: np.random.Generator) -> Plane:
    """Return value noise in 0-1 at object coordinates, with `frequency` cells a unit."""
    table = rng.random((64, 64), dtype=np.float32)
    x, y = u * np.float32(frequency) + np.float32(32), v * np.float32(frequency) + np.float32(32)
    column, row = np.floor(x), np.floor(y)
    dx, dy = x - column, y - row
    dx, dy = dx * dx * (3 - 2 * dx), dy * dy * (3 - 2 * dy)
    i, j = row.astype(np.int32) % 63, column.astype(np.int32) % 63
    top = table[i, j] * (1 - dx) + table[i, j + 1] * dx
    bottom = table[i + 1, j] * (1 - dx) + table[i + 1, j + 1] * dx
    return top * (1 - dy) + bottom * dy


def _plain(u: Plane, v: Plane, pixel: float, rng: np.random.Generator) -> Plane:
    return np.float32(0.12) * _lattice_noise(u, v, 1.0, rng)


def _striped(u: Plane, v: Plane, pixel: float, rng: np.random.Generator) -> Plane:
    return bands(v + np.float32(rng.random()), 0.42, pixel)


def _dotted(u: Plane, v: Plane, pixel: float, rng: np.random.Generator) -> Plane:
    # Two interleaved square lattices make one in which each dot has its neighbours on the diagonals.
    u, v, cell = u + np.float32(rng.random()), v + np.float32(rng.random()), np.float32(0.56)
    nearest = np.full_like(u, np.inf)
    for shift in (np.float32(0), np.float32(0.5)):
        du, dv = u / cell + shift, v / cell + shift
        du, dv = du - np.round(du), dv - np.round(dv)
        nearest = np.minimum(nearest, np.hypot(du, dv) * cell)
    return soft_step(np.float32(0.14) - nearest, pixel)


def _checkered(u: Plane, v: Plane, pixel: float, rng: np.random.Generator) -> Plane:
    across, down = (bands(axis + np.float32(rng.random()), 0.66, pixel) for axis in (u, v))
    return across * down + (1 - across) * (1 - down)


def _wavy(u: Plane, v: Plane, pixel: float, rng: np.random.Generator) -> Plane:
    swing = np.float32(0.13) * np.sin(np.float32(2 * np.pi / 0.8) * u)
    return bands(v + swing + np.float32(rng.random()), 0.44, pixel)


def _gridded(u: Plane, v: Plane, pixel: float, rng: np.random.Generator) -> Plane:
    across, down = (bands(axis + np.float32(rng.random()), 0.4, pixel, share=0.3) for axis in (u, v))
    return np.maximum(across, down)


def _speckled(u: Plane, v: Plane, pixel: float, rng: np.random.Generator) -> Plane:
    # The factor turns differences of noise into roughly the distance over which they arise.
    return soft_step((_lattice_noise(u, v, 8.0, rng) - np.float32(0.54)) * np.float32(0.2), pixel)


def _ringed(u: Plane, v: Plane, pixel: float, rng: np.random.Generator) -> Plane:
    return bands(np.hypot(u, v) + np.float32(0.4 * rng.random()), 0.4, pixel)


def _zigzag(u: Plane, v: Plane, pixel: float, rng: np.random.Generator) -> Plane:
    phase = u / np.float32(0.6) + np.float32(rng.random())
    swing = np.float32(0.56) * np.abs(phase - np.round(phase))
    return bands(v + swing + np.float32(rng.random()), 0.4, pixel)


def _marbled(u: Plane, v: Plane, pixel: float, rng: np.random.Generator) -> Plane:
    bent = v + np.float32(0.9) * _lattice_noise(u, v, 2.2, rng) + np.float32(0.3) * _lattice_noise(u, v, 6.0, rng)
    vein = np.abs(np.sin(np.float32(2 * np.pi) * bent))
    return np.clip(np.float32(1.08) - np.float32(0.95) * vein, 0, 1)


def _bricked(u: Plane, v: Plane, pixel: float, rng: np.random.Generator) -> Plane:
    height, length = np.float32(0.34), np.float32(0.68)
    v = v + np.float32(rng.random())
    course = np.floor(v / height)
    shifted = u + (course % 2) * length / 2 + np.float32(rng.random())
    joints = bands(shifted, float(length), pixel, share=0.16)
    beds = bands(v + height / 2, float(height), pixel, share=0.32)
    return np.maximum(joints, beds)


def _plaid(u: Plane, v: Plane, pixel: float, rng: np.random.Generator) -> Plane:
    total = np.zeros_like(u)
    for axis in (u, v):
        moved = axis + np.float32(rng.random())
        wide = bands(moved, 0.8, pixel, share=0.46)
        thin = bands(moved + np.float32(0.4), 0.8, pixel, share=0.1)
        total += np.float32(0.5) * (wide + thin)
    return np.clip(total, 0, 1)


# Each maps object coordinates (H, W), in which the object fills the unit circle, the width of a pixel in them, and a
# generator to the share of the palette's second colour (H, W), 0-1.
TEXTURES: dict[str, Texture] = {
    "plain": _plain,
    "striped": _striped,
    "dotted": _dotted,
    "checkered": _checkered,
    "wavy": _wavy,
    "gridded": _gridded,
    "speckled": _speckled,
    "ringed": _ringed,
    "zigzag": _zigzag,
    "marbled": _marbled,
    "bricked": _bricked,
    "plaid": _plaid,
}
