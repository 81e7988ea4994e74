"""Reading tensors from weight files: safetensors, sharded or not, pickled state dicts, Equinox files.

Nothing here knows a model. Tensors are memory-mapped, so that looking at a file does not load it.
"""

import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from no_time_to_train.errors import UnsafeWeightsError, WeightsFormatError, WeightsNotFoundError
from no_time_to_train.weights.formats import equinox as eqx
from no_time_to_train.weights.json_files import FETCH_AGAIN, read_object

SAFETENSORS_INDEX = "model.safetensors.index.json"
LIGHTNING_KEY = "pytorch-lightning_version"
PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
SUFFIXES = (".safetensors", *PICKLE_SUFFIXES, *eqx.SUFFIXES)
# How torch 2.15 names what a pickle asks for and may not have.
_REFUSED = re.compile(r"[^\n:]*(?:GLOBAL|Unsupported (?:class|global))[^\n]*?(?= Please|\n|$)")
_BLOCK = 1 << 24
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def find_weights_file(path: Path) -> Path:
    """Return the file that holds the weights at `path`, which is a file or a Hugging Face folder.

    Raises:
        WeightsNotFoundError: There is nothing at `path`, or the folder holds no weights file, or the file is empty.
    """
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # too long a name, or one with a null byte
        raise WeightsNotFoundError(f"no weights at {path}: {error}", remedy="check the path") from error
    if path.is_dir():
        for name in ("model.safetensors", SAFETENSORS_INDEX, "pytorch_model.bin"):
            if (path / name).is_file():
                return find_weights_file(path / name)
        # A folder that was fetched from a link holds one file under its own name.
        alone = [file for file in sorted(path.iterdir()) if file.suffix in SUFFIXES]
        if len(alone) == 1:
            return find_weights_file(alone[0])
        held = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing"
        raise WeightsNotFoundError(
            f"no weights in the folder {path}: expected model.safetensors or {SAFETENSORS_INDEX}, it holds {held}",
            remedy="name the weights file itself, or fetch the folder again",
        )
    if not path.is_file():
        raise WeightsNotFoundError(
            f"no weights at {path}", remedy="check the path, or put the file there; checkpoints/README.md says where"
        )
    if path.stat().st_size == 0:
        raise WeightsNotFoundError(f"the weights file {path} is empty", remedy=FETCH_AGAIN)
    try:
        path.open("rb").close()
    except OSError as error:
        raise WeightsNotFoundError(
            f"the weights file {path} may not be read: {error.strerror}", remedy="check its permissions"
        ) from error
    return path


