"""An exported encoder's ONNX file: what it says of itself, and how to run it."""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import psutil

from no_time_to_train.configs.encoders import EncoderConfig
from no_time_to_train.errors import ConfigError, UnsafeWeightsError, WeightsFormatError, WeightsNotFoundError
from no_time_to_train.io.strict_json import parse_json
from no_time_to_train.weights.hashes import cached_sha256, content_hash

MODEL_FILE = "model.onnx"
# Of a SAM2, by the names of transformers.js.
IMAGE_ENCODER_FILE = "vision_encoder.onnx"
PROMPT_DECODER_FILE = "prompt_encoder_mask_decoder.onnx"
IDENTITY = "identity"
WEIGHTS_HASHES = "weights_hashes"
WEIGHTS_HEADERS = "weights_headers"
NEEDED_RUNTIME = "needs_onnxruntime"
# onnxruntime holds weights in its own layout beside the file's, and what a run needs comes on top.
_ROOM = 2.5
# What the values at the end of a stage are called; see the Equinox models' `tokens`.
_STAGE = re.compile(r"embedding|blocks\.\d+\.(downsample|conv_raw|post_attn|output|(attn|mlp)_(in|raw|scaled))")
# What ONNX Runtime may run on: its name for it, and the package that has it.
PROVIDERS = {
    "cpu": ("CPUExecutionProvider", "onnxruntime"),
    "cuda": ("CUDAExecutionProvider", "onnxruntime-gpu"),
    "coreml": ("CoreMLExecutionProvider", "onnxruntime on macOS"),
    "directml": ("DmlExecutionProvider", "onnxruntime-directml"),
    "openvino": ("OpenVINOExecutionProvider", "onnxruntime-openvino"),
}
EXPORT_AGAIN = "export it again: ntt export"


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """An ONNX file that this package exported.

    Attributes:
        path: The file.
        weights: The files that hold its weights.
        image_size: The height and width that it takes; None if any.
        batch_size: How many images it takes at a time; None if any number.
        metadata: What it says of itself: encoder, patch size, mean and deviation, hashes, versions and so on.
        num_bytes: Length of its weights as they are stored.
        casts_weights: Whether weights are stored in another dtype than they are computed in.
        digest: Hash of all that the file holds but `identity`; see `digest_of`.
    """

    path: Path
    weights: tuple[Path, ...]
    image_size: tuple[int, int] | None
    batch_size: int | None
    metadata: Mapping[str, str]
    num_bytes: int
    casts_weights: bool
    digest: str

    @property
    def config(self) -> EncoderConfig:
        """The encoder's registry entry, or the one that was made for it.

        Raises:
            WeightsFormatError: The file does not tell it.
        """
        try:
            fields = parse_json(self.metadata["config"])
            values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
            if "qkv_bias" in values:  # its name in the first release
                values["query_bias"] = values.pop("qkv_bias")
            return _checked(EncoderConfig(**values))
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise WeightsFormatError(
                f"{self.path} does not tell which encoder it is", remedy="export the encoder with ntt export"
            ) from error

    @property
    def identity(self) -> Mapping[str, Any] | None:
        """Which torch encoder it was found to be the same as, while it was exported; None if it does not tell.

        `fingerprint` is that encoder's, `weights` has the SHA-256 of each weights file by its name, `file` is the
        digest of the file as it was then.
        """
        try:
            found = parse_json(self.metadata[IDENTITY])
            whole = isinstance(found, dict) and found.keys() == {"fingerprint", "weights", "file"}
        except (KeyError, ValueError, RecursionError):
            return None
        return found if whole else None


def _checked(entry: EncoderConfig) -> EncoderConfig:
    """Return an entry that a file states, unless its values are none that an encoder has.

    Raises:
        ValueError: They are not.
    """
    sizes = (entry.embed_dim, entry.depth, entry.patch_size, entry.default_img_size)
    counts = (entry.num_heads, entry.ffn_dim, entry.num_storage_tokens)
    if any(type(value) is not int or value < 1 for value in sizes):
        raise ValueError(sizes)
    if any(type(value) is not int or value < 0 for value in counts):
        raise ValueError(counts)
    for values in (entry.image_mean, entry.image_std):
        if not isinstance(values, tuple) or len(values) != 3:
            raise ValueError(values)
        if not all(type(value) in (int, float) and math.isfinite(value) for value in values):
            raise ValueError(values)
    if min(entry.image_std) <= 0 or not isinstance(entry.name, str) or not entry.name.isprintable():
        raise ValueError(entry.name)
    return entry


