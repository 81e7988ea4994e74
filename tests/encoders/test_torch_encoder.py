import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ConvNextConfig,
    DINOv3ConvNextModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedModel,
)

from no_time_to_train.encoders.torch_encoder import (
    FeatureEncoder,
    _warn_about_preprocessor,
    build_encoder,
    build_encoder_from_checkpoint,
    build_torch_encoder,
)
from no_time_to_train.encoders.transformers_models import build_model
from no_time_to_train.errors import (
    ConfigError,
    ImageSizeError,
    KeyMismatchError,
    ShapeMismatchError,
    UnknownEncoderError,
    WeightsFormatError,
    WeightsNotFoundError,
)
from no_time_to_train.models.dinov3_utils import ENCODER_CONFIGS, SAT493M_MEAN, EncoderConfig, resolve_encoder
from no_time_to_train.weights.architecture import matches, read_architecture
from no_time_to_train.weights.identify import is_file_of_weights
from no_time_to_train.weights.layouts.dino import detect_layout
from no_time_to_train.weights.layouts.mapping import to_transformers
from no_time_to_train.weights.source import read_source
from tests.conftest import DATA
from tests.golden_files import NAMES, golden
from tests.weights.stored import stored

GOLDEN = DATA / "golden"
# fp32 noise of Meta's code against fp64 is 4e-6; the mildest mistake known (tanh GELU) costs 6e-4.
TOLERANCE = 2e-5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", ["64x64", "48x96", "80x112"])
def test_agrees_with_metas_own_code(name: str, size: str) -> None:
    expected = load_file(golden(name, ".safetensors"))
    encoder = build_encoder_from_checkpoint(golden(name))
    with torch.inference_mode():
        features = encoder(load_file(GOLDEN / "inputs.safetensors")[size])
    assert (features.cls - expected[f"{size}.x_norm_clstoken"]).abs().max() <= TOLERANCE
    assert (features.patches.flatten(1, 2) - expected[f"{size}.x_norm_patchtokens"]).abs().max() <= TOLERANCE
    if f"{size}.x_storage_tokens" in expected:
        assert (features.storage - expected[f"{size}.x_storage_tokens"]).abs().max() <= TOLERANCE
    else:
        assert features.storage.shape[1] == 0


def test_stored_periods_are_used() -> None:
    # The file holds bf16 periods: whoever recomputes them in fp32 is 6.6e-3 off.
    encoder = build_encoder_from_checkpoint(GOLDEN / "vit_mlp_released.pth")
    stored = torch.load(GOLDEN / "vit_mlp_released.pth", weights_only=True)["rope_embed.periods"]
    assert stored.dtype == torch.bfloat16
    assert torch.equal(encoder.model.get_buffer("rope_embeddings.inv_freq"), 1 / stored.float())


