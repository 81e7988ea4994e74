"""What `ntt compare` asks for: encoders built from what a user names, on images of several sizes and batches."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from no_time_to_train.configs.encoders import EncoderConfig
from no_time_to_train.configs.image_size import check_image_size, grid_size
from no_time_to_train.data.images import load_image
from no_time_to_train.encoders.onnx_encoder import build_onnx_encoder
from no_time_to_train.encoders.torch_encoder import FeatureEncoder, build_encoder_from_checkpoint, build_torch_encoder
from no_time_to_train.errors import ConfigError, WeightsNotFoundError
from no_time_to_train.export.onnx import export_onnx
from no_time_to_train.jax_models.load import load_eqx_encoder, named_weights
from no_time_to_train.parity.backends import AnyEncoder, Backend, backend_of
from no_time_to_train.parity.compare import BackendInfo, Case, ParityReport, Result, compare_features
from no_time_to_train.parity.inputs import denormalised, make_noise, preprocess_images
from no_time_to_train.parity.plots import draw_comparison
from no_time_to_train.parity.reference_values import KnownAnswer, check_known_answer

DEFAULT_SIZE = (224, 224)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to compare, and on what; see `ntt compare`.

    Attributes:
        image_sizes: Heights and widths; the usual ones if there are none.
    """

    encoder: str | None
    weights: tuple[Path, ...]
    onnx: tuple[Path, ...]
    eqx: tuple[Path, ...]
    images: tuple[Path, ...]
    num_random: int
    image_sizes: tuple[tuple[int, int], ...]
    batch_sizes: tuple[int, ...]
    blocks: bool
    pictures: bool
    tolerance: float | None


def compare_backends(request: Request) -> Result:
    """Build what is asked for, and compare it on every size and batch.

    Raises:
        ConfigError: There are fewer than two encoders, or they are of different shapes.
        UnknownEncoderError: The encoder's name is not known.
        WeightsNotFoundError: There are no weights.
        WeightsFormatError: They are damaged, or of an encoder that has no Equinox model.
        ShapeMismatchError: They are of another encoder than the named one.
        ImageSizeError: An encoder does not take a size.
        ImageReadError: A file is not an image.
    """
    with ExitStack() as stack:
        images = [load_image(path) for path in request.images]
        encoders, sources = _encoders(request, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        backends: list[Backend] = []
        for encoder in encoders:
            backends.append(backend_of(encoder, [backend.name for backend in backends]))
        config = backends[0].config
        for size in request.image_sizes or (DEFAULT_SIZE,):
            check_image_size(*size, config)
        cases = tuple(_cases(request, images, encoders, backends))
        known = _known_answer(request, encoders[0], sources[0])
        compared = tuple(
            BackendInfo(backend.name, source, backend.precision, backend.device, backend.fingerprint)
            for backend, source in zip(backends, sources, strict=True)
        )
    return Result(config.name, compared, cases, known)


def _encoders(request: Request, temporary: Path) -> tuple[list[AnyEncoder], list[str]]:
    """Build the encoders, the reference first, and say where each came from."""
    paths = list(request.weights)
    if not paths and request.encoder is not None:
        try:
            paths = [named_weights(request.encoder)[1]]
        except WeightsNotFoundError:
            if len(request.onnx) + len(request.eqx) < 2:
                raise
    encoders: list[AnyEncoder] = []
    for path in paths:
        named = request.encoder is not None and not Path(request.encoder).exists()
        encoders.append(
            build_torch_encoder(str(request.encoder), path) if named else build_encoder_from_checkpoint(path)
        )
    sources = [str(path) for path in paths]
    made = len(paths) == 1 and not request.onnx and not request.eqx
    for path in request.eqx or (paths if made else ()):
        encoders.append(load_eqx_encoder(path))
        sources.append(f"made of {path}" if made else str(path))
    for path in request.onnx:
        encoders.append(build_onnx_encoder(path, square=False))
        sources.append(str(path))
    if made:
        encoders.append(build_onnx_encoder(export_onnx(paths[0], output=temporary / "onnx", verify=False)))
        sources.append(f"made of {paths[0]}")
    if len(encoders) < 2:
        raise ConfigError(
            f"{len(encoders)} encoders were named, expected two or more",
            remedy="name --weights, and --onnx or --eqx to compare with what you have",
        )
    return encoders, sources


def _cases(
    request: Request, images: Sequence[Image.Image], encoders: Sequence[AnyEncoder], backends: Sequence[Backend]
) -> Iterator[Case]:
    config = backends[0].config
    for size in request.image_sizes or (DEFAULT_SIZE,):
        pixels = preprocess_images(images, size, config) if images else make_noise(request.num_random, size, config)
        for title, stem, part in batches_of(request, pixels):
            report = compare_features(
                encoders[0], *encoders[1:], pixel_values=part, tolerance=request.tolerance, blocks=request.blocks
            )
            pictures = dict(_pictures(stem, backends, part, report, config)) if request.pictures else {}
            yield Case(title, report, pictures)


def batches_of(
    request: Request, pixels: Float[np.ndarray, "N 3 H W"]
) -> Iterator[tuple[str, str, Float[np.ndarray, "B 3 H W"]]]:
    """Give images of one size in batches of every size that is asked for; images are repeated to fill one.

    Returns:
        Of each batch a title, the stem of its pictures' names, and the images.
    """
    names = [path.name for path in request.images] or [f"noise {index + 1}" for index in range(request.num_random)]
    height, width = pixels.shape[2:]
    for batch in request.batch_sizes:
        for begin in range(0, len(pixels), batch):
            chosen = [index % len(pixels) for index in range(begin, begin + batch)]
            title = f"{height}x{width}, batch {batch}: {', '.join(names[index] for index in chosen)}"
            yield title, f"{height}x{width}-batch{batch}-{begin // batch}", pixels[chosen]


def _pictures(
    stem: str, backends: Sequence[Backend], pixels: np.ndarray, report: ParityReport, config: EncoderConfig
) -> Iterator[tuple[str, tuple[str, bytes]]]:
    """Draw the stages of each backend, and the first image's patches."""
    rows, columns = grid_size(pixels.shape[2], pixels.shape[3], config)

    def patches(backend: Backend) -> np.ndarray:
        return backend.outputs(pixels)[0][0, backend.num_prefix :].reshape(rows, columns, -1)

    grids = {backend.name: patches(backend) for backend in backends}
    return draw_comparison(stem, grids, denormalised(pixels[0], config), report.blocks)


def _known_answer(request: Request, reference: AnyEncoder, source: str) -> KnownAnswer | None:
    if not isinstance(reference, FeatureEncoder):
        return None
    answers = (check_known_answer(reference, Path(source), path) for path in request.images)
    return next((answer for answer in answers if answer is not None), None)