def check_runtime(file: OnnxFile, installed: str = onnxruntime.__version__) -> None:
    """Refuse an ONNX Runtime that is older than the file states to need.

    Args:
        file: As `read_onnx_file` gives it.
        installed: Version of the runtime.

    Raises:
        ConfigError: It is older: it would refuse the file, or give wrong features without an error.
    """
    needed = file.metadata.get(NEEDED_RUNTIME, "0")
    if _numbers(installed) < _numbers(needed):
        raise ConfigError(
            f"{file.path} needs ONNX Runtime {needed} or later, got {installed}, which refuses it or computes it wrong",
            remedy=f"pip install 'onnxruntime>={needed}', or export it again with --opset 17",
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def check_weights(file: OnnxFile) -> None:
    """Refuse weights whose bytes are not those that the file was exported with.

    Each weights file is hashed once in a process, and again when its size or modification time changes. A file without
    hashes, which an older version of this package or another program wrote, passes.

    Raises:
        WeightsFormatError: The bytes differ, or the recorded hashes cannot be read.
    """
    try:
        expected = dict(parse_json(file.metadata.get(WEIGHTS_HASHES, "{}")))
    except (ValueError, TypeError, RecursionError) as error:
        raise WeightsFormatError(
            f"{file.path} is damaged: its {WEIGHTS_HASHES} are not valid JSON", remedy=EXPORT_AGAIN
        ) from error
    for path in file.weights:
        recorded = expected.get(path.name)
        found = content_hash(path) if recorded is not None else None
        if recorded is None and file.identity is not None:
            weights = file.identity["weights"]
            recorded = weights.get(path.name) if isinstance(weights, dict) else None
            found = cached_sha256(path) if recorded is not None else None
        if found != recorded:
            raise WeightsFormatError(
                f"{path} has changed since {file.path.name} was exported, or is damaged: expected "
                f"{str(recorded)[:23]}, got {str(found)[:23]}",
                remedy=f"restore the weights file, or {EXPORT_AGAIN}",
            )


def digest_of(model: onnx.ModelProto) -> str:
    """Hash a graph and what its file says of itself, but for `identity`, of which the hash is a part."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    bare.metadata_props.extend(entry for entry in model.metadata_props if entry.key != IDENTITY)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def read_onnx_file(path: Path | str) -> OnnxFile:
    """Read what an ONNX file says of itself, without its weights.

    Args:
        path: The file, or the folder that `ntt export` wrote.

    Raises:
        WeightsNotFoundError: There is none.
        WeightsFormatError: It is not a complete ONNX file, or its weights are not beside it.
    """
    path = Path(path)
    file = path / MODEL_FILE if path.is_dir() else path
    model = _load(file)
    num_bytes, ends = 0, dict[str, int]()
    try:
        for tensor in model.graph.initializer:
            place = {entry.key: entry.value for entry in tensor.external_data}
            length = int(place.get("length", len(tensor.raw_data)))
            num_bytes += length
            if "location" in place:
                ends[place["location"]] = max(ends.get(place["location"], 0), int(place.get("offset", 0)) + length)
    except ValueError as error:
        raise WeightsFormatError(f"{file} does not tell where its weights are", remedy=EXPORT_AGAIN) from error
    for location, end in ends.items():
        if Path(location).is_absolute() or ".." in Path(location).parts:
            raise UnsafeWeightsError(
                f"{file} asks for weights outside of its folder: {location}", remedy="get it from a trusted source"
            )
        beside = file.parent / location
        if not beside.is_file() or beside.stat().st_size < end:
            raise WeightsFormatError(
                f"{file} needs its weights in {beside}, which "
                + ("is too short" if beside.is_file() else "is not there"),
                remedy=f"keep them together, or {EXPORT_AGAIN}",
            )
    initializers = {tensor.name for tensor in model.graph.initializer}
    casts = any(node.op_type == "Cast" and not initializers.isdisjoint(node.input) for node in model.graph.node)
    metadata = _metadata(model)
    _check_headers(file, metadata)
    sizes = [
        dimension.dim_value or None for value in model.graph.input[:1] for dimension in value.type.tensor_type.shape.dim
    ]
    if len(sizes) != 4:
        raise WeightsFormatError(f"{file} takes no images", remedy="name a folder that ntt export wrote")
    batch, _, height, width = sizes
    return OnnxFile(
        path=file,
        weights=tuple(file.parent / location for location in sorted(ends)),
        image_size=None if height is None or width is None else (height, width),
        batch_size=batch,
        metadata=metadata,
        num_bytes=num_bytes,
        casts_weights=casts,
        digest=digest_of(model),
    )


def read_metadata(file: Path) -> Mapping[str, str]:
    """Return what an ONNX file says of itself; its weights are not looked for.

    Raises:
        WeightsNotFoundError: There is no such file.
        WeightsFormatError: It is not a complete ONNX file.
    """
    return _metadata(_load(file))


def _load(file: Path) -> onnx.ModelProto:
    if not file.is_file():
        raise WeightsNotFoundError(f"there is no {file}", remedy="name a folder that ntt export wrote")
    try:
        return onnx.load(file, load_external_data=False)
    except Exception as error:  # protobuf's errors have no common class that is public
        raise WeightsFormatError(f"{file} is not a complete ONNX file", remedy=EXPORT_AGAIN) from error


def _metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def hash_of_header(file: Path) -> str:
    """Return the hash of a safetensors file's header, which says where in it each tensor lies."""
    with file.open("rb") as stream:
        length = stream.read(8)
        # A damaged length would have Python make room for it.
        end = min(int.from_bytes(length, "little"), file.stat().st_size)
        return hashlib.sha256(length + stream.read(end)).hexdigest()


def _check_headers(file: Path, metadata: Mapping[str, str]) -> None:
    """Refuse weights files that were written again since: their tensors may lie elsewhere now."""
    try:
        headers = dict(parse_json(metadata.get(WEIGHTS_HEADERS, "{}")))
        if any(Path(name).name != name for name in headers):
            raise ValueError(headers)
    except (ValueError, TypeError, RecursionError) as error:
        raise WeightsFormatError(f"{file} is damaged", remedy=EXPORT_AGAIN) from error
    for name, expected in headers.items():
        beside = file.parent / name
        if beside.is_file() and hash_of_header(beside) != expected:
            raise WeightsFormatError(
                f"{beside} was written again since {file.name} was exported from it", remedy=EXPORT_AGAIN
            )


def open_session(
    file: OnnxFile, *, device: str = "cpu", threads: int | None = None, save_memory: bool | None = None
) -> onnxruntime.InferenceSession:
    """Open an ONNX file for running.

    Args:
        file: As `read_onnx_file` gives it.
        device: `cpu`, or another of `PROVIDERS`, for which its package has to be installed; `cuda:1` is a second GPU.
        threads: On the CPU; onnxruntime's choice if None.
        save_memory: Leave the weights where they are, as pages of their file, instead of copying them into the layout
            that is fastest: up to a tenth slower, and the only way where they don't fit twice. As the available memory
            demands if None.

    Raises:
        ConfigError: There is no such device, or onnxruntime is older than the file needs.
        WeightsFormatError: onnxruntime refuses the file, or its weights are not those that it was exported with.
    """
    return _open(file, file.path, _options(threads), device, save_memory)


def open_tapped_session(file: OnnxFile, *, device: str = "cpu") -> tuple[onnxruntime.InferenceSession, tuple[str, ...]]:
    """Open an ONNX file so that what comes out of its stages can be asked for too.

    Args:
        file: As `read_onnx_file` gives it.
        device: As of `open_session`.

    Returns:
        The session, and the names of the stages in the order of the graph, such as `blocks.0.attn_raw`; none for a file
        that was written by others.

    Raises:
        ConfigError: There is no such device, or onnxruntime is older than the file needs.
        WeightsFormatError: onnxruntime refuses the file, or its weights are not those that it was exported with.
    """
    model = _load(file.path)
    names = tuple(name for node in model.graph.node for name in node.output if _STAGE.fullmatch(name))
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return open_graph(file, model, device=device), names


def load_graph(file: OnnxFile) -> onnx.ModelProto:
    """Return the graph of an ONNX file, without its weights, to be changed and opened by `open_graph`."""
    return _load(file.path)


def open_graph(
    file: OnnxFile, model: onnx.ModelProto, *, device: str = "cpu", threads: int | None = None
) -> onnxruntime.InferenceSession:
    """Open a graph that was made of a file's, with the weights of the file. Arguments as of `open_session`.

    Raises:
        ConfigError: There is no such device, or onnxruntime is older than the file needs.
        WeightsFormatError: onnxruntime refuses the graph, or the weights are not those that it was exported with.
    """
    options = _options(threads)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(file.path.parent))
    return _open(file, model.SerializeToString(), options, device, None)