def perturbed(model: PreTrainedModel) -> PreTrainedModel:
    """Give every parameter values that are neither zero nor one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    nn.Module.eval(model)
    return model


def tiny_models() -> dict[str, PreTrainedModel]:
    vit: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {
        "dinov3_mlp": DINOv3ViTModel(DINOv3ViTConfig(**vit, intermediate_size=128, num_register_tokens=4)),
        "dinov3_swiglu": DINOv3ViTModel(
            DINOv3ViTConfig(**vit, intermediate_size=96, num_register_tokens=4, use_gated_mlp=True, hidden_act="silu")
        ),
        "dinov3_key_bias": DINOv3ViTModel(DINOv3ViTConfig(**vit, intermediate_size=128, key_bias=True)),
        "convnext": DINOv3ConvNextModel(DINOv3ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1])),
        "dinov2": Dinov2Model(Dinov2Config(**vit, image_size=56, mlp_ratio=2)),
        "dinov2_swiglu": Dinov2Model(Dinov2Config(**vit, image_size=56, mlp_ratio=4, use_swiglu_ffn=True)),
        "dinov2_registers": Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(**vit, image_size=56, mlp_ratio=2, patch_size=14)
        ),
    }


@pytest.mark.parametrize("name", list(tiny_models()))
def test_huggingface_folder_gives_what_transformers_gives(name: str, tmp_path: Path) -> None:
    model = perturbed(tiny_models()[name])
    model.save_pretrained(tmp_path)
    encoder = build_encoder_from_checkpoint(tmp_path)
    height, width = encoder.patch_size * 2, encoder.patch_size * 3
    pixels = torch.randn(2, 3, height, width)
    with torch.inference_mode():
        features = encoder(pixels)
        tokens = model(pixels).last_hidden_state
    assert features.patches.shape == (2, 2, 3, encoder.embed_dim)
    joined = torch.cat([features.cls[:, None], features.storage, features.patches.flatten(1, 2)], dim=1)
    assert torch.equal(joined, tokens)


def flat_names(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Name tensors as the Hub's DINOv3 files do, without the `model.` level."""
    return {name.removeprefix("model."): tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", ["dinov3_mlp", "dinov3_swiglu", "convnext"])
def test_single_safetensors_in_the_hubs_names(name: str, tmp_path: Path) -> None:
    model = perturbed(tiny_models()[name])
    save_file(flat_names(model), tmp_path / "renamed.safetensors")
    model.config.save_pretrained(tmp_path)
    encoder = build_encoder_from_checkpoint(tmp_path / "renamed.safetensors")
    pixels = torch.randn(1, 3, 64, 32)
    with torch.inference_mode():
        assert torch.equal(encoder(pixels).cls, model(pixels).pooler_output)


def test_dinov2_in_the_hubs_and_in_metas_names(tmp_path: Path) -> None:
    model = perturbed(tiny_models()["dinov2_swiglu"])
    old = {}
    for name, tensor in model.state_dict().items():
        if "gate_proj" in name:
            fused = torch.cat([tensor, model.state_dict()[name.replace("gate_proj", "up_proj")]])
            old[name.replace("gate_proj", "weights_in")] = fused
        elif "up_proj" not in name:
            for new_part, old_part in (
                ("attention.q_proj", "attention.attention.query"),
                ("attention.k_proj", "attention.attention.key"),
                ("attention.v_proj", "attention.attention.value"),
                ("attention.o_proj", "attention.output.dense"),
                ("mlp.down_proj", "mlp.weights_out"),
            ):
                name = name.replace(new_part, old_part)
            old[name] = tensor.clone()
    save_file(old, tmp_path / "hub.safetensors")
    model.config.save_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 28, 42)
    with torch.inference_mode():
        got = build_encoder_from_checkpoint(tmp_path / "hub.safetensors")(pixels).cls
        assert torch.equal(got, model(pixels).pooler_output)


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full-size dinov3_small in a Hugging Face folder, its weights random."""
    folder = tmp_path_factory.mktemp("dinov3_small")
    with pytest.warns(UserWarning, match="random weights"):
        encoder = build_torch_encoder("dinov3_small", random_init=True)
    encoder.model.save_pretrained(folder)
    return folder


def test_random_weights_are_the_seeds_and_leave_the_global_state_alone() -> None:
    state = torch.random.get_rng_state()
    with pytest.warns(UserWarning, match="random weights"):
        first = build_torch_encoder("small", random_init=True, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    with pytest.warns(UserWarning, match="random weights"):
        again = build_torch_encoder("small", random_init=True, seed=3)
    with pytest.warns(UserWarning, match="random weights"):
        other = build_torch_encoder("small", random_init=True, seed=4)
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint
    assert first.random_weights
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())


def test_any_multiple_of_the_patch_size_is_taken_and_nothing_else(small_folder: Path) -> None:
    encoder = build_torch_encoder("dinov3_small", small_folder)
    with torch.inference_mode():
        features = encoder(torch.zeros(1, 3, 48, 32))
    assert features.cls.shape == (1, 384)
    assert features.storage.shape == (1, 4, 384)
    assert features.patches.shape == (1, 3, 2, 384)
    with pytest.raises(ImageSizeError, match="use 48x32"):
        encoder(torch.zeros(1, 3, 50, 32))
    with pytest.raises(ImageSizeError, match="use 496x496"):
        build_torch_encoder("dinov3_small", small_folder, img_size=500)


def test_loading_never_holds_the_weights_twice(small_folder: Path) -> None:
    encoder = build_torch_encoder("dinov3_small", small_folder)
    held = load_file(small_folder / "model.safetensors")
    assert torch.equal(
        encoder.model.get_parameter("model.layer.3.mlp.up_proj.weight"), held["layer.3.mlp.up_proj.weight"]
    )
    assert not any(tensor.is_meta for tensor in (*encoder.parameters(), *encoder.buffers()))
    assert encoder.model.get_buffer("rope_embeddings.inv_freq")[0] == 1


def test_reduced_precision(small_folder: Path) -> None:
    encoder = build_torch_encoder("dinov3_small", small_folder, dtype=torch.bfloat16)
    reference = build_torch_encoder("dinov3_small", small_folder)
    pixels = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        low, full = encoder(pixels).patches, reference(pixels).patches
    assert low.dtype == torch.bfloat16
    # bf16 keeps 8 bits: 12 blocks of rounding stay well above a cosine of 0.99, a wrong cast would not.
    assert torch.cosine_similarity(low.float(), full, dim=-1).min() > 0.99
    assert encoder.fingerprint != reference.fingerprint


def test_another_architecture_is_refused_and_named(small_folder: Path) -> None:
    with pytest.raises(ShapeMismatchError, match=r"the file is dinov3_small \(.*set encoder_cfg.name to dinov3_small"):
        build_torch_encoder("dinov3_base", small_folder)
    with pytest.raises(ShapeMismatchError, match=r"in no registry entry .*as --encoder .*vit_mlp_untied.pth"):
        build_torch_encoder("dinov3_small", GOLDEN / "vit_mlp_untied.pth")


@pytest.mark.parametrize("entry", ENCODER_CONFIGS.values(), ids=lambda entry: entry.name)
@pytest.mark.parametrize("nested", [True, False])
def test_full_size_files_are_told_by_their_tensors(entry: EncoderConfig, nested: bool) -> None:
    """Shapes alone, under transformers' names before and after it nested them."""
    with torch.device("meta"):
        expected = build_model(entry, num_heads=entry.num_heads).state_dict()
    file = {name if nested else name.removeprefix("model."): tensor for name, tensor in expected.items()}
    layout = detect_layout(file, "file")
    mapped = to_transformers(stored(file), layout, "file")
    assert mapped.keys() == expected.keys()
    architecture = read_architecture(mapped, layout, "file")
    fitting = [other for other in ENCODER_CONFIGS.values() if matches(other, architecture)]
    # Satellite encoders are of the same architecture as the others.
    assert {other.name.removesuffix("_sat") for other in fitting} == {entry.name.removesuffix("_sat")}


