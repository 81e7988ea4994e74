"""An exported encoder that ONNX Runtime runs, over NumPy arrays."""

import hashlib
from functools import cached_property

import numpy as np
from jaxtyping import Float

from no_time_to_train.configs.image_size import check_image_size, check_img_size
from no_time_to_train.errors import ImageSizeError, WeightsFormatError
from no_time_to_train.runtime.features import EncoderFeatures, EncoderSizes, split_tokens
from no_time_to_train.runtime.onnx_session import EXPORT_AGAIN, OnnxFile, open_session
from no_time_to_train.runtime.running import PIXEL_VALUES, run_images
from no_time_to_train.weights.hashes import cached_sha256

STATES, POOLED = "last_hidden_state", "pooler_output"


class OnnxImageEncoder(EncoderSizes):
    """An encoder from `ntt export`.

    Args:
        file: As `read_onnx_file` gives it.
        img_size: Side in pixels of the square input that the matching baselines use; the file's size if it has one.
        square: Whether it has to take square images; not where it serves no matching.
        provider: Of ONNX Runtime, such as `cpu` or `cuda`; see `open_session`.

    Attributes:
        config: The registry entry.
        img_size: Side in pixels.
        random_weights: False: exports are made of weights that were given.
        device: `cpu`: arrays are NumPy's, whatever runs the network.
        session: The file, opened.
        provider: What it is opened on.

    Raises:
        ConfigError: There is no such provider, or onnxruntime is older than the file needs.
        ImageSizeError: The file takes another size.
        WeightsFormatError: The file is damaged, or does not give what it says of itself.
    """

    random_weights = False
    device = "cpu"

    def __init__(
        self, file: OnnxFile, *, img_size: int | None = None, square: bool = True, provider: str = "cpu"
    ) -> None:
        self.file = file
        self.config = file.config
        fixed = file.image_size
        if img_size is None and fixed is not None and fixed[0] == fixed[1]:
            img_size = fixed[0]
        self.img_size = self.config.default_img_size if img_size is None else img_size
        if square and fixed is not None and (self.img_size, self.img_size) != fixed:
            raise ImageSizeError(
                f"{file.path} takes images of {fixed[0]}x{fixed[1]} only, not of {self.img_size} squared",
                remedy="export it with --image-size dynamic, or set img_size to its own",
            )
        check_img_size(self.img_size, self.config)
        self.open_on(provider)
        self._check_outputs()

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the file and its weights, see `fingerprint_of`."""
        return fingerprint_of(self.file)

    def __call__(self, pixel_values: Float[np.ndarray, "B 3 H W"]) -> EncoderFeatures:
        """Encode images.

        Args:
            pixel_values: RGB, normalized by `image_mean` and `image_std`, float32. H and W are multiples of the patch
                size; a ConvNeXt takes any size from its total stride (32) on and floors at each stage.

        Raises:
            ImageSizeError: H or W is not one that the encoder takes.
        """
        height, width = pixel_values.shape[-2:]
        check_image_size(height, width, self.config)
        return split_tokens(self.outputs(pixel_values)[0], self.config, (height, width))

    def outputs(
        self, pixel_values: Float[np.ndarray, "B 3 H W"]
    ) -> tuple[Float[np.ndarray, "B N D"], Float[np.ndarray, "B D"]]:
        """Return both of the file's outputs: all tokens, and the first of them as the pooled one.

        Raises:
            ConfigError: There is no image.
            ImageSizeError: The file takes another size.
        """
        check_size_of(self.file, pixel_values.shape[-2:])
        states, pooled = run_images(self.file, self.session, pixel_values, (STATES, POOLED))
        return states, pooled

    def open_on(self, provider: str) -> None:
        """Open the file on another provider of ONNX Runtime, in the place of the one before.

        Raises:
            ConfigError: There is no such provider.
        """
        self.session, self.provider = open_session(self.file, device=provider), provider

    def _check_outputs(self) -> None:
        """Refuse a file that does not give what it says of itself."""
        inputs = [value.name for value in self.session.get_inputs()]
        widths = {value.name: value.shape[-1:] for value in self.session.get_outputs()}
        if inputs != [PIXEL_VALUES] or any(widths.get(name) != [self.embed_dim] for name in (STATES, POOLED)):
            raise WeightsFormatError(
                f"{self.file.path} is not a {self.config.name}: expected {STATES} and {POOLED} of width "
                f"{self.embed_dim} from {PIXEL_VALUES}, got {widths} from {inputs}",
                remedy=EXPORT_AGAIN,
            )


def check_size_of(file: OnnxFile, size: tuple[int, ...]) -> None:
    """Refuse images of another size than a file takes.

    Raises:
        ImageSizeError: They are.
    """
    if file.image_size is not None and tuple(size) != file.image_size:
        raise ImageSizeError(
            f"{file.path} got an image of {size[0]}x{size[1]}, it takes {file.image_size[0]}x{file.image_size[1]} only",
            remedy="export it with --image-size dynamic",
        )


def fingerprint_of(file: OnnxFile) -> str:
    """Return the identity of an exported encoder and its weights; reads all of them once.

    It equals the fingerprint of the torch encoder that the file was compared with during the export, as long as
    neither the file nor its weights have changed since: one memory serves both. Other files have their own.
    """
    weights = {path.name: cached_sha256(path) for path in file.weights}
    identity = file.identity
    if identity is not None and identity["file"] == file.digest and identity["weights"] == weights:
        return str(identity["fingerprint"])
    return f"onnx-{file.config.name}-{hash_of(file)[:16]}"


def hash_of(*files: OnnxFile) -> str:
    """Return a SHA-256 over ONNX files and their weights, in hexadecimal digits."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.path.read_bytes())
        for path in file.weights:
            digest.update(cached_sha256(path).encode())
    return digest.hexdigest()
