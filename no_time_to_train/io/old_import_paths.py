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
    "checkpoint_paths": "cli.lightning.checkpoint_paths",
    "data.arrays": "data.inputs",
    "data.coco_output": "results.coco_output",
    "data.command": "cli.data",
    "data.datamodule": "pl_wrapper.datamodule",
    "data.image_sources": "training.distill.image_sources",
    "data.plain_pickle": "io.safe_pickle",
    "data.polygons": "results.polygons",
    "data.shapes": "data.synthetic.dataset",
    "data.shapes_classes": "data.synthetic.classes",
    "data.shapes_datamodule": "pl_wrapper.shapes_datamodule",
    "data.shapes_drawing": "data.synthetic.drawing",
    "data.shapes_scene": "data.synthetic.scenes",
    "data.shapes_textures": "data.synthetic.textures",
    "data.splits": "configs.splits",
    "data.training_datamodule": "training.scenes_datamodule",
    "data.training_scenes": "data.synthetic.training_scenes",
    "data.views": "training.distill.views",
    "data.views_datamodule": "training.distill.datamodule",
    "distill": "training.distill",
    "distill.checkpoints": "training.checkpoints",
    "distill.configs": "training.distill.configs",
    "distill.encoders": "training.distill.encoders",
    "distill.features": "training.distill.features",
    "distill.losses": "training.distill.losses",
    "distill.neighbours": "training.distill.knn",
    "distill.pictures": "training.distill.feature_images",
    "distill.progress": "training.throughput_bar",
    "distill.schedule": "training.schedule",
    "distill.teacher": "training.distill.teacher",
    "distributed": "pl_wrapper.distributed",
    "evaluation": "results.evaluation",
    "export.callback": "training.onnx_export",
    "export.command": "cli.export",
    "files": "io.atomic",
    "image_sizes": "configs.image_size",
    "leftovers": "io.stale_files",
    "lightning_cli": "cli.lightning.command",
    "limits": "configs.limits",
    "matching.instances": "matching.scoring",
    "matching.resizing": "matching.tiled_masks",
    "matching.threads": "matching.single_thread",
    "messages": "io.messages",
    "models.attention_parts": "proposers.sam2.attention_ops",
    "models.baseline": "models.pipeline",
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
    "models.matcher_config": "configs.pipeline",
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
    "parity.blocks": "parity.stage_errors",
    "parity.callback": "training.feature_parity",
    "parity.command": "cli.compare",
    "parity.comparison": "parity.runner",
    "parity.features": "parity.backends",
    "parity.images": "parity.inputs",
    "parity.known_answers": "parity.reference_values",
    "parity.numbers": "io.messages",
    "parity.pictures": "parity.plots",
    "parity.report": "parity.html_report",
    "parity.text": "parity.text_report",
    "parity.tolerances": "parity.compare",
    "paths": "io.paths",
    "pl_wrapper.distill_pl": "training.distill.module",
    "pl_wrapper.option_names": "cli.lightning.arguments",
    "pl_wrapper.quickstart_demo_pl": "training.quickstart.demo_module",
    "pl_wrapper.quickstart_encoder_pl": "training.quickstart.encoder_module",
    "pl_wrapper.quickstart_sam2_pl": "training.quickstart.sam2_module",
    "pl_wrapper.quickstart_training": "training.scenes_module",
    "pl_wrapper.trained_folder": "training.exporting_module",
    "prediction": "batch",
    "prediction.command": "cli.predict",
    "prediction.inputs": "batch.image_paths",
    "prediction.journal": "batch.journal",
    "prediction.models": "cli.predictor",
    "prediction.pictures": "batch.thumbnails",
    "prediction.report": "batch.report",
    "prediction.run": "batch.run",
    "process": "io.process",
    "quickstart": "training.quickstart",
    "quickstart.augmentation": "training.quickstart.augmentation",
    "quickstart.contact_sheet": "results.contact_sheet",
    "quickstart.encoder_losses": "training.quickstart.encoder_losses",
    "quickstart.few_shot": "training.quickstart.few_shot",
    "quickstart.folders": "training.hf_folder",
    "quickstart.mean_colour": "training.quickstart.mean_color",
    "quickstart.optimizer": "training.optimizer",
    "quickstart.prompting": "training.quickstart.prompt_scores",
    "quickstart.report": "training.quickstart.report",
    "quickstart.sam2_losses": "training.quickstart.sam2_losses",
    "quickstart.sam2_prompts": "training.quickstart.sam2_prompts",
    "redact": "io.redact",
    "registry": "configs.encoders",
    "run_locks": "batch.run_locks",
    "strict_json": "io.strict_json",
    "visualization": "pl_wrapper.pictures",
    "weights.console": "weights.hub.progress",
    "weights.convert": "weights.layouts.mapping",
    "weights.doctor": "weights.hub.doctor",
    "weights.download": "weights.http.download",
    "weights.entries": "weights.identify",
    "weights.eqx": "weights.formats.equinox",
    "weights.exchange": "weights.http.requests",
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
    "weights.responses": "weights.http.errors",
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