@dataclass(frozen=True)
class StoredTensors:
    """All tensors of a weights file or folder.

    Attributes:
        tensors: Memory-mapped on the CPU, by the names and in the dtypes in which they are stored.
        files: The files that hold them.
        container: What kind of files those are.
        metadata: What a safetensors file says beside its tensors.
        header: What an Equinox file says before its arrays, or Equimo beside them.
    """

    tensors: dict[str, Tensor]
    files: tuple[Path, ...]
    container: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    header: Mapping[str, Any] = field(default_factory=dict)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a weights file or folder; see `read_stored`."""
    return read_stored(path).tensors


def read_stored(path: Path, *, headers_only: bool = False) -> StoredTensors:
    """Read all tensors of a weights file or folder, memory-mapped on the CPU.

    Args:
        path: A `.safetensors` file, a Hugging Face folder (sharded or not), a pickled state dict (`.pth`, `.pt`), plain
            or under the key ``model`` or ``state_dict``, a checkpoint of this package's own training (`.ckpt`), of
            which the tensors of the trained model are taken, an Equinox file that `ntt convert` wrote (`.eqx`), or an
            Equimo archive (`.tar.lz4`).
        headers_only: Give tensors on the meta device, which have shape and dtype and no values.

    Raises:
        WeightsNotFoundError: There is no such file.
        UnsafeWeightsError: The pickle asks for more than tensors and plain containers.
        WeightsFormatError: The file is truncated or is not a weights file.
    """
    file = find_weights_file(path)
    if file.name.endswith(".index.json"):
        return _read_shards(file, headers_only=headers_only)
    if file.suffix == ".safetensors":
        tensors, metadata = _read_safetensors(file, headers_only=headers_only)
        return StoredTensors(tensors, (file,), "safetensors", metadata)
    if file.suffix in PICKLE_SUFFIXES:
        return _read_pickle(file, headers_only=headers_only)
    if file.suffix in eqx.SUFFIXES:
        found = eqx.read_eqx(file)
        return StoredTensors(found.tensors(headers_only=headers_only), (file,), found.container, header=found.header)
    raise WeightsFormatError(
        f"{file} has the ending {file.suffix!r}, expected {', '.join(SUFFIXES)} or a folder",
        remedy="name the weights file, or rename it if the ending is wrong",
    )


def _read_safetensors(file: Path, *, headers_only: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        # For torch the whole file is mapped at once and counts as memory; of the header that is not asked.
        with safe_open(file, framework="np" if headers_only else "pt") as handle:
            if headers_only:
                slices = {name: handle.get_slice(name) for name in handle.keys()}
                tensors = {
                    name: torch.empty(entry.get_shape(), dtype=_DTYPES[entry.get_dtype()], device="meta")
                    for name, entry in slices.items()
                }
            else:
                tensors = {name: handle.get_tensor(name) for name in handle.keys()}
            return tensors, dict(handle.metadata() or {})
    except KeyError as error:
        raise WeightsFormatError(
            f"{file} holds numbers of the kind {error.args[0]}, which no encoder has", remedy="name the original file"
        ) from error
    except (SafetensorError, OSError) as error:
        raise WeightsFormatError(f"{file} is not a complete safetensors file: {error}", remedy=FETCH_AGAIN) from error


def _read_shards(index: Path, *, headers_only: bool) -> StoredTensors:
    try:
        weight_map = read_object(index).get("weight_map")
    except WeightsFormatError as error:
        raise WeightsFormatError(f"{index} is not a safetensors index: {error.message}", remedy=error.remedy) from error
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise WeightsFormatError(
            f"{index} is not a safetensors index: its weight_map does not give a file for each tensor",
            remedy=FETCH_AGAIN,
        )
    tensors: dict[str, Tensor] = {}
    files: list[Path] = []
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard or shard in {"", ".", ".."}:
            raise UnsafeWeightsError(
                f"{index} names a shard outside its folder: {shard}", remedy="fetch the folder from a trusted source"
            )
        files.append(find_weights_file(index.parent / shard))
        held = _read_safetensors(files[-1], headers_only=headers_only)[0]
        elsewhere = next((name for name in held if weight_map.get(name, shard) != shard), None)
        if elsewhere is not None:
            raise WeightsFormatError(
                f"{files[-1]} holds {elsewhere}, which {index.name} says is in {weight_map[elsewhere]}",
                remedy=FETCH_AGAIN,
            )
        twice = next((name for name in held if name in tensors), None)
        if twice is not None:
            raise WeightsFormatError(f"{twice} is in two shards of {index}", remedy=FETCH_AGAIN)
        tensors.update(held)
    missing = sorted(set(weight_map) - set(tensors))
    if missing:
        raise WeightsFormatError(
            f"{index} lists {len(missing)} tensors that no shard holds, first {missing[0]}", remedy=FETCH_AGAIN
        )
    return StoredTensors(tensors, tuple(files), "sharded safetensors")


def unpickled(file: Path, *, headers_only: bool = False) -> Any:
    """Read a pickle of torch's, of which nothing is run.

    Args:
        file: As `torch.save` wrote it.
        headers_only: Give tensors on the meta device, which have shape and dtype and no values.

    Raises:
        UnsafeWeightsError: It asks for more than tensors and plain containers.
        WeightsFormatError: It is damaged, or no pickle.
    """
    try:
        # Only zip archives can be memory-mapped; the legacy format, which few files still have, is read whole.
        mapped = zipfile.is_zipfile(file) and not headers_only
        return load_tensors(
            file, headers_only=headers_only, map_location="meta" if headers_only else "cpu", mmap=mapped
        )
    except WeightsFormatError:
        raise
    except pickle.UnpicklingError as error:
        reason = _REFUSED.search(str(error))
        if reason:
            raise UnsafeWeightsError(
                f"{file} is a pickle that asks for more than tensors, so it was not loaded: {reason[0].strip()}",
                remedy="export the plain state dict with torch.save(model.state_dict(), ...), or use safetensors",
            ) from error
        raise WeightsFormatError(f"{file} is not a PyTorch weights file", remedy=FETCH_AGAIN) from error
    except Exception as error:  # what a damaged pickle does to its reader has no limits
        first_line = str(error).split("\n")[0]
        if "quantized" in first_line:  # torch has no quantized tensors without values
            raise WeightsFormatError(
                f"{file} holds quantized tensors, expected floating point", remedy="name the original file"
            ) from error
        raise WeightsFormatError(
            f"{file} is not a complete PyTorch weights file: {first_line}", remedy=FETCH_AGAIN
        ) from error


def load_tensors(file: Path, *, headers_only: bool, **options: Any) -> Any:
    """Call `torch.load` for tensors and plain values; other pickles end in its own errors.

    Args:
        file: As `torch.save` wrote it.
        headers_only: The caller does not use the values of the tensors, so their checksums are not compared.
        options: Of `torch.load`.

    Raises:
        WeightsFormatError: A checksum is wrong.
    """
    if not headers_only and zipfile.is_zipfile(file):
        _check_sums(file)
    with warnings.catch_warnings():
        # What is wrong with a file is said once, by the caller: quantized tensors, for example, make torch warn.
        warnings.simplefilter("ignore")
        return torch.load(file, weights_only=True, **options)


def _check_sums(file: Path) -> None:
    """Compare the checksums in a zip archive, which torch does not do. A gigabyte takes about 0.3 s.

    Raises:
        WeightsFormatError: One is wrong.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                # torch.serialization.set_crc32_options(False) writes 0 for all of them.
                if entry.CRC != 0:
                    with archive.open(entry) as record:
                        while record.read(_BLOCK):
                            pass
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise WeightsFormatError(f"{file} is damaged: {error}", remedy=FETCH_AGAIN) from error