def test_giant_takes_its_ffn_from_the_checkpoint() -> None:
    giant = resolve_encoder("dinov3_giant")
    assert matches(giant, replace(giant, ffn="swiglu", ffn_dim=4096))
    assert not matches(giant, replace(giant, depth=39))


def test_without_weights_it_says_what_to_do() -> None:
    with pytest.raises(WeightsNotFoundError, match=r"ntt fetch dinov2_base brings them; .* as encoder_ckpt_path"):
        build_torch_encoder("dinov2_base")
    with pytest.raises(WeightsNotFoundError, match="brings them, with --source timm without a token; or name"):
        build_torch_encoder("dinov3_base")
    with pytest.raises(
        WeightsNotFoundError, match=r"checkpoints/quickstart/encoder \(run in the repository's folder, or"
    ):
        build_torch_encoder("dinov3_quickstart")
    with pytest.raises(WeightsNotFoundError, match="dinov3_huge_plus is the largest released"):
        build_torch_encoder("dinov3_giant")
    with pytest.raises(UnknownEncoderError, match=r"did you mean dinov3_large\?"):
        build_torch_encoder("dinov3_Large")
    with pytest.raises(WeightsNotFoundError, match="no weights at"):
        build_torch_encoder("dinov3_base", "nowhere.pth")


def test_missing_and_unexpected_tensors_are_listed(small_folder: Path, tmp_path: Path) -> None:
    tensors = load_file(small_folder / "model.safetensors")
    del tensors["layer.5.norm1.weight"]
    save_file(tensors, tmp_path / "missing.safetensors")
    with pytest.raises(KeyMismatchError, match=r"1 (tensors are )?missing: model.layer.5.norm1.weight"):
        build_torch_encoder("dinov3_small", tmp_path / "missing.safetensors")
    save_file(
        load_file(small_folder / "model.safetensors") | {f"head.{i}": torch.zeros(1) for i in range(12)},
        tmp_path / "more.safetensors",
    )
    with pytest.raises(KeyMismatchError, match=r"12 tensors .* head.0, head.1, .*, \.\.\."):
        build_torch_encoder("dinov3_small", tmp_path / "more.safetensors")


def test_uninitialised_bias_mask_is_refused(tmp_path: Path) -> None:
    tensors = torch.load(GOLDEN / "vit_mlp_untied.pth", weights_only=True)
    tensors["blocks.1.attn.qkv.bias_mask"] = torch.full_like(tensors["blocks.1.attn.qkv.bias_mask"], torch.nan)
    torch.save(tensors, tmp_path / "fresh.pth")
    with pytest.raises(WeightsFormatError, match="before it was initialised"):
        build_encoder_from_checkpoint(tmp_path / "fresh.pth")


