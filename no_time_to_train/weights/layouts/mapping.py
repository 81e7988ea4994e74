"""From one layout's names and shapes to another's, without loading what may be larger than the memory."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from no_time_to_train.configs.encoders import Family
from no_time_to_train.errors import KeyMismatchError, WeightsFormatError
from no_time_to_train.io.messages import first_of
from no_time_to_train.weights.formats.stored_tensor import StoredTensor, concat_rows, from_array
from no_time_to_train.weights.layouts.base import Drop, Layout, Rule, Split, identity
from no_time_to_train.weights.layouts.dino import (
    META_DINOV3_CONVNEXT,
    META_DINOV3_VIT,
    find_rule,
    shape_in_transformers,
)
from no_time_to_train.weights.layouts.equinox import in_order_of_leaves
from no_time_to_train.weights.layouts.hf import HUB_LAYOUTS


def to_transformers(stored: Mapping[str, StoredTensor], layout: Layout, source: str) -> dict[str, StoredTensor]:
    """Give the tensors of an encoder layout the names and shapes of transformers' current modules.

    Args:
        stored: As `open_weights` found them.
        layout: As `detect_layout` found it.
        source: The file's name, for messages.

    Returns:
        Tensors by those names. Biases are multiplied by their masks; key biases that are all zero are left out, as in
        transformers' model of a released file.

    Raises:
        KeyMismatchError: Names that the tables don't list; the first ten are given, and the count.
        WeightsFormatError: A tensor that has to be split has an uneven height, or a bias mask is not finite.
    """
    mapped: dict[str, StoredTensor] = {}
    unknown, count = [], 0
    for name, tensor in stored.items():
        prefix, rule = find_rule(name, layout)
        if rule is None:
            unknown.append(name)
        elif isinstance(rule, str):
            mapped[prefix + rule] = tensor
            count += 1
        elif isinstance(rule, Split):
            mapped |= _split(name, stored, prefix, rule, source)
            count += len(rule.names)
    if unknown:
        raise KeyMismatchError(
            f"{len(unknown)} tensors of {source} have no place in the layout {layout.name}: "
            f"{first_of(sorted(unknown))}",
            remedy="check that the file holds the encoder alone, without heads or optimizer states",
        )
    if count > len(mapped):
        raise KeyMismatchError(
            f"{source} holds {count - len(mapped)} tensors of the layout {layout.name} twice, under several names",
            remedy="check that the file holds one encoder alone",
        )
    without = _zero_key_biases(mapped)
    return {
        name: replace(tensor, shape=shape_in_transformers(name, tensor.shape, layout.family))
        for name, tensor in mapped.items()
        if name not in without
    }


def _split(
    name: str, stored: Mapping[str, StoredTensor], prefix: str, rule: Split, source: str
) -> dict[str, StoredTensor]:
    tensor, parts = stored[name], len(rule.names)
    if not tensor.shape or tensor.shape[0] % parts:
        height = tensor.shape[0] if tensor.shape else 0
        raise WeightsFormatError(
            f"{name} in {source} has {height} rows, expected a multiple of {parts}",
            remedy="check that this is the file of a DINO encoder",
        )
    mask = stored.get(f"{name}_mask") if name.endswith(".attn.qkv.bias") else None
    if mask is not None:
        tensor = _masked(name, tensor, mask, source)
    return {prefix + target: tensor.rows(part, parts) for part, target in enumerate(rule.names)}


def hub_tensors(mapped: Mapping[str, StoredTensor], family: Family, source: str) -> dict[str, StoredTensor]:
    """Give tensors by the names of transformers' current modules those of the Hub's files.

    Every version of transformers opens these; `save_pretrained` writes them too.

    Args:
        mapped: As `to_transformers` gave them, or a model's own state.
        family: Of the encoder.
        source: The file's name, for messages.

    Raises:
        KeyMismatchError: Tensors that the layout has no place for.
    """
    return _in_layout(mapped, HUB_LAYOUTS[family], source)


def meta_tensors(
    mapped: Mapping[str, StoredTensor], layout: Layout, *, rope_periods: StoredTensor | None, source: str
) -> dict[str, StoredTensor]:
    """Give tensors by transformers' current names the names, and the shapes, of Meta's files.

    Args:
        mapped: As `to_transformers` gave them.
        layout: Which of Meta's layouts.
        rope_periods: What the file of a DINOv3 ViT is to hold as RoPE periods.
        source: The file's name, for messages.

    Raises:
        KeyMismatchError: Tensors that Meta's layout has no place for.
    """
    renamed = _in_layout(mapped, layout, source)
    if layout is META_DINOV3_VIT:
        if "mask_token" in renamed:
            mask = renamed["mask_token"]
            renamed["mask_token"] = replace(mask, shape=(1, mask.shape[-1]))
        if rope_periods is not None:
            renamed["rope_embed.periods"] = rope_periods
        for name in [name for name in renamed if name.endswith("attn.qkv.bias")]:
            renamed[f"{name}_mask"] = _bias_mask(renamed[name])
    if layout is META_DINOV3_CONVNEXT:
        renamed |= {f"norms.3.{part}": mapped[f"layer_norm.{part}"] for part in ("weight", "bias")}
    return renamed


def equinox_tensors(
    mapped: Mapping[str, StoredTensor], layout: Layout, *, rope_periods: StoredTensor | None, source: str
) -> dict[str, StoredTensor]:
    """Give tensors by transformers' current names the names, shapes and order of the leaves of our Equinox models.

    Args:
        mapped: As `to_transformers` gave them.
        layout: Which of our Equinox layouts.
        rope_periods: Of a ViT.
        source: The file's name, for messages.

    Raises:
        KeyMismatchError: Tensors that the model has no place for.
    """
    renamed = _in_layout(mapped, layout, source)
    if rope_periods is not None:
        renamed["rope_periods"] = rope_periods
    for name, tensor in renamed.items():
        # Equinox adds a convolution's bias to (channels, height, width).
        convolution = renamed.get(f"{name.removesuffix('.bias')}.weight") if name.endswith(".bias") else None
        if convolution is not None and len(convolution.shape) == 4:
            renamed[name] = replace(tensor, shape=(*tensor.shape, 1, 1))
    return {name: renamed[name] for name in in_order_of_leaves(renamed, layout)}


def _in_layout(mapped: Mapping[str, StoredTensor], layout: Layout, source: str) -> dict[str, StoredTensor]:
    """Give tensors by transformers' current names those of another layout.

    Raises:
        WeightsFormatError: Tensors of complex numbers or integers, which no encoder loads.
        KeyMismatchError: Tensors that the layout has no place for.
    """
    wrong = [f"{name} is {tensor.dtype}" for name, tensor in mapped.items() if not tensor.is_floating]
    if wrong:
        raise WeightsFormatError(
            f"{len(wrong)} tensors of {source} are not of floating point: {', '.join(wrong[:5])}",
            remedy="name the original file",
        )
    renamed: dict[str, StoredTensor] = {}
    placed: set[str] = set()
    for there, here, rules in _blocks(mapped, layout):
        other_ffn = "mlp.fc" if f"{here}mlp.gate_proj.weight" in mapped else "mlp.w"
        for name, rule in rules.items():
            targets = () if isinstance(rule, Drop) else rule.names if isinstance(rule, Split) else (rule,)
            if targets and here + targets[0] in mapped and not name.startswith(other_ffn):
                renamed[there + name] = _joined([mapped.get(here + target) for target in targets])
                placed |= {here + target for target in targets}
    left = sorted(mapped.keys() - placed)
    if left:
        raise KeyMismatchError(
            f"{len(left)} tensors of {source} have no place in the layout {layout.name}: {', '.join(left[:10])}",
            remedy="convert it to hf instead",
        )
    return renamed


def _masked(name: str, bias: StoredTensor, mask: StoredTensor, source: str) -> StoredTensor:
    """Multiply a bias by its mask, as Meta's blocks do whatever both hold.

    In a fresh model a mask is one over queries and values and zero over keys, in released files it is zero everywhere.
    """
    if not mask.is_finite():
        raise WeightsFormatError(
            f"{name}_mask in {source} holds values that are not numbers: the model was saved before it was initialised",
            remedy="save the state dict after loading or initialising the weights",
        )
    if mask.shape != bias.shape:
        raise WeightsFormatError(
            f"{name}_mask in {source} is {mask.shape}, expected {bias.shape}", remedy="fetch the file again"
        )
    values = mask.array() if mask.is_floating else mask.array().astype(bias.dtype)
    return from_array(bias.array() * values)


def _zero_key_biases(mapped: Mapping[str, StoredTensor]) -> set[str]:
    """Return the names of the key biases of a DINOv3 ViT where all are zero, as in every released file."""
    names = {name for name in mapped if name.startswith("model.layer.") and name.endswith(".attention.k_proj.bias")}
    return names if not any(bool(mapped[name].array().any()) for name in names) else set()


def _joined(parts: list[StoredTensor | None]) -> StoredTensor:
    """Stack tensors, if they are several; zeros stand for those that are missing."""
    (present, *_) = (part for part in parts if part is not None)
    if len(parts) == 1:
        return present
    zeros = replace(present, pieces=(bytes(present.num_bytes),))
    return concat_rows([zeros if part is None else part for part in parts])


def _bias_mask(bias: StoredTensor) -> StoredTensor:
    """Return the mask that lets the biases of queries and values through, and not those of keys."""
    mask = np.ones(bias.shape, dtype=bias.dtype)
    third = bias.shape[0] // 3
    mask[third : 2 * third] = 0
    return from_array(mask)


def _blocks(mapped: Iterable[str], layout: Layout) -> Iterator[tuple[str, str, Mapping[str, Rule]]]:
    """Go through the blocks: the prefix of each in the layout and by transformers, and the rules for its names."""
    yield "", "", layout.top
    downsample = (layout.downsample, r"model.stages.\1.downsample_layers.\2.", identity("weight", "bias"))
    for pattern, target, rules in ((layout.block, layout.block_target, layout.leaf), downsample):
        found = re.compile(re.sub(r"\\\\\d", lambda _: r"(\d+)", re.escape(target)))
        for here in dict.fromkeys(match[0] for name in mapped if (match := found.match(name))) if pattern else ():
            there = (pattern or "").replace(r"\.", ".")
            for number in re.findall(r"\d+", here):
                there = there.replace(r"(\d+)", number, 1)
            yield there, here, rules
