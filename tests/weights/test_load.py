from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from no_time_to_train.errors import KeyMismatchError, ShapeMismatchError, WeightsFormatError
from no_time_to_train.weights.load import as_tensor, assign_tensors, is_finite
from no_time_to_train.weights.source import read_source
from tests.conftest import DATA


def empty_model() -> nn.Sequential:
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def tensors() -> dict[str, torch.Tensor]:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_every_tensor_is_assigned_and_cast_where_it_is_floating() -> None:
    model, given = empty_model(), tensors()
    assign_tensors(model, given, source="x", dtype=torch.bfloat16)
    state = model.state_dict()
    assert state["0.weight"].dtype == torch.bfloat16
    assert state["1.num_batches_tracked"].dtype == torch.int64
    assert torch.equal(state["0.weight"], given["0.weight"].bfloat16())
    assert isinstance(model.get_parameter("0.weight"), nn.Parameter)


def test_integer_buffers_and_gradients_are_left_as_they_are() -> None:
    model, given = empty_model(), tensors() | {"1.num_batches_tracked": torch.tensor(2**40 + 1)}
    model.get_parameter("0.weight").requires_grad_(False)
    # 2**40 + 1 is none of half precision's numbers.
    assign_tensors(model, given, source="x", dtype=torch.float16)
    assert model.get_buffer("1.num_batches_tracked").item() == 2**40 + 1
    assert not model.get_parameter("0.weight").requires_grad
    assert model.get_parameter("0.bias").requires_grad
    assert "num_batches_tracked" in dict(model[1].named_buffers())


def test_weights_are_taken_not_copied() -> None:
    model, given = empty_model(), tensors()
    assign_tensors(model, given, source="x")
    assert model.get_parameter("0.weight").data_ptr() == given["0.weight"].data_ptr()


def test_missing_unexpected_and_misshapen_are_listed() -> None:
    given = tensors()
    del given["0.bias"]
    with pytest.raises(KeyMismatchError, match=r"tensors of x .* 1 missing: 0.bias"):
        assign_tensors(empty_model(), given, source="x")
    model = empty_model()
    assign_tensors(model, given, source="x", optional=["0.bias"])
    assert [name for name, tensor in model.state_dict().items() if tensor.is_meta] == ["0.bias"]
    with pytest.raises(KeyMismatchError, match=r"1 unexpected: head"):
        assign_tensors(empty_model(), tensors() | {"head": torch.zeros(1)}, source="x")
    with pytest.raises(ShapeMismatchError, match=r"0.weight is \(3, 3\), expected \(3, 2\)"):
        assign_tensors(empty_model(), tensors() | {"0.weight": torch.zeros(3, 3)}, source="x")


def test_long_lists_are_cut() -> None:
    given = tensors() | {f"head.{index:02d}": torch.zeros(1) for index in range(12)}
    with pytest.raises(KeyMismatchError, match=r"12 unexpected: head.00, .*, head.09, \.\.\."):
        assign_tensors(empty_model(), given, source="x")
    both = {name: tensor for name, tensor in given.items() if name != "1.bias"}
    with pytest.raises(KeyMismatchError, match=r"1 missing: 1.bias; 12 unexpected"):
        assign_tensors(empty_model(), both, source="x")


def test_nothing_is_assigned_when_something_is_wrong() -> None:
    model = empty_model()
    with pytest.raises(ShapeMismatchError):
        assign_tensors(model, tensors() | {"1.weight": torch.zeros(4)}, source="x")
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize(
    ("values", "dtype", "finite"),
    [
        ([448.0, -448.0], torch.float8_e4m3fn, True),
        ([1.0, float("nan")], torch.float8_e4m3fn, False),
        ([1.0, float("inf")], torch.float8_e5m2, False),
        ([65504.0, 65504.0], torch.float16, True),
        ([1.0, float("-inf")], torch.bfloat16, False),
        # The sum is beyond float32, and the values are not.
        ([3e38, 3e38], torch.float32, True),
        ([float("inf"), float("-inf")], torch.float32, False),
        ([1e300], torch.float64, False),
        ([2**62, 2**62], torch.int64, True),
        ([], torch.float32, True),
    ],
)
def test_values_that_are_finite_in_float32(values: list[float], dtype: torch.dtype, finite: bool) -> None:
    tensor = torch.tensor(values, dtype=torch.int64 if dtype == torch.int64 else torch.float64).to(dtype)
    assert is_finite(tensor) is finite
    assert is_finite(tensor.to("meta"))


