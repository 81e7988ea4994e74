"""Equinox files: arrays in NumPy's format one behind the other, ours behind a line of JSON, Equimo's in an archive.

Source: `equinox.tree_serialise_leaves` (equinox 0.13.8) writes leaves in the order of the module's fields, without
their names; Equimo 1.0 to 2.7 puts such a file, with a `metadata.json`, into a `.tar.lz4`.
"""

import ast
import hashlib
import io
import json
import math
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from no_time_to_train.errors import DiskFullError, NoTimeToTrainError, UnsafeWeightsError, WeightsFormatError
from no_time_to_train.weights.formats.json_files import FETCH_AGAIN, parse_object, read_object
from no_time_to_train.weights.formats.stored_tensor import FileRange, StoredTensor, WeightsFile, state_of

FORMAT = "no_time_to_train/equinox"
SUFFIXES = (".eqx", ".lz4")
_MAGIC = b"\x93NUMPY"
_BLOCK = 1 << 22
_LONGEST_HEADER = 1 << 20
# Weights hardly shrink: an archive that grows more than this is made to fill disks.
_LARGEST_GROWTH = 8
_LONGEST_SIDE = 1 << 32
_MOST_ELEMENTS = 1 << 48
# Of an array; NumPy's own limit, since longer ones can be too much for Python's parser.
_LONGEST_ARRAY_HEADER = 10_000
_ALWAYS_ALLOWED = 1 << 28
# How NumPy names the dtypes; it knows no bfloat16 and calls it two bytes of anything.
_DTYPES: dict[str, np.dtype[Any]] = {
    **{name: np.dtype(name) for name in ("<f4", "<f2", "<f8", "<i8", "<i4", "|b1")},
    "<V2": np.dtype(ml_dtypes.bfloat16),
}
DESCRIPTIONS = {dtype: name for name, dtype in _DTYPES.items()}


def read_eqx(path: Path) -> WeightsFile:
    """Find the arrays in an Equinox file of this package, or in one of Equimo's, packed or not.

    Raises:
        WeightsFormatError: It is neither, or damaged, or of a model that is not known.
        UnsafeWeightsError: An archive holds more than it should, or grows beyond all measure.
    """
    if path.suffix == ".lz4":
        data, metadata = _unpacked(path)
        named = _named_by_equimo(list(_arrays(data, 0)), metadata, path)
        return WeightsFile(named, (path,), "Equimo archive", header=metadata)
    with path.open("rb") as stream:
        begin = stream.read(len(_MAGIC))
    if begin == _MAGIC:
        beside = path.with_name("metadata.json")
        if not beside.is_file():
            raise WeightsFormatError(
                f"{path} holds arrays without names, and there is no metadata.json beside it",
                remedy="give Equimo's folder or archive whole, or a file that ntt convert --to equinox wrote",
            )
        metadata = read_object(beside)
        named = _named_by_equimo(list(_arrays(path, 0)), metadata, path)
        return WeightsFile(named, (path,), "Equimo folder", header=metadata)
    with path.open("rb") as stream:
        line = stream.readline(_LONGEST_HEADER)
    header = parse_object(line, f"the first line of {path}")
    names = header.get("leaves")
    settings = (header.get("config", {}), header.get("preprocessor", {}))
    if header.get("format") != FORMAT or not isinstance(names, list) or not all(isinstance(s, dict) for s in settings):
        raise WeightsFormatError(
            f"{path} is not an Equinox file of this package",
            remedy="write one with: ntt convert SRC DST.eqx --to equinox",
        )
    arrays = list(_arrays(path, len(line)))
    if len(set(map(str, names))) != len(names):
        raise WeightsFormatError(f"{path} names two of its arrays alike", remedy=FETCH_AGAIN)
    if len(arrays) != len(names):
        raise WeightsFormatError(f"{path} holds {len(arrays)} arrays, expected {len(names)}", remedy=FETCH_AGAIN)
    return WeightsFile(dict(zip(map(str, names), arrays, strict=True)), (path,), "Equinox file", header=header)


