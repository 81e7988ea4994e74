"""Files that lack a tensor, hold one twice or contradict themselves are refused by whatever reads them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from no_time_to_train.cli import main
from no_time_to_train.configs.encoders import ENCODER_CONFIGS
from no_time_to_train.encoders.torch_encoder import build_encoder_from_checkpoint
from no_time_to_train.encoders.transformers_models import build_model
from no_time_to_train.errors import KeyMismatchError, ShapeMismatchError, WeightsFormatError
from no_time_to_train.weights import inspect_weights
from no_time_to_train.weights.architecture import shapes_of
from no_time_to_train.weights.conversion import convert_weights
from no_time_to_train.weights.hub.manifest import check_folder
from tests.golden_files import golden
from tests.weights.fetching import WEIGHTS

TARGETS = {"hf": "folder", "meta": "file.pth", "equinox": "file.eqx"}
PERIODS = "rope_embed.periods"

Change = Callable[[dict[str, Tensor]], object]


@pytest.fixture(scope="module")
def convnext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert_weights(golden("convnext"), tmp_path_factory.mktemp("convnext") / "hf", "hf")


def changed(folder: Path, copy: Path, change: Change) -> Path:
    """Copy a Hugging Face folder, with other tensors."""
    shutil.copytree(folder, copy)
    tensors = load_file(copy / WEIGHTS)
    change(tensors)
    save_file(tensors, copy / WEIGHTS)
    return copy


def with_setting(folder: Path, copy: Path, **settings: object) -> Path:
    """Copy a Hugging Face folder, with other settings in `config.json`."""
    shutil.copytree(folder, copy)
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return copy


def pickled(path: Path, change: Change) -> Path:
    """Write the smallest checkpoint in Meta's layout, with other tensors."""
    tensors = dict(torch.load(golden("vit_mlp_released"), weights_only=True))
    change(tensors)
    torch.save(tensors, path)
    return path


def assert_refused(source: Path, tmp_path: Path, match: str) -> None:
    """Check that whatever reads a file refuses it, and that nothing is written."""
    for read in (inspect_weights, build_encoder_from_checkpoint):
        with pytest.raises(WeightsFormatError, match=match):
            read(source)
    for target, name in TARGETS.items():
        with pytest.raises(WeightsFormatError, match=match):
            convert_weights(source, tmp_path / "out" / name, target)  # type: ignore[arg-type] # of the parameters
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    "name",
    ["dinov3_small", "dinov3_small_plus", "dinov3_convnext_tiny", "dinov2_small", "dinov2_small_registers"],
)
def test_shapes_are_those_of_the_models(name: str) -> None:
    entry = ENCODER_CONFIGS[name]
    architecture = entry
    with torch.device("meta"):
        model = build_model(architecture, num_heads=entry.num_heads)
    assert shapes_of(architecture) == {key: tuple(value.shape) for key, value in model.state_dict().items()}


def test_every_tensor_is_missed(tiny_folder: Path, convnext: Path, tmp_path: Path) -> None:
    """Of a file that lacks one, transformers makes up random numbers."""
    for folder in (tiny_folder, convnext):
        for name in load_file(folder / WEIGHTS):
            lacking = changed(folder, tmp_path / "x", lambda tensors, name=name: tensors.pop(name))  # type: ignore[misc]
            try:
                if name == "embeddings.mask_token":  # serves pre-training only
                    check_folder(lacking)
                else:
                    with pytest.raises((WeightsFormatError, FileNotFoundError)):
                        check_folder(lacking)
                    with pytest.raises(WeightsFormatError):
                        inspect_weights(lacking, headers_only=True)
            finally:
                shutil.rmtree(lacking)


