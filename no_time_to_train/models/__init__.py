"""The method: encoder, proposals and a memory of references, put together as the settings say."""

import importlib.util
from typing import TYPE_CHECKING, Any, Literal, get_args

from no_time_to_train.errors import ConfigError
from no_time_to_train.io.messages import missing_extra

if TYPE_CHECKING:
    from no_time_to_train.configs.pipeline import MatcherConfig
    from no_time_to_train.models.steps import PipelineSteps

Runtime = Literal["torch", "onnx"]


def build_pipeline(config: "MatcherConfig", device: Any = "cpu", runtime: Runtime | None = None) -> "PipelineSteps":
    """Build the models that settings name, in torch or in ONNX Runtime.

    Args:
        config: All settings.
        device: Where the networks run: a `torch.device` or its name, or a provider of ONNX Runtime.
        runtime: What runs them; torch where it is installed if None.

    Raises:
        ConfigError: The device or the runtime does not exist, or ONNX Runtime does not support a setting.
        MissingExtraError: torch is to run them, and is not installed.
        NoTimeToTrainError: Weights are missing or do not fit, or a name is unknown.
    """
    if runtime is None:
        runtime = "torch" if importlib.util.find_spec("torch") is not None else "onnx"
    if runtime not in get_args(Runtime):
        raise ConfigError(
            f"runtime is {runtime!r:.60}, expected {' or '.join(get_args(Runtime))}", remedy="leave it out for torch"
        )
    if runtime == "onnx":
        from no_time_to_train.models.onnx_pipeline import OnnxPipeline

        return OnnxPipeline(config, device)
    try:
        from no_time_to_train.encoders.devices import checked_device
        from no_time_to_train.models.pipeline import MatchingPipeline
    except ModuleNotFoundError as error:
        raise missing_extra(str(error), "the runtime torch") or error from error

    chosen = checked_device(device)
    return MatchingPipeline(config).to(chosen)
