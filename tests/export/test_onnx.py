"""Exported files: the same features as torch, of any size and batch, bound to the weights where they lie."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from jax2onnx import to_onnx
from onnx.reference import ReferenceEvaluator
from safetensors.torch import load_file, save_file
from transformers import AutoModel, DINOv3ConvNextModel, DINOv3ViTModel

from no_time_to_train.cli import main
from no_time_to_train.encoders.torch_encoder import build_encoder_from_checkpoint, build_torch_encoder
from no_time_to_train.errors import ExportError
from no_time_to_train.export import export_onnx
from no_time_to_train.export.precision import to_int8
from no_time_to_train.export.trace import encoder_graph, trace_encoder
from no_time_to_train.export.verify import FP32_DRIFT, Drift, check_drift, natural_noise
from no_time_to_train.jax_models import load_eqx_encoder
from no_time_to_train.runtime.onnx_session import open_session, read_onnx_file
from no_time_to_train.weights.conversion import convert_weights
from no_time_to_train.weights.license import NOTICE_FILE
from tests.golden_files import NAMES, golden
from tests.parity.planted import with_eps

# fp32 noise between two backends on the golden encoders is below 4e-6; the mildest mistake known (tanh GELU) costs
# 6e-4.
TOLERANCE = 1e-5
SHAPES = ((1, 3, 64, 64), (3, 3, 96, 160), (2, 3, 224, 224))


def preprocess_images(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def largest_difference(folder: Path, weights: Path, shapes: tuple[tuple[int, ...], ...] = SHAPES) -> float:
    """Compare an exported file with torch on the weights that it was made from."""
    encoder = build_encoder_from_checkpoint(weights)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    largest = 0.0
    for shape in shapes:
        pixels = preprocess_images(shape)
        with torch.inference_mode():
            expected = encoder.tokens(torch.from_numpy(pixels)).numpy()
        states, pooled = session.run(None, {"pixel_values": pixels})
        assert states.shape == expected.shape
        assert np.array_equal(pooled, states[:, 0])
        largest = max(largest, float(np.abs(states - expected).max()))
    return largest


def external(folder: Path) -> dict[str, dict[str, str]]:
    """Return where each initializer of a file lies; nothing for those within it."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    return {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data} for tensor in model.graph.initializer
    }