def _options(threads: int | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _open(
    file: OnnxFile, model: Path | bytes, options: onnxruntime.SessionOptions, device: str, save_memory: bool | None
) -> onnxruntime.InferenceSession:
    providers = _providers(device)
    check_runtime(file)
    check_weights(file)
    if save_memory is None:
        save_memory = not has_room_for(file.num_bytes * (2 if file.casts_weights else 1))
    disabled = []
    if save_memory:
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_mem_pattern = False
        # It would cast the weights once and for all, into memory.
        disabled = ["ConstantFolding"] if file.casts_weights else []
    try:
        return onnxruntime.InferenceSession(model, options, providers=providers, disabled_optimizers=disabled)
    except Exception as error:  # onnxruntime's errors have no common class that is public
        raise WeightsFormatError(
            f"onnxruntime {onnxruntime.__version__} refuses {file.path}: {error}", remedy=EXPORT_AGAIN
        ) from error


def has_room_for(num_bytes: int) -> bool:
    """Return whether the available memory takes weights of that size in, and what running them needs."""
    return bool(num_bytes * _ROOM < psutil.virtual_memory().available)


def _providers(device: str) -> Sequence[str | tuple[str, dict[str, Any]]]:
    name, _, index = device.partition(":")
    if name not in PROVIDERS:
        raise ConfigError(
            f"onnxruntime has no device {device!r:.60} here", remedy=f"expected one of {', '.join(PROVIDERS)}"
        )
    provider, package = PROVIDERS[name]
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise ConfigError(
            f"this onnxruntime was built without {name}: it has {', '.join(available)}",
            remedy=f"pip install {package} in its place, or use cpu",
        )
    if name == "cpu":
        return [provider]
    return [(provider, {"device_id": int(index or 0)} if name in ("cuda", "directml") else {}), "CPUExecutionProvider"]
