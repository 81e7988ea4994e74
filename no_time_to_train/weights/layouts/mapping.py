"""From one layout's names and shapes to another's, without loading what may be larger than the memory."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from no_time_to_train.errors import KeyMismatchError, WeightsFormatError
from no_time_to_train.weights.formats.stored_tensor import StoredTensor, of_values, stacked
from no_time_to_train.weights.layouts.base import Layout, Split
from no_time_to_train.weights.layouts.dino import (
    META_DINOV3_CONVNEXT,
    META_DINOV3_VIT,
    check_parts,
    detect_layout,
    find_rule,
    refuse_unknown,
    shape_in_transformers,
)
from no_time_to_train.weights.layouts.equinox import in_order_of_leaves
from no_time_to_train.weights.layouts.hf import HUB_LAYOUTS
from no_time_to_train.weights.source import Family


def transformers_tensors(stored: Mapping[str, StoredTensor], source: str) -> dict[str, StoredTensor]:
    """Give the tensors of any encoder layout the names of transformers' current modules.

    Args:
        stored: As `locate_tensors` found them.
        source: The file's name, for messages.

    Returns:
        Tensors by those names, in transformers' order of blocks. Biases are multiplied by their masks; key
        biases that are zero are left out, as transformers' model has none.

    Raises:
        WeightsFormatError: The layout is not known.
        KeyMismatchError: Names that the layout does not have.
    """
    layout = detect_layout({name: torch.empty(0) for name in stored}, source)
    _check_floating(stored, source)
    mapped: dict[str, StoredTensor] = {}
    unknown = []
    for name, tensor in stored.items():
        prefix, rule = find_rule(name, layout)
        if rule is None:
            unknown.append(name)
        elif isinstance(rule, Split):
            check_parts(name, tensor.shape, rule, source)
            whole = _masked(name, tensor, stored)
            for part, target in enumerate(rule.names):
                mapped[prefix + target] = whole.rows(part, len(rule.names))
        elif isinstance(rule, str):
            mapped[prefix + rule] = tensor
    refuse_unknown(unknown, layout, source)
    mapped = {
        name: replace(tensor, shape=shape_in_transformers(name, tensor.shape, layout.family))
        for name, tensor in mapped.items()
    }
    return _without_zero_key_biases(mapped)


def _check_floating(stored: Mapping[str, StoredTensor], source: str) -> None:
    """Refuse numbers that no encoder loads: complex ones and integers.

    Raises:
        WeightsFormatError: There are some.
    """
    wrong = [
        f"{name} is {str(t.dtype).removeprefix('torch.')}"
        for name, t in stored.items()
        if not t.dtype.is_floating_point
    ]
    if wrong:
        raise WeightsFormatError(
            f"{len(wrong)} tensors of {source} are not of floating point: {', '.join(wrong[:5])}",
            remedy="name the original file",
        )


def hub_tensors(mapped: Mapping[str, StoredTensor], family: Family, source: str) -> dict[str, StoredTensor]:
    """Give tensors by the names of transformers' current modules those of the Hub's files.

    Every version of transformers opens these; `save_pretrained` writes them too.

    Args:
        mapped: As `transformers_tensors` gave them, or a model's own state.
        family: Of the encoder.
        source: The file's name, for messages.

    Raises:
        KeyMismatchError: Tensors that the layout has no place for.
    """
    return _in_layout(mapped, HUB_LAYOUTS[family], source)


def hub_state(state: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """Return a small model's own state by the names of the Hub's files; see `hub_tensors`."""
    named = hub_tensors({name: of_values(tensor) for name, tensor in state.items()}, family, "the model")
    return {name: tensor.load() for name, tensor in named.items()}


def meta_tensors(
    mapped: Mapping[str, StoredTensor], layout: Layout, *, rope_periods: Tensor | None, source: str
) -> dict[str, StoredTensor]:
    """Give tensors by transformers' current names the names, and the shapes, of Meta's files.

    Args:
        mapped: As `transformers_tensors` gave them.
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
            renamed["rope_embed.periods"] = of_values(rope_periods)
        for name in [name for name in renamed if name.endswith("attn.qkv.bias")]:
            renamed[f"{name}_mask"] = _bias_mask(renamed[name])
    if layout is META_DINOV3_CONVNEXT:
        renamed |= {f"norms.3.{part}": mapped[f"layer_norm.{part}"] for part in ("weight", "bias")}
    return renamed