@pytest.mark.parametrize("name", ["layer.0.attention.k_proj.weight", "layer.0.norm1.bias", "norm.weight"])
def test_an_incomplete_file_is_refused_by_all(
    name: str, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking = changed(tiny_folder, tmp_path / "x", lambda tensors: tensors.pop(name))
    assert_refused(lacking, tmp_path, "1 tensors are missing")
    assert main(["validate", str(lacking)]) == 2
    assert name in capsys.readouterr().err


def test_another_shape_is_refused_by_all(tiny_folder: Path, tmp_path: Path) -> None:
    def cut(tensors: dict[str, Tensor]) -> None:
        tensors["layer.0.mlp.down_proj.weight"] = tensors["layer.0.mlp.down_proj.weight"].t().contiguous()

    broken = changed(tiny_folder, tmp_path / "x", cut)
    assert_refused(broken, tmp_path, r"down_proj.weight is \(256, 64\), expected \(64, 256\)")
    with pytest.raises(ShapeMismatchError):
        inspect_weights(broken)


def test_numbers_of_blocks_beyond_all_reason_end_at_once(tiny_folder: Path, convnext: Path, tmp_path: Path) -> None:
    def far(old: str, new: str) -> Change:
        return lambda tensors: tensors.update({new: tensors.pop(old)})

    vit = changed(tiny_folder, tmp_path / "vit", far("layer.0.norm1.bias", "layer.999999999.norm1.bias"))
    assert_refused(vit, tmp_path, "numbered up to 999999999")
    name = "stages.0.layers.0.gamma"
    other = changed(convnext, tmp_path / "convnext", far(name, name.replace("stages.0", "stages.999999999")))
    assert_refused(other, tmp_path, "numbered up to 999999999")


def test_two_names_for_one_tensor_are_refused(tmp_path: Path) -> None:
    """The last one would be taken."""
    path = pickled(
        tmp_path / "x.pth", lambda tensors: tensors.update({"blocks.0.mlp.w3.bias": tensors["blocks.0.mlp.fc2.bias"]})
    )
    assert_refused(path, tmp_path, "1 tensors of the layout Meta DINOv3 ViT twice")


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_rope_periods_are_positive_numbers(value: float, tmp_path: Path) -> None:
    """An infinite one gives features that look right."""

    def fill(tensors: dict[str, Tensor]) -> None:
        tensors[PERIODS].fill_(value)

    path = pickled(tmp_path / "x.pth", fill)
    with pytest.raises(WeightsFormatError, match="RoPE periods that are not positive numbers"):
        inspect_weights(path)
    assert_refused(path, tmp_path, "RoPE periods that are not positive numbers")


def test_rope_periods_in_metadata_are_positive_numbers(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "x")
    periods = '{"dtype": "float32", "values": [1e999, 1.0, 1.0, 1.0]}'
    save_file(load_file(tiny_folder / WEIGHTS), tmp_path / "x" / WEIGHTS, metadata={"rope_periods": periods})
    assert_refused(tmp_path / "x", tmp_path, "RoPE periods that are not positive numbers, such as inf")


def test_a_number_of_rope_periods_that_fits_no_head(tmp_path: Path) -> None:
    path = pickled(tmp_path / "x.pth", lambda tensors: tensors.update({PERIODS: tensors[PERIODS][:3]}))
    assert_refused(path, tmp_path, "3 RoPE periods, expected a quarter of the width of an attention head")


def test_shards_that_contradict_their_index(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "x")
    (tmp_path / "x" / WEIGHTS).unlink()
    tensors = load_file(tiny_folder / WEIGHTS)
    names = [f"model-0000{index}-of-00002.safetensors" for index in (1, 2)]
    first, *rest = sorted(tensors)
    # The first is in both: transformers and this package might take one each.
    save_file({first: tensors[first]}, tmp_path / "x" / names[0])
    save_file({name: tensors[name] for name in rest} | {first: tensors[first] + 7}, tmp_path / "x" / names[1])
    index = tmp_path / "x" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(rest, names[1]) | {first: names[0]}}))
    assert_refused(tmp_path / "x", tmp_path, f"{names[1]} holds {first}, which {index.name} says is in {names[0]}")
    index.write_text(json.dumps({"weight_map": dict.fromkeys(rest, names[1]) | {"x": names[0]}}))
    assert_refused(tmp_path / "x", tmp_path, f"{first} is in two shards")


def test_an_equinox_file_that_names_two_arrays_alike(tmp_path: Path) -> None:
    path = convert_weights(golden("vit_mlp_released"), tmp_path / "a.eqx", "equinox")
    line, _, rest = path.read_bytes().partition(b"\n")
    header = json.loads(line)
    header["leaves"][1] = header["leaves"][0]
    path.write_bytes(json.dumps(header).encode() + b"\n" + rest)
    assert_refused(path, tmp_path, "names two of its arrays alike")