def _read_pickle(file: Path, *, headers_only: bool) -> StoredTensors:
    stored = pickled_tensors(unpickled(file, headers_only=headers_only), file)
    if not headers_only and any(tensor.is_meta for tensor in stored.tensors.values()):
        raise WeightsFormatError(
            f"{file} holds tensors without values: the model was saved from the meta device",
            remedy="save the state dict of a model that has weights",
        )
    return stored


def pickled_tensors(loaded: Any, file: Path) -> StoredTensors:
    """Find the tensors of a model in what `torch.load` gave.

    Raises:
        WeightsFormatError: There is no state dict in it.
    """
    tensors = _state_dict_in(loaded, file)
    other = next((name for name, tensor in tensors.items() if tensor.layout is not torch.strided), None)
    if other is not None:
        raise WeightsFormatError(f"{other} in {file} is a sparse tensor", remedy="save it with to_dense()")
    other = next((name for name, tensor in tensors.items() if tensor.is_quantized), None)
    if other is not None:
        raise WeightsFormatError(
            f"{other} in {file} is a quantized tensor, expected floating point", remedy="name the original file"
        )
    _check_sizes(tensors, file)
    if isinstance(loaded, Mapping) and LIGHTNING_KEY in loaded:
        return StoredTensors(_trained_model_in(tensors, file), (file,), "Lightning checkpoint")
    return StoredTensors(tensors, (file,), "PyTorch pickle")


def _check_sizes(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Refuse tensors that are larger than the bytes which the file holds for them, as a stride of 0 makes them.

    Raises:
        WeightsFormatError: One is.
    """
    for name, tensor in tensors.items():
        claimed, held = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        if claimed > held:
            raise WeightsFormatError(
                f"{name} in {file} has {claimed:,} bytes by its shape {tuple(tensor.shape)}, but the file "
                f"holds {held:,}",
                remedy="save it with contiguous()",
            )


def _state_dict_in(loaded: Any, file: Path) -> dict[str, Tensor]:
    """Find the state dict in what a pickle holds: the mapping itself, or the one under a customary key."""
    if isinstance(loaded, Mapping):
        for key in ("model", "state_dict", "teacher"):
            if isinstance(loaded.get(key), Mapping):
                loaded = loaded[key]
                break
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()) or not loaded:
        raise WeightsFormatError(
            f"{file} holds no state dict: expected a mapping of names to tensors, got {type(loaded).__name__}",
            remedy="save the model's state_dict()",
        )
    # A negated or conjugated view has the bytes of what it is a view of.
    return {str(key): value.resolve_conj().resolve_neg() for key, value in loaded.items()}


def _trained_model_in(tensors: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Take the model out of a training module's state; what else it trained is of no use afterwards."""
    model = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    if not model:
        raise WeightsFormatError(
            f"{file} is a Lightning checkpoint of another module: none of its {len(tensors)} tensors is below `model`",
            remedy="name a checkpoint that this package's training wrote",
        )
    return model
