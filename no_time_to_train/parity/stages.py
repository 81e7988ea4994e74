"""The stages that an encoder goes through, as torch computes them: where to watch each, and how to compute it alone.

Names are `embedding`, `blocks.<i>.<stage>` and `final_norm`. A ViT's block has the stages `input`, `attn_in` (after the
norm), `attn_raw` (attention), `attn_scaled` (LayerScale), `post_attn` (the sum), `mlp_in`, `mlp_raw`, `mlp_scaled` and
`output`; a ConvNeXt's, counted through all of its stages, `downsample` (the first of a stage), `input`, `conv_raw`,
`mlp_in`, `mlp_raw`, `mlp_scaled` and `output`. Values are (B, N, D), a ConvNeXt's (B, h, w, D).
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

PIXEL_VALUES, EMBEDDING, FINAL_NORM = "pixel_values", "embedding", "final_norm"
# Of SAM2, after the blocks: the levels of the neck, and what the decoder gives.
NECK = ("neck_stride4", "neck_stride8", "neck_stride16")
DECODED = ("predicted_iou", "mask_logits", "object_score")
AFTER_BLOCKS = (*NECK, *DECODED)
Trace = dict[str, Tensor]


@dataclass(frozen=True)
class HookPoint:
    """Where a stage's values are seen while a model runs."""

    module: nn.Module
    side: Literal["in", "out"] = "out"
    channels_first: bool = False

    def seen(self, given: Any, result: Any) -> Tensor:
        """Return the values, channels last."""
        values: Any = given if self.side == "in" else result
        values = values[0] if isinstance(values, tuple) else values
        return _channels_last(values) if self.channels_first else cast(Tensor, values)


@dataclass(frozen=True)
class Stage:
    """One step of an encoder.

    Attributes:
        name: Of its result.
        inputs: The names of what it takes.
        module: What has its weights; None if it has none.
        compute: Takes the module and the inputs, in any float dtype.
        watched: Where its result is seen; None if it has to be computed from its inputs.
        full_precision: Whether it is computed in float32 in files of any precision.
    """

    name: str
    inputs: tuple[str, ...]
    module: nn.Module | None
    compute: Callable[..., Tensor]
    watched: HookPoint | None
    full_precision: bool = False


def stages_of(model: PreTrainedModel) -> list[Stage]:
    """List the stages of a DINOv3 or DINOv2 model in their order; `input`, which is another's output, is left out."""
    # Its modules are not typed.
    parts: Any = model
    return _convnext_stages(parts) if hasattr(parts, "pool") else _vit_stages(parts)


def _vit_stages(model: Any) -> list[Stage]:
    version_2 = not hasattr(model, "rope_embeddings")
    attend = _attend if version_2 else _RotaryAttention(model)
    blocks, norm = (model.encoder.layer, model.layernorm) if version_2 else (model.model.layer, model.norm)
    stages, before = [_layer(EMBEDDING, PIXEL_VALUES, model.embeddings)], EMBEDDING
    for index, block in enumerate(blocks):
        at = f"blocks.{index}.{{}}".format
        stages += [
            _layer(at("attn_in"), before, block.norm1),
            Stage(at("attn_raw"), (at("attn_in"), PIXEL_VALUES), block.attention, attend, HookPoint(block.attention)),
            _layer(at("attn_scaled"), at("attn_raw"), block.layer_scale1),
            Stage(at("post_attn"), (before, at("attn_scaled")), None, _add, HookPoint(block.norm2, "in")),
            _layer(at("mlp_in"), at("post_attn"), block.norm2),
            _layer(at("mlp_raw"), at("mlp_in"), block.mlp),
            _layer(at("mlp_scaled"), at("mlp_raw"), block.layer_scale2),
            Stage(at("output"), (at("post_attn"), at("mlp_scaled")), None, _add, HookPoint(block)),
        ]
        before = at("output")
    return [*stages, _layer(FINAL_NORM, before, norm)]


def _convnext_stages(model: Any) -> list[Stage]:
    stages: list[Stage] = []
    before, index = PIXEL_VALUES, 0
    for part in model.model.stages:
        shrunk = f"blocks.{index}.downsample"
        shrink = _shrink_images if before == PIXEL_VALUES else _shrink
        last = part.downsample_layers[-1]
        stages.append(Stage(shrunk, (before,), part.downsample_layers, shrink, HookPoint(last, channels_first=True)))
        before = shrunk
        for block in part.layers:
            at = f"blocks.{index}.{{}}".format
            convolved = HookPoint(block.depthwise_conv, channels_first=True)
            stages += [
                Stage(at("conv_raw"), (before,), block.depthwise_conv, _convolve, convolved),
                _layer(at("mlp_in"), at("conv_raw"), block.layer_norm),
                Stage(at("mlp_raw"), (at("mlp_in"),), block, _pointwise, HookPoint(block.pointwise_conv2)),
                Stage(at("mlp_scaled"), (at("mlp_raw"),), block, _scale, None),
                Stage(at("output"), (before, at("mlp_scaled")), None, _add, HookPoint(block, channels_first=True)),
            ]
            before, index = at("output"), index + 1
    norm = model.layer_norm
    return [*stages, Stage(FINAL_NORM, (before,), norm, _pool_and_norm, HookPoint(norm))]