def test_attention_heads_that_contradict_the_tensors(tiny_folder: Path, tmp_path: Path) -> None:
    assert_refused(
        with_setting(tiny_folder, tmp_path / "1", num_attention_heads=1), tmp_path, "states 1 attention heads"
    )
    assert_refused(
        with_setting(tiny_folder, tmp_path / "1.5", num_attention_heads=1.5), tmp_path, "num_attention_heads"
    )
    # Without stored periods the tensors do not tell.
    for heads in (7, 64):
        folder = with_setting(tiny_folder, tmp_path / str(heads), num_attention_heads=heads)
        save_file(load_file(folder / WEIGHTS), folder / WEIGHTS)
        assert_refused(folder, tmp_path, f"width of 64 cannot be shared by {heads} attention heads")


def test_a_normalisation_that_is_none_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    """It was taken for one that is not stated, and the encoder's own was used."""
    for mean, std in (([0.5], [0.5]), ([0.5] * 3, [-1, 1, 1]), ([0.5] * 3, None), ([True] * 3, [1.0] * 3)):
        folder = tmp_path / "x"
        shutil.copytree(tiny_folder, folder)
        path = folder / "preprocessor_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": mean, "image_std": std}))
        with pytest.raises(WeightsFormatError, match="three numbers each, deviations above 0"):
            build_encoder_from_checkpoint(folder)
        shutil.rmtree(folder)


def test_settings_that_metas_layout_cannot_hold(tiny_folder: Path, tmp_path: Path) -> None:
    """The file would be read with other ones, and give other features."""
    for name, value in (("layer_norm_eps", 1e-3), ("hidden_act", "relu")):
        folder = with_setting(tiny_folder, tmp_path / name, **{name: value})
        with pytest.raises(WeightsFormatError, match=f"has the {name} {value}, for which Meta's layout has no place"):
            convert_weights(folder, tmp_path / "x.pth", "meta")
        assert not (tmp_path / "x.pth").exists()
        convert_weights(folder, tmp_path / f"{name}-hf", "hf")


def test_metas_layout_is_written_under_a_name_that_is_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(golden("vit_mlp_released")), str(tmp_path / "x.safetensors"), "--to", "meta"]) == 2
    assert "let it end in .pth" in capsys.readouterr().err


def test_negated_views_keep_their_sign(tmp_path: Path) -> None:
    """Their bytes are those of what they negate."""
    name = "blocks.0.attn.proj.weight"
    plain = torch.load(golden("vit_mlp_released"), weights_only=True)[name]
    path = pickled(tmp_path / "x.pth", lambda tensors: tensors.update({name: torch._neg_view(-plain)}))
    folder = convert_weights(path, tmp_path / "hf", "hf")
    assert torch.equal(load_file(folder / WEIGHTS)["layer.0.attention.o_proj.weight"], plain)


def test_unexpected_tensors_are_told(tiny_folder: Path, tmp_path: Path) -> None:
    bias = {"layer.0.attention.k_proj.bias": torch.ones(64), "layer.0.mlp.gate_proj.bias": torch.ones(256)}
    folder = changed(tiny_folder, tmp_path / "x", lambda tensors: tensors.update(bias))
    with pytest.raises(KeyMismatchError, match=r"gate_proj\.bias"):
        inspect_weights(folder)


def test_negated_views_are_read_by_torch(tmp_path: Path) -> None:
    """The fingerprint reads their bytes."""
    name = "blocks.0.attn.proj.weight"
    path = pickled(tmp_path / "x.pth", lambda tensors: tensors.update({name: torch._neg_view(-tensors[name])}))
    plain = build_encoder_from_checkpoint(golden("vit_mlp_released"))
    assert build_encoder_from_checkpoint(path).fingerprint == plain.fingerprint


def test_numbers_beyond_float32_are_told(tiny_folder: Path, tmp_path: Path) -> None:
    """Every backend computes in float32, where they are infinite."""
    name = "layer.0.mlp.up_proj.bias"
    folder = changed(
        tiny_folder, tmp_path / "x", lambda tensors: tensors.update({name: tensors[name].double() + 1e300})
    )
    assert inspect_weights(folder).not_finite == (name,)
    with pytest.raises(WeightsFormatError, match="NaN or infinite"):
        build_encoder_from_checkpoint(folder)
