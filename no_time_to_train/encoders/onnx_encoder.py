"""An exported ONNX file as an encoder for the matching baselines."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from no_time_to_train.configs.image_size import grid_size
from no_time_to_train.encoders.base import Encoder
from no_time_to_train.errors import ConfigError
from no_time_to_train.runtime.encoder import STATES, OnnxImageEncoder, check_size_of, fingerprint_of
from no_time_to_train.runtime.onnx_session import OnnxFile, read_onnx_file
from no_time_to_train.runtime.running import PIXEL_VALUES


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
        self._runner = OnnxImageEncoder(file, img_size=img_size, square=square)
        super().__init__(file.config, img_size=self._runner.img_size)
        self.file = file
        # Follows the module from device to device.
        self.register_buffer("_place", torch.empty(0), persistent=False)
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
        return fingerprint_of(self.file)

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
        if self._runner.provider != str(self.device):
            if self.device.type not in ("cpu", "cuda"):
                raise ConfigError(f"ONNX encoders don't run on {self.device}", remedy="use cpu or cuda")
            self._runner.open_on(str(self.device))
        if not len(pixel_values) or self.device.type == "cpu":
            states, pooled = self._runner.outputs(pixel_values.detach().float().cpu().numpy())
            return torch.from_numpy(states), torch.from_numpy(pooled)
        check_size_of(self.file, pixel_values.shape[-2:])
        pixels = pixel_values.detach().float().contiguous()
        batch = self.file.batch_size or len(pixels)
        parts = []
        for begin in range(0, len(pixels), batch):
            part = pixels[begin : begin + batch]
            filled = torch.cat([part, part[-1:].expand(batch - len(part), -1, -1, -1)]).contiguous()
            parts.append(self._run_there(filled)[: len(part)])
        tokens = torch.cat(parts)
        return tokens, tokens[:, 0]

    def _run_there(self, pixels: Tensor) -> Tensor:
        """Run the file on a device, on which the tensors stay."""
        session = self._runner.session
        device, index = pixels.device.type, pixels.device.index or 0
        grid = grid_size(pixels.shape[2], pixels.shape[3], self.config)
        count = 1 + self.config.num_storage_tokens + grid[0] * grid[1]
        tokens = torch.empty(len(pixels), count, self.embed_dim, device=pixels.device)
        binding = session.io_binding()
        binding.bind_input(PIXEL_VALUES, device, index, np.float32, tuple(pixels.shape), pixels.data_ptr())
        binding.bind_output(STATES, device, index, np.float32, tuple(tokens.shape), tokens.data_ptr())
        torch.cuda.current_stream(pixels.device).synchronize()
        session.run_with_iobinding(binding)
        return tokens


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
