"""Files that somebody wrote by hand, or that were damaged: one line that says what is wrong, never a traceback."""

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import lz4.frame
import pytest
import torch
from safetensors.torch import load_file, save_file

from no_time_to_train.cli import main
from no_time_to_train.weights import validate_dinov3
from no_time_to_train.weights.conversion import convert_weights
from no_time_to_train.weights.hub.manifest import MANIFEST
from tests.golden_files import golden

WEIGHTS = "model.safetensors"
DEEP = "[" * 200_000
LONG = '{"hidden_size": ' + "1" * 5000 + "}"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "dino"))


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """Run a command that must end in one line with a remedy."""
    assert main([str(arg) for arg in args]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: "), said
    assert said.count("\n") == 1, said
    assert said.endswith(")\n"), said
    return said


@pytest.mark.parametrize("content", [DEEP, LONG, "5", '["hidden_size"]', "nope", "\xff"])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", MANIFEST])
def test_json_that_is_none(folder: Path, capsys: pytest.CaptureFixture[str], name: str, content: str) -> None:
    (folder / name).write_bytes(content.encode("latin-1"))
    assert not validate_dinov3(folder)
    refused(capsys, "validate", folder)
    assert main(["convert", str(folder), str(folder.parent / "out"), "--to", "hf"]) in (0, 2)
    capsys.readouterr()


@pytest.mark.parametrize("content", [DEEP, LONG, "[]", '{"weight_map": 5}'])
def test_indexes_that_are_none(folder: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    refused(capsys, "inspect", folder)


@pytest.mark.parametrize("value", [[], {}, 5, None])
@pytest.mark.parametrize("key", ["kind", "source", "files", "encoder"])
def test_manifests_of_other_types(folder: Path, capsys: pytest.CaptureFixture[str], key: str, value: Any) -> None:
    manifest = {"kind": "hub", "source": "a/b", "revision": "1", "encoder": "x", "fetched": "now", "files": {}}
    (folder / MANIFEST).write_text(json.dumps(manifest | {key: value}))
    refused(capsys, "validate", folder)
    assert main(["convert", str(folder), str(folder.parent / "out"), "--to", "hf"]) == 0


WRONG: dict[tuple[str, str], list[Any]] = {
    ("config.json", "hidden_act"): [None, 5, "x"],
    ("config.json", "layer_norm_eps"): [None, "x", True, -1],
    ("config.json", "rope_theta"): ["x", []],
    ("config.json", "num_attention_heads"): ["x", 0, None],
    ("preprocessor_config.json", "image_mean"): [["a", "b", "c"], [1, 2, None], [[1], [2], [3]]],
    ("preprocessor_config.json", "image_std"): [[0, 1, 1]],
}
SETTINGS = [(name, {key: value}) for (name, key), values in WRONG.items() for value in values]


@pytest.mark.parametrize(("name", "change"), SETTINGS)
def test_settings_of_other_types(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, change: dict[str, Any]
) -> None:
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | change))
    for to, out in (("hf", "out"), ("equinox", "out.eqx")):
        if to == "equinox" and change == {"hidden_act": "x"}:
            continue  # it is copied as it is, and refused when it is loaded
        refused(capsys, "convert", folder, folder.parent / out, "--to", to)
        assert not (folder.parent / out).exists()


def test_whole_numbers_are_numbers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 100}))
    convert_weights(folder, folder.parent / "out", "hf")


PATCH, UP, QUERY = (
    "embeddings.patch_embeddings.weight",
    "layer.0.mlp.up_proj.weight",
    "layer.0.attention.q_proj",
)
TENSORS: list[dict[str, torch.Tensor]] = [
    {PATCH: torch.tensor(1.0)},
    {UP: torch.tensor(1.0)},
    {"norm.bias": torch.zeros(2, 2, 2)},
    {f"{QUERY}.weight": torch.tensor(1.0)},
    {f"{QUERY}.bias": torch.zeros(3)},
    {f"layer.{'1' * 5000}.norm1.bias": torch.zeros(2)},
    {"embeddings.cls_token": torch.zeros(7)},
]


