"""The two protocols: what is done around the matching step where the original and this project differ.

`published` is the original's way, rule by rule, for results that are to be compared with the published ones.
`improved` is this project's way: images prepared as the models' authors prepare them, and COCO's boxes. The Fidelity
page of the documentation has the reason of each difference.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from jaxtyping import Bool, Float
from torch import Tensor

from no_time_to_train.configs.pipeline import ProtocolName
from no_time_to_train.data.references import reference_window
from no_time_to_train.encoders.preprocessing import Resize, mask_on_grid, resize_bicubic
from no_time_to_train.errors import ConfigError
from no_time_to_train.io.messages import nearest
from no_time_to_train.matching.scoring import Pool
from no_time_to_train.matching.similarity import pool_masks, pool_upsampled
from no_time_to_train.models.published_rules import (
    corner_points,
    fractional_mask,
    resize_in_uint8,
    resize_reference,
    resize_target,
    truncated_window,
)
from no_time_to_train.proposers.factory import PromptingRules
from no_time_to_train.proposers.grid import PointGrid, point_grid

# A box (x, y, width, height), height and width of its image, and the scale; the window's x1, y1, x2, y2.
Window: TypeAlias = Callable[[tuple[float, float, float, float], int, int, float], tuple[int, int, int, int]]
# A mask, the pixels at which it is encoded, and the patch grid; what each patch counts.
MaskWeights: TypeAlias = Callable[
    [Bool[Tensor, "H W"], tuple[int, int], tuple[int, int]], Bool[Tensor, "h w"] | Float[Tensor, "h w"]
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
