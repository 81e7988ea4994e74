"""Places of exported files and of the weights that they use: links, other folders, folders that are taken."""

from pathlib import Path
from typing import Any, cast

import onnx
import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from no_time_to_train.encoders.torch_encoder import build_encoder_from_checkpoint
from no_time_to_train.errors import (
    ConfigError,
    ImageSizeError,
    OutputError,
    ShapeMismatchError,
    WeightsFormatError,
    WeightsNotFoundError,
)
from no_time_to_train.export import export_onnx
from no_time_to_train.runtime.onnx_session import read_onnx_file
from no_time_to_train.weights.conversion import convert_weights
from tests.export.test_onnx import TOLERANCE, external, largest_difference
from tests.golden_files import golden


def test_weights_stay_where_they_are(tmp_path: Path) -> None:
    folder = convert_weights(golden("vit_swiglu"), tmp_path / "hf", "hf")
    before = (folder / "model.safetensors").stat()
    assert export_onnx(folder) == folder.resolve()
    after = (folder / "model.safetensors").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    places = external(folder)
    bound = {name for name, place in places.items() if place}
    assert {place["location"] for place in places.values() if place} == {"model.safetensors"}
    # Every weight of the file but the mask token, which inference does not use.
    assert len(bound) == len(load_file(folder / "model.safetensors")) - 1
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    inside = [tensor for tensor in model.graph.initializer if tensor.name not in bound]
    assert sum(len(tensor.raw_data) for tensor in inside) < 2000
    assert largest_difference(folder, folder) <= TOLERANCE
    # Again, over the old file.
    export_onnx(folder, opset=17)
    assert read_onnx_file(folder).metadata["weights"] == "beside"


def test_sharded_weights(tmp_path: Path) -> None:
    whole = convert_weights(golden("vit_mlp"), tmp_path / "whole", "hf")
    AutoModel.from_pretrained(whole).save_pretrained(tmp_path / "hf", max_shard_size="150KB")
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 1
    for output in (None, tmp_path / "elsewhere"):
        folder = export_onnx(tmp_path / "hf", output=output)
        assert len({place["location"] for place in external(folder).values() if place}) > 1
        assert largest_difference(folder, folder) <= TOLERANCE


def test_weights_in_one_ordinary_file(tmp_path: Path) -> None:
    folder = convert_weights(golden("vit_mlp"), tmp_path / "hf", "hf")
    made = export_onnx(folder, copy_weights=True)
    assert made == tmp_path / "hf-onnx"
    assert {place["location"] for place in external(made).values() if place} == {"model.onnx_data"}
    assert not (made / "model.safetensors").exists()
    moved = (tmp_path / "hf-onnx").rename(tmp_path / "moved")
    assert largest_difference(moved, folder) <= TOLERANCE
    half = export_onnx(folder, output=tmp_path / "half", copy_weights=True, precision="fp16")
    assert not (half / "weights.safetensors").exists()
    assert read_onnx_file(half).num_bytes < 0.7 * read_onnx_file(moved).num_bytes
    (half / "model.onnx_data").rename(half / "model.onnx.data")  # as the first release named it
    again = export_onnx(folder, output=half, copy_weights=True, precision="fp16")
    assert not (again / "model.onnx.data").exists()


def test_weights_that_were_written_again_are_noticed(tmp_path: Path) -> None:
    folder = convert_weights(golden("vit_mlp"), tmp_path / "hf", "hf")
    export_onnx(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt", "note": "x" * 4000})
    with pytest.raises(WeightsFormatError, match=r"was written again since model\.onnx .*export it again"):
        read_onnx_file(folder)
    assert largest_difference(export_onnx(folder), folder) <= TOLERANCE


def test_links_to_weights(tmp_path: Path) -> None:
    """The Hub's cache holds links, which onnxruntime does not follow."""
    real = convert_weights(golden("vit_mlp"), tmp_path / "blobs", "hf")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in real.iterdir():
        (snapshot / path.name).symlink_to(path)
    with pytest.raises(OutputError, match=r"links, which onnxruntime does not follow .*--output"):
        export_onnx(snapshot)
    folder = export_onnx(snapshot, output=tmp_path / "onnx")
    assert not (folder / "model.safetensors").is_symlink()
    assert largest_difference(folder, snapshot) <= TOLERANCE
    # A link to the whole folder is not an obstacle.
    (tmp_path / "link").symlink_to(real)
    assert export_onnx(tmp_path / "link") == real.resolve()


def test_folders_that_hold_something_else(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is there already"):
        export_onnx(golden("vit_mlp"), output=taken)
    # The folder of somebody's weights, exported in place, is not an export that could be made again.
    folder = convert_weights(golden("vit_mlp"), tmp_path / "hf", "hf")
    export_onnx(folder)
    with pytest.raises(OutputError, match="is there already"):
        export_onnx(golden("vit_mlp_released"), output=folder)
    with pytest.raises(OutputError, match="holds the weights themselves"):
        export_onnx(folder, output=folder, precision="fp16")
    assert (taken / "notes.txt").read_text() == "mine"
    # Nor is an export with something beside it, or with the weights within it, one that may be replaced whole.
    made = export_onnx(folder, output=tmp_path / "made")
    (made / "engine.plan").write_text("hours of work")
    with pytest.raises(OutputError, match="is there already"):
        export_onnx(folder, output=made)
    (made / "engine.plan").unlink()
    with pytest.raises(OutputError, match="holds the weights themselves"):
        export_onnx(made / "model.safetensors", output=made.parent / "made", precision="int8")
    assert (made / "model.safetensors").exists()
    foreign = convert_weights(golden("vit_mlp"), tmp_path / "foreign", "hf")
    (foreign / "model.onnx").write_text("somebody else's")
    with pytest.raises(OutputError, match="is not of ntt export"):
        export_onnx(foreign)
    assert (foreign / "model.onnx").read_text() == "somebody else's"
    assert {"model.onnx", "model.safetensors"} <= {path.name for path in folder.iterdir()}


def test_wrong_wishes(tmp_path: Path) -> None:
    weights, output = golden("vit_mlp"), tmp_path / "onnx"
    with pytest.raises(ImageSizeError, match="use 48x64"):
        export_onnx(weights, output=output, image_size=(50, 60))
    with pytest.raises(ConfigError, match=r"got FeatureEncoder \(give a registry name") as said:
        export_onnx(cast(Any, build_encoder_from_checkpoint(weights)), output=output)
    assert "\n" not in str(said.value)
    with pytest.raises(ConfigError, match="opset 18 is not supported"):
        export_onnx(weights, output=output, opset=18)
    with pytest.raises(ConfigError, match="batch_size is 0, expected"):
        export_onnx(weights, output=output, batch_size=0)
    with pytest.raises(ShapeMismatchError, match="does not hold dinov3_small"):
        export_onnx("dinov3_small", weights, output)
    with pytest.raises(WeightsNotFoundError, match="ntt fetch dinov3_small"):
        export_onnx("dinov3_small")
    with pytest.raises(WeightsNotFoundError, match="check the path"):
        export_onnx(str(tmp_path / "nothing"))
    assert not output.exists()
