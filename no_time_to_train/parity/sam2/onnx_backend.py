"""SAM2 in ONNX: both files of a folder that `ntt export` wrote."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from jaxtyping import Float

from no_time_to_train.errors import NoTimeToTrainError, WeightsFormatError
from no_time_to_train.export.sam2.trace import EMBEDDINGS, MASKS, PROMPTS
from no_time_to_train.export.trace import PIXEL_VALUES
from no_time_to_train.jax_models.sam2.load import read_sam2_source
from no_time_to_train.parity.sam2.backends import Outputs, Sam2Backend, as_trace, canonical_outputs
from no_time_to_train.parity.sam2.torch_models import load_torch_sam2
from no_time_to_train.parity.stages import Trace, with_inputs
from no_time_to_train.proposers.sam2.predictor import Sam2Predictor
from no_time_to_train.runtime.onnx_session import (
    EXPORT_AGAIN,
    IMAGE_ENCODER_FILE,
    PROMPT_DECODER_FILE,
    OnnxFile,
    open_session,
    open_tapped_session,
    read_onnx_file,
)
from no_time_to_train.weights.hashes import cached_sha256


@dataclass(frozen=True)
class OnnxSam2(Sam2Backend):
    """Both files of a folder that `ntt export` wrote.

    Attributes:
        images: Embeds images.
        decoder: Decodes prompts, in fp32 whatever the other is in.
    """

    kind = "onnx"
    images: OnnxFile
    decoder: OnnxFile

    @property
    def precision(self) -> str:
        """What images are embedded in."""
        return self.images.metadata.get("precision", "fp32")

    @property
    def side(self) -> int:
        """Height and width of the images that it takes, in pixels."""
        if self.images.image_size is None:
            raise WeightsFormatError(
                f"{self.images.path} does not state an image size", remedy="name a folder that ntt export wrote"
            )
        return self.images.image_size[0]

    @property
    def fingerprint(self) -> str:
        """Identity of both files and their weights; reads all of them."""
        digest = hashlib.sha256()
        for file in (self.images, self.decoder):
            digest.update(file.digest.encode())
            for path in file.weights:
                digest.update(cached_sha256(path).encode())
        return f"onnx-sam2-{digest.hexdigest()[:16]}"

    def outputs(self, pixels: Float[np.ndarray, "B 3 S S"]) -> Outputs:
        """Embed images, and decode the prompts on each."""
        return self._decoded(self._run(self._session, EMBEDDINGS, pixels))

    def trace(self, pixels: Float[np.ndarray, "B 3 S S"]) -> Trace:
        """Return what comes out of every stage that the graph names, on the CPU."""
        session, names = open_tapped_session(self.images)
        values = self._run(session, (*names, *EMBEDDINGS), pixels)
        stages = {name: torch.from_numpy(array) for name, array in zip(names, values, strict=False)}
        return with_inputs(stages) | as_trace(self._decoded(values[len(names) :]))

    def torch_twin(self) -> Sam2Predictor | None:
        """Return a torch model of the weights next to the files, which folders in fp32 hold."""
        try:
            return load_torch_sam2(read_sam2_source(self.images.path.parent))
        except NoTimeToTrainError:
            return None

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return open_session(self.images)

    @cached_property
    def _decoding_session(self) -> onnxruntime.InferenceSession:
        return open_session(self.decoder)

    def _run(
        self, session: onnxruntime.InferenceSession, names: Sequence[str], pixels: Float[np.ndarray, "B 3 S S"]
    ) -> list[np.ndarray]:
        """Run the image encoder; a file of a fixed batch gets as many images at a time, the last ones filled up."""
        count = len(pixels)
        batch = self.images.batch_size or count
        filled = np.concatenate([pixels, np.repeat(pixels[-1:], -count % batch, axis=0)])
        parts = [
            _ask(self.images, session, names, {PIXEL_VALUES: filled[begin : begin + batch]})
            for begin in range(0, len(filled), batch)
        ]
        # A stage may be flat, a row for every token of all images.
        return [
            np.concatenate([array.reshape(batch, -1, *array.shape[1:]) for array in arrays])[:count].reshape(
                -1, *arrays[0].shape[1:]
            )
            for arrays in zip(*parts, strict=True)
        ]

    def _decoded(self, embeddings: Sequence[np.ndarray]) -> Outputs:
        prompts, found = self.prompts, []
        by_points = (prompts.points[None], prompts.labels[None], np.zeros((1, 0, 4), np.float32))
        no_points = np.zeros((1, 1, 0, 2), np.float32), np.zeros((1, len(prompts.boxes), 0), np.int64)
        for image in range(len(embeddings[0])):
            inputs = {name: level[image : image + 1] for name, level in zip(EMBEDDINGS, embeddings, strict=True)}
            asked = [
                _ask(self.decoder, self._decoding_session, MASKS, inputs | dict(zip(PROMPTS, given, strict=True)))
                for given in (by_points, (*no_points, prompts.boxes[None]))
            ]
            found.append(tuple(np.concatenate(parts, axis=1)[0] for parts in zip(*asked, strict=True)))
        return canonical_outputs(embeddings, found)


def read_onnx_sam2(folder: Path, name: str) -> OnnxSam2:
    """Open both files of a folder.

    Raises:
        WeightsNotFoundError: One is not there.
        WeightsFormatError: One is damaged, not of `ntt export`, or of another SAM2 than the other.
    """
    images, decoder = (read_onnx_file(folder / file) for file in (IMAGE_ENCODER_FILE, PROMPT_DECODER_FILE))
    for file in (images, decoder):
        if file.metadata.get("family") != "sam2":
            raise WeightsFormatError(
                f"{file.path} was not written by ntt export", remedy="export the SAM2 with ntt export"
            )
    opened = OnnxSam2(name, images, decoder)
    given = [value.shape[1:] for value in opened._session.get_outputs()]
    taken = [value.shape[1:] for value in opened._decoding_session.get_inputs()[: len(EMBEDDINGS)]]
    if given != taken:
        raise WeightsFormatError(
            f"{images.path} gives embeddings of {given}, {PROMPT_DECODER_FILE} next to it takes {taken}",
            remedy=EXPORT_AGAIN,
        )
    return opened


def _ask(
    file: OnnxFile, session: onnxruntime.InferenceSession, names: Sequence[str], inputs: dict[str, np.ndarray]
) -> list[np.ndarray]:
    try:
        values: list[np.ndarray] = session.run(list(names), inputs)
    except Exception as error:  # onnxruntime's errors have no common class that is public
        raise WeightsFormatError(f"{file.path} fails: {error}", remedy=EXPORT_AGAIN) from error
    return values