def array_header(dtype: np.dtype[Any], shape: Sequence[int]) -> bytes:
    """Return what stands before an array's bytes in NumPy's format."""
    stream = io.BytesIO()
    content = {"descr": DESCRIPTIONS[dtype], "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(stream, content)
    return stream.getvalue()


def header_line(header: Mapping[str, Any], names: Sequence[str]) -> bytes:
    """Return the line before the arrays of an Equinox file of this package, padded to where arrays like to begin.

    Args:
        header: What the file says of itself.
        names: Of the leaves, in their order.
    """
    line = json.dumps({"format": FORMAT, "version": 1, **header, "leaves": list(names)}).encode()
    return line + b" " * (-(len(line) + 1) % 64) + b"\n"


def _arrays(path: Path, position: int) -> Iterator[StoredTensor]:
    """Go through the arrays of a file from a byte on."""
    state = state_of(path)
    end = state[1]
    with path.open("rb") as stream:
        while position < end:
            stream.seek(position)
            dtype, shape = _array_at(stream, path)
            begin, length = stream.tell(), math.prod(shape) * dtype.itemsize
            position = begin + length
            if position > end:
                raise WeightsFormatError(f"{path} ends within its array of {shape}", remedy=FETCH_AGAIN)
            yield StoredTensor(dtype, shape, (FileRange(path, begin, length, state),))


def _array_at(stream: IO[bytes], path: Path) -> tuple[np.dtype[Any], tuple[int, ...]]:
    begin = stream.read(len(_MAGIC) + 2)
    width = {1: 2, 2: 4, 3: 4}.get(begin[-2]) if len(begin) == len(_MAGIC) + 2 else None
    if not begin.startswith(_MAGIC) or width is None:
        raise WeightsFormatError(f"{path} holds something else than NumPy arrays", remedy=FETCH_AGAIN)
    length = int.from_bytes(stream.read(width), "little")
    text = stream.read(min(length, _LONGEST_ARRAY_HEADER + 1)).decode("latin-1")
    try:
        # A backslash is in no header, and Python may warn of what stands behind it.
        if len(text) > _LONGEST_ARRAY_HEADER or "\\" in text:
            raise ValueError(len(text))
        header = ast.literal_eval(text.strip())
        shape, description, fortran = header["shape"], header["descr"], header["fortran_order"]
        if not all(type(side) is int and 0 <= side <= _LONGEST_SIDE for side in shape):
            raise ValueError(shape)
        # Sides count where another one is 0, too: a tensor's strides have to fit 64 bits.
        if math.prod(max(side, 1) for side in shape) > _MOST_ELEMENTS:
            raise ValueError(shape)
        if not isinstance(description, str):
            raise TypeError(description)
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError) as error:
        raise WeightsFormatError(f"{path} holds a damaged array header", remedy=FETCH_AGAIN) from error
    if description not in _DTYPES or (fortran and len(shape) > 1):
        raise WeightsFormatError(
            f"{path} holds an array of the kind {description!r}, which no encoder has", remedy="name the original file"
        )
    return _DTYPES[description], tuple(shape)


def _named_by_equimo(
    arrays: Sequence[StoredTensor], metadata: Mapping[str, Any], path: Path
) -> dict[str, StoredTensor]:
    """Name the arrays of an Equimo ViT by their order and shapes; what belongs to dropout has neither.

    Raises:
        WeightsFormatError: They are not those of a DINOv3 ViT.
    """
    rest = [array for array in arrays if array.shape]
    config = metadata.get("model_config")
    config = config if isinstance(config, dict) else {}
    try:
        return _vit_names(rest, with_mask_token=bool(config.get("use_mask_token", False)))
    except (IndexError, ValueError) as error:
        raise WeightsFormatError(
            f"{path} is not a DINOv3 ViT of Equimo's: {error}", remedy="convert the original weights instead"
        ) from error