def test_satellite_normalisation_wins_over_the_folders(small_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}'
    )
    model = tiny_models()["dinov3_mlp"]
    model.save_pretrained(tmp_path)
    satellite = resolve_encoder("dinov3_large_sat")
    assert satellite.image_mean == SAT493M_MEAN
    with pytest.warns(UserWarning, match="which is used"):
        _warn_about_preprocessor(satellite, read_source(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _warn_about_preprocessor(resolve_encoder("dinov3_large"), read_source(tmp_path))


def test_fingerprint_is_the_same_whatever_file_the_weights_came_from(small_folder: Path, tmp_path: Path) -> None:
    encoder = build_torch_encoder("dinov3_small", small_folder)
    before = encoder.fingerprint
    encoder.model.save_pretrained(tmp_path / "again")
    assert encoder.fingerprint == before
    assert build_torch_encoder("dinov3_small", tmp_path / "again").fingerprint == before
    assert build_torch_encoder("dinov3_small", small_folder / "model.safetensors").fingerprint == before
    nested = {name: tensor.contiguous() for name, tensor in encoder.model.state_dict().items()}
    save_file(nested, tmp_path / "bare.safetensors")
    assert build_torch_encoder("dinov3_small", tmp_path / "bare.safetensors").fingerprint == before


def test_fingerprint_sees_heads_that_tensors_do_not_tell(small_folder: Path) -> None:
    encoder = build_torch_encoder("dinov3_small", small_folder)
    before = encoder.fingerprint
    encoder.model.config.num_attention_heads = 12
    assert encoder.fingerprint != before


def test_fingerprint_sees_a_normalisation_that_the_folder_states(small_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stated"
    shutil.copytree(small_folder, folder)
    prints = []
    for mean in ([0.485, 0.456, 0.406], [0.5, 0.5, 0.5]):
        stated = {"image_mean": mean, "image_std": [0.229, 0.224, 0.225]}
        (folder / "preprocessor_config.json").write_text(json.dumps(stated))
        prints.append(build_encoder(str(folder)).fingerprint)
    # The registry's own is that of a file without any.
    assert prints[0] == build_torch_encoder("dinov3_small", small_folder / "model.safetensors").fingerprint
    assert prints[0] != prints[1]


def test_fingerprint_sees_one_weight_and_the_rotary_buffer() -> None:
    def load() -> FeatureEncoder:
        return build_encoder_from_checkpoint(GOLDEN / "vit_mlp_untied.pth")

    encoder, changed, rotated = load(), load(), load()
    assert encoder.fingerprint == load().fingerprint
    with torch.no_grad():
        changed.model.get_parameter("norm.weight")[3] += 1e-6
    rotated.model.get_buffer("rope_embeddings.inv_freq")[1] *= 1.001
    assert len({encoder.fingerprint, changed.fingerprint, rotated.fingerprint}) == 3


def test_a_file_names_the_encoder_that_it_holds(small_folder: Path, tmp_path: Path) -> None:
    for path in (GOLDEN / "vit_mlp_untied.pth", GOLDEN / "convnext.pth", small_folder):
        encoder, expected = build_encoder(str(path)), build_encoder_from_checkpoint(path)
        assert (encoder.config, encoder.fingerprint) == (expected.config, expected.fingerprint)
    with pytest.raises(ConfigError, match=r"holds the encoder's weights, yet .* was named too"):
        build_encoder(str(small_folder), small_folder)
    with pytest.raises(WeightsNotFoundError, match=r"no weights at nowhere\.safetensors"):
        build_encoder("nowhere.safetensors")
    with pytest.raises(UnknownEncoderError, match="unknown encoder 'nowhere'"):
        build_encoder("nowhere")


def test_a_registry_name_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dinov3_small").mkdir()
    (tmp_path / "mine").mkdir()
    assert not is_file_of_weights("dinov3_small")
    assert not is_file_of_weights("onnx:mine")
    assert is_file_of_weights("mine")


@pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")
def test_another_familys_size_is_answered_with_the_default() -> None:
    """592 is DINOv3's; 588 would fit DINOv2, but 518 gives its grid of 37x37."""
    with pytest.raises(ImageSizeError, match=r"leave img_size out for its default of 518, or use 588x588"):
        build_torch_encoder("dinov2_small", random_init=True, img_size=592)
