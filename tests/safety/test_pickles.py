"""Pickles that ask for a file to be made, at every place where the project reads files of others: none is made."""

import io
import json
import pickle
import pickletools
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from no_time_to_train.cli import main as ntt
from no_time_to_train.cli.lightning.command import main
from no_time_to_train.data.synthetic.training_scenes import training_scenes
from no_time_to_train.encoders.torch_encoder import build_encoder_from_checkpoint
from no_time_to_train.errors import NoTimeToTrainError, OutputError, WeightsFormatError
from no_time_to_train.jax_models import load_eqx_encoder
from no_time_to_train.matching import MemoryBank
from no_time_to_train.models.cache.feature_cache import FeatureCache
from no_time_to_train.proposers.sam2.predictor import build_sam2
from no_time_to_train.training.checkpoints import AtomicCheckpointIO
from no_time_to_train.weights import inspect_weights
from no_time_to_train.weights.formats.equinox import array_header, header_line
from no_time_to_train.weights.formats.reader import open_weights
from tests.golden_files import golden
from tests.safety.archives import pack
from tests.tiny import TinyData, small_model_arguments, write_config, write_dataset

ROOT = Path(__file__).parents[2]
BASE = ROOT / "pl_configs" / "matching_baseline_dinov3_test.yaml"

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning"),
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
]


class MakesAFile:
    """Pickles as a call that makes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.proof,)


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    """The file that is not to be there in the end."""
    folder = tmp_path / "proof"
    folder.mkdir()
    return folder / "ran"


@pytest.fixture
def payload(proof: Path) -> bytes:
    """A pickle that makes the file, as is tried here first."""
    content = pickle.dumps(MakesAFile(proof))
    pickle.loads(content)
    proof.unlink()
    return content


def with_payload(proof: Path, *, legacy: bool = False) -> bytes:
    """Return what `torch.save` makes of weights with the call among them."""
    stream = io.BytesIO()
    state = torch.load(golden("vit_mlp_released"), weights_only=True)
    torch.save({"state_dict": state, "x": MakesAFile(proof)}, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def readers() -> dict[str, Callable[[Path], object]]:
    return {
        "inspect": inspect_weights,
        "headers": lambda path: inspect_weights(path, headers_only=True),
        "ranges": open_weights,
        "torch": build_encoder_from_checkpoint,
        "jax": load_eqx_encoder,
        "checkpoint io": AtomicCheckpointIO().load_checkpoint,
        "checkpoint io, told to": lambda path: AtomicCheckpointIO().load_checkpoint(path, weights_only=False),
        "memory": MemoryBank.load,
    }


@pytest.mark.parametrize("reader", readers())
@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
def test_weights(proof: Path, payload: bytes, tmp_path: Path, form: str, reader: str) -> None:
    content = payload if form == "bare" else with_payload(proof, legacy=form == "legacy")
    for name in ("a.pth", "b.ckpt", "c.pt", "d.bin", "e.safetensors", "f.eqx", "g.tar.lz4"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(NoTimeToTrainError):
            readers()[reader](path)
    assert not proof.exists()


def test_a_folder_of_an_older_kind(proof: Path, tmp_path: Path) -> None:
    """`pytorch_model.bin` in a Hugging Face folder, for the encoder and for SAM2."""
    for folder in (tmp_path / "encoder", write_config(tmp_path / "sam2")):
        folder.mkdir(exist_ok=True)
        (folder / "pytorch_model.bin").write_bytes(with_payload(proof))
    with pytest.raises(NoTimeToTrainError):
        build_encoder_from_checkpoint(tmp_path / "encoder")
    with pytest.raises(NoTimeToTrainError):
        build_sam2(tmp_path / "sam2", tmp_path / "sam2" / "pytorch_model.bin")
    assert not proof.exists()


def test_arrays_of_objects(proof: Path, payload: bytes, tmp_path: Path) -> None:
    """NumPy's format can hold a pickle; of Equinox files and archives it is not taken."""
    stream = io.BytesIO()
    np.save(stream, np.array([MakesAFile(proof)], dtype=object), allow_pickle=True)
    objects = stream.getvalue()
    assert payload[-40:] in objects or b"touch" in objects
    fine = array_header(np.dtype(np.float32), [2]) + bytes(8)
    (tmp_path / "own.eqx").write_bytes(header_line({}, ["a", "b"]) + fine + objects)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "weights.eqx").write_bytes(objects + fine)
    (tmp_path / "bare" / "metadata.json").write_text("{}")
    (tmp_path / "packed.tar.lz4").write_bytes(pack({"metadata.json": b"{}", "weights.eqx": objects}))
    (tmp_path / "other.tar.lz4").write_bytes(pack({"metadata.json": b"{}", "weights.pkl": payload}))
    (tmp_path / "plain.lz4").write_bytes(lz4.frame.compress(payload))
    for name in ("own.eqx", "bare/weights.eqx", "packed.tar.lz4", "other.tar.lz4", "plain.lz4"):
        for read in (inspect_weights, load_eqx_encoder):
            with pytest.raises(WeightsFormatError):
                read(tmp_path / name)
    assert not proof.exists()


