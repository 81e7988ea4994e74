"""An exported ONNX file as an encoder for the matching baselines."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from jaxtyping import Float
from torch import Tensor

from no_time_to_train.configs.image_size import grid_size
from no_time_to_train.encoders.base import Encoder
from no_time_to_train.errors import ConfigError, ImageSizeError, WeightsFormatError
from no_time_to_train.runtime.onnx_session import EXPORT_AGAIN, OnnxFile, open_session, read_onnx_file
from no_time_to_train.weights.hashes import cached_sha256

_INPUT, _OUTPUT, _POOLED = "pixel_values", "last_hidden_state", "pooler_output"


class OnnxEncoder(Encoder):
    """An encoder that ONNX Runtime runs, on the CPU or on a CUDA device.

    `to("cuda")` opens the file there, for which onnxruntime-gpu has to be installed; tensors then stay on the device.
    Without gradients: it serves matching, not training.

    Args:
        file: As `read_onnx_file` gives it.
        img_size: Side in pixels of the square input that the matching baselines use; the file's size if it has one.
        square: Whether it has to take square images; not where it serves no matching.
    """

    def __init__(self, file: OnnxFile, *, img_size: int | None = None, square: bool = True) -> None:
        self._fixed = file.image_size
        if img_size is None and self._fixed is not None and self._fixed[0] == self._fixed[1]:
            img_size = self._fixed[0]
        super().__init__(file.config, img_size=img_size)
        if square and self._fixed is not None and (self.img_size, self.img_size) != self._fixed:
            raise ImageSizeError(
                f"{file.path} takes images of {self._fixed[0]}x{self._fixed[1]} only, not of {self.img_size} squared",
                remedy="export it with --image-size dynamic, or set img_size to its own",
            )
        self.file = file
        self._session = open_session(file)
        self._check_outputs()
        # Follows the module from device to device.
        self.register_buffer("_place", torch.empty(0), persistent=False)
        self._opened_on = self.device
        self.eval()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle it as the file that it is."""
        return _opened, (self.file.path, self.img_size, str(self.device))

    @property
    def dtype(self) -> torch.dtype:
        """Features are float32, whatever the file computes in."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        """Where the module was moved to."""
        place: Tensor = self.get_buffer("_place")
        return place.device

    @property
    def fingerprint(self) -> str:
        """Identity of the file and its weights; reads all of them once.

        It equals the fingerprint of the torch encoder that the file was compared with during the export, as long as
        neither the file nor its weights have changed since: one memory serves both. Other files have their own.
        """
        weights = {path.name: cached_sha256(path) for path in self.file.weights}
        identity = self.file.identity
        if identity is not None and identity["file"] == self.file.digest and identity["weights"] == weights:
            return str(identity["fingerprint"])
        digest = hashlib.sha256(self.file.path.read_bytes())
        for each in weights.values():
            digest.update(each.encode())
        return f"onnx-{self.config.name}-{digest.hexdigest()[:16]}"

    def tokens(self, pixel_values: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        """Encode images; see `outputs`.

        Raises:
            ImageSizeError: The file takes another size.
        """
        return self.outputs(pixel_values)[0]

    def outputs(self, pixel_values: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B D"]]:
        """Return both of the file's outputs: all tokens, and the first of them as the pooled one.

        A file of a fixed batch gets as many images at a time, the last ones filled up.

        Raises:
            ImageSizeError: The file takes another size.
        """
        size = tuple(pixel_values.shape[-2:])
        if self._fixed is not None and size != self._fixed:
            raise ImageSizeError(
                f"{self.file.path} got an image of {size[0]}x{size[1]}, it takes {self._fixed[0]}x{self._fixed[1]} "
                "only",
                remedy="export it with --image-size dynamic",
            )
        if not len(pixel_values):
            raise ConfigError("a batch of no images cannot be encoded", remedy="give at least one")
        session = self._session_here()
        pixels = pixel_values.detach().float().contiguous()
        batch = self.file.batch_size
        if batch is None or len(pixels) == batch:
            return self._run(session, pixels)
        parts = []
        for begin in range(0, len(pixels), batch):
            part = pixels[begin : begin + batch]
            filled = torch.cat([part, part[-1:].expand(batch - len(part), -1, -1, -1)]).contiguous()
            parts.append([output[: len(part)] for output in self._run(session, filled)])
        states, pooled = (torch.cat(outputs) for outputs in zip(*parts, strict=True))
        return states, pooled

    def _run(self, session: onnxruntime.InferenceSession, pixels: Tensor) -> tuple[Tensor, Tensor]:
        if pixels.device.type == "cpu":
            try:
                states, pooled = session.run([_OUTPUT, _POOLED], {_INPUT: pixels.numpy()})
            except Exception as error:  # onnxruntime's errors have no common class that is public
                raise WeightsFormatError(
                    f"{self.file.path} fails on images of {tuple(pixels.shape)}: {error}", remedy=EXPORT_AGAIN
                ) from error
            return torch.from_numpy(states), torch.from_numpy(pooled)
        # On a device the tensors stay where they are.
        device, index = pixels.device.type, pixels.device.index or 0
        grid = grid_size(pixels.shape[2], pixels.shape[3], self.config)
        count = 1 + self.config.num_storage_tokens + grid[0] * grid[1]
        tokens = torch.empty(len(pixels), count, self.embed_dim, device=pixels.device)
        binding = session.io_binding()
        binding.bind_input(_INPUT, device, index, np.float32, tuple(pixels.shape), pixels.data_ptr())
        binding.bind_output(_OUTPUT, device, index, np.float32, tuple(tokens.shape), tokens.data_ptr())
        torch.cuda.current_stream(pixels.device).synchronize()
        session.run_with_iobinding(binding)
        return tokens, tokens[:, 0]

    def _check_outputs(self) -> None:
        """Refuse a file that does not give what it says of itself."""
        inputs = [value.name for value in self._session.get_inputs()]
        widths = {value.name: value.shape[-1:] for value in self._session.get_outputs()}
        if inputs != [_INPUT] or any(widths.get(name) != [self.embed_dim] for name in (_OUTPUT, _POOLED)):
            raise WeightsFormatError(
                f"{self.file.path} is not a {self.config.name}: expected {_OUTPUT} and {_POOLED} of width "
                f"{self.embed_dim} from {_INPUT}, got {widths} from {inputs}",
                remedy=EXPORT_AGAIN,
            )

    def _session_here(self) -> onnxruntime.InferenceSession:
        if self._opened_on != self.device:
            if self.device.type not in ("cpu", "cuda"):
                raise ConfigError(f"ONNX encoders don't run on {self.device}", remedy="use cpu or cuda")
            self._session = open_session(self.file, device=str(self.device))
            self._opened_on = self.device
        return self._session


def _opened(path: Path, img_size: int, device: str) -> OnnxEncoder:
    return build_onnx_encoder(path, img_size=img_size).to(device)


def build_onnx_encoder(path: Path | str, *, img_size: int | None = None, square: bool = True) -> OnnxEncoder:
    """Open an exported encoder.

    Args:
        path: The folder that `ntt export` wrote, or the ONNX file in it.
        img_size: Side in pixels of the square input that the matching baselines use.
        square: Whether it has to take square images.

    Raises:
        WeightsNotFoundError: There is none.
        WeightsFormatError: It is damaged, or no export of this package.
        ImageSizeError: The file takes another size.
    """
    return OnnxEncoder(read_onnx_file(Path(path)), img_size=img_size, square=square)