def _vit_names(rest: list[StoredTensor], *, with_mask_token: bool) -> dict[str, StoredTensor]:
    named: dict[str, StoredTensor] = {}

    def take(name: str, *shape: int | None) -> StoredTensor:
        array = rest.pop(0)
        fits = len(shape) == len(array.shape) and all(
            side in (None, got) for side, got in zip(shape, array.shape, strict=True)
        )
        if not fits:
            raise ValueError(f"{name} is {array.shape}, expected {shape}")
        named[name] = array
        return array

    dim = take("patch_embed.proj.weight", None, 3, None, None).shape[0]
    take("patch_embed.proj.bias", dim, 1, 1)
    take("local_pos_embed.periods", None)
    take("cls_token", 1, dim)
    if len(rest[1].shape) == 2 or not with_mask_token:
        take("reg_tokens", None, dim)
    if with_mask_token:
        take("mask_token", 1, dim)
    block = 0
    while len(rest) > 4:
        prefix = f"blocks.{block}."
        for name in ("prenorm.weight", "prenorm.bias", "norm.weight", "norm.bias", "ls1.gamma", "ls2.gamma"):
            take(prefix + name, dim)
        take(f"{prefix}attn.qkv.weight", 3 * dim, dim)
        if rest[0].shape == (3 * dim,):
            take(f"{prefix}attn.qkv.bias", 3 * dim)
        take(f"{prefix}attn.proj.weight", dim, dim)
        take(f"{prefix}attn.proj.bias", dim)
        gated = rest[2].shape == rest[0].shape
        hidden = rest[0].shape[0]
        for name in ("w1", "w2") if gated else ("fc1",):
            take(f"{prefix}mlp.{name}.weight", hidden, dim)
            take(f"{prefix}mlp.{name}.bias", hidden)
        last = "w3" if gated else "fc2"
        take(f"{prefix}mlp.{last}.weight", dim, hidden)
        take(f"{prefix}mlp.{last}.bias", dim)
        block += 1
    for name in ("norm.weight", "norm.bias", "local_cls_norm.weight", "local_cls_norm.bias")[: max(len(rest), 2)]:
        take(name, dim)
    return named


_unpacked_archives: dict[tuple[str, int, int], tuple[Path, dict[str, Any]]] = {}
_workshop: tempfile.TemporaryDirectory[str] | None = None


def _unpacked(path: Path) -> tuple[Path, dict[str, Any]]:
    """Unpack an Equimo archive into a temporary folder that lasts as long as the process."""
    global _workshop
    state = path.stat()
    key = (str(path.resolve()), state.st_size, state.st_mtime_ns)
    if key not in _unpacked_archives:
        if _workshop is None:
            _workshop = tempfile.TemporaryDirectory(prefix="no_time_to_train.")
        folder = Path(tempfile.mkdtemp(dir=_workshop.name))
        try:
            _unpack(path, folder)
        except NoTimeToTrainError:
            shutil.rmtree(folder)
            raise
        except (tarfile.TarError, RuntimeError, EOFError, OSError, ValueError) as error:
            shutil.rmtree(folder)
            raise WeightsFormatError(f"{path} is not a complete archive: {error}", remedy=FETCH_AGAIN) from error
        except BaseException:
            shutil.rmtree(folder)
            raise
        metadata = parse_object((folder / "metadata.json").read_bytes(), path)
        _check_recorded(folder / "weights.eqx", metadata, path)
        _unpacked_archives[key] = folder / "weights.eqx", metadata
    return _unpacked_archives[key]


def _unpack(path: Path, folder: Path) -> None:
    limits = {
        "metadata.json": _LONGEST_HEADER,
        "weights.eqx": max(_ALWAYS_ALLOWED, _LARGEST_GROWTH * path.stat().st_size),
    }
    import lz4.frame  # of the extra jax

    with lz4.frame.open(path, "rb") as content, tarfile.open(fileobj=content, mode="r|") as archive:
        for member in archive:
            # Names that lead elsewhere, links and devices are none of the two.
            if member.name not in limits or not member.isreg():
                raise UnsafeWeightsError(
                    f"{path} holds {member.name!r}, expected metadata.json and weights.eqx alone: not unpacked",
                    remedy="get the archive from a trusted source",
                )
            if member.size > limits.pop(member.name):
                raise UnsafeWeightsError(
                    f"{member.name} in {path} would unpack to {member.size:,} bytes, from {path.stat().st_size:,}",
                    remedy="get the archive from a trusted source",
                )
            free = shutil.disk_usage(folder).free
            if member.size > free:
                raise DiskFullError(
                    f"{path} needs {member.size:,} bytes to be unpacked, and {folder} has {free:,} free",
                    remedy="set TMPDIR to a folder on a larger disk",
                )
            inside = archive.extractfile(member)
            assert inside is not None  # it is a regular file
            with (folder / member.name).open("wb") as target:
                shutil.copyfileobj(inside, target, _BLOCK)
    if limits:
        raise WeightsFormatError(f"{path} lacks {' and '.join(limits)}", remedy=FETCH_AGAIN)


def _check_recorded(weights: Path, metadata: Mapping[str, Any], path: Path) -> None:
    """Compare the weights with the hash that Equimo 2 records of them."""
    recorded = metadata.get("weights_sha256")
    if not isinstance(recorded, str):
        return
    with weights.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != recorded.removeprefix("sha256:"):
        raise WeightsFormatError(f"the weights in {path} have another hash than it records", remedy=FETCH_AGAIN)
