"""Opening weight files: safetensors, sharded or not, pickled state dicts, Equinox files.

Nothing here knows a model, and no tensor is read.
"""

import math
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from no_time_to_train.errors import UnsafeWeightsError, WeightsFormatError, WeightsNotFoundError
from no_time_to_train.weights.formats import equinox as eqx
from no_time_to_train.weights.formats.json_files import FETCH_AGAIN, read_object
from no_time_to_train.weights.formats.stored_tensor import FileRange, StoredTensor, WeightsFile, state_of
from no_time_to_train.weights.formats.torch_pickle import read_torch_file

SAFETENSORS_INDEX = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
SUFFIXES = (".safetensors", *PICKLE_SUFFIXES, *eqx.SUFFIXES)
_DTYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32"},
    **{"I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"},
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


def open_weights(path: Path, *, verify: bool = True) -> WeightsFile:
    """Find all tensors of a weights file or folder, from the headers alone.

    Args:
        path: A `.safetensors` file, a Hugging Face folder (sharded or not), a pickled state dict (`.pth`, `.pt`), plain
            or under the key ``model`` or ``state_dict``, a checkpoint of this package's own training (`.ckpt`), of
            which the tensors of the trained model are taken, an Equinox file that `ntt convert` wrote (`.eqx`), or an
            Equimo archive (`.tar.lz4`).
        verify: Compare the checksums of a pickled state dict, for which it is read whole.

    Raises:
        WeightsNotFoundError: There is no such file.
        UnsafeWeightsError: The pickle asks for more than tensors and plain containers.
        WeightsFormatError: The file is truncated or is not a weights file.
    """
    file = find_weights_file(path)
    if file.name.endswith(".index.json"):
        return _read_shards(file)
    if file.suffix == ".safetensors":
        tensors, metadata = _read_safetensors(file)
        return WeightsFile(tensors, (file,), "safetensors", metadata)
    if file.suffix in PICKLE_SUFFIXES:
        return read_torch_file(file, verify=verify)
    if file.suffix in eqx.SUFFIXES:
        return eqx.read_eqx(file)
    raise WeightsFormatError(
        f"{file} has the ending {file.suffix!r}, expected {', '.join(SUFFIXES)} or a folder",
        remedy="name the weights file, or rename it if the ending is wrong",
    )


def _read_safetensors(file: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    state = state_of(file)
    try:
        with safe_open(file, framework="np") as handle, file.open("rb") as stream:
            # It has checked that the tensors fill the rest of the file, in this order and without gaps.
            offset = 8 + int.from_bytes(stream.read(8), "little")
            tensors = {}
            for name in handle.offset_keys():
                entry = handle.get_slice(name)
                dtype, shape = np.dtype(_DTYPES[entry.get_dtype()]), tuple(entry.get_shape())
                place = FileRange(file, offset, math.prod(shape) * dtype.itemsize, state)
                tensors[name] = StoredTensor(dtype, shape, (place,))
                offset += place.length
            return {name: tensors[name] for name in handle.keys()}, dict(handle.metadata() or {})
    except KeyError as error:
        raise WeightsFormatError(
            f"{file} holds numbers of the kind {error.args[0]}, which no encoder has", remedy="name the original file"
        ) from error
    except (SafetensorError, OSError) as error:
        raise WeightsFormatError(f"{file} is not a complete safetensors file: {error}", remedy=FETCH_AGAIN) from error


def _read_shards(index: Path) -> WeightsFile:
    try:
        weight_map = read_object(index).get("weight_map")
    except WeightsFormatError as error:
        raise WeightsFormatError(f"{index} is not a safetensors index: {error.message}", remedy=error.remedy) from error
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise WeightsFormatError(
            f"{index} is not a safetensors index: its weight_map does not give a file for each tensor",
            remedy=FETCH_AGAIN,
        )
    tensors: dict[str, StoredTensor] = {}
    files: list[Path] = []
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard or shard in {"", ".", ".."}:
            raise UnsafeWeightsError(
                f"{index} names a shard outside its folder: {shard}", remedy="fetch the folder from a trusted source"
            )
        files.append(find_weights_file(index.parent / shard))
        held = _read_safetensors(files[-1])[0]
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
    return WeightsFile(tensors, tuple(files), "sharded safetensors")
