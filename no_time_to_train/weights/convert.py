"""From one layout to another, tensor by tensor, without loading a file that may be larger than the memory."""

import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from no_time_to_train.errors import KeyMismatchError, WeightsFormatError
from no_time_to_train.files import atomic_path
from no_time_to_train.weights.layouts import (
    META_DINOV3_CONVNEXT,
    META_DINOV3_VIT,
    Layout,
    Split,
    check_parts,
    detect_layout,
    find_rule,
    refuse_unknown,
)
from no_time_to_train.weights.ranges import StoredTensor, of_values, parts_of, stacked

_BLOCK = 1 << 24
_KINDS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
}


def transformers_tensors(stored: Mapping[str, StoredTensor], source: str) -> dict[str, StoredTensor]:
    """Give the tensors of any encoder layout transformers' current names.

    Args:
        stored: As `locate_tensors` found them.
        source: The file's name, for messages.

    Returns:
        Tensors by transformers' names, in transformers' order of blocks. Biases are multiplied by their masks; key
        biases that are zero are left out, as transformers' model has none.

    Raises:
        WeightsFormatError: The layout is not known.
        KeyMismatchError: Names that the layout does not have.
    """
    layout = detect_layout({name: torch.empty(0) for name in stored}, source)
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
    mask = mapped.get("embeddings.mask_token")
    if mask is not None and layout.family == "dinov3_vit":
        mapped["embeddings.mask_token"] = replace(mask, shape=(1, 1, mask.shape[-1]))
    return _without_zero_key_biases(mapped)


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
    renamed: dict[str, StoredTensor] = {}
    placed: set[str] = set()
    for name, rule in layout.top.items():
        if isinstance(rule, str) and rule in mapped:
            renamed[name] = mapped[rule]
            placed.add(rule)
    blocks = _blocks(mapped, layout)
    for meta_prefix, (prefix, leaves) in blocks.items():
        gated = "mlp.gate_proj.weight" in leaves
        for name, rule in layout.leaf.items():
            if isinstance(rule, Split) and rule.names[0] in leaves:
                renamed[meta_prefix + name] = _joined([mapped.get(prefix + part) for part in rule.names])
                placed |= {prefix + part for part in rule.names}
            elif isinstance(rule, str) and rule in leaves and not _of_other_ffn(name, gated=gated):
                renamed[meta_prefix + name] = mapped[prefix + rule]
                placed.add(prefix + rule)
        for name in leaves & {"weight", "bias"}:  # of a ConvNeXt's downsampling
            renamed[meta_prefix + name] = mapped[prefix + name]
            placed.add(prefix + name)
        if f"{meta_prefix}attn.qkv.bias" in renamed and layout is META_DINOV3_VIT:
            renamed[f"{meta_prefix}attn.qkv.bias_mask"] = _bias_mask(renamed[f"{meta_prefix}attn.qkv.bias"])
    left = sorted(mapped.keys() - placed)
    if left:
        raise KeyMismatchError(
            f"{len(left)} tensors of {source} have no place in the layout {layout.name}: {', '.join(left[:10])}",
            remedy="convert it to hf instead",
        )
    if layout is META_DINOV3_VIT:
        if "mask_token" in renamed:
            mask = renamed["mask_token"]
            renamed["mask_token"] = replace(mask, shape=(1, mask.shape[-1]))
        if rope_periods is not None:
            renamed["rope_embed.periods"] = of_values(rope_periods)
    if layout is META_DINOV3_CONVNEXT:
        renamed |= {f"norms.3.{part}": mapped[f"layer_norm.{part}"] for part in ("weight", "bias")}
    return renamed


def write_safetensors(path: Path, tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, copying bytes.

    Raises:
        WeightsFormatError: A dtype that no encoder has, or a source that ended early.
        OutputError: The file cannot be written.
    """
    tensors = dict(sorted(tensors.items()))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _KINDS:
            raise WeightsFormatError(f"{name} is {tensor.dtype}, which no encoder has", remedy="name the original file")
        begin, end = end, end + tensor.num_bytes
        header[name] = {"dtype": _KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(struct.pack("<Q", len(content)) + content)
        for tensor in tensors.values():
            _copy(tensor, stream, checksum=False)
        # A hole at the end is no part of the file yet.
        stream.truncate(8 + len(content) + end)


def write_pickle(path: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Write a state dict as `torch.save` does, copying bytes.

    Raises:
        WeightsFormatError: A source that ended early.
        OutputError: The file cannot be written.
    """
    with FakeTensorMode():
        fakes = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        # torch reserves the space of each tensor; where it begins is known when the file is read again.
        with torch.serialization.skip_data(materialize_fake_tensors=True):
            torch.save(fakes, temporary)
        with FakeTensorMode():
            written = torch.load(temporary, weights_only=True)
        offsets = {name: written[name].untyped_storage()._checkpoint_offset for name in tensors}
        sums: dict[int, int] = {}
        with temporary.open("r+b") as stream:
            for name, tensor in tensors.items():
                stream.seek(offsets[name])
                sums[offsets[name]] = _copy(tensor, stream)
        _mend_checksums(temporary, sums)


def _mend_checksums(path: Path, sums: Mapping[int, int]) -> None:
    """Put the right CRC-32 where a zip archive states that of a record, by where the record's bytes begin."""
    with zipfile.ZipFile(path) as archive:
        entries, start = archive.infolist(), archive.start_dir
    with path.open("r+b") as stream:
        for entry in entries:
            stream.seek(start)
            head = stream.read(46)
            name_length, extra_length, comment_length = struct.unpack("<HHH", head[28:34])
            stream.seek(entry.header_offset + 26)
            local_name, local_extra = struct.unpack("<HH", stream.read(4))
            begin = entry.header_offset + 30 + local_name + local_extra
            if begin in sums:
                checksum = struct.pack("<I", sums[begin])
                stream.seek(start + 16)
                stream.write(checksum)
                # A record whose size was not known at first states its sum behind its bytes.
                described_behind = entry.flag_bits & 8
                stream.seek(begin + entry.file_size + 4 if described_behind else entry.header_offset + 14)
                stream.write(checksum)
            start += 46 + name_length + extra_length + comment_length


def _copy(tensor: StoredTensor, stream: BinaryIO, *, checksum: bool = True) -> int:
    """Append a tensor's bytes and return their CRC-32, or 0 if it is not asked for."""
    total = 0
    for piece in tensor.pieces:
        for part in parts_of(piece, _BLOCK):
            if not checksum and isinstance(part, int):
                stream.seek(part, 1)
                continue
            content = bytes(part) if isinstance(part, int) else part
            stream.write(content)
            total = zlib.crc32(content, total) if checksum else 0
    return total


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
