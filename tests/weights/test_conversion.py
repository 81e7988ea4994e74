"""Conversion between layouts: the same numbers, the same features, little memory, nothing half-written."""

import json
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedModel,
)

from no_time_to_train.cli import main
from no_time_to_train.configs.encoders import SAT493M_MEAN, resolve_encoder
from no_time_to_train.encoders.torch_encoder import build_encoder_from_checkpoint
from no_time_to_train.encoders.transformers_models import build_model
from no_time_to_train.errors import KeyMismatchError, OutputError, WeightsFormatError, WeightsNotFoundError
from no_time_to_train.export import export_onnx
from no_time_to_train.weights import conversion, equinox_source, inspect_weights
from no_time_to_train.weights import source as source_module
from no_time_to_train.weights.conversion import convert_weights
from no_time_to_train.weights.formats import reader
from no_time_to_train.weights.layouts.dino import META_DINOV3_VIT
from no_time_to_train.weights.layouts.mapping import to_transformers
from no_time_to_train.weights.load import from_tensor
from tests.golden_files import NAMES, golden
from tests.weights.stored import read_tensors
from tests.weights.test_inspect import write_sparse

# Meta's own training alone has a use for them, so that no other layout keeps them.
LEFT_OUT = {"local_cls_norm.weight", "local_cls_norm.bias"}


@pytest.mark.parametrize("name", NAMES)
def test_meta_to_hf_and_back(name: str, tmp_path: Path) -> None:
    source = golden(name)
    before = source.read_bytes()
    folder = convert_weights(source, tmp_path / "hf", "hf")
    back = convert_weights(folder, tmp_path / "back.pth", "meta")
    again = convert_weights(back, tmp_path / "again", "hf")
    assert (folder / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert source.read_bytes() == before
    first, last = read_tensors(source), read_tensors(back)
    assert first.keys() - last.keys() <= LEFT_OUT
    for key, tensor in last.items():
        assert tensor.dtype == first[key].dtype
        if key.endswith("attn.qkv.bias"):
            # What the mask takes away need not be kept.
            mask = last[f"{key}_mask"] if f"{key}_mask" in last else torch.ones_like(tensor)
            masked = first[key] * first.get(f"{key}_mask", torch.ones(1))
            assert torch.equal(tensor * mask, masked)
        elif not key.endswith("bias_mask"):
            assert torch.equal(tensor, first[key]), key
    pixels = torch.randn(1, 3, 64, 96)
    expected = build_encoder_from_checkpoint(source)(pixels)
    for path in (folder, back, again):
        assert torch.equal(build_encoder_from_checkpoint(path)(pixels).patches, expected.patches)
    assert zipfile.ZipFile(back).testzip() is None


def test_transformers_opens_what_was_converted(tmp_path: Path) -> None:
    for name in ("vit_mlp", "convnext"):
        folder = convert_weights(golden(name), tmp_path / name, "hf")
        theirs, info = AutoModel.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        pixels = torch.randn(1, 3, 64, 64)
        ours = build_encoder_from_checkpoint(folder)
        with torch.inference_mode():
            pooled = theirs.eval()(pixel_values=pixels).pooler_output
        # Golden periods are the formula's in float32 but for rounding, and transformers computes its own.
        torch.testing.assert_close(pooled.flatten(1), ours(pixels).cls, rtol=0, atol=2e-5)


DINOV2: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
    "image_size": 56,
}


def sources(folder: Path) -> dict[str, Path]:
    """Return weights of every family, by the names of transformers' modules where they are not Meta's."""
    found = {name: golden(name) for name in ("vit_mlp", "vit_swiglu", "convnext")}
    for gated in (False, True):
        settings = {**DINOV2, "use_swiglu_ffn": gated}
        models: dict[str, PreTrainedModel] = {
            "plain": Dinov2Model(Dinov2Config(**settings)),
            "registers": Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**settings)),
        }
        for kind, model in models.items():
            place = folder / f"dinov2_{kind}_{gated}"
            model.config.save_pretrained(place)
            save_file(model.state_dict(), place / "model.safetensors", metadata={"format": "pt"})
            found[place.name] = place
    return found


def test_names_are_those_of_save_pretrained(tmp_path: Path) -> None:
    """They are what transformers 4.57 opens too, which draws random weights for names that it does not know.

    Opened by transformers 4.57.6 in an environment of its own, these folders gave the same features to 1e-6.
    """
    for name, source in sources(tmp_path).items():
        folder = convert_weights(source, tmp_path / f"{name}-hf", "hf")
        theirs, info = AutoModel.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        theirs.save_pretrained(tmp_path / f"{name}-again")
        ours, again = (load_file(path / "model.safetensors") for path in (folder, tmp_path / f"{name}-again"))
        assert ours.keys() == again.keys()
        assert all(torch.equal(tensor, again[key]) for key, tensor in ours.items())
        pixels = torch.randn(1, 3, 112, 112)
        with torch.inference_mode():
            features = theirs.eval()(pixel_values=pixels).last_hidden_state
            for path in (source, folder):
                # One model with the same weights, but for the golden RoPE periods, which transformers computes itself.
                expected = build_encoder_from_checkpoint(path).tokens(pixels)
                torch.testing.assert_close(features, expected, rtol=0, atol=2e-5)


