"""Modules that have moved: their old import paths give the new modules, with a `DeprecationWarning`.

YAMLs name classes by such paths too.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_PACKAGE = "no_time_to_train"

# Old path and new path within the package; of the first release.
MOVED = {
    "checkpoint_paths": "cli.checkpoint_paths",
    "data.coco_output": "results.coco_output",
    "data.command": "cli.data",
    "data.polygons": "results.polygons",
    "distill": "training.distill",
    "evaluation": "results.evaluation",
    "export.command": "cli.export",
    "files": "io.atomic",
    "image_sizes": "configs.image_size",
    "leftovers": "io.stale_files",
    "lightning_cli": "cli.lightning",
    "limits": "configs.limits",
    "messages": "io.messages",
    "models.attention_parts": "proposers.sam2.attention_ops",
    "models.cached_entries": "models.cache.entries",
    "models.configs": "configs.pipeline",
    "models.conversion": "weights.conversion",
    "models.cuda_graphs": "encoders.cuda_graphs",
    "models.devices": "encoders.devices",
    "models.feature_cache": "models.cache.feature_cache",
    "models.feature_checks": "encoders.feature_checks",
    "models.features": "encoders.base",
    "models.fingerprint": "encoders.fingerprint",
    "models.hub_settings": "weights.hf_config",
    "models.image_features": "models.feature_extractor",
    "models.live": "encoders.live_weights",
    "models.low_rank": "proposers.sam2.low_rank_attention",
    "models.mask_drawing": "proposers.sam2.mask_upscaling",
    "models.mask_generator": "proposers.automatic",
    "models.mask_outlines": "models.cache.mask_codec",
    "models.matcher_config": "models.factory",
    "models.onnx_encoder": "encoders.onnx_encoder",
    "models.onnx_file": "runtime.onnx_session",
    "models.preprocessing": "encoders.preprocessing",
    "models.prompt_selection": "proposers.prior_guided",
    "models.prompting": "proposers.sam2.fast_decoder",
    "models.sam2": "proposers.sam2.predictor",
    "models.sam2_configs": "proposers.sam2.configs",
    "models.sam2_types": "proposers.base",
    "models.sam2_weights": "proposers.sam2.weights",
    "models.shared_image": "proposers.sam2.image_state",
    "models.transformers_models": "encoders.transformers_models",
    "pages": "results.html",
    "parity.command": "cli.compare",
    "parity.numbers": "io.messages",
    "parity.tolerances": "parity.compare",
    "paths": "io.paths",
    "pl_wrapper.option_names": "cli.option_names",
    "prediction": "batch",
    "prediction.command": "cli.predict",
    "process": "io.process",
    "quickstart": "training.quickstart",
    "redact": "io.redact",
    "registry": "configs.encoders",
    "run_locks": "batch.run_locks",
    "strict_json": "io.strict_json",
    "visualization": "pl_wrapper.pictures",
    "weights.console": "weights.hub.progress",
    "weights.convert": "weights.layouts.mapping",
    "weights.doctor": "weights.hub.doctor",
    "weights.download": "weights.hub.download",
    "weights.entries": "weights.identify",
    "weights.eqx": "weights.formats.equinox",
    "weights.exchange": "weights.hub.bounded_http",
    "weights.fetch": "weights.hub.fetch",
    "weights.fetch_sam2": "weights.hub.fetch_sam2",
    "weights.files": "weights.formats.reader",
    "weights.json_files": "weights.formats.json_files",
    "weights.layout": "weights.layouts.base",
    "weights.layouts_hf": "weights.layouts.hf",
    "weights.layouts_jax": "weights.layouts.equinox",
    "weights.layouts_sam2": "weights.layouts.sam2",
    "weights.licence": "weights.license",
    "weights.manifest": "weights.hub.manifest",
    "weights.ranges": "weights.formats.stored_tensor",
    "weights.remote": "weights.hub.sources",
    "weights.responses": "weights.hub.http_errors",
    "weights.sam2_files": "configs.sam2_releases",
    "weights.workshop": "weights.hub.staging",
    "weights.writing": "weights.formats.writer",
    "weights_commands": "cli.weights",
    "yaml_files": "io.strict_yaml",
}


class _MovedLoader:
    """Gives the module at the new path, as it is."""

    def __init__(self, new: str) -> None:
        self._new = new

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the module at its new path."""
        self._module = importlib.import_module(self._new)
        self._own = self._module.__spec__
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own specification back, which the import system has replaced."""
        module.__spec__ = self._own


class _MovedFinder:
    """Finds old import paths."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how an old path is imported, and None for every other one."""
        package, _, old = fullname.partition(".")
        if package != _PACKAGE or old not in MOVED:
            return None
        new = f"{_PACKAGE}.{MOVED[old]}"
        # Of the import system's own frames, which are passed over, there are several.
        warnings.warn(f"{fullname} is {new} now", DeprecationWarning, stacklevel=2)
        loader: Any = _MovedLoader(new)
        return ModuleSpec(fullname, loader)


def install() -> None:
    """Find old import paths, before all other finders: a folder that moved would give its modules a second time."""
    if not any(isinstance(finder, _MovedFinder) for finder in sys.meta_path):
        finder: Any = _MovedFinder()  # not of importlib.abc, whose import takes as long as all the rest of this package
        sys.meta_path.insert(0, finder)
