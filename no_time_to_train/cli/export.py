"""`ntt export`."""

import json as json_module
import re
from typing import Annotated, Literal

from cyclopts import Parameter

from no_time_to_train.cli.options import OptionalOutput, OptionalPath, Output, Settings
from no_time_to_train.configs.image_size import parse_image_size
from no_time_to_train.configs.limits import MOST_IN_BATCH, TOGETHER, check_number
from no_time_to_train.errors import ConfigError
from no_time_to_train.io.paths import without_home


def export(
    encoder: str,
    *,
    weights: OptionalPath = None,
    output: OptionalOutput = None,
    image_size: str = "dynamic",
    batch_size: str = "dynamic",
    opset: int = 23,
    precision: Literal["fp32", "fp16", "int8", "all"] = "fp32",
    layout: Literal["flat", "transformers.js"] = "flat",
    copy_weights: bool = False,
    verify: bool = True,
    json: bool = False,
) -> None:
    """Write an encoder, or a SAM2, as ONNX, through the JAX path, its weights bound where they are.

    Args:
        encoder: A registry name such as dinov3_small or sam2_hiera_tiny, whose weights are looked for under
            checkpoints/; or a weights file or folder of any layout; or a Lightning checkpoint.
        weights: A file or folder that must hold the named encoder.
        output: A folder; beside the weights if left out.
        image_size: Height and width in pixels, such as 224x224, or `dynamic` for any.
        batch_size: Images at a time, or `dynamic` for any number.
        opset: 23 has attention as one operator; 17 is for TensorRT and older runtimes.
        precision: fp16 halves the file; int8 is a quarter of it, and faster where the CPU has VNNI or AMX; `all` writes
            the three of them, in the layout transformers.js.
        layout: `transformers.js` writes `onnx/model.onnx`, `model_fp16.onnx` and `model_quantized.onnx`, each next to
            its own weights, into the folder that --output names.
        copy_weights: Write the weights as ordinary external data, for tools that read no other.
        verify: Compare the file with the Equinox model, which needs the weights in memory twice.
        json: Print what the file says of itself as JSON.
    """
    from no_time_to_train.export.onnx import export_onnx
    from no_time_to_train.export.transformers_js import SUFFIXES, export_for_transformers_js, graphs_in
    from no_time_to_train.runtime.onnx_session import IMAGE_ENCODER_FILE, PROMPT_DECODER_FILE, read_onnx_file

    size: tuple[int, int] | Literal["dynamic"] = "dynamic" if image_size == "dynamic" else parse_image_size(image_size)
    batch = _batch_size(batch_size)
    if layout == "transformers.js":
        precisions = tuple(SUFFIXES) if precision == "all" else (precision,)
        folder = export_for_transformers_js(
            encoder,
            weights,
            output,
            precisions=precisions,
            image_size=size,
            batch_size=batch,
            opset=opset,
            verify=verify,
        )
        parts = graphs_in(folder)
    elif precision == "all":
        raise ConfigError("--precision all is for --layout transformers.js", remedy="name one precision")
    else:
        folder = export_onnx(
            encoder,
            weights,
            output,
            image_size=size,
            batch_size=batch,
            opset=opset,
            precision=precision,
            copy_weights=copy_weights,
            verify=verify,
        )
        parts = [folder / name for name in (IMAGE_ENCODER_FILE, PROMPT_DECODER_FILE) if (folder / name).is_file()]
    files = [read_onnx_file(path) for path in parts or [folder]]
    if json:
        told = [{"path": str(file.path), **file.metadata} for file in files]
        print(json_module.dumps(told if parts else told[0], indent=2))
        return
    for file in files:
        kilobytes = file.path.stat().st_size / 1000
        print(
            f"{without_home(str(file.path))}: {file.metadata['encoder']}, {file.metadata['precision']}, opset {opset}, "
            f"images {file.metadata['image_size']}, batches {file.metadata['batch_size']}, {kilobytes:.0f} kB, "
            f"weights {file.num_bytes / 1e6:.1f} MB"
        )
        print(_what_was_verified(file.metadata["verified"]))


def export_pipeline(
    *,
    settings: Annotated[Settings, Parameter(required=True)] = None,
    output: Output,
    encoder: str | None = None,
    encoder_weights: OptionalPath = None,
    sam2: str | None = None,
    sam2_weights: OptionalPath = None,
    memory: Annotated[OptionalPath, Parameter(alias="-m")] = None,
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    opset: int = 23,
    verify: bool = True,
) -> None:
    """Write a whole pipeline as one folder that ONNX Runtime runs without torch: both networks, settings, memory.

    Args:
        settings: YAMLs of the matching baselines, a later one over an earlier one.
        output: The folder to write; ntt predict --bundle and Segmenter.from_bundle take it.
        encoder: A registry name, or a weights file or folder, before that of the settings.
        encoder_weights: The encoder's weights, before those of the settings.
        sam2: A SAM2 configuration's name or a folder, before that of the settings.
        sam2_weights: SAM2's weights, before those of the settings.
        memory: A memory file of references, as Segmenter.save_memory writes it, to go with it.
        precision: Of the image encoders; prompts are decoded in fp32.
        opset: 23 has attention as one operator; 17 is for older runtimes.
        verify: Compare the files with the Equinox models.
    """
    from no_time_to_train.cli.predictor import load_settings
    from no_time_to_train.export.bundle import export_bundle
    from no_time_to_train.io.atomic import check_writable

    check_writable(output)
    config = load_settings(
        settings or [], encoder=encoder, encoder_weights=encoder_weights, sam2=sam2, sam2_weights=sam2_weights
    )
    folder = export_bundle(config, output, precision=precision, opset=opset, memory=memory, verify=verify)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{without_home(str(folder))}: {size / 1e6:.1f} MB; ntt predict --bundle runs it")


def _what_was_verified(verified: str) -> str:
    if not verified.startswith("{"):
        return f"verified: {verified}"
    drift = json_module.loads(verified)
    shapes = ", ".join(f"{batch} of {height}x{width}" for batch, _, height, width in drift["shapes"])
    return (
        f"verified against Equinox on {shapes}: largest difference {drift['largest_difference']:.1e}, token cosine at "
        f"least {drift['least_token_cosine']:.7f}, on average {drift['mean_token_cosine']:.7f}"
    )


def _batch_size(text: str) -> int | Literal["dynamic"]:
    if text == "dynamic":
        return "dynamic"
    if not re.fullmatch(r"[0-9]{1,1000}", text):
        raise ConfigError(f"{text!r:.40} is not a batch size", remedy="write dynamic, or a number")
    check_number("--batch-size", int(text), 1, MOST_IN_BATCH, TOGETHER)
    return int(text)