def test_folders_by_the_names_of_modules_are_read(tmp_path: Path) -> None:
    """Earlier versions of this package wrote them; converted and exported they get the names of the Hub's files."""
    for name in ("vit_mlp", "convnext"):
        folder = convert_weights(golden(name), tmp_path / name, "hf")
        hub = load_file(folder / "model.safetensors")
        old = tmp_path / f"{name}-old"
        shutil.copytree(folder, old)
        modules = {f"model.{key}" if key.startswith(("layer.", "stages.")) else key: hub[key] for key in hub}
        save_file(modules, old / "model.safetensors", metadata={"format": "pt"})
        pixels = torch.randn(1, 3, 64, 64)
        with torch.inference_mode():
            expected = build_encoder_from_checkpoint(folder)(pixels).patches
            assert torch.equal(build_encoder_from_checkpoint(old)(pixels).patches, expected)
        for made in (
            convert_weights(old, tmp_path / f"{name}-new", "hf"),
            export_onnx(old, output=tmp_path / f"{name}-onnx"),
        ):
            assert load_file(made / "model.safetensors").keys() == hub.keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_opens_the_dtype_that_is_stored(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in read_tensors(golden("vit_mlp_untied")).items()}
    torch.save(tensors, tmp_path / "meta.pth")
    folder = convert_weights(tmp_path / "meta.pth", tmp_path / "hf", "hf")
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    assert AutoModel.from_pretrained(folder).dtype == dtype