def test_checksums_are_compared_unless_told_otherwise(tmp_path: Path) -> None:
    content = bytearray((DATA / "golden" / "vit_mlp_released.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "flipped.pth").write_bytes(content)
    with pytest.raises(WeightsFormatError, match="is damaged: Bad CRC-32"):
        read_source(tmp_path / "flipped.pth")
    assert read_source(tmp_path / "flipped.pth", verify=False).architecture.embed_dim == 64


def test_the_key_bias_is_left_out_where_it_is_masked_and_kept_where_it_is_not(tmp_path: Path) -> None:
    golden = DATA / "golden" / "vit_mlp_untied.pth"
    source = read_source(golden)
    assert not source.architecture.key_bias
    assert source.architecture.untied_norm
    raw = torch.load(golden, weights_only=True)
    unmasked = {name: tensor for name, tensor in raw.items() if not name.endswith("bias_mask")}
    torch.save(unmasked, tmp_path / "unmasked.pth")
    kept = read_source(tmp_path / "unmasked.pth")
    assert kept.architecture.key_bias
    expected = raw["blocks.0.attn.qkv.bias"][64:128]
    assert expected.abs().max() > 0
    assert torch.equal(as_tensor(kept.tensors["model.layer.0.attention.k_proj.bias"]), expected)


def test_architecture_is_read_from_the_tensors() -> None:
    swiglu = read_source(DATA / "golden" / "vit_swiglu64_untied.pth").architecture
    assert (swiglu.ffn, swiglu.ffn_dim, swiglu.num_heads, swiglu.query_bias) == ("swiglu", 128, 2, False)
    convnext = read_source(DATA / "golden" / "convnext.pth").architecture
    assert (convnext.stage_depths, convnext.stage_dims) == ((2, 2, 2, 2), (16, 32, 64, 128))


def test_unknown_layouts_and_broken_settings(tmp_path: Path) -> None:
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsFormatError, match=r"no known encoder layout: its 1 tensors begin with conv.weight"):
        read_source(tmp_path / "other.safetensors")
    names = ("embeddings.patch_embeddings.weight", "layer.0.attention.q_proj.weight")
    save_file({name: torch.zeros(1, 1, 1, 1) for name in names}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsFormatError, match=r"lacks model.layer.0.mlp.up_proj.weight"):
        read_source(tmp_path)


def huggingface_folder(folder: Path) -> dict[str, torch.Tensor]:
    """Save a tiny DINOv3 whose keys have a bias of zero, and return its tensors as the file names them."""
    config = DINOv3ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, key_bias=True
    )
    model = DINOv3ViTModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("k_proj.bias"):
                parameter.zero_()
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def test_key_biases_of_zero_are_left_out_and_others_kept(tmp_path: Path) -> None:
    given = huggingface_folder(tmp_path)
    biases = [name for name in given if name.endswith("k_proj.bias")]
    assert len(biases) == 2
    source = read_source(tmp_path)
    assert not source.architecture.key_bias
    assert not any("k_proj.bias" in name for name in source.tensors)
    assert any("q_proj.bias" in name for name in source.tensors)
    # One bias that counts keeps those of all blocks.
    given[biases[1]][5] = 1e-3
    save_file(given, tmp_path / "model.safetensors")
    source = read_source(tmp_path)
    assert source.architecture.key_bias
    assert sum("k_proj.bias" in name for name in source.tensors) == 2


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_broken_settings_beside_the_weights(tmp_path: Path, name: str) -> None:
    huggingface_folder(tmp_path)
    assert read_source(tmp_path).model_config["num_attention_heads"] == 2
    for content, message in ((b'{"num_att', "is not valid JSON"), (b"\xff", "is not valid"), (b"[1]", "holds a list")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsFormatError, match=rf"{name} {message}"):
            read_source(tmp_path)
    (tmp_path / name).unlink()
    source = read_source(tmp_path)
    assert (source.model_config if name == "config.json" else source.preprocessor) == {}


def test_integers_for_floats_are_refused() -> None:
    quantised = {"weight": torch.zeros(2, 2, dtype=torch.int8), "bias": torch.zeros(2)}
    with pytest.raises(WeightsFormatError, match="weight is int8"):
        assign_tensors(nn.Linear(2, 2), quantised, source="x")
