"""Masks as COCO polygons, from which the same masks are read back."""

from itertools import pairwise

import contourpy
import numpy as np
from jaxtyping import Bool, Float

# A cut from a hole to the outline runs a quarter of a pixel below the hole's upper end: no pixel's center is within 0.2
# pixels of it, no corner of an outline is on it, and every outline that it meets crosses it.
_CUT_DEPTH = 0.25
_HALF_CUT = 0.02
# Corners of a ring, to bound memory and time.
_MOST_COMPARED = 1000

Ring = Float[np.ndarray, "corners 2"]


def mask_to_polygons(mask: Bool[np.ndarray, "H W"]) -> list[list[float]]:
    """Return a mask as polygons, one for each part of it.

    The outlines run halfway between the centers of the pixels within and those outside, so that the centers of exactly
    the mask's pixels are within the polygons: what fills polygons by the centers of pixels, as pycocotools does, gives
    the mask back. Pixels that touch only at a corner are separate parts.

    COCO's polygons have no holes. A hole is joined to its part's outline by a cut 0.04 pixels wide, so that every
    polygon is simple: it neither crosses nor touches itself.

    Args:
        mask: The mask.

    Returns:
        ``[[x0, y0, x1, y1, ...], ...]`` in pixels, where the first pixel reaches from 0 to 1; empty for an empty mask.

    Examples:
        >>> mask_to_polygons(np.ones((2, 3), dtype=bool))
        [[0.0, 0.5, 0.5, 0.0, 2.5, 0.0, 3.0, 0.5, 3.0, 1.5, 2.5, 2.0, 0.5, 2.0, 0.0, 1.5]]
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    padded = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.float64), 1)
    generator = contourpy.contour_generator(z=padded, name="serial", fill_type=contourpy.FillType.OuterOffset)
    # Half of the padding is the half pixel from a pixel's center to its edge.
    shift = np.array([left - 0.5, top - 0.5])
    polygons = []
    for points, offsets in zip(*generator.filled(0.5, 2.0), strict=True):
        # The first ring is the outline, the others are holes; each ends with its first point.
        rings = [_corners(points[start : end - 1]) for start, end in pairwise(offsets)]
        joined = rings[0] if len(rings) == 1 else _joined(rings)
        polygons.append(np.round(joined + shift, 2).reshape(-1).tolist())
    return polygons


def mask_to_ring(mask: Bool[np.ndarray, "H W"]) -> Ring:
    """Return a mask as a single polygon, for programs in whose files an instance has no more than one.

    The parts of the mask are joined by a line, there and back, which has no area, at their nearest corners or close to
    them.

    Args:
        mask: The mask; not an empty one.

    Returns:
        Corners (x, y), see `mask_to_polygons`.
    """
    first, *others = (np.reshape(polygon, (-1, 2)) for polygon in mask_to_polygons(mask))
    path = first
    for ring in others:
        at, start = _nearest(path, ring)
        turned = np.roll(ring, -start, axis=0)
        path = np.concatenate([path[: at + 1], turned, turned[:1], path[at:]])
    return np.asarray(path, dtype=np.float64)


def _nearest(one: Ring, other: Ring) -> tuple[int, int]:
    """Return the indices of the nearest corners of two rings; of rings with very many, some corners are compared."""
    steps = [-(-len(ring) // _MOST_COMPARED) for ring in (one, other)]
    squares = ((one[:: steps[0], None] - other[None, :: steps[1]]) ** 2).sum(axis=2)
    at_one, at_other = np.unravel_index(int(squares.argmin()), squares.shape)
    return int(at_one) * steps[0], int(at_other) * steps[1]


def _corners(ring: Ring) -> Ring:
    """Leave out the points of a ring at which it does not turn."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    # Coordinates are halves, so that this is exact.
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return np.asarray(ring[turns])


def _joined(rings: list[Ring]) -> Ring:
    """Join an outline and its holes to one ring, by a cut from each hole to what is left of it.

    That is the outline or a hole whose upper end is as high or higher; where two are as high, the one further left. So
    all cuts together lead to the outline, and none crosses another.
    """
    points: list[Ring] = list(rings)
    # For each ring its points in order, as (edge, how far along it, index); the last one only of points on cuts.
    orders = [[(float(corner), 0.0) for corner in range(len(ring))] for ring in rings]
    firsts = np.cumsum([0, *(len(ring) for ring in rings)])
    indices = [list(range(first, first + len(ring))) for first, ring in zip(firsts, rings, strict=False)]
    count = int(firsts[-1])
    jumps: dict[int, int] = {}
    for hole in range(1, len(rings)):
        line = float(rings[hole][:, 1].min()) + _CUT_DEPTH
        crossings = [_crossings(ring, line) for ring in rings]
        start = min(crossings[hole])
        end, other = max(
            (crossing, index) for index, found in enumerate(crossings) for crossing in found if crossing[0] < start[0]
        )
        cut = []
        for ring, (_, edge) in ((other, end), (hole, start)):
            begin, step = rings[ring][edge], np.roll(rings[ring], -1, axis=0)[edge] - rings[ring][edge]
            # In the direction of the ring.
            for at in sorted((line + side - begin[1]) / step[1] for side in (-_HALF_CUT, _HALF_CUT)):
                points.append((begin + at * step)[None])
                orders[ring].append((float(edge), float(at)))
                indices[ring].append(count)
                cut.append(count)
                count += 1
        # The outline's and the hole's edges run in opposite directions: where one meets the cut, the other leaves it.
        jumps[cut[0]], jumps[cut[2]] = cut[3], cut[1]
    following: dict[int, int] = {}
    for order, ring_indices in zip(orders, indices, strict=True):
        sorted_indices = [index for _, index in sorted(zip(order, ring_indices, strict=True))]
        following |= dict(zip(sorted_indices, sorted_indices[1:] + sorted_indices[:1], strict=True))
    following |= jumps
    path: list[int] = []
    index = 0
    while not path or index != 0:
        path.append(index)
        index = following[index]
    return np.concatenate(points)[path]


def _crossings(ring: Ring, line: float) -> list[tuple[float, int]]:
    """Return where a ring crosses a horizontal line, and on which of its edges."""
    ends = np.roll(ring, -1, axis=0)
    (edges,) = ((ring[:, 1] < line) != (ends[:, 1] < line)).nonzero()
    begin, end = ring[edges], ends[edges]
    x = begin[:, 0] + (line - begin[:, 1]) * (end[:, 0] - begin[:, 0]) / (end[:, 1] - begin[:, 1])
    return list(zip(x.tolist(), edges.tolist(), strict=True))