def test_training_scenes(proof: Path, tmp_path: Path) -> None:
    training_scenes(tmp_path / "scenes", size=32, count=1)
    with (tmp_path / "scenes" / "images.npy").open("wb") as stream:
        np.save(stream, np.array([MakesAFile(proof)], dtype=object), allow_pickle=True)
    with pytest.raises(OutputError, match="remove it, and they are drawn again"):
        training_scenes(tmp_path / "scenes", size=32, count=1)
    assert not proof.exists()


def test_entries_of_the_feature_cache(proof: Path, payload: bytes, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache", 10**6)
    cache.put("key", {"a": torch.ones(2)})
    (entry,) = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    for content in (payload, with_payload(proof)):
        entry.write_bytes(content)
        assert cache.get("key") is None
        cache.put("key", {"a": torch.ones(2)})
    assert not proof.exists()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    return write_dataset(tmp_path_factory.mktemp("data") / "here", shots=1, targets=1)


@pytest.fixture
def small(tmp_path: Path, data: TinyData) -> list[str]:
    model = small_model_arguments(write_config(tmp_path / "sam2"))
    quiet = [
        "--trainer.enable_progress_bar",
        "false",
        "--trainer.callbacks",
        "null",
        "--trainer.default_root_dir",
        str(tmp_path / "run"),
    ]
    return ["--config", str(BASE), *model, *data.arguments, *quiet]


def refused(capsys: pytest.CaptureFixture[str], status: int, *words: str) -> None:
    assert status == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert all(word in lines[0] for word in words), lines[0]


def test_reference_sets(
    proof: Path, payload: bytes, data: TinyData, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "refs.pkl").write_bytes(payload)
    given = ["--data.references", str(tmp_path / "refs.pkl"), "--data.reference_annotations", str(data.references)]
    refused(capsys, main([*small, *given]), "refs.pkl was not loaded")
    # `ntt predict` takes no annotations of a pickle, and does not look into it.
    one = ["predict", "--images", str(data.images), "--output", str(tmp_path / "out")]
    refused(capsys, ntt([*one, "--references", str(tmp_path / "refs.pkl"), "--reference-images", str(data.images)]))
    assert not proof.exists()


def test_checkpoints_and_memory_files_of_the_matcher(
    proof: Path, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, legacy in (("evil.ckpt", False), ("old.ckpt", True), ("memory.safetensors", False)):
        path = tmp_path / name
        path.write_bytes(with_payload(proof, legacy=legacy))
        # A memory file is looked into once the models are built, which takes its time.
        for command in ("test",) if path.suffix == ".safetensors" else ("test", "validate", "predict"):
            given = [command, *small, "--model.test_mode", "test", "--ckpt_path", str(path)]
            refused(capsys, main(given), name)
    for option in ("encoder_ckpt_path", "sam2_ckpt_path"):
        given = [f"--model.model_cfg.{option}", str(tmp_path / "evil.ckpt")]
        refused(capsys, main([*small, *given]), "evil.ckpt", "asks for more than tensors")
    assert not proof.exists()


def fit_arguments(kind: str, folder: Path) -> list[str]:
    """Return the arguments of a training; it is stopped before its first step."""
    if kind == "distill":
        shipped = (ROOT / "pl_configs" / "distill_quickstart.yaml").read_text()
        config = yaml.safe_load(shipped.replace("runs/distill_quickstart", str(folder)))
        teacher = {"ckpt_path": str(ROOT / "checkpoints" / "quickstart" / "encoder")}
        config["model"]["init_args"]["teacher"] |= teacher
        config["data"]["init_args"] |= {"num_scenes": 12, "num_val": 4, "batch_size": 4}
        config["data"]["init_args"]["views"]["size"] = 64
        config["trainer"]["callbacks"] = config["trainer"]["callbacks"][2:3]
        config["trainer"]["logger"] = False
        (folder / "distill.yaml").write_text(yaml.safe_dump(config))
        return ["fit", "--config", str(folder / "distill.yaml")]
    arguments = ["--trainer.logger", "false", "--model.img_size", "64", "--model.output", str(folder / "out")]
    arguments += ["--data.root", str(folder / "scenes"), "--data.size", "64", "--data.num_scenes", "12"]
    arguments += ["--data.num_val", "4", "--data.batch_size", "4", "--trainer.default_root_dir", str(folder)]
    dirpath = ["--trainer.callbacks=ModelCheckpoint", f"--trainer.callbacks.dirpath={folder / 'checkpoints'}"]
    return ["fit", "--config", str(ROOT / "pl_configs" / "train_quickstart_encoder.yaml"), *arguments, *dirpath]


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.parametrize("kind", ["distill", "encoder"])
def test_a_training_is_not_taken_up_from_one(
    kind: str, proof: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named by its path, found by Lightning as the last one, and with what switches torch's check off."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    arguments = fit_arguments(kind, tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    last.write_bytes(with_payload(proof))
    refused(capsys, main([*arguments, "--ckpt_path", str(last)]), "last.ckpt", "asks for more than tensors")
    refused(capsys, main([*arguments, "--weights_only", "false"]), "weights_only is false")
    found = ["--ckpt_path", "last", "--trainer.callbacks.save_last", "true"]
    refused(
        capsys, main([*arguments, *found]), "checkpoint" if kind == "encoder" else "last.ckpt", "for more than tensors"
    )
    assert not proof.exists()


@pytest.mark.parametrize(
    "link",
    ["https://localhost/x.ckpt?Signature=verysecret", "s3://bucket/x.ckpt", "http.ckpt", "registry:a/b", "a::b"],
)
def test_checkpoints_are_not_fetched(small: list[str], link: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Lightning would fetch a link, and unpickle whatever comes."""
    assert main(["test", *small, "--ckpt_path", link]) == 2
    said = capsys.readouterr().err
    assert re.search("is not a local file|expected a path on this machine", said)
    assert "verysecret" not in said


def test_exports_hold_none(proof: Path, payload: bytes, tmp_path: Path) -> None:
    """A folder that claims to be an export, whose weights are a pickle."""
    folder = tmp_path / "onnx"
    shutil.copytree(ROOT / "checkpoints" / "quickstart" / "encoder", folder)
    (folder / "model.onnx").write_bytes(payload)
    for argv in (["inspect", str(folder / "model.onnx")], ["compare", "--onnx", str(folder)]):
        assert ntt(argv) == 2
    assert not proof.exists()


def test_what_is_written_can_be_read_without_pickles(tmp_path: Path) -> None:
    """Memory files are safetensors, and converted weights hold tensors and names alone."""
    bank = MemoryBank(["a"], 4, "fingerprint")
    bank.add_mean(0, torch.ones(4), False)
    bank.save(tmp_path / "memory.safetensors")
    assert set(load_file(tmp_path / "memory.safetensors")) == {"means", "classes", "negative"}
    encoder = ROOT / "checkpoints" / "quickstart" / "encoder"
    assert ntt(["convert", str(encoder), str(tmp_path / "meta.pth"), "--to", "meta"]) == 0
    with zipfile.ZipFile(tmp_path / "meta.pth") as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        content = archive.read(name)
    asked = {argument for opcode, argument, _ in pickletools.genops(content) if opcode.name == "GLOBAL"}
    assert {str(name).split(" ")[0].split(".")[0] for name in asked} <= {"torch", "collections"}
    assert json.loads((encoder / "config.json").read_text())
