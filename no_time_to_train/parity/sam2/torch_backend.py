"""SAM2 in torch, as transformers computes it."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from no_time_to_train.parity.backends import PRECISIONS
from no_time_to_train.parity.sam2.backends import Outputs, Sam2Backend, as_trace
from no_time_to_train.parity.sam2.stages import decode, sam2_stages
from no_time_to_train.parity.stages import AFTER_BLOCKS, DECODED, NECK, Trace, trace_stages
from no_time_to_train.proposers.sam2.predictor import Sam2Predictor


@dataclass(frozen=True)
class TorchSam2(Sam2Backend):
    """transformers' `Sam2Model`.

    Attributes:
        predictor: Holds it.
    """

    kind = "torch"
    predictor: Sam2Predictor

    @property
    def precision(self) -> str:
        """What images are embedded in."""
        return PRECISIONS[str(self.predictor.image_dtype).removeprefix("torch.")]

    @property
    def device(self) -> str:
        """Where the weights are."""
        return self.predictor.device.type

    @property
    def side(self) -> int:
        """Height and width of the images that it takes, in pixels."""
        return self.predictor.image_size

    @property
    def fingerprint(self) -> str:
        """Identity of architecture and weights; reads all of them."""
        return self.predictor.fingerprint()

    @torch.inference_mode()
    def outputs(self, pixels: Float[np.ndarray, "B 3 S S"]) -> Outputs:
        """Embed images, and decode the prompts on each."""
        model = self.predictor.model
        given = torch.from_numpy(pixels).to(self.predictor.device, self.predictor.image_dtype)
        maps = [level.float().permute(0, 2, 3, 1) for level in model.get_image_embeddings(given)]
        found = (*maps, *decode(model, maps, self.prompts))
        return {name: values.cpu().numpy() for name, values in zip((*NECK, *DECODED), found, strict=True)}

    def trace(self, pixels: Float[np.ndarray, "B 3 S S"]) -> Trace:
        """Return what comes out of every stage, on the CPU."""
        stages = [stage for stage in sam2_stages(self.predictor.model, self.prompts) if stage.name not in AFTER_BLOCKS]
        found = Outputs()
        seen = trace_stages(stages, lambda: found.update(self.outputs(pixels)))
        return seen | as_trace(found)

    def torch_twin(self) -> Sam2Predictor | None:
        """Return the model itself if it is in float32."""
        return self.predictor if self.precision == "fp32" else None
