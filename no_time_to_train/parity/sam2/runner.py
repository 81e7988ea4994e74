"""What `ntt compare` asks for of a SAM2: backends built from what a user names, on images of the model's size."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from no_time_to_train.configs.sam2 import IMAGE_MEAN, IMAGE_STD
from no_time_to_train.configs.sam2_releases import nearest_sam2, sam2_file
from no_time_to_train.data.images import load_image
from no_time_to_train.errors import (
    ConfigError,
    ImageSizeError,
    NoTimeToTrainError,
    WeightsFormatError,
    WeightsNotFoundError,
)
from no_time_to_train.export.onnx import export_onnx
from no_time_to_train.export.sam2.files import released_name
from no_time_to_train.jax_models.sam2.load import Sam2Source, fill_sam2, read_sam2_source
from no_time_to_train.parity.compare import BackendInfo, Case, Result
from no_time_to_train.parity.inputs import denormalised, make_noise, preprocess_images
from no_time_to_train.parity.plots import draw_comparison
from no_time_to_train.parity.runner import Request, batches_of
from no_time_to_train.parity.sam2.backends import Sam2Backend
from no_time_to_train.parity.sam2.compare import AnySam2, compare_backends, sam2_backend
from no_time_to_train.parity.sam2.torch_models import load_torch_sam2
from no_time_to_train.parity.stages import NECK
from no_time_to_train.runtime.onnx_session import IMAGE_ENCODER_FILE, MODEL_FILE, PROMPT_DECODER_FILE
from no_time_to_train.weights.formats.reader import open_weights
from no_time_to_train.weights.layouts.sam2 import sam2_layout


class _Statistics(NamedTuple):
    image_mean: tuple[float, float, float] = IMAGE_MEAN
    image_std: tuple[float, float, float] = IMAGE_STD


def names_sam2(request: Request) -> bool:
    """Return whether a user names SAM2s.

    Raises:
        ConfigError: Some of what is named is a SAM2 and some is not.
    """
    named = [] if request.encoder is None else [(request.encoder, _is_sam2(request.encoder))]
    named += [(str(path), _is_sam2(path)) for path in (*request.weights, *request.eqx)]
    named += [(str(path), _is_sam2_export(path)) for path in request.onnx]
    ours, others = ([name for name, found in named if found is kind] for kind in (True, False))
    if ours and others:
        raise ConfigError(
            f"{ours[0]} is a SAM2, {others[0]} is not",
            remedy="compare a SAM2 with SAM2s, and an encoder with encoders",
        )
    return bool(ours)


def _is_sam2(name_or_path: str | Path) -> bool | None:
    """Return whether a name or weights are a SAM2's; None if that cannot be told."""
    if not Path(name_or_path).exists():
        if isinstance(name_or_path, Path):
            return None
        # A name that nearly is a SAM2's is left to where names are looked up.
        return True if sam2_file(name_or_path) is not None else None if nearest_sam2(name_or_path) else False
    try:
        tensors = open_weights(Path(name_or_path), verify=False).tensors
    except NoTimeToTrainError:
        return None
    try:
        sam2_layout(tensors, source=str(name_or_path))
    except WeightsFormatError:
        return False
    return True


def _is_sam2_export(folder: Path) -> bool | None:
    if any((folder / name).is_file() for name in (IMAGE_ENCODER_FILE, PROMPT_DECODER_FILE)):
        return True
    return False if (folder / MODEL_FILE).is_file() else None


def compare_named_sam2(request: Request) -> Result:
    """Build what is asked for, and compare it on every batch.

    Raises:
        ConfigError: There are fewer than two SAM2s, or they are of different shapes.
        WeightsNotFoundError: There are no weights.
        WeightsFormatError: They are damaged, or a folder holds no whole export.
        ShapeMismatchError: They are of another SAM2 than the named one.
        ImageSizeError: A size is not the model's.
        ImageReadError: A file is not an image.
    """
    with ExitStack() as stack:
        images = [load_image(path) for path in request.images]
        backends: list[Sam2Backend] = []
        models: list[_Model] = []
        for each in _models(request, Path(stack.enter_context(tempfile.TemporaryDirectory()))):
            backends.append(sam2_backend(each.model, [backend.name for backend in backends], each.weights))
            models.append(each)
            _check_sizes(request, backends[0].side)
        if len(backends) < 2:
            raise ConfigError(
                f"{len(backends)} SAM2s were named, expected two or more",
                remedy="name --weights, and --onnx or --eqx to compare with what you have",
            )
        cases = tuple(_cases(request, images, backends))
        compared = tuple(
            BackendInfo(backend.name, each.said, backend.precision, backend.device, backend.fingerprint)
            for backend, each in zip(backends, models, strict=True)
        )
    return Result(models[0].name, compared, cases)


def _check_sizes(request: Request, side: int) -> None:
    for height, width in request.image_sizes:
        if (height, width) != (side, side):
            raise ImageSizeError(
                f"a SAM2 of {side} pixels does not take images of {height}x{width}",
                remedy=f"leave --image-size out: its images are {side}x{side}",
            )


class _Model(NamedTuple):
    name: str
    model: AnySam2
    said: str
    weights: Path | None = None


def _models(request: Request, temporary: Path) -> Iterator[_Model]:
    """Build the models, the reference first."""
    sources = list(_sources(request))
    for source in sources:
        yield _Model(_name(source), load_torch_sam2(source), str(source.path))
    made = len(sources) == 1 and not request.onnx and not request.eqx
    for source in sources if made else map(read_sam2_source, request.eqx):
        said = f"made of {source.path}" if made else str(source.path)
        yield _Model(_name(source), fill_sam2(source), said, source.path)
    for folder in request.onnx:
        yield _Model(folder.resolve().name, folder, str(folder))
    if made:
        folder = export_onnx(sources[0].path, output=temporary / "onnx", verify=False)
        yield _Model(_name(sources[0]), folder, f"made of {sources[0].path}")


def _sources(request: Request) -> Iterator[Sam2Source]:
    """Find the weights of the torch models."""
    named = request.encoder
    if named is not None and not request.weights:
        try:
            yield read_sam2_source(named)
        except WeightsNotFoundError:
            if len(request.onnx) + len(request.eqx) < 2:
                raise
    for path in request.weights:
        yield read_sam2_source(path) if named is None or Path(named).exists() else read_sam2_source(named, path)


def _name(source: Sam2Source) -> str:
    return released_name(source) or source.path.resolve().name


def _cases(request: Request, images: Sequence[Image.Image], backends: Sequence[Sam2Backend]) -> Iterator[Case]:
    side, statistics = backends[0].side, _Statistics()
    size = (side, side)
    pixels = preprocess_images(images, size, statistics) if images else make_noise(request.num_random, size, statistics)
    for title, stem, part in batches_of(request, pixels):
        report = compare_backends(backends, part, tolerance=request.tolerance, blocks=request.blocks)
        pictures = {}
        if request.pictures:
            grids = {backend.name: backend.outputs(part)[NECK[2]][0] for backend in backends}
            image = denormalised(part[0], statistics)
            pictures = dict(draw_comparison(stem, grids, image, report.blocks, "embeddings at stride 16"))
        yield Case(title, report, pictures)
