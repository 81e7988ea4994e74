"""SAM2 against Meta's own code on small random models, and how it is built and refused."""

import functools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Sam2Model, Sam2VideoConfig, Sam2VideoModel

from no_time_to_train.configs.sam2 import SAM2_CONFIGS
from no_time_to_train.errors import (
    ConfigError,
    ImageSizeError,
    KeyMismatchError,
    ShapeMismatchError,
    UnknownNameError,
    WeightsFormatError,
    WeightsNotFoundError,
)
from no_time_to_train.proposers.base import Embedding, Prompts, scale_boxes
from no_time_to_train.proposers.grid import point_grid
from no_time_to_train.proposers.sam2.configs import resolve_sam2_config, shape_of
from no_time_to_train.proposers.sam2.predictor import MaskPredictions, Sam2Predictor, build_sam2
from tests.proposers.sam2_oracle import SCRIPT_WARNING, meta_box_masks, meta_masks, meta_predictor, save_meta
from tests.tiny import DIM, IMAGE_SIZE, config_settings, write_config

# The issue asks for 1e-4; measured differences are 1e-6.
assert_near = functools.partial(torch.testing.assert_close, atol=2e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_meta(tmp_path_factory.mktemp("meta"))


@pytest.fixture(scope="module")
def sam2(folder: Path, checkpoint: Path) -> Sam2Predictor:
    return build_sam2(folder, checkpoint)


@pytest.fixture
def image() -> Tensor:
    return torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8)


@pytest.fixture
def embedding(sam2: Sam2Predictor, image: Tensor) -> Embedding:
    return sam2.embed(sam2.preprocess(image))


def _points(count: int = 7, per_prompt: int = 2) -> tuple[Tensor, Tensor]:
    return torch.rand(count, per_prompt, 2) * IMAGE_SIZE, torch.randint(0, 2, (count, per_prompt))


def _boxes(count: int = 5) -> Tensor:
    return torch.cat([torch.rand(count, 2) * 50, 60 + torch.rand(count, 2) * 50], dim=1)


@pytest.mark.filterwarnings(SCRIPT_WARNING)
@pytest.mark.parametrize("version", ["2", "2.1"])
@pytest.mark.parametrize("multimask", [True, False])
def test_masks_are_metas(tmp_path: Path, folder: Path, image: Tensor, version: str, multimask: bool) -> None:
    ours = build_sam2(folder, save_meta(tmp_path, version))
    embedding = ours.embed(ours.preprocess(image))
    predictor = meta_predictor(image, version)
    points, labels = _points()
    boxes = _boxes()

    by_points = ours.decode_points(embedding, points, labels, batch_size=3, multimask=multimask)
    by_boxes = ours.decode_boxes(embedding, boxes, batch_size=2, multimask=multimask)

    for got, (masks, iou) in (
        (by_points, meta_masks(predictor, points, labels, multimask=multimask)),
        (by_boxes, meta_box_masks(predictor, boxes, multimask=multimask)),
    ):
        assert got.mask_logits.shape[1] == (3 if multimask else 1)
        assert masks.std() > 0.1, "the random model's masks say nothing"
        assert_near(got.mask_logits, masks)
        assert_near(got.predicted_iou, iou)