def test_timm_and_a_training_checkpoint_become_folders(tmp_path: Path) -> None:
    theirs = timm.create_model("vit_small_patch16_dinov3_qkvb", pretrained=False, depth=2, num_classes=0)
    save_file(theirs.state_dict(), tmp_path / "timm.safetensors")
    folder = convert_weights(tmp_path / "timm.safetensors", tmp_path / "timm", "hf")
    pixels = torch.randn(1, 3, 32, 32)
    one, two = (build_encoder_from_checkpoint(path) for path in (tmp_path / "timm.safetensors", folder))
    assert torch.equal(one(pixels).patches, two(pixels).patches)
    state = {f"model.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    torch.save({"pytorch-lightning_version": "2.6", "state_dict": state}, tmp_path / "last.ckpt")
    trained = convert_weights(tmp_path / "last.ckpt", tmp_path / "trained", "hf")
    assert (trained / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_old_formats_and_tensors_in_other_orders(tmp_path: Path) -> None:
    tensors = read_tensors(golden("vit_mlp_released"))
    tensors["patch_embed.proj.weight"] = tensors["patch_embed.proj.weight"].transpose(2, 3).contiguous().transpose(2, 3)
    torch.save(tensors, tmp_path / "strided.pth")
    torch.save({"model": tensors}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    whole = [
        (convert_weights(tmp_path / f"{name}.pth", tmp_path / name, "hf") / "model.safetensors").read_bytes()
        for name in ("strided", "old")
    ]
    expected = convert_weights(golden("vit_mlp_released"), tmp_path / "plain", "hf") / "model.safetensors"
    assert whole == [expected.read_bytes()] * 2


def test_satellite_folders_carry_their_own_normalisation(tmp_path: Path) -> None:
    entry = resolve_encoder("dinov3_7b_sat")
    assert entry.image_mean == SAT493M_MEAN
    source = tmp_path / "sat.safetensors"
    large = resolve_encoder("dinov3_large_sat")
    with torch.device("meta"):
        model = build_model(large, num_heads=large.num_heads)
    shapes = {f"{name}": tuple(value.shape) for name, value in model.state_dict().items()}
    write_sparse(source, shapes)
    # By its tensors alone this is the LVD one; the norm of local crops, in Meta's files, tells the satellite's.
    plain = convert_weights(source, tmp_path / "plain", "hf")
    assert json.loads((plain / "preprocessor_config.json").read_text())["image_mean"] != list(SAT493M_MEAN)
    meta = convert_weights(plain, tmp_path / "plain.pth", "meta")
    state = torch.load(meta, weights_only=True, mmap=True)
    state |= {f"local_cls_norm.{part}": torch.zeros(1024) for part in ("weight", "bias")}
    torch.save(state, tmp_path / "sat.pth")
    folder = convert_weights(tmp_path / "sat.pth", tmp_path / "sat", "hf")
    assert json.loads((folder / "preprocessor_config.json").read_text())["image_mean"] == list(SAT493M_MEAN)
    assert inspect_weights(tmp_path / "sat.pth", headers_only=True).encoder == "dinov3_large_sat"


@pytest.mark.parametrize("to", ["hf", "equinox"])
def test_seven_billion_parameters_within_memory(to: str, tmp_path: Path) -> None:
    """A sparse file as long as the real one; the peak is that of a process that does nothing else."""
    entry = resolve_encoder("dinov3_7b")
    with torch.device("meta"):
        model = build_model(entry, num_heads=entry.num_heads)
    source = tmp_path / "model.safetensors"
    write_sparse(source, {name: tuple(value.shape) for name, value in model.state_dict().items()})
    out = tmp_path / "out.eqx"
    code = (
        "import sys; from no_time_to_train.weights.conversion import convert_weights;"
        "convert_weights(*sys.argv[1:]);"
        # Not ru_maxrss, which a child inherits from its parent.
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(source), str(out), to], capture_output=True, text=True, check=True
    )
    peak = int(run.stdout.split()[-1]) * 1024
    assert peak < 1.5e9
    report = inspect_weights(out, headers_only=True)
    assert report.encoder == "dinov3_7b"
    written = out / "model.safetensors" if to == "hf" else out
    assert written.stat().st_size > 26e9
    assert written.stat().st_blocks * 512 < 1e9


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path) -> None:
    source = golden("vit_mlp_released")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("mine")
    with pytest.raises(OutputError, match="is there already"):
        convert_weights(source, tmp_path / "mine", "hf")
    with pytest.raises(OutputError, match="is there already"):
        convert_weights(source, source, "meta")
    with pytest.raises(WeightsNotFoundError):
        convert_weights(tmp_path / "absent", tmp_path / "out", "hf")
    tensors = read_tensors(source) | {"head.weight": torch.ones(2)}
    torch.save(tensors, tmp_path / "headed.pth")
    with pytest.raises(KeyMismatchError, match=r"head\.weight"):
        convert_weights(tmp_path / "headed.pth", tmp_path / "out", "hf")
    uneven = {name: from_tensor(tensor) for name, tensor in read_tensors(source).items()}
    uneven["blocks.0.attn.qkv.weight"] = from_tensor(torch.zeros(7, 64))
    with pytest.raises(WeightsFormatError, match="7 rows, expected a multiple of 3"):
        to_transformers(uneven, META_DINOV3_VIT, "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["headed.pth", "mine"]


@pytest.mark.parametrize(("to", "name"), [("hf", "out"), ("meta", "out.pth"), ("equinox", "out.eqx")])
def test_of_several_conversions_to_one_place_one_succeeds(to: Any, name: str, tmp_path: Path) -> None:
    def convert(_: int) -> str:
        try:
            convert_weights(golden("vit_mlp_released"), tmp_path / name, to)
        except OutputError as error:
            return error.message
        return "written"

    with ThreadPoolExecutor(4) as pool:
        said = sorted(pool.map(convert, range(4)))
    assert said == [*[f"{tmp_path / name} is there already"] * 3, "written"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(golden("vit_mlp_released"))
    assert main(["convert", source, str(tmp_path / "hf"), "--to", "hf"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "hf")
    assert build_encoder_from_checkpoint(tmp_path / "hf").config.depth == 1
    assert main(["convert", source, str(tmp_path / "hf"), "--to", "hf"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["convert", source, str(tmp_path / "x"), "--to", "onnx"]) == 2


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int8, torch.bool])
@pytest.mark.parametrize(("to", "name"), [("hf", "out"), ("meta", "out.pth"), ("equinox", "out.eqx")])
def test_numbers_that_no_encoder_loads_are_not_written(dtype: torch.dtype, to: Any, name: str, tmp_path: Path) -> None:
    tensors = dict(read_tensors(golden("vit_mlp_untied")))
    tensors["norm.weight"] = tensors["norm.weight"].to(dtype)
    torch.save(tensors, tmp_path / "in.pth")
    with pytest.raises(WeightsFormatError, match=r"1 tensors of .* not of floating point: norm\.weight is"):
        convert_weights(tmp_path / "in.pth", tmp_path / name, to)
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]


@pytest.mark.parametrize(("to", "name"), [("hf", "out"), ("meta", "out.pth"), ("equinox", "out.eqx")])
@pytest.mark.parametrize("layout", ["meta", "hf"])
def test_a_file_is_opened_and_identified_once(
    layout: str, to: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = golden("vit_mlp_released")
    if layout == "hf":
        source = convert_weights(source, tmp_path / "source", "hf")
    calls: list[str] = []

    def count(module: Any, function: str) -> None:
        original = getattr(module, function)

        def counted(*args: Any, **options: Any) -> Any:
            calls.append(function)
            return original(*args, **options)

        monkeypatch.setattr(module, function, counted)

    count(reader, "_read_safetensors")
    count(reader, "read_torch_file")
    count(source_module, "detect_layout")
    count(source_module, "to_transformers")
    for module in (conversion, equinox_source):
        count(module, "identify_encoder")
    convert_weights(source, tmp_path / name, to)
    opened = "_read_safetensors" if layout == "hf" else "read_torch_file"
    assert calls == [opened, "detect_layout", "to_transformers", "identify_encoder"]
