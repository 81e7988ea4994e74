"""`smoke_test: true` of a YAML: try an installation before there is data, and before weights are fetched."""

from pathlib import Path

from jsonargparse import Namespace, dict_to_namespace

DATA_MODULE = "no_time_to_train.pl_wrapper.datamodule.ReferenceTargetDataModule"
_SHAPES = "no_time_to_train.pl_wrapper.shapes_datamodule.ShapesDataModule"
_PATHS = ("references", "reference_images", "targets", "target_images")
_WEIGHTS = ("encoder_ckpt_path", "sam2_ckpt_path")


def use_embedded_data(settings: Namespace) -> str | None:
    """Put a little of the embedded dataset in the place of data that is not named, with weights as they are at hand.

    Args:
        settings: Of a run. Changed where its data module is `ReferenceTargetDataModule` and names no data.

    Returns:
        What a user has to know; None if nothing was changed.
    """
    data = settings.get("data")
    if data is None or data.get("class_path") != DATA_MODULE:
        return None
    if any(data.init_args.get(name) is not None for name in _PATHS):
        return None
    root = Path(settings.trainer.default_root_dir or ".") / "shapes"
    own = {"root": root, "seed": 0, "size": 256, "shots": 1, "num_targets": 1, "distractors": True}
    kept = {name: data.init_args[name] for name in ("num_workers", "batch_size", "shard")}
    settings["data"] = dict_to_namespace({"class_path": _SHAPES, "init_args": own | kept})
    config = settings.model.init_args.model_cfg
    missing = []
    for name in _WEIGHTS:
        path = config.get(name)
        if path is not None and not Path(path).exists():
            config[name] = None
            missing.append(str(path))
    config["random_init"] = True
    absent = f"; there is no {', no '.join(missing)}" if missing else ""
    return (
        "smoke test: no data is named (data.references, data.targets, ...), so one image of the embedded dataset is "
        f"looked at; models without weights get random ones, and their results mean nothing{absent}"
    )