@pytest.mark.filterwarnings(SCRIPT_WARNING)
@pytest.mark.parametrize("size", [(48, 64), (200, 150), (128, 128)])
def test_preprocessing_is_metas(sam2: Sam2Predictor, size: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    expected = meta_predictor(image)._transforms(image.permute(1, 2, 0).numpy())
    torch.testing.assert_close(sam2.preprocess(image)[0], expected, atol=1e-5, rtol=0)


def test_scaling_coordinates(sam2: Sam2Predictor) -> None:
    boxes = torch.tensor([[0.0, 0.0, 64.0, 48.0], [16.0, 12.0, 32.0, 36.0]])
    expected = torch.tensor([[0.0, 0.0, 128.0, 128.0], [32.0, 32.0, 64.0, 96.0]])
    torch.testing.assert_close(scale_boxes(sam2, boxes, (48, 64)), expected)
    points = sam2.scale_points(boxes.view(2, 2, 2), (48, 64))
    torch.testing.assert_close(points, expected.view(2, 2, 2))


def test_batch_of_images_is_each_image(sam2: Sam2Predictor) -> None:
    images = [torch.randint(0, 256, (3, 40, 56), dtype=torch.uint8) for _ in range(3)]
    pixels = [sam2.preprocess(image) for image in images]
    batch = sam2.embed(torch.cat(pixels))
    assert batch["features"].shape == (3, DIM, 8, 8)
    for i, one in enumerate(pixels):
        single = sam2.embed(one)
        assert {name: part.shape for name, part in single.items()} == sam2.embedding_shapes
        for name, expected in single.items():
            torch.testing.assert_close(batch[name][i : i + 1], expected)
    with pytest.raises(ConfigError, match="the embedding is of 3 images, expected one"):
        sam2.best_masks(batch, Prompts(point_grid(2, IMAGE_SIZE)[:, None]))


def test_best_masks(sam2: Sam2Predictor, embedding: Embedding) -> None:
    points, labels = _points(5)
    every = sam2.decode_points(embedding, points, labels)
    best = sam2.best_masks(embedding, Prompts(points, labels), batch_size=2)
    assert_near(best.mask_logits, every.best().mask_logits)
    torch.testing.assert_close(best.predicted_iou, every.predicted_iou.amax(dim=1))


def test_the_best_of_three() -> None:
    predicted_iou = torch.tensor([[0.1, 0.9, 0.2], [0.7, 0.3, 0.6], [0.2, 0.1, 0.4]])
    mask_logits = torch.arange(9.0).view(3, 3, 1, 1).expand(3, 3, 2, 2)
    best = MaskPredictions(mask_logits, predicted_iou).best()
    assert best.mask_logits[:, 0, 0].tolist() == [1, 3, 8]
    torch.testing.assert_close(best.predicted_iou, torch.tensor([0.9, 0.7, 0.4]))


def test_labels_default_to_the_object(sam2: Sam2Predictor, embedding: Embedding) -> None:
    points, _ = _points(3)
    expected = sam2.best_masks(embedding, Prompts(points, torch.ones(3, 2, dtype=torch.int64)))
    other = sam2.best_masks(embedding, Prompts(points, torch.zeros(3, 2, dtype=torch.int64)))
    got = sam2.best_masks(embedding, Prompts(points))
    torch.testing.assert_close(got.mask_logits, expected.mask_logits)
    assert not torch.allclose(got.mask_logits, other.mask_logits, atol=1e-3)


def test_no_prompts(sam2: Sam2Predictor, embedding: Embedding) -> None:
    side = IMAGE_SIZE // 4
    none = sam2.decode_points(embedding, torch.zeros(0, 1, 2), torch.zeros(0, 1, dtype=torch.int64))
    assert none.mask_logits.shape == (0, 3, side, side)
    assert none.predicted_iou.shape == (0, 3)
    assert sam2.decode_boxes(embedding, torch.zeros(0, 4), multimask=False).mask_logits.shape == (0, 1, side, side)
    best = sam2.best_masks(embedding, Prompts(boxes=torch.zeros(0, 4)))
    assert best.mask_logits.shape == (0, side, side)
    assert none.best().predicted_iou.shape == (0,)


@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16(folder: Path, checkpoint: Path, sam2: Sam2Predictor, image: Tensor, autocast: bool) -> None:
    model = sam2 if autocast else build_sam2(folder, checkpoint, dtype=torch.bfloat16)
    points, labels = _points()
    expected = sam2.decode_points(sam2.embed(sam2.preprocess(image)), points, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        embedding = model.embed(model.preprocess(image))
        got = model.decode_points(embedding, points, labels)
    assert embedding["features"].dtype == got.mask_logits.dtype == got.predicted_iou.dtype == torch.float32
    # bfloat16 has 8 bits: through some ten layers that is a few per cent of the logits' spread.
    assert not torch.equal(got.mask_logits, expected.mask_logits)
    assert (got.mask_logits - expected.mask_logits).std() < 0.1 * expected.mask_logits.std()
    assert (got.predicted_iou - expected.predicted_iou).abs().max() < 0.1


def test_prompt_positions_stay_exact_in_bfloat16(folder: Path, checkpoint: Path, sam2: Sam2Predictor) -> None:
    half = build_sam2(folder, checkpoint, dtype=torch.bfloat16).model
    assert half.no_memory_embedding.dtype == torch.bfloat16
    torch.testing.assert_close(
        half.get_image_wide_positional_embeddings(), sam2.model.get_image_wide_positional_embeddings(), atol=0, rtol=0
    )


def test_stays_frozen_in_evaluation_mode(sam2: Sam2Predictor) -> None:
    assert not sam2.train().training
    assert not sam2.model.mask_decoder.training
    assert not any(parameter.requires_grad for parameter in sam2.parameters())


@pytest.mark.parametrize("video", [False, True], ids=["image model", "video model"])
def test_hugging_face_folder(tmp_path: Path, sam2: Sam2Predictor, video: bool) -> None:
    settings = config_settings()
    tensors = {name: tensor.contiguous() for name, tensor in sam2.model.state_dict().items()}
    if video:  # as the Hub's folders are: more tensors, and another type
        settings["model_type"] = "sam2_video"
        small = Sam2VideoModel(Sam2VideoConfig(memory_attention_num_layers=1))
        extra = {name: tensor.contiguous() for name, tensor in small.state_dict().items() if name not in tensors}
        tensors |= {name: tensor for name, tensor in extra.items() if not name.startswith("vision_encoder.")}
        tensors.pop("prompt_encoder.shared_embedding.positional_embedding")
    folder = write_config(tmp_path / "folder", settings)
    save_file(tensors, folder / "model.safetensors")

    for built in (build_sam2(folder), build_sam2(folder / "config.json", folder / "model.safetensors")):
        own = sam2.model.state_dict()
        assert own.keys() == built.model.state_dict().keys()
        for name, tensor in built.model.state_dict().items():
            torch.testing.assert_close(tensor, own[name], atol=0, rtol=0)


def test_metas_names_may_have_a_folder() -> None:
    bare, foldered = (resolve_sam2_config(name) for name in ("sam2_hiera_l.yaml", "configs/sam2/sam2_hiera_l.yaml"))
    assert bare.to_dict() == foldered.to_dict()
    assert shape_of(bare) == SAM2_CONFIGS["sam2_hiera_l.yaml"].shape


def test_unknown_name() -> None:
    with pytest.raises(UnknownNameError, match=r"sam2_hiera_t\.yaml.*did you mean sam2\.1_hiera_l\.yaml\?"):
        build_sam2("configs/sam2.1_hiera_L.yaml", random_init=True)


def test_no_weights(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"random_init: true .*meaningless masks"):
        build_sam2("sam2_hiera_t.yaml")
    with pytest.raises(WeightsNotFoundError, match="no weights at"):
        build_sam2("sam2_hiera_t.yaml", tmp_path / "absent.pt")
    with pytest.raises(WeightsNotFoundError, match=r"no weights in the folder .*config\.json"):
        build_sam2(folder)


def test_random_weights(folder: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with pytest.warns(UserWarning, match="random weights"):
        first = build_sam2(folder, random_init=True, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    with pytest.warns(UserWarning, match="random weights"):
        second = build_sam2(folder, random_init=True, seed=1)
    with pytest.warns(UserWarning, match="random weights"):
        third = build_sam2(folder, random_init=True, seed=2)
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], tensor, atol=0, rtol=0)
    weight = first.model.mask_decoder.conv_s0.weight
    assert not torch.equal(weight, third.model.mask_decoder.conv_s0.weight)
    image, prompt = first.model.shared_image_embedding, first.model.prompt_encoder.shared_embedding
    assert image.positional_embedding.std() > 0.5
    assert torch.equal(image.positional_embedding, prompt.positional_embedding)


def test_weights_of_another_size(tmp_path: Path, checkpoint: Path) -> None:
    with torch.device("meta"):
        small = Sam2Model(resolve_sam2_config("sam2_hiera_s.yaml")).state_dict()
    wanted = ("vision_encoder.backbone.",)
    tensors = {name: torch.zeros(t.shape) for name, t in small.items() if name.startswith(wanted)}
    torch.save({"model": tensors}, tmp_path / "renamed.pt")
    with pytest.raises(
        ShapeMismatchError,
        match=r"is sam2_hiera_s\.yaml or sam2\.1_hiera_s\.yaml, expected sam2_hiera_l\.yaml or sam2\.1_hiera_l\.yaml",
    ):
        build_sam2("sam2.1_hiera_l.yaml", tmp_path / "renamed.pt")
    with pytest.raises(ShapeMismatchError, match=r"a Hiera of width 16 with \(1, 2, 3, 1\) blocks"):
        build_sam2("sam2_hiera_t.yaml", checkpoint)


def test_wrong_tensors(tmp_path: Path, folder: Path, checkpoint: Path) -> None:
    tensors = torch.load(checkpoint, weights_only=True)["model"]
    torch.save({"model": tensors | {"adapter.weight": torch.zeros(1)}}, tmp_path / "more.pt")
    with pytest.raises(KeyMismatchError, match=r"1 tensors of .* not SAM2's: adapter\.weight"):
        build_sam2(folder, tmp_path / "more.pt")
    del tensors["sam_mask_decoder.iou_token.weight"]
    torch.save({"model": tensors}, tmp_path / "less.pt")
    with pytest.raises(KeyMismatchError, match=r"1 missing: mask_decoder\.iou_token\.weight"):
        build_sam2(folder, tmp_path / "less.pt")
    torch.save({"model": {"blocks.0.norm1.weight": torch.zeros(1)}}, tmp_path / "dino.pt")
    with pytest.raises(WeightsFormatError, match="name a SAM2 checkpoint"):
        build_sam2(folder, tmp_path / "dino.pt")


def test_wrong_config_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model_type 'vit'"):
        resolve_sam2_config(write_config(tmp_path / "a", {"model_type": "vit"}))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="name the folder of a SAM2 model"):
        resolve_sam2_config(tmp_path / "b")
    settings = config_settings()
    settings["vision_config"]["backbone_feature_sizes"] = [[64, 64], [32, 32], [16, 16]]
    with pytest.raises(ConfigError, match="contradicts itself"):
        resolve_sam2_config(write_config(tmp_path / "c", settings))
    settings = config_settings()
    settings["prompt_encoder_config"]["image_size"] = 100
    with pytest.raises(ConfigError, match="image_size 100, expected one number that is a multiple of 32"):
        resolve_sam2_config(write_config(tmp_path / "d", settings))
    settings = json.loads(json.dumps(config_settings()))
    settings["mask_decoder_config"]["hidden_size"] = "wide"
    with pytest.raises(ConfigError, match="wrong type"):
        resolve_sam2_config(write_config(tmp_path / "e", settings))


@pytest.mark.usefixtures("unchecked_shapes")
def test_wrong_prompts_and_pixels(sam2: Sam2Predictor, embedding: Embedding) -> None:
    points, labels = _points(4)
    with pytest.raises(ConfigError, match="either points or boxes"):
        Prompts()
    with pytest.raises(ConfigError, match="either points or boxes"):
        Prompts(points=points, boxes=_boxes())
    with pytest.raises(ConfigError, match="label every point"):
        sam2.decode_points(embedding, points, labels[:, :1])
    with pytest.raises(ConfigError, match=r"expected \(N, P, 2\)"):
        sam2.decode_points(embedding, points[:, 0], labels[:, 0])
    with pytest.raises(ConfigError, match=r"expected \(N, 4\)"):
        sam2.decode_boxes(embedding, torch.zeros(3, 5))
    with pytest.raises(ConfigError, match="64 is usual"):
        sam2.decode_points(embedding, points, labels, batch_size=0)
    with pytest.raises(ImageSizeError, match=r"Sam2Predictor\.preprocess"):
        sam2.embed(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ImageSizeError, match="convert the image to RGB"):
        sam2.preprocess(torch.zeros(1, 8, 8, dtype=torch.uint8))
