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

from no_time_to_train.configs.pipeline import EncoderConfigArgs, MemoryBankConfig, ProtocolName, Sam2InferConfig
from no_time_to_train.encoders.preprocessing import (
    Resize,
    mask_on_grid,
    reference_window,
    resize_bicubic,
    resize_bilinear,
)
from no_time_to_train.errors import ConfigError
from no_time_to_train.io.messages import nearest
from no_time_to_train.matching.instances import Pool
from no_time_to_train.matching.similarity import pool_masks, pool_upsampled
from no_time_to_train.models.published_rules import (
    corner_points,
    fractional_mask,
    resize_in_uint8,
    resize_reference,
    resize_target,
    truncated_window,
)
from no_time_to_train.proposers.base import point_grid

# A box (x, y, width, height), height and width of its image, and the scale; the window's x1, y1, x2, y2.
Window: TypeAlias = Callable[[tuple[float, float, float, float], int, int, float], tuple[int, int, int, int]]
# A mask, the pixels at which it is encoded, and the patch grid; what each patch counts.
MaskWeights: TypeAlias = Callable[
    [Bool[Tensor, "H W"], tuple[int, int], tuple[int, int]], Bool[Tensor, "h w"] | Float[Tensor, "h w"]
]
PointGrid: TypeAlias = Callable[[int, int], Float[Tensor, "N 2"]]


@dataclass(frozen=True)
class Protocol:
    """The rules of one protocol.

    Attributes:
        name: As in YAML.
        resize_target: Brings a target to the encoder's size.
        resize_reference: Brings the window around a reference to the encoder's size.
        resize_sam2: Brings an image to SAM2's size.
        memory_embedding: Whether SAM2's embedding of "no memory" is added to an image's features.
        points: Places the prompts, by points along each side and the side of SAM2's input.
        window: Cuts out the surroundings of a reference.
        mask_weights: Brings a reference's mask to the patch grid.
        original_decoding: Whether prompts are decoded on a CPU in the original's order of computation, which is slower.
        pool: Averages features over masks.
        far_pixel: What a result's width and height have beyond the distance of the first and the last pixel.
    """

    name: ProtocolName
    resize_target: Resize
    resize_reference: Resize
    resize_sam2: Resize
    memory_embedding: bool
    points: PointGrid
    window: Window
    mask_weights: MaskWeights
    original_decoding: bool
    pool: Pool
    far_pixel: int

    def key(self, what: str) -> str:
        """Name what is kept in a file; of `improved` as before there were protocols, so that older files hold."""
        return what if self is IMPROVED else f"{what} {self.name}"


IMPROVED = Protocol(
    name="improved",
    resize_target=resize_bicubic,
    resize_reference=resize_bicubic,
    resize_sam2=resize_bilinear,
    memory_embedding=True,
    points=point_grid,
    window=reference_window,
    mask_weights=lambda mask, size, grid: mask_on_grid(mask, grid),
    original_decoding=False,
    pool=pool_masks,
    far_pixel=1,
)
PUBLISHED = Protocol(
    name="published",
    resize_target=resize_target,
    resize_reference=resize_reference,
    resize_sam2=resize_in_uint8,
    memory_embedding=False,
    points=corner_points,
    window=truncated_window,
    mask_weights=fractional_mask,
    original_decoding=True,
    pool=pool_upsampled,
    far_pixel=0,
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


def check_published(
    encoder_cfg: EncoderConfigArgs, memory_bank_cfg: MemoryBankConfig, sam2_infer_cfgs: Sam2InferConfig
) -> None:
    """Refuse settings that the original does not have together with its protocol.

    Raises:
        ConfigError: There is one.
    """
    foreign = {
        "encoder_cfg.resize_policy": (encoder_cfg.resize_policy, "stretch"),
        "memory_bank_cfg.debias.enabled": (memory_bank_cfg.debias.enabled, False),
        "sam2_infer_cfgs.prompt_selection": (sam2_infer_cfgs.prompt_selection, "grid"),
    }
    for name, (value, expected) in foreign.items():
        if value != expected:
            raise ConfigError(
                f"protocol is published and {name} is {str(value).lower()}, which the original does not have",
                remedy=f"set {name} to {str(expected).lower()}, or protocol to improved",
            )
