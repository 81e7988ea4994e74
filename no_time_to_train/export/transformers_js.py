"""Exports in the folder that transformers.js and Optimum open: `onnx/model.onnx`, `onnx/model_fp16.onnx` and so on."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import onnx

from no_time_to_train.errors import ConfigError, OutputError
from no_time_to_train.export.graph_file import Precision
from no_time_to_train.export.onnx import export_onnx
from no_time_to_train.export.places import check_replaceable
from no_time_to_train.io.atomic import atomic_folder
from no_time_to_train.runtime.onnx_session import (
    IDENTITY,
    IMAGE_ENCODER_FILE,
    MODEL_FILE,
    PROMPT_DECODER_FILE,
    WEIGHTS_HASHES,
    WEIGHTS_HEADERS,
    read_onnx_file,
)
from no_time_to_train.weights.formats.json_files import read_object
from no_time_to_train.weights.hf_config import CONFIG, write_json

# What transformers.js adds to a file's name by the dtype that is asked for.
SUFFIXES: dict[Precision, str] = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}
FOLDER = "onnx"
_WRITTEN = re.compile(r"[\w.-]+\.onnx(_data(_\d+)?)?|(preprocessor_)?config\.json|[\w.-]*NOTICE[\w.-]*")


def export_for_transformers_js(
    name_or_path: str | Path,
    weights: str | Path | None = None,
    output: str | Path | None = None,
    *,
    precisions: Sequence[Precision] = ("fp32",),
    image_size: tuple[int, int] | Literal["dynamic"] = "dynamic",
    batch_size: int | Literal["dynamic"] = "dynamic",
    opset: int = 23,
    verify: bool = True,
) -> Path:
    """Write an encoder or a SAM2 in one or more precisions into a folder that transformers.js opens.

    Each graph is in `onnx/`, next to its weights as `NAME.onnx_data`; a graph without large weights has no such file.
    `config.json` says that the weights are apart.

    Args:
        name_or_path: As of `export_onnx`, and so are the other arguments.
        weights: A file or folder that must hold the named encoder.
        output: The folder; one that an export made is replaced.
        precisions: Any of fp32, fp16 and int8, which transformers.js asks for as `dtype: "fp32"`, `"fp16"` and `"q8"`.
        image_size: Height and width in pixels, or any.
        batch_size: Images at a time, or any.
        opset: 23, or 17 for older runtimes.
        verify: Whether to compare the files with the Equinox model.

    Returns:
        The folder.

    Raises:
        ConfigError: No folder is named.
        NoTimeToTrainError: As of `export_onnx`.
    """
    if output is None:
        raise ConfigError("the layout transformers.js needs a folder of its own", remedy="name one with --output")
    output = Path(output).resolve()
    _check_output(output)
    with atomic_folder(output) as folder:
        apart: dict[str, int] = {}
        for precision in precisions:
            # In a new folder, never in the folder of the weights.
            flat = export_onnx(
                name_or_path,
                weights,
                folder / f"of {precision}",
                image_size=image_size,
                batch_size=batch_size,
                opset=opset,
                precision=precision,
                verify=verify,
            )
            apart |= _move_graphs(flat, folder / FOLDER, SUFFIXES[precision])
            _move_settings(flat, folder)
        config = read_object(folder / CONFIG)
        write_json(folder / CONFIG, {**config, "transformers.js_config": {"use_external_data_format": apart}})
    return output


def _check_output(output: Path) -> None:
    """Refuse a folder that holds anything but such an export."""
    graphs = output / FOLDER
    if not graphs.is_dir():
        check_replaceable(output)
        return
    entries = [*(path for path in output.iterdir() if path != graphs), *graphs.iterdir()]
    others = [path.name for path in entries if not _WRITTEN.fullmatch(path.name)]
    if others or not read_object(output / CONFIG).get("transformers.js_config"):
        raise OutputError(
            f"{output} is there already, and is not an export that could be made again",
            remedy="name a new folder, or remove it first",
        )


def _move_graphs(flat: Path, folder: Path, suffix: str) -> dict[str, int]:
    """Move the graphs of an export, each with its own copy of the weights under the name that clients look for.

    Returns:
        How many files of weights each graph has, by the graph's name.
    """
    folder.mkdir(exist_ok=True)
    counts = {}
    for name in (MODEL_FILE, IMAGE_ENCODER_FILE, PROMPT_DECODER_FILE):
        if not (flat / name).is_file():
            continue
        file, target = read_onnx_file(flat / name), folder / f"{Path(name).stem}{suffix}.onnx"
        renamed = {
            path.name: f"{target.name}_data{f'_{index}' if index else ''}" for index, path in enumerate(file.weights)
        }
        for path in file.weights:
            _link_or_copy(path, folder / renamed[path.name])
        model = onnx.load(file.path, load_external_data=False)
        _rename_weights(model, renamed)
        target.write_bytes(model.SerializeToString(deterministic=True))
        counts[target.name] = len(renamed)
    return counts


def _link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name: two graphs may have their weights in one. Where the disk has no links, copy it."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _rename_weights(model: onnx.ModelProto, renamed: dict[str, str]) -> None:
    """Name the files of weights anew, in the graph and in what it says of itself."""
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = renamed[entry.value]
    said = {entry.key: entry.value for entry in model.metadata_props}
    for key in (WEIGHTS_HASHES, WEIGHTS_HEADERS):
        if key in said:
            said[key] = json.dumps({renamed[name]: value for name, value in json.loads(said[key]).items()})
    # It is of the graph with the old names.
    said.pop(IDENTITY, None)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, said)


def _move_settings(flat: Path, folder: Path) -> None:
    """Move what is neither graph nor weights, and remove the rest."""
    for path in flat.iterdir():
        if _WRITTEN.fullmatch(path.name) and path.suffix != ".onnx":
            path.replace(folder / path.name)
        else:
            path.unlink()
    flat.rmdir()


def graphs_in(folder: Path) -> list[Path]:
    """Return the graphs of such a folder, by name."""
    return sorted((folder / FOLDER).glob("*.onnx"))
