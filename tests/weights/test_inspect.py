"""What a weights file is told to be, of every layout and container."""

import hashlib
import json
import struct
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel, DINOv3ViTConfig, DINOv3ViTModel

from no_time_to_train.cli import main
from no_time_to_train.configs.encoders import DINOV3_CONFIGS, resolve_encoder
from no_time_to_train.encoders.transformers_models import build_model
from no_time_to_train.errors import WeightsFormatError, WeightsNotFoundError
from no_time_to_train.proposers.sam2.predictor import build_sam2
from no_time_to_train.weights import inspect_weights
from tests.conftest import DATA
from tests.tiny import write_config


def small() -> dict[str, Tensor]:
    config = DINOv3ViTConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2, num_register_tokens=4
    )
    return dict(DINOv3ViTModel(config).state_dict())


def test_a_file_is_described_whole(tmp_path: Path) -> None:
    tensors = small()
    tensors["norm.weight"] = tensors["norm.weight"].half()
    path = tmp_path / "anything.safetensors"
    save_file(tensors, path)
    report = inspect_weights(path)
    assert (report.layout, report.container) == ("transformers DINOv3 ViT, by its modules", "safetensors")
    assert report.architecture is not None
    assert (report.architecture.embed_dim, report.architecture.depth, report.architecture.ffn_dim) == (64, 2, 96)
    assert report.encoder is None
    assert report.num_tensors == len(tensors)
    assert report.num_parameters == sum(tensor.numel() for tensor in tensors.values())
    assert report.dtypes == {"float32": report.num_parameters - 64, "float16": 64}
    assert report.sha256 == {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    assert report.not_finite == ()
    assert report.files == {path.name: path.stat().st_size}


def test_numbers_that_are_none_are_named(tmp_path: Path) -> None:
    tensors = small()
    tensors["norm.bias"][3] = float("nan")
    tensors["model.layer.1.norm1.weight"][0] = float("inf")
    save_file(tensors, tmp_path / "model.safetensors")
    assert inspect_weights(tmp_path).not_finite == ("model.layer.1.norm1.weight", "norm.bias")
    assert "NaN or Inf    2 tensors: model.layer.1.norm1.weight, norm.bias" in inspect_weights(tmp_path).as_text()


@pytest.mark.parametrize("name", [name for name in DINOV3_CONFIGS if name != "dinov3_giant"])
def test_every_registry_entry_is_recognised_by_its_header(name: str, tmp_path: Path) -> None:
    """Sparse files as long as the real ones: their headers alone are read."""
    entry = resolve_encoder(name)
    with torch.device("meta"):
        model = build_model(entry, num_heads=entry.num_heads)
    write_sparse(tmp_path / "model.safetensors", {key: tuple(value.shape) for key, value in model.state_dict().items()})
    begin = time.perf_counter()
    report = inspect_weights(tmp_path, headers_only=True)
    seconds = time.perf_counter() - begin
    assert name in (report.encoder, *report.also)
    assert report.sha256 is None
    assert report.not_finite is None
    # The 7B's tensors take 27 GB: reading them takes longer, and more memory than a test machine has.
    assert seconds < 10


def write_sparse(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write a safetensors file of zeros that takes no space."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * int(torch.Size(shape).numel())
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    content = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(content)) + content)
        file.truncate(8 + len(content) + end)


def test_satellite_weights_are_told_by_their_second_norm(tmp_path: Path) -> None:
    entry = resolve_encoder("dinov3_large")
    with torch.device("meta"):
        model = build_model(entry, num_heads=entry.num_heads)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    write_sparse(tmp_path / "lvd.safetensors", shapes)
    report = inspect_weights(tmp_path / "lvd.safetensors", headers_only=True)
    assert (report.encoder, report.also) == ("dinov3_large", ("dinov3_large_sat",))
    assert "(or dinov3_large_sat: the same architecture)" in report.as_text()


@pytest.mark.parametrize("name", ["vit_mlp_untied", "vit_mlp_released"])
def test_metas_files_say_what_is_left_out(name: str) -> None:
    (path,) = (DATA / "golden").rglob(f"{name}.pth")
    report = inspect_weights(path)
    assert (report.layout, report.container) == ("Meta DINOv3 ViT", "PyTorch pickle")
    assert "rope_embed.periods" in report.dropped
    assert ("local_cls_norm.weight" in report.dropped) == (name == "vit_mlp_untied")
    assert all(report.dropped.values())
    assert report.architecture is not None
    assert report.architecture.num_heads
    header = inspect_weights(path, headers_only=True)
    assert header == replace(report, sha256=None, not_finite=None)


def test_convnext_and_shards(tmp_path: Path) -> None:
    config = DINOv3ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1])
    tensors = dict(DINOv3ConvNextModel(config).state_dict())
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, tmp_path / file)
    weight_map = {name: file for file, held in parts.items() for name in held}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    report = inspect_weights(tmp_path)
    assert (report.layout, report.container) == ("transformers DINOv3 ConvNeXt, by its modules", "sharded safetensors")
    assert report.num_tensors == len(tensors)
    assert report.sha256 is not None
    assert set(report.files) == set(report.sha256) == set(parts)


@pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")
def test_sam2_and_a_training_checkpoint(tmp_path: Path) -> None:
    model = build_sam2(write_config(tmp_path / "sam2"), random_init=True).model
    save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, tmp_path / "sam2.safetensors")
    report = inspect_weights(tmp_path / "sam2.safetensors")
    assert report.layout == "transformers SAM2"
    assert report.description == "Hiera of width 16, blocks (1, 2, 3, 1)"
    state = {f"model.{name}": tensor for name, tensor in small().items()} | {"proxies.scale": torch.ones(())}
    torch.save({"pytorch-lightning_version": "2.6", "state_dict": state, "epoch": 1}, tmp_path / "last.ckpt")
    trained = inspect_weights(tmp_path / "last.ckpt")
    assert (trained.layout, trained.container) == ("transformers DINOv3 ViT, by its modules", "Lightning checkpoint")
    assert trained.num_tensors == len(small())
    foreign = {"pytorch-lightning_version": "2.6", "state_dict": {"head.weight": torch.ones(2)}}
    torch.save(foreign, tmp_path / "other.ckpt")
    with pytest.raises(WeightsFormatError, match="of another module"):
        inspect_weights(tmp_path / "other.ckpt")


def test_what_is_none_is_refused(tmp_path: Path) -> None:
    save_file({"head.weight": torch.ones(2)}, tmp_path / "head.safetensors")
    with pytest.raises(WeightsFormatError, match="no known encoder layout"):
        inspect_weights(tmp_path / "head.safetensors")
    with pytest.raises(WeightsNotFoundError):
        inspect_weights(tmp_path / "absent")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(small(), tmp_path / "model.safetensors")
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["architecture"]["embed_dim"] == 64
    assert main(["inspect", "--headers-only", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "dinov3_vit, width 64, depth 2" in text
    assert "sha256" not in text
    assert main(["inspect", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("error: no weights at nowhere")
    assert main(["inspect"]) == 2
    assert main(["inspect", "one", "two"]) == 2
