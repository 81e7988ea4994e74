"""What a student is compared with its teacher in: the final tokens, and patches in between."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from no_time_to_train.configs.encoders import EncoderConfig
from no_time_to_train.configs.image_size import grid_size
from no_time_to_train.errors import ConfigError


class DenseFeatures(NamedTuple):
    """Features of a batch.

    Attributes:
        cls: The CLS token after the final norm; a ConvNeXt's pooled feature.
        patches: Patch tokens after the final norm, on their grid.
        layers: Patch tokens behind chosen blocks (a ConvNeXt's stages), before any norm.
    """

    cls: Float[Tensor, "B D"]
    patches: Float[Tensor, "B h w D"]
    layers: dict[int, Float[Tensor, "B h w E"]]


def dense_features(
    model: PreTrainedModel, config: EncoderConfig, pixel_values: Float[Tensor, "B 3 H W"], layers: Sequence[int] = ()
) -> DenseFeatures:
    """Encode images by a transformers model, with gradients if they are wanted.

    Args:
        model: DINOv3 or DINOv2.
        config: Of the model.
        pixel_values: RGB, normalised; sides of whole patches.
        layers: Blocks whose patch tokens are wanted too.
    """
    dtype = next(model.parameters()).dtype
    output: Any = model(pixel_values=pixel_values.to(dtype), output_hidden_states=bool(layers))
    rows, columns = grid_size(pixel_values.shape[2], pixel_values.shape[3], config)
    tokens: Tensor = output.last_hidden_state

    def on_grid(tokens: Tensor) -> Tensor:
        patches = tokens[:, tokens.shape[1] - rows * columns :]
        return patches.reshape(len(patches), rows, columns, -1)

    # The first of the hidden states is what goes into the first block.
    states = {layer: output.hidden_states[layer + 1] for layer in layers}
    between = {
        layer: state.permute(0, 2, 3, 1) if state.ndim == 4 else on_grid(state) for layer, state in states.items()
    }
    return DenseFeatures(tokens[:, 0], on_grid(tokens), between)


def check_layers(layers: Sequence[int], config: EncoderConfig, whose: str) -> None:
    """Refuse blocks that an encoder has not.

    Raises:
        ConfigError: With how many it has.
    """
    count = len(config.stage_depths) or config.depth
    wrong = [layer for layer in layers if not 0 <= layer < count]
    if wrong:
        kind = "stages" if config.stage_depths else "blocks"
        raise ConfigError(
            f"loss.layers names {wrong} of the {whose} {config.name}, whose {kind} are 0 to {count - 1}",
            remedy="correct it in the YAML",
        )


def feature_dims(layers: Sequence[int], config: EncoderConfig) -> dict[int, int]:
    """Return how wide the tokens behind blocks (a ConvNeXt's stages) are."""
    return {layer: config.stage_dims[layer] if config.stage_dims else config.embed_dim for layer in layers}
