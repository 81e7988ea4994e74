"""Where an export goes, and how its folder comes by the weights."""

import fcntl
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from no_time_to_train.errors import NoTimeToTrainError, OutputError
from no_time_to_train.runtime.onnx_session import IMAGE_ENCODER_FILE, MODEL_FILE, read_metadata
from no_time_to_train.weights.conversion import write_config, write_hub_weights
from no_time_to_train.weights.formats.reader import SAFETENSORS_INDEX
from no_time_to_train.weights.hf_config import CONFIG, PREPROCESSOR, preprocessor_of, write_json
from no_time_to_train.weights.identify import identify_encoder
from no_time_to_train.weights.layouts.hf import HUB_LAYOUTS
from no_time_to_train.weights.license import NOTICE_FILE, SAM2_NOTICE_FILE
from no_time_to_train.weights.source import WeightsSource

# `.data` is of files that the first release wrote.
_WRITTEN = re.compile(
    r"(model|vision_encoder|prompt_encoder_mask_decoder)\.onnx([._]data)?"
    r"|(model|weights|vision_encoder|prompt_encoder_mask_decoder)[\w.-]*\.safetensors(\.index\.json)?"
    rf"|{re.escape(CONFIG)}|{re.escape(PREPROCESSOR)}|{re.escape(NOTICE_FILE)}|{re.escape(SAM2_NOTICE_FILE)}"
)
_HUB_NAMES = {layout.name for layout in HUB_LAYOUTS.values()}
_REFLINK = 0x40049409  # FICLONE of linux/fs.h


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an export goes.

    Attributes:
        source: The weights, as the user named them.
        output: The folder to write.
        in_place: Whether that is the folder of the weights, which stay where they are.
    """

    source: WeightsSource
    output: Path
    in_place: bool

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the weights."""
        return self.source.file.files

    @property
    def in_hub_layout(self) -> bool:
        """Return whether the files are safetensors by transformers' names: the Hub's files' or its modules'."""
        return self.source.layout.name.startswith("transformers") and all(
            file.suffix == ".safetensors" for file in self.files
        )

    def write_settings(self, folder: Path) -> None:
        """Put `config.json` and `preprocessor_config.json` into a folder that lacks them.

        Raises:
            OutputError: It cannot be written to.
        """
        beside = self.files[0].parent
        missing = [name for name in (CONFIG, PREPROCESSOR) if not (folder / name).exists()]
        for name in missing:
            if self.in_hub_layout and (beside / name).is_file():
                shutil.copyfile(beside / name, folder / name)
            elif name == PREPROCESSOR:
                write_json(folder / name, preprocessor_of(identify_encoder(self.source)))
            else:
                write_config(folder, self.source, num_heads=identify_encoder(self.source).num_heads)


def is_of_a_checkpoint(folder: Path, checkpoint: str) -> bool:
    """Return whether a folder is the export of a checkpoint of that name."""
    return _metadata(folder / MODEL_FILE).get("checkpoint") == checkpoint


def place_of(source: WeightsSource, output: Path | None, precision: str, *, copy: bool) -> Place:
    """Decide where an export goes.

    Args:
        source: The weights, as the user named them.
        output: The folder that the user named.
        precision: Of the export; other weights than fp32 need a folder of their own.
        copy: Whether the weights are to be copied, for which they need one too.

    Raises:
        OutputError: The weights are where nothing may be written, and no folder was named.
    """
    hub = source.layout.name.startswith("transformers")
    wanted, in_place = output_folder(source.path, source.file.files, output, precision, hub=hub, copy=copy)
    return Place(source=source, output=wanted, in_place=in_place)