def equinox_tensors(
    mapped: Mapping[str, StoredTensor], layout: Layout, *, rope_periods: Tensor | None, source: str
) -> dict[str, StoredTensor]:
    """Give tensors by transformers' current names the names, shapes and order of the leaves of our Equinox models.

    Args:
        mapped: As `transformers_tensors` gave them.
        layout: Which of our Equinox layouts.
        rope_periods: Of a ViT.
        source: The file's name, for messages.

    Raises:
        KeyMismatchError: Tensors that the model has no place for.
    """
    renamed = _in_layout(mapped, layout, source)
    if rope_periods is not None:
        renamed["rope_periods"] = of_values(rope_periods)
    for name, tensor in renamed.items():
        # Equinox adds a convolution's bias to (channels, height, width).
        convolution = renamed.get(f"{name.removesuffix('.bias')}.weight") if name.endswith(".bias") else None
        if convolution is not None and len(convolution.shape) == 4:
            renamed[name] = replace(tensor, shape=(*tensor.shape, 1, 1))
    return {name: renamed[name] for name in in_order_of_leaves(renamed, layout)}


def _in_layout(mapped: Mapping[str, StoredTensor], layout: Layout, source: str) -> dict[str, StoredTensor]:
    """Give tensors by transformers' current names those of another layout.

    Raises:
        KeyMismatchError: Tensors that the layout has no place for.
    """
    renamed: dict[str, StoredTensor] = {}
    placed: set[str] = set()
    for name, rule in layout.top.items():
        if isinstance(rule, str) and rule in mapped:
            renamed[name] = mapped[rule]
            placed.add(rule)
    blocks = _blocks(mapped, layout)
    for prefix_there, (prefix, leaves) in blocks.items():
        gated = "mlp.gate_proj.weight" in leaves
        for name, rule in layout.leaf.items():
            if isinstance(rule, Split) and rule.names[0] in leaves:
                renamed[prefix_there + name] = _joined([mapped.get(prefix + part) for part in rule.names])
                placed |= {prefix + part for part in rule.names}
            elif isinstance(rule, str) and rule in leaves and not _of_other_ffn(name, gated=gated):
                renamed[prefix_there + name] = mapped[prefix + rule]
                placed.add(prefix + rule)
        for name in leaves & {"weight", "bias"}:  # of a ConvNeXt's downsampling
            renamed[prefix_there + name] = mapped[prefix + name]
            placed.add(prefix + name)
    left = sorted(mapped.keys() - placed)
    if left:
        raise KeyMismatchError(
            f"{len(left)} tensors of {source} have no place in the layout {layout.name}: {', '.join(left[:10])}",
            remedy="convert it to hf instead",
        )
    return renamed


def _masked(name: str, tensor: StoredTensor, stored: Mapping[str, StoredTensor]) -> StoredTensor:
    """Multiply a bias by its mask, as Meta's blocks do whatever both hold."""
    mask = stored.get(f"{name}_mask")
    if mask is None:
        return tensor
    values = mask.load()
    if not torch.isfinite(values).all():
        raise WeightsFormatError(
            f"{name}_mask holds values that are not numbers: the model was saved before it was initialised",
            remedy="save the state dict after loading or initialising the weights",
        )
    return of_values(tensor.load() * values)


def _without_zero_key_biases(mapped: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    names = [name for name in mapped if name.startswith("model.layer.") and name.endswith(".attention.k_proj.bias")]
    if names and not any(bool(mapped[name].load().any()) for name in names):
        return {name: tensor for name, tensor in mapped.items() if name not in names}
    return mapped


def _joined(parts: list[StoredTensor | None]) -> StoredTensor:
    """Stack tensors; zeros stand for those that are missing."""
    (present, *_) = (part for part in parts if part is not None)
    zeros = of_values(torch.zeros(present.shape, dtype=present.dtype)) if None in parts else present
    return stacked([zeros if part is None else part for part in parts])


def _bias_mask(bias: StoredTensor) -> StoredTensor:
    """Return the mask that lets the biases of queries and values through, and not those of keys."""
    mask = torch.ones(bias.shape, dtype=bias.dtype)
    third = bias.shape[0] // 3
    mask[third : 2 * third] = 0
    return of_values(mask)


def _of_other_ffn(name: str, *, gated: bool) -> bool:
    return name.startswith("mlp.fc" if gated else "mlp.w")


def _blocks(mapped: Iterable[str], layout: Layout) -> dict[str, tuple[str, set[str]]]:
    """Find the blocks: Meta's prefix of each, with transformers' and the names below it."""
    patterns = [(layout.block, layout.block_target)]
    if layout.downsample:
        patterns.append((layout.downsample, r"model.stages.\1.downsample_layers.\2."))
    found: dict[str, tuple[str, set[str]]] = {}
    for meta, target in patterns:
        pattern = re.sub(r"\\\\\d", lambda _: r"(\d+)", re.escape(target))
        for name in mapped:
            match = re.match(pattern, name)
            if match:
                prefix = meta.replace(r"\.", ".")
                for number in match.groups():
                    prefix = prefix.replace(r"(\d+)", number, 1)
                found.setdefault(prefix, (match[0], set()))[1].add(name[match.end() :])
    return found
