"""What the tables of bad inputs run on: small stand-ins made once, and the judge of a case."""

import gc
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml

from no_time_to_train import cli
from no_time_to_train.cli.lightning import command as lightning_cli
from no_time_to_train.data.synthetic.training_scenes import training_scenes
from no_time_to_train.encoders.torch_encoder import build_torch_encoder
from no_time_to_train.matching import MemoryBank
from no_time_to_train.proposers.sam2.predictor import build_sam2
from tests.bad_inputs.table import Case, Given, Shop, listing, permissions_bind
from tests.tiny import write_config, write_dataset

CONFIGS = Path(__file__).parents[2] / "pl_configs"
ENCODER = "dinov3_quickstart_tiny"

Judge = Callable[[Case], None]


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    root = tmp_path_factory.mktemp("shop") / "made by hand, größer"
    root.mkdir()
    data, sam2, scenes = write_dataset(root / "data"), write_config(root / "sam2"), root / "scenes"
    model = {
        "name": "matching_baseline_noAMG",
        "sam2_cfg_file": str(sam2),
        "encoder_cfg": {"name": ENCODER, "img_size": 64},
        "sam2_infer_cfgs": {"points_per_side": 2, "iou_thr": 0.0},
        "random_init": True,
    }
    matching = {
        "seed_everything": 33,
        "model": {
            "class_path": "no_time_to_train.pl_wrapper.sam2matcher_pl.Sam2MatcherLightningModel",
            "init_args": {"test_mode": "full", "model_cfg": model},
        },
        "data": {"class_path": "no_time_to_train.pl_wrapper.datamodule.ReferenceTargetDataModule"},
        "trainer": {"logger": False, "enable_checkpointing": False, "enable_model_summary": False},
    }
    distill = yaml.safe_load((CONFIGS / "distill_quickstart.yaml").read_text())
    distill["model"]["init_args"]["teacher"] = {"name": ENCODER, "random_init": True}
    distill["data"]["init_args"] |= {"scenes": str(scenes), "num_scenes": 12, "num_val": 4, "batch_size": 4}
    distill["data"]["init_args"]["views"]["size"] = 64
    distill["trainer"] |= {"max_steps": 2, "val_check_interval": 1.0, "precision": "32-true", "num_sanity_val_steps": 0}
    distill["trainer"] |= {"logger": False, "callbacks": None, "enable_checkpointing": False}
    distill["trainer"] |= {"check_val_every_n_epoch": 1}
    for name, document in (("matching", matching), ("distill", distill)):
        (root / f"{name}.yaml").write_text(yaml.safe_dump(document))
    training_scenes(scenes, seed=0, size=64, count=12)
    with pytest.warns(UserWarning, match="random weights"):
        encoder, segmenter = build_torch_encoder(ENCODER, random_init=True), build_sam2(sam2, random_init=True)
    encoder.model.save_pretrained(root / "encoder")
    segmenter.model.save_pretrained(root / "sam2_weights")
    memory = MemoryBank(["disc", "square"], 128, f"{encoder.fingerprint} 64px stretch crop1.2")
    for index in range(2):
        memory.add(index, torch.eye(128)[index].reshape(1, 1, 128), torch.ones(1, 1))
    memory.save(root / "memory.safetensors")
    return Shop(
        root=root,
        data=data,
        sam2=sam2,
        matching=root / "matching.yaml",
        distill=root / "distill.yaml",
        encoder=root / "encoder",
        sam2_weights=root / "sam2_weights",
        memory=root / "memory.safetensors",
        scenes=scenes,
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mount small file systems in memory, where that is allowed."""
    mounted: list[Path] = []

    def mount(options: str = "size=1m") -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            folder.rmdir()
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        # Maps of files would keep it busy.
        gc.collect()
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def given(shop: Shop, tmp_path: Path, disk: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Given:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "somebody's.txt").write_text("to be kept")
    return Given(shop, tmp_path, disk)


@contextmanager
def _logged_to_stderr() -> Iterator[None]:
    """Let what other libraries log be seen: their handlers keep the stderr of the time when they were made."""
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
    handlers = {handler for logger in (logging.root, *loggers) for handler in logger.handlers}
    streams = {handler: handler.stream for handler in handlers if type(handler) is logging.StreamHandler}
    for handler in streams:
        handler.stream = sys.stderr
    try:
        yield
    finally:
        for handler, stream in streams.items():
            handler.stream = stream


def run(argv: list[str | Path]) -> int:
    """Run a command line as the shell would, in this process."""
    name, *rest = map(str, argv)
    with _logged_to_stderr(), permissions_bind():
        if name == "run_lightening":
            return lightning_cli.main(rest)
        return cli.fetcher_main(rest) if name == "dinov3-fetcher" else cli.main([name, *rest])


@pytest.fixture
def refused(given: Given, capfd: pytest.CaptureFixture[str]) -> Judge:
    def judge(case: Case) -> None:
        argv = case.argv(given)
        before, shared = listing(given.root), listing(given.shop.root)
        capfd.readouterr()
        status = run(argv)
        said = capfd.readouterr().err
        lines = said.splitlines()
        assert len(lines) == 1, f"status {status}: {' / '.join(lines)}"
        assert said.startswith("error: "), said
        assert said.endswith(")\n"), f"no remedy: {said}"
        assert status == 2
        missing = [part for part in case.says if part not in said]
        assert not missing, f"{missing} in {said}"
        assert listing(given.root) == before
        assert listing(given.shop.root) == shared

    return judge