@pytest.mark.parametrize("opset", [23, 17])
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_torch_at_every_size(name: str, opset: int, tmp_path: Path) -> None:
    folder = export_onnx(golden(name), output=tmp_path / "onnx", opset=opset)
    assert largest_difference(folder, golden(name)) <= TOLERANCE
    onnx.checker.check_model(folder / "model.onnx", full_check=True)
    model = onnx.load(folder / "model.onnx")
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    assert [value.name for value in inferred.graph.input] == ["pixel_values"]
    assert [value.name for value in inferred.graph.output] == ["last_hidden_state", "pooler_output"]
    operators = {node.op_type for node in model.graph.node}
    assert {node.domain for node in model.graph.node} == {""}
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert "If" not in operators
    if name != "convnext":
        assert ({"Attention", "RotaryEmbedding"} <= operators) == (opset == 23)
    assert ("Gelu" in operators) == (opset == 23 and "swiglu" not in name)


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_is_whole(name: str, tmp_path: Path) -> None:
    folder = export_onnx(golden(name), output=tmp_path / "onnx")
    # The names of a Hugging Face folder, which transformers opens too.
    names = {"model.onnx", "model.safetensors", "config.json", "preprocessor_config.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert isinstance(AutoModel.from_pretrained(folder), DINOv3ConvNextModel if name == "convnext" else DINOv3ViTModel)
    file = read_onnx_file(folder)
    encoder = build_encoder_from_checkpoint(golden(name))
    assert file.config == encoder.config
    told = {key: file.metadata[key] for key in ("patch_size", "num_storage_tokens", "image_size", "batch_size")}
    assert told == {
        "patch_size": str(encoder.patch_size),
        "num_storage_tokens": str(encoder.config.num_storage_tokens),
        "image_size": "dynamic",
        "batch_size": "dynamic",
    }
    assert json.loads(file.metadata["image_mean"]) == list(encoder.image_mean)
    assert json.loads(file.metadata["source"])[golden(name).name].startswith("sha256:")
    assert json.loads(file.metadata["verified"])["largest_difference"] <= TOLERANCE
    assert {"jax", "jax2onnx", "onnx"} <= json.loads(file.metadata["versions"]).keys()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_bound_as_they_are(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = convert_weights(golden("vit_mlp_released"), tmp_path / "hf", "hf")
    tensors = {key: value.to(dtype) for key, value in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    export_onnx(folder)
    assert {place["location"] for place in external(folder).values() if place} == {"model.safetensors"}
    # What is stored is cast to fp32 as it runs, as torch does when it loads the file.
    assert largest_difference(folder, folder) <= TOLERANCE
    file = read_onnx_file(folder)
    assert file.casts_weights
    lean = open_session(file, save_memory=True)
    pixels = preprocess_images(SHAPES[0])
    plain = open_session(file, save_memory=False).run(None, {"pixel_values": pixels})[0]
    assert np.abs(lean.run(None, {"pixel_values": pixels})[0] - plain).max() <= TOLERANCE


@pytest.mark.parametrize("opset", [23, 17])
def test_copies_of_halves_are_not_cast(opset: int, tmp_path: Path) -> None:
    """onnx2torch and other tools look for weights among the initializers, and find no output of a Cast there."""
    folder = convert_weights(golden("vit_mlp_released"), tmp_path / "hf", "hf")
    tensors = {key: value.half() for key, value in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    made = export_onnx(folder, output=tmp_path / "copy", copy_weights=True, opset=opset)
    model = onnx.load(made / "model.onnx", load_external_data=False)
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.external_data}
    assert {tensor.data_type for tensor in weights.values()} == {onnx.TensorProto.FLOAT}
    assert not [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in weights]
    assert not read_onnx_file(made).casts_weights
    assert largest_difference(made, folder) <= TOLERANCE


@pytest.mark.parametrize("opset", [23, 17])
@pytest.mark.parametrize("name", ["vit_mlp", "vit_swiglu", "convnext"])
def test_smaller_precisions_say_what_they_cost(name: str, opset: int, tmp_path: Path) -> None:
    encoder = build_encoder_from_checkpoint(golden(name))
    pixels = preprocess_images((2, 3, 64, 96))
    with torch.inference_mode():
        expected = encoder.tokens(torch.from_numpy(pixels)).numpy()
    sizes = {}
    for precision, least in (("fp16", 0.9999), ("int8", 0.99)):
        folder = export_onnx(golden(name), output=tmp_path / precision, precision=precision, opset=opset)
        onnx.checker.check_model(folder / "model.onnx", full_check=True)
        model = onnx.load(folder / "model.onnx")
        assert {node.domain for node in model.graph.node} == {""}
        states = onnxruntime.InferenceSession(folder / "model.onnx").run(None, {"pixel_values": pixels})[0]
        cosine = (states * expected).sum(-1) / np.linalg.norm(states, axis=-1) / np.linalg.norm(expected, axis=-1)
        assert cosine.min() >= least
        assert json.loads(read_onnx_file(folder).metadata["verified"])["least_token_cosine"] >= least
        sizes[precision] = {
            tensor.name: tensor.data_type
            for tensor in model.graph.initializer
            if tensor.name.endswith(("weight", "int8"))
        }
    assert onnx.TensorProto.FLOAT16 in sizes["fp16"].values()
    assert onnx.TensorProto.INT8 in sizes["int8"].values()
    # Norms keep their precision, whatever the linear layers have.
    norms = [kind for key, kind in sizes["fp16"].items() if "norm" in key]
    assert set(norms) == {onnx.TensorProto.FLOAT}


def test_weights_of_double_precision_and_key_biases(tmp_path: Path) -> None:
    folder = convert_weights(golden("vit_mlp"), tmp_path / "hf", "hf")
    tensors = load_file(folder / "model.safetensors")
    for key in [key for key in tensors if key.endswith("q_proj.bias")]:
        tensors[key.replace("q_proj", "k_proj")] = torch.randn_like(tensors[key])
    save_file({key: value.double() for key, value in tensors.items()}, folder / "model.safetensors")
    assert largest_difference(export_onnx(folder), folder) <= TOLERANCE


def test_fp16_keeps_what_leaves_its_range(tmp_path: Path) -> None:
    """A branch's last layer gives large numbers, which LayerScale makes small: onnx's own evaluator computes fp16."""
    folder = convert_weights(golden("vit_mlp"), tmp_path / "hf", "hf")
    tensors = load_file(folder / "model.safetensors")
    for key in tensors:
        if key.endswith(("down_proj.weight", "down_proj.bias", "o_proj.weight", "o_proj.bias")):
            tensors[key] *= 2e4 / tensors[key].abs().max()
        if "layer_scale" in key:
            tensors[key] *= 1e-5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    made = export_onnx(folder, output=tmp_path / "half", precision="fp16", opset=17)
    pixels = preprocess_images((1, 3, 32, 32))
    outputs = ReferenceEvaluator(str(made / "model.onnx")).run(None, {"pixel_values": pixels})
    states = np.asarray(next(iter(outputs)))
    assert np.isfinite(states).all()
    with torch.inference_mode():
        expected = build_encoder_from_checkpoint(folder).tokens(torch.from_numpy(pixels)).numpy()
    assert np.abs(states - expected).max() < 0.02
    # A weight that fp16 cannot hold is refused, compared or not.
    tensors["layer.0.attention.q_proj.weight"][0, 0] = 1e6
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ExportError, match=r"blocks\.0\.attention\.q_proj\.weight holds values beyond the range of fp16"
    ):
        export_onnx(folder, output=tmp_path / "beyond", precision="fp16", verify=False)
    assert not (tmp_path / "beyond").exists()


def test_threads_export_one_after_another() -> None:
    model = load_eqx_encoder(golden("vit_mlp"))

    def program() -> str:
        return str(jax.make_jaxpr(lambda pixels: model.tokens(pixels))(jnp.ones((1, 3, 32, 32))))

    before = program()
    with ThreadPoolExecutor(4) as pool:
        # Of sizes that nothing else is exported in: what was traced before is not traced again.
        exports = [pool.submit(trace_encoder, model, batch_size=batch) for batch in (5, 6, 7, 8)]
    assert len({len(list(export.result().graph)) for export in exports}) == 1
    # What jax2onnx replaces while it traces is itself again.
    assert program() == before


def test_a_graph_is_traced_once_and_copied() -> None:
    model = load_eqx_encoder(golden("vit_mlp_released"))
    first = trace_encoder(model)
    before = ir.to_proto(first).SerializeToString(deterministic=True)
    assert to_int8(first)
    # The next export of a model of these sizes, with whatever weights, has the graph that nobody changed.
    kept = encoder_graph.cache_info()
    other = jax.tree_util.tree_map(jnp.zeros_like, model)
    assert ir.to_proto(trace_encoder(other)).SerializeToString(deterministic=True) == before
    assert encoder_graph.cache_info().hits == kept.hits + 1
    # All else that a graph depends on tells graphs apart.
    for different in (
        trace_encoder(model, opset=17),
        trace_encoder(model, batch_size=2),
        trace_encoder(model, image_size=(32, 32)),
        trace_encoder(with_eps(model, "norm", 1e-3)),
    ):
        assert ir.to_proto(different).SerializeToString(deterministic=True) != before


def test_integers_and_large_wishes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = convert_weights(golden("vit_mlp"), tmp_path / "hf", "hf")
    for wrong in (["--image-size", "99999999x16"], ["--batch-size", "9" * 20]):
        assert main(["export", str(folder), *wrong, "--output", str(tmp_path / "out")]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    made = export_onnx(folder, output=tmp_path / "large", image_size=(16384, 16384), batch_size=1)
    assert read_onnx_file(made).metadata["verified"] == "no: its images are too large to be tried"
    tensors = load_file(folder / "model.safetensors")
    tensors["layer.0.attention.q_proj.weight"] = tensors["layer.0.attention.q_proj.weight"].to(torch.int8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert main(["export", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "torch.int8" in error or "not of floating point" in error
    assert not (folder / "model.onnx").exists()


def test_fixed_sizes(tmp_path: Path) -> None:
    folder = export_onnx(golden("vit_mlp"), output=tmp_path / "onnx", image_size=(48, 80), batch_size=2)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    assert session.get_inputs()[0].shape == [2, 3, 48, 80]
    assert session.get_outputs()[0].shape == [2, 1 + 4 + 15, 64]
    assert largest_difference(folder, golden("vit_mlp"), ((2, 3, 48, 80),)) <= TOLERANCE
    file = read_onnx_file(folder)
    assert (file.image_size, file.batch_size) == ((48, 80), 2)


def test_a_file_that_drifts_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    folder = convert_weights(golden("vit_mlp"), tmp_path / "hf", "hf")
    made = export_onnx(folder, output=tmp_path / "onnx", precision="int8")
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    # One channel a thousand times larger than the others, as trained ViTs have, and taken back by the next layer:
    # int8 has no room for the rest.
    tensors = load_file(folder / "model.safetensors")
    for key in tensors:
        if key.endswith("norm2.weight"):
            tensors[key][3] *= 1000
            tensors[key.replace("norm2.weight", "mlp.up_proj.weight")][:, 3] /= 1000
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"drifts .* expected a token cosine of at least 0.99 .*export it in fp32"):
        export_onnx(folder, output=tmp_path / "onnx", precision="int8")
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "onnx"]
    # In fp32 they are exported as they are.
    assert largest_difference(export_onnx(folder), folder) <= 1e-4


def test_what_counts_as_drift() -> None:
    fine = Drift(FP32_DRIFT, 0.99, 0.999, ((1, 3, 32, 32),))
    check_drift(fine, "fp32")
    check_drift(fine, "int8")
    with pytest.raises(ExportError, match="fp16 file drifts"):
        check_drift(fine, "fp16")
    with pytest.raises(ExportError, match=r"expected a difference of at most 0\.0001"):
        check_drift(Drift(6e-4, 1.0, 1.0, ()), "fp32")
    with pytest.raises(ExportError, match=r"gives NaN or Inf .*ntt inspect"):
        check_drift(Drift(float("nan"), 1.0, 1.0, ()), "int8")


def test_noise_has_the_statistics_of_photographs() -> None:
    images = natural_noise((2, 3, 64, 64), seed=0)
    assert images.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 1
    # Neighbours are alike, and so are channels.
    neighbours = np.corrcoef(images[..., 1:].ravel(), images[..., :-1].ravel())[0, 1]
    channels = np.corrcoef(images[:, 0].ravel(), images[:, 1].ravel())[0, 1]
    assert neighbours > 0.85
    assert channels > 0.8
    assert np.array_equal(images, natural_noise((2, 3, 64, 64), seed=0))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = convert_weights(golden("vit_mlp"), tmp_path / "hf", "hf")
    assert main(["export", str(folder)]) == 0
    said = capsys.readouterr().out
    assert f"{folder.resolve() / 'model.onnx'}: " in said
    assert "verified against Equinox on 1 of 96x96, 2 of 64x160: largest difference" in said
    arguments = ["export", str(folder), "--output", str(tmp_path / "small"), "--precision", "int8", "--opset", "17"]
    assert main([*arguments, "--image-size", "64x96", "--batch-size", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["precision"], told["image_size"], told["batch_size"]) == ("int8", "64x96", "2")
    assert main([*arguments, "--no-verify"]) == 0
    assert "verified: no" in capsys.readouterr().out
    for wrong in (["--image-size", "64by96"], ["--batch-size", "many"], ["--opset", "12"], ["--precision", "fp8"]):
        assert main(["export", str(folder), *wrong]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1


def test_a_lightning_checkpoint(tmp_path: Path) -> None:
    folder = convert_weights(golden("vit_mlp"), tmp_path / "hf", "hf")
    state = {f"model.{key}": value for key, value in load_file(folder / "model.safetensors").items()}
    state["head.weight"] = torch.ones(3, 64)
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.6.6"}, tmp_path / "run.ckpt")
    made = export_onnx(tmp_path / "run.ckpt")
    assert made == tmp_path / "run-onnx"
    # Nothing in it tells the number of heads: it is guessed alike on both sides.
    assert largest_difference(made, tmp_path / "run.ckpt") <= TOLERANCE


@pytest.mark.parametrize("name", ["dinov3_small", "dinov3_small_plus", "dinov3_convnext_tiny"])
def test_full_size_random_encoders(name: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="random weights"):
        encoder = build_torch_encoder(name, random_init=True)
    save_file(encoder.model.state_dict(), tmp_path / "random.safetensors")
    # One of them is verified on its way; all are compared with torch below, more strictly.
    folder = export_onnx(name, tmp_path / "random.safetensors", verify=name == "dinov3_small")
    assert folder == tmp_path / "random-onnx"
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    # torch's own fp32 features of these are 4e-6 from those in float64, and 1.0e-5 with SwiGLU; ours 3e-6 and 8e-6.
    exact = build_torch_encoder(name, tmp_path / "random.safetensors", dtype=torch.float64)
    # benchmarks/agreement.py has more, and larger ones.
    for shape in ((1, 3, 224, 224), (3, 3, 224, 224), (1, 3, 256, 384)):
        pixels = preprocess_images(shape)
        with torch.inference_mode():
            expected = encoder.tokens(torch.from_numpy(pixels)).numpy()
        states = session.run(["last_hidden_state"], {"pixel_values": pixels})[0]
        assert np.abs(states - expected).max() <= (2e-5 if name == "dinov3_small_plus" else 1e-5)
        if shape == (1, 3, 224, 224):
            with torch.inference_mode():
                truth = exact.tokens(torch.from_numpy(pixels)).numpy()
            assert np.abs(states - truth).max() <= 1e-5
    assert (folder / "model.onnx").stat().st_size < 200_000
    assert "DINOv3 License" in (folder / NOTICE_FILE).read_text()
    # The notice goes along with the weights, also to where nothing else tells what they are.
    again = export_onnx(folder, output=tmp_path / "again", precision="int8", verify=False)
    assert (again / NOTICE_FILE).read_text() == (folder / NOTICE_FILE).read_text()


def test_jax2onnx_is_left_as_it_was(tmp_path: Path) -> None:
    export_onnx(golden("vit_mlp"), output=tmp_path / "onnx")
    # A plugin that an export does without.
    pool = eqx.nn.AvgPool2d(2)
    proto = to_onnx(pool, [(3, 8, 8)])
    assert "AveragePool" in {node.op_type for node in proto.graph.node}
    assert jax.nn.gelu.__module__.startswith("jax")
