"""The two protocols: what is done around the matching step where the original and this project differ.

`published` is the original's way, rule by rule, for results that are to be compared with the published ones.
`improved` is this project's way: images prepared as the models' authors prepare them, and COCO's boxes. The Fidelity
page of the documentation has the reason of each difference.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from no_time_to_train.configs.pipeline import ProtocolName
from no_time_to_train.data.references import reference_window
from no_time_to_train.encoders.preprocessing import Resize, resize_bicubic
from no_time_to_train.errors import ConfigError
from no_time_to_train.io.messages import nearest
from no_time_to_train.matching.array_ops import Array
from no_time_to_train.matching.interpolation import mask_on_grid, nearest_pixels, touched_cells
from no_time_to_train.matching.scoring import Pool
from no_time_to_train.matching.similarity import pool_masks, pool_upsampled
from no_time_to_train.proposers.factory import PromptingRules
from no_time_to_train.proposers.grid import PointGrid, point_grid

# A box (x, y, width, height), height and width of its image, and the scale; the window's x1, y1, x2, y2.
Window: TypeAlias = Callable[[tuple[float, float, float, float], int, int, float], tuple[int, int, int, int]]
# A mask, the pixels at which it is encoded, and the patch grid; what each patch counts.
MaskWeights: TypeAlias = Callable[
    [Bool[Array, "H W"], tuple[int, int], tuple[int, int]], Bool[Array, "h w"] | Float[Array, "h w"]
]


@dataclass(frozen=True)
class Protocol:
    """The rules of one protocol.

    Attributes:
        name: As in YAML.
        resize_target: Brings a target to the encoder's size.
        resize_reference: Brings the window around a reference to the encoder's size.
        prompting: How images come to the promptable model, and how prompts are decoded.
        points: Places the prompts, by points along each side and the side of SAM2's input.
        window: Cuts out the surroundings of a reference.
        mask_weights: Brings a reference's mask to the patch grid.
        pool: Averages features over masks.
        far_pixel: What a result's width and height have beyond the distance of the first and the last pixel.
        fastest_products: Let the networks multiply by whichever library is faster; not where bits have to be torch's.
    """

    name: ProtocolName
    resize_target: Resize
    resize_reference: Resize
    prompting: PromptingRules
    points: PointGrid
    window: Window
    mask_weights: MaskWeights
    pool: Pool
    far_pixel: int
    fastest_products: bool

    def key(self, what: str) -> str:
        """Name what is kept in a file; of `improved` as before there were protocols, so that older files hold."""
        return what if self is IMPROVED else f"{what} {self.name}"


# What follows are the original's rules around the matching step, as its own code has them.
# Source: no-time-to-train at 214fc79, `dataset/coco_ref_dataset.py` and `models/Sam2MatchingBaseline_noAMG.py`.

# Side in pixels to which every target is brought first, whatever the encoder then takes.
_LOADED_SIDE = 1024


def resize_in_uint8(image: UInt8[Array, "3 H0 W0"], size: tuple[int, int], device: Any) -> Float[Array, "1 3 H W"]:
    """Resize with Pillow's default, which is bicubic, antialiased and rounds to 8 bits; then scale to [0, 1]."""
    import torch

    pixels = np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy())
    resized = np.array(Image.fromarray(pixels).resize((size[1], size[0])))
    return torch.from_numpy(resized).to(device).permute(2, 0, 1)[None].float() / 255


def resize_target(image: UInt8[Array, "3 H0 W0"], size: tuple[int, int], device: Any) -> Float[Array, "1 3 H W"]:
    """Resize a target to 1024x1024 in 8 bits, and from there in float: bicubic, not antialiased, not clamped."""
    import torch.nn.functional as F

    loaded = resize_in_uint8(image, (_LOADED_SIDE, _LOADED_SIDE), device)
    return F.interpolate(loaded, size=size, mode="bicubic")


def resize_reference(image: UInt8[Array, "3 H0 W0"], size: tuple[int, int], device: Any) -> Float[Array, "1 3 H W"]:
    """Resize the window around a reference in float: bicubic, not antialiased, not clamped."""
    import torch.nn.functional as F

    return F.interpolate(image.to(device)[None].float() / 255, size=size, mode="bicubic")


