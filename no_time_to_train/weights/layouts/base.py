"""What a layout is: tables from the names in a kind of file to transformers' names."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from no_time_to_train.configs.encoders import Family


@dataclass(frozen=True)
class Drop:
    """A tensor that is left out on purpose."""

    reason: str


@dataclass(frozen=True)
class Split:
    """A tensor that becomes several of equal height, in this order."""

    names: tuple[str, ...]


Rule = str | Split | Drop


@dataclass(frozen=True)
class Layout:
    """How one kind of file names its tensors.

    Attributes:
        name: For messages and reports.
        family: The transformers model that takes the tensors.
        signature: Names that are all in a file of this layout, and not all in one of another.
        top: Rules by name, for tensors outside the blocks.
        block: Pattern of the prefix of a block's tensors.
        block_target: The prefix in transformers, with the pattern's groups.
        leaf: Rules by the name within a block.
        downsample: Like block, for a ConvNeXt's downsampling layers.
    """

    name: str
    family: Family
    signature: tuple[str, ...]
    top: Mapping[str, Rule]
    block: str
    block_target: str
    leaf: Mapping[str, Rule]
    downsample: str | None = field(default=None)


def identity(*names: str) -> dict[str, Rule]:
    """Write out the rules of names that stay."""
    return {name: name for name in names}


def weight_and_bias(rules: Mapping[str, str | tuple[str, ...]]) -> dict[str, Rule]:
    """Write out the rules of modules for their weight and their bias."""
    return {
        f"{old}.{part}": f"{new}.{part}" if isinstance(new, str) else Split(tuple(f"{name}.{part}" for name in new))
        for old, new in rules.items()
        for part in ("weight", "bias")
    }


NO_LOCAL_CROPS = Drop("the norm of local crops; Meta uses it in training only")
PERIODS = Drop("they go into the rotary embedding's buffer, not into a parameter")
ATTENTION = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