@pytest.mark.parametrize("change", TENSORS, ids=lambda change: next(iter(change))[:50])
def test_tensors_of_other_shapes(
    folder: Path, capsys: pytest.CaptureFixture[str], change: dict[str, torch.Tensor]
) -> None:
    save_file(load_file(folder / WEIGHTS) | change, folder / WEIGHTS)
    for command in (["inspect", folder], ["validate", folder]):
        assert main([str(part) for part in command]) in (0, 2)
    for to, out in (("hf", "a"), ("meta", "a.pth"), ("equinox", "a.eqx")):
        assert main(["convert", str(folder), str(folder.parent / out), "--to", to]) in (0, 2)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    from no_time_to_train.encoders.torch_encoder import build_encoder_from_checkpoint
    from no_time_to_train.errors import WeightsFormatError
    from no_time_to_train.jax_models import load_eqx_encoder

    for load in (build_encoder_from_checkpoint, load_eqx_encoder):
        with pytest.raises(WeightsFormatError):
            load(folder)


@pytest.mark.parametrize(
    "periods", ['{"values": [], "dtype": "float32"}', '{"values": [1], "dtype": "quint8"}', DEEP, "5"]
)
def test_periods_that_are_none(folder: Path, capsys: pytest.CaptureFixture[str], periods: str) -> None:
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS, {"rope_periods": periods})
    refused(capsys, "inspect", folder)


def test_pickles_without_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = torch.load(golden("vit_mlp_released"), weights_only=True)
    torch.save({name: tensor.to("meta") for name, tensor in state.items()}, tmp_path / "meta.pth")
    assert "without values" in refused(capsys, "inspect", tmp_path / "meta.pth")
    refused(capsys, "convert", tmp_path / "meta.pth", tmp_path / "out", "--to", "hf")


@pytest.mark.filterwarnings("ignore")  # torch warns of sparse tensors in several ways
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_pickles_of_sparse_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: torch.layout) -> None:
    state = torch.load(golden("vit_mlp_released"), weights_only=True)
    state["blocks.0.attn.proj.weight"] = state["blocks.0.attn.proj.weight"].to_sparse(layout=layout)
    torch.save(state, tmp_path / "sparse.pth")
    assert "is a sparse tensor" in refused(capsys, "inspect", tmp_path / "sparse.pth")
    refused(capsys, "convert", tmp_path / "sparse.pth", tmp_path / "out", "--to", "hf")


@pytest.mark.parametrize(
    "change",
    [
        *({"config": value} for value in (None, 5, "x")),
        {"preprocessor": 5},
        {"config": {"layer_norm_eps": None}},
        {"config": {"num_attention_heads": 0}},
    ],
)
def test_headers_of_equinox_files(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    whole = convert_weights(tiny_folder, tmp_path / "whole.eqx", "equinox").read_bytes()
    line, _, leaves = whole.partition(b"\n")
    (tmp_path / "odd.eqx").write_bytes(json.dumps(json.loads(line) | change).encode() + b"\n" + leaves)
    refused(capsys, "inspect", tmp_path / "odd.eqx")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"'descr': '<f4'", b"'descr': {1:2}"),
        (b"'descr': '<f4'", b"'descr': [1,2]"),
        (b"'shape': (64, 3, 16, 16)", b"'shape': (0, 9999999999)"),
        (b"'shape': (64, 3, 16, 16)", b"'shape': (True, 3, 16,1)".ljust(24)),
    ],
)
def test_headers_of_arrays(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], old: bytes, new: bytes
) -> None:
    whole = convert_weights(tiny_folder, tmp_path / "whole.eqx", "equinox").read_bytes()
    assert whole.count(old)
    assert len(old) == len(new.ljust(len(old)))
    (tmp_path / "odd.eqx").write_bytes(whole.replace(old, new.ljust(len(old)), 1))
    refused(capsys, "inspect", tmp_path / "odd.eqx", "--headers-only")


@pytest.mark.parametrize("headers", [{"GNU.sparse.size": "x"}, {"GNU.sparse.map": "a,b"}, {"size": "-5"}])
def test_headers_of_archives(tmp_path: Path, capsys: pytest.CaptureFixture[str], headers: dict[str, str]) -> None:
    path = tmp_path / "odd.tar.lz4"
    with (
        lz4.frame.open(path, "wb") as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        info = tarfile.TarInfo("metadata.json")
        info.pax_headers, info.size = headers, 2
        archive.addfile(info, io.BytesIO(b"{}"))
    refused(capsys, "inspect", path)


@pytest.mark.parametrize("config", [[], 5, "x", None])
def test_metadata_of_archives(tmp_path: Path, capsys: pytest.CaptureFixture[str], config: Any) -> None:
    path = tmp_path / "odd.tar.lz4"
    with lz4.frame.open(path, "wb") as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in (("metadata.json", json.dumps({"model_config": config}).encode()), ("weights.eqx", b"")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    refused(capsys, "inspect", path)
