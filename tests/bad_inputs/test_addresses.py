"""Addresses such as s3://bucket/key where paths are expected: they would become local folders called s3:."""

import pytest

from tests.bad_inputs.conftest import Judge
from tests.bad_inputs.table import Case

pytestmark = [pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")]

HERE = ["expected a path on this machine", "only local paths are read and written"]
LOGGER = """
trainer:
  logger:
    - class_path: lightning.pytorch.loggers.CSVLogger
      init_args:
        save_dir: s3://bucket/logs
"""
CHECKPOINTS = """
trainer:
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args:
        dirpath: memory://checkpoints
"""


def match(option: str, address: str, *more: str, name: str = "") -> Case:
    """The main job with an address as an option's value."""
    says = [f"{name or option.removeprefix('--')} is {address}", *HERE]
    return Case(f"match: {option} {address}", lambda f: f.match(*more, option, address), says)


def predict(option: str, address: str) -> Case:
    """`ntt predict` with an address as an option's value."""
    return Case(f"predict: {option} {address}", lambda f: f.predict(option, address), [f"{option} is {address}", *HERE])


CASES = [
    match("--trainer.default_root_dir", "s3://bucket/run"),
    match("--trainer.default_root_dir", "memory://"),
    match("--trainer.default_root_dir", "file:///tmp/run"),
    match("--data.references", "s3://bucket/references.json"),
    match("--data.target_images", "gs://bucket/images"),
    match("--out_path", "s3://bucket/memory.safetensors", "--model.test_mode", "fill_memory", name="out_path"),
    match("--ckpt_path", "s3://bucket/memory.safetensors", "--model.test_mode", "test", name="ckpt_path"),
    match("--model.model_cfg.feature_cache.folder", "s3://bucket/cache"),
    match("--model.model_cfg.encoder_ckpt_path", "hf://someone/model"),
    match("--model.model_cfg.sam2_cfg_file", "s3://bucket/sam2"),
    Case(
        "match: a logger's folder",
        lambda f: f.match("--config", f.text("own.yaml", LOGGER)),
        ["trainer.logger.save_dir is s3://bucket/logs", *HERE],
    ),
    Case(
        "match: a checkpoint's folder",
        lambda f: f.match("--config", f.text("own.yaml", CHECKPOINTS)),
        ["trainer.callbacks.dirpath is memory://checkpoints", *HERE],
    ),
    Case("fit: output", lambda f: f.fit("--model.output", "s3://bucket/student"), ["model.output is s3://", *HERE]),
    Case("fit: scenes", lambda f: f.fit("--data.scenes", "s3://bucket/scenes"), ["data.scenes is s3://", *HERE]),
    predict("--output", "s3://bucket/found"),
    predict("--images", "s3://bucket/images"),
    predict("--references", "https://example.org/references.json"),
    predict("--memory", "s3://bucket/memory.safetensors"),
    Case(
        "predict: settings with a cache elsewhere",
        lambda f: f.predict("--config", f.settings(feature_cache__folder="s3://bucket/cache")),
        ["feature_cache.folder is s3://bucket/cache", *HERE],
    ),
    Case("predict: output after =", lambda f: f.predict("--output=s3://found"), ["--output is s3://found", *HERE]),
    Case("export: output", lambda f: ["export", f.shop.encoder, "--output", "s3://o"], ["--output is s3://o", *HERE]),
    Case(
        "compare: report",
        lambda f: ["compare", "dinov3_quickstart_tiny", "--report", "s3://out"],
        ["--report is s3://out", *HERE],
    ),
    Case(
        "convert: destination",
        lambda f: ["convert", f.shop.encoder, "s3://out", "--to", "hf"],
        ["--destination is s3://out", *HERE],
    ),
    Case("write-shapes: root", lambda f: ["write-shapes", "--root=gs://shapes"], ["--root is gs://shapes", *HERE]),
    Case("fetch: root", lambda f: ["fetch", "dinov3_small", "--root", "s3://out"], ["--root is s3://out", *HERE]),
    Case("inspect: path", lambda f: ["inspect", "s3://bucket/model"], ["--path is s3://bucket/model", *HERE]),
    Case(
        "dinov3-fetcher: root in its configuration",
        lambda f: ["dinov3-fetcher", "--config", f.text("c.json", '{"train": {"dino_root": "s3://bucket"}}')],
        ["train.dino_root in", "c.json is s3://bucket", *HERE],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_refused(case: Case, refused: Judge) -> None:
    refused(case)