def output_folder(
    weights: Path, files: Sequence[Path], output: Path | None, precision: str, *, hub: bool, copy: bool
) -> tuple[Path, bool]:
    """Decide which folder an export writes, and whether that is the one of the weights.

    Args:
        weights: As the user named them.
        files: The files that hold them.
        output: The folder that the user named.
        precision: Of the export.
        hub: Whether the tensors have transformers' names.
        copy: Whether the weights are to be copied.

    Raises:
        OutputError: As `place_of`.
    """
    folder = files[0].parent
    hub = hub and files[0].name.startswith("model") and (weights.is_dir() or weights.name == "model.safetensors")
    # onnxruntime follows no symbolic link to weights.
    real = all(file.suffix == ".safetensors" and not file.is_symlink() for file in files)
    own = precision == "fp32" and not copy
    wanted = folder if output is None else output
    if hub and real and own and wanted.resolve() == folder.resolve():
        return folder.resolve(), True
    if output is None:
        if any(file.is_symlink() for file in files):
            raise OutputError(
                f"the weights in {folder} are links, which onnxruntime does not follow",
                remedy="name a folder with --output, for a copy of them",
            )
        name = weights.resolve().name if weights.is_dir() else weights.stem
        output = weights.resolve().parent / f"{name}-onnx{'' if precision == 'fp32' else f'-{precision}'}"
    if output.resolve() == folder.resolve():
        raise OutputError(f"{output} holds the weights themselves", remedy="name another folder")
    return output.resolve(), False


def require_own_export(file: Path) -> None:
    """Refuse an ONNX file that is there already and that no export of this package wrote.

    Raises:
        OutputError: It is somebody else's.
    """
    if file.is_symlink() or (file.exists() and _metadata(file).get("weights") is None):
        raise OutputError(
            f"{file} is there already, and is not of ntt export", remedy="move it away, or name a folder with --output"
        )


def _metadata(file: Path) -> Mapping[str, str]:
    """Return what an ONNX file says of itself, whatever has become of its weights; nothing if it is none."""
    try:
        return read_metadata(file)
    except NoTimeToTrainError:
        return {}


def check_replaceable(folder: Path, sources: Sequence[Path] = ()) -> None:
    """Refuse a folder that holds anything but an export that can be made again.

    Args:
        folder: The folder.
        sources: The files that the export is made from, which must not be in it.

    Raises:
        OutputError: It does.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    metadata = _metadata(folder / MODEL_FILE) or _metadata(folder / IMAGE_ENCODER_FILE)
    ours = metadata.get("weights") == "own" and "checkpoint" not in metadata
    others = [path.name for path in folder.iterdir() if not _WRITTEN.fullmatch(path.name)] if folder.is_dir() else []
    if not ours or others or any(folder.resolve() in source.resolve().parents for source in sources):
        raise OutputError(
            f"{folder} is there already, and is not an export that could be made again",
            remedy="name a new folder, or remove it first",
        )


def clone_weights(place: Place, folder: Path) -> str:
    """Give a folder the weights as `model.safetensors`, and say how.

    Raises:
        OutputError: They cannot be written.
    """
    if not place.in_hub_layout or place.source.layout.name not in _HUB_NAMES:
        write_hub_weights(place.source, folder)
        return "converted"
    return clone_files(place.files, folder)


def clone_files(files: Sequence[Path], folder: Path) -> str:
    """Give a folder safetensors files as they are, one as `model.safetensors`, and say how.

    Raises:
        OutputError: They cannot be written.
    """
    names = {file: file.name for file in files}
    if len(names) == 1:
        names = {files[0]: "model.safetensors"}
    else:
        shutil.copyfile(files[0].parent / SAFETENSORS_INDEX, folder / SAFETENSORS_INDEX)
    try:
        shared = [_cloned(file, folder / name) for file, name in names.items()]
    except OSError as error:
        raise OutputError(
            f"cannot copy the weights to {folder}: {error.strerror or error}", remedy="name a folder on another disk"
        ) from error
    return "share their blocks with the original (reflink)" if all(shared) else "copied"


def _cloned(source: Path, target: Path) -> bool:
    """Copy a file, by sharing its blocks where the file system can."""
    with source.open("rb") as reading, target.open("wb") as writing:
        try:
            fcntl.ioctl(writing.fileno(), _REFLINK, reading.fileno())
        except OSError:
            shutil.copyfileobj(reading, writing, 1 << 24)
            return False
    return True