def corner_points(points_per_side: int, image_size: int) -> Float[np.ndarray, "N 2"]:
    """Place points evenly from the first to the last pixel, half a pixel to the right and below; column by column.

    Args:
        points_per_side: Points along each side.
        image_size: Side of SAM2's square input, in pixels.

    Returns:
        x and y in pixels of the model's input, float32.

    Raises:
        ConfigError: `points_per_side` is less than 1.

    Examples:
        >>> corner_points(2, 8).tolist()
        [[0.5, 0.5], [0.5, 7.5], [7.5, 0.5], [7.5, 7.5]]
    """
    if points_per_side < 1:
        raise ConfigError(f"points_per_side is {points_per_side}, expected at least 1", remedy="32 is usual")
    import torch

    # Of torch: linspace in NumPy rounds otherwise.
    ticks = torch.linspace(0, image_size - 1, points_per_side).numpy() + np.float32(0.5)
    x, y = np.meshgrid(ticks, ticks, indexing="ij")
    return np.stack([x.flatten(), y.flatten()], axis=-1)


def truncated_window(
    box: tuple[float, float, float, float], height: int, width: int, scale: float
) -> tuple[int, int, int, int]:
    """Return the window around a reference's box: as `reference_window`, with all corners truncated to whole pixels.

    Args:
        box: x, y, width and height, in pixels.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        scale: Side of the square in longer box sides; the original's context_ratio plus 1.

    Returns:
        The first and one past the last column and row: x1, y1, x2, y2. At least one pixel each way, where the original
        fails.

    Examples:
        >>> truncated_window((10.7, 20.2, 40.6, 20.0), height=100, width=100, scale=1.2)
        (5, 5, 55, 54)
    """
    left, top = int(box[0]), int(box[1])
    right, bottom = int(box[0] + box[2]), int(box[1] + box[3])
    center_x, center_y = (left + right) * 0.5, (top + bottom) * 0.5
    half = max(right - left, bottom - top, 1) * scale * 0.5
    x1 = min(max(0, int(center_x - half)), width - 1)
    y1 = min(max(0, int(center_y - half)), height - 1)
    return (
        x1,
        y1,
        max(x1 + 1, min(width, int(center_x + half))),
        max(y1 + 1, min(height, int(center_y + half))),
    )


def fractional_mask(mask: Bool[Array, "H W"], size: tuple[int, int], grid: tuple[int, int]) -> Float[Array, "h w"]:
    """Return how much each patch counts: the mask brought bilinearly to the encoder's size, then each patch's corner.

    A mask that all those corners miss, of which the original makes NaN, weighs every patch that it touches alike.

    Args:
        mask: The object in the window around it.
        size: Height and width in pixels at which the window is encoded.
        grid: Rows and columns of patches.
    """
    import torch.nn.functional as F

    resized = F.interpolate(mask[None, None].float(), size=size, mode="bilinear")
    weights = nearest_pixels(resized[0, 0], grid, centered=False)
    return weights if weights.any() else touched_cells(mask, grid).float()


IMPROVED = Protocol(
    name="improved",
    resize_target=resize_bicubic,
    resize_reference=resize_bicubic,
    prompting=PromptingRules(),
    points=point_grid,
    window=reference_window,
    mask_weights=lambda mask, size, grid: mask_on_grid(mask, grid),
    pool=pool_masks,
    far_pixel=1,
    fastest_products=True,
)
PUBLISHED = Protocol(
    name="published",
    resize_target=resize_target,
    resize_reference=resize_reference,
    prompting=PromptingRules(resize=resize_in_uint8, as_original=True),
    points=corner_points,
    window=truncated_window,
    mask_weights=fractional_mask,
    pool=pool_upsampled,
    far_pixel=0,
    fastest_products=False,
)
PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in (IMPROVED, PUBLISHED)}


def protocol_of(name: str) -> Protocol:
    """Return a protocol by its name.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in PROTOCOLS:
        raise ConfigError(
            f"protocol is {name!r:.60}, expected published or improved",
            remedy=f"{nearest(str(name), sorted(PROTOCOLS))}correct it in the YAML",
        )
    return PROTOCOLS[name]