def _layer(name: str, given: str, module: nn.Module) -> Stage:
    return Stage(name, (given,), module, _call, HookPoint(module))


def trace_torch(model: PreTrainedModel, pixel_values: Float[Tensor, "B 3 H W"]) -> Trace:
    """Run a model and return what comes out of every stage, on the CPU.

    Args:
        model: DINOv3 or DINOv2, in evaluation mode; left as it is.
        pixel_values: RGB, normalised, on the model's device and in its dtype.
    """
    return trace_stages(stages_of(model), lambda: model(pixel_values=pixel_values))


def trace_stages(stages: Sequence[Stage], run: Callable[[], object]) -> Trace:
    """Run a model and return what comes out of its stages, on the CPU.

    Args:
        stages: Of the model, in their order.
        run: Runs it once.
    """
    trace = Trace()

    def watch(name: str, watched: HookPoint) -> RemovableHandle:
        def hook(module: nn.Module, given: Any, result: Any) -> None:
            trace[name] = watched.seen(given, result).detach().cpu()

        return watched.module.register_forward_hook(hook)

    handles = [watch(stage.name, stage.watched) for stage in stages if stage.watched is not None]
    try:
        with torch.inference_mode():
            run()
            for stage in stages:
                if stage.watched is None:
                    trace[stage.name] = compute_stage(stage, [trace[name] for name in stage.inputs])
    finally:
        for handle in handles:
            handle.remove()
    return with_inputs({stage.name: trace[stage.name] for stage in stages})


def compute_stage(stage: Stage, inputs: Sequence[Tensor]) -> Tensor:
    """Compute one stage alone on the CPU, in the dtype of its inputs; the model's own weights are left alone."""
    module = stage.module
    if module is not None:
        # Of weights that are shared with inference mode a copy needs no gradients either.
        module = copy.deepcopy(module).to("cpu", inputs[0].dtype)
    with torch.inference_mode():
        return stage.compute(module, *inputs)


def with_inputs(trace: Trace) -> Trace:
    """Put the inputs of blocks, which are outputs of others, into a trace."""
    result = Trace()
    before: Tensor | None = None
    for name, values in trace.items():
        place, _, stage = name.rpartition(".")
        if stage in ("attn_in", "conv_raw") and before is not None:
            result[f"{place}.input"] = before
        result[name] = values
        if stage in (EMBEDDING, "downsample", "output"):
            before = values
    return result


class _RotaryAttention:
    """Attention with the rotary embedding of an image's size."""

    def __init__(self, model: Any) -> None:
        self.rope = model.rope_embeddings
        self.patch_size = int(model.config.patch_size)

    def __call__(self, module: nn.Module, hidden: Tensor, pixel_values: Tensor) -> Tensor:
        attended: Tensor = module(hidden, position_embeddings=self._angles(pixel_values, hidden.dtype))[0]
        return attended

    def _angles(self, pixel_values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if dtype != torch.float64:
            cosines, sines = copy.deepcopy(self.rope).to("cpu")(pixel_values.to(dtype))
            return cosines, sines
        # transformers has no other precision than float32 for the places of patches.
        counts = [side // self.patch_size for side in pixel_values.shape[-2:]]
        places = torch.cartesian_prod(*((torch.arange(n, dtype=dtype) + 0.5) / n * 2 - 1 for n in counts))
        angles = 2 * math.pi * places[:, :, None] * self.rope.inv_freq.cpu().to(dtype)
        angles = angles.flatten(1).tile(2)
        return angles.cos(), angles.sin()


def _attend(module: nn.Module, hidden: Tensor, pixel_values: Tensor) -> Tensor:
    attended: Tensor = module(hidden)[0]
    return attended


def _call(module: nn.Module, values: Tensor) -> Tensor:
    result: Tensor = module(values)
    return result


def _add(module: None, stream: Tensor, branch: Tensor) -> Tensor:
    return stream + branch


def _convolve(module: nn.Module, pixels: Tensor) -> Tensor:
    return _channels_last(module(_channels_first(pixels)))


def _shrink_images(modules: nn.ModuleList, images: Tensor) -> Tensor:
    for module in modules:
        images = module(images)
    return _channels_last(images)


def _shrink(modules: nn.ModuleList, pixels: Tensor) -> Tensor:
    return _shrink_images(modules, _channels_first(pixels))


def _pointwise(block: Any, pixels: Tensor) -> Tensor:
    result: Tensor = block.pointwise_conv2(block.activation_fn(block.pointwise_conv1(pixels)))
    return result


def _scale(block: Any, pixels: Tensor) -> Tensor:
    scaled: Tensor = pixels * block.gamma
    return scaled


def _pool_and_norm(norm: nn.Module, pixels: Tensor) -> Tensor:
    tokens = pixels.flatten(1, 2)
    return _call(norm, torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1))


def _channels_last(images: Tensor) -> Tensor:
    return images.permute(0, 2, 3, 1)


def _channels_first(pixels: Tensor) -> Tensor:
    return pixels.permute(0, 3, 1, 2)
