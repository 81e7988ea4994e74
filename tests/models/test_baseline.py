"""Both matching baselines on pictures of coloured fields, with small random models."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from no_time_to_train.configs.pipeline import AmgConfig, EncoderConfigArgs, MemoryBankConfig, Sam2InferConfig
from no_time_to_train.encoders.onednn_linear import OneDnnLinear
from no_time_to_train.encoders.torch_encoder import FeatureEncoder
from no_time_to_train.errors import ConfigError, EmptyClassError, EncoderMismatchError, ImageSizeError, MaskSizeError
from no_time_to_train.matching import Instances, MemoryBank, match_masks
from no_time_to_train.matching.debias import DebiasConfig
from no_time_to_train.matching.scoring import match_all_mask_class_pairs
from no_time_to_train.models.pipeline import MatchingPipeline
from no_time_to_train.models.Sam2MatchingBaseline import Sam2MatchingBaseline
from no_time_to_train.models.Sam2MatchingBaseline_noAMG import Sam2MatchingBaseline_noAMG
from no_time_to_train.proposers.base import Prompts, scale_boxes
from no_time_to_train.proposers.grid import point_grid
from tests.tiny import sam2_of, write_config

pytestmark = pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")
BOX = (8.0, 6.0, 30.0, 28.0)
SMALL: dict[str, Any] = {"name": "dinov3_small", "img_size": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("sam2"))


def torch_model(baseline: MatchingPipeline) -> PreTrainedModel:
    """Return the transformers model of a baseline's encoder."""
    assert isinstance(baseline.encoder, FeatureEncoder)
    return baseline.encoder.model


def build(folder: Path, **settings: Any) -> Sam2MatchingBaseline_noAMG:
    settings = {"encoder_cfg": SMALL, "sam2_infer_cfgs": {"points_per_side": 4, "iou_thr": 0.0}, **settings}
    return Sam2MatchingBaseline_noAMG(str(folder), random_init=True, **settings)


@pytest.fixture(scope="module")
def grid(folder: Path) -> Sam2MatchingBaseline_noAMG:
    return build(folder)


# Random masks are neither sure nor stable.
LOOSE: dict[str, Any] = {"points_per_side": 4, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}


def amg(folder: Path, **settings: Any) -> Sam2MatchingBaseline:
    settings = {"encoder_cfg": SMALL, "sam2_amg_cfg": LOOSE, "max_instances": 7, **settings}
    return Sam2MatchingBaseline(str(folder), random_init=True, **settings)


def picture(seed: int, height: int = 48, width: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 90, (3, height, width), dtype=torch.uint8, generator=generator)
    image[seed % 3, 10:30, 10:34] = 240
    return image


def mask() -> Tensor:
    inside = torch.zeros(48, 64, dtype=torch.bool)
    inside[10:30, 10:34] = True
    return inside


def fill(baseline: MatchingPipeline) -> MemoryBank:
    bank = baseline.start_memory(["red", "green"])
    for index in range(4):
        bank.add(index % 2, *baseline.encode_reference(picture(index % 2), mask(), BOX))
    bank.finalize()
    return bank


def same(got: Instances, expected: Instances) -> bool:
    return all(
        torch.equal(getattr(got, name), getattr(expected, name)) for name in ("masks", "boxes", "scores", "labels")
    )


def test_prediction_is_its_parts(grid: Sam2MatchingBaseline_noAMG) -> None:
    bank = fill(grid)
    image = picture(7)
    found = grid.predict(image)
    assert len(found) > 0
    assert found.masks.shape[1:] == (48, 64)
    embedding = grid.promptable.embed(grid.promptable.preprocess(image))
    points = point_grid(4, grid.promptable.image_size)[:, None]
    masks = grid.promptable.best_masks(embedding, Prompts(points=points))
    by_hand = match_masks(grid.encode(image), masks.mask_logits, masks.predicted_iou, bank, image_size=(48, 64))
    assert same(found, by_hand)


def test_a_batch_is_each_image(grid: Sam2MatchingBaseline_noAMG) -> None:
    fill(grid)
    images = [picture(7), picture(8, 60, 40), picture(9)]
    for batched, image in zip(grid.predict_batch(images), images, strict=True):
        alone = grid.predict(image)
        # Products of other shapes round otherwise.
        assert (batched.masks == alone.masks).float().mean() > 0.999
        torch.testing.assert_close(batched.scores, alone.scores, atol=1e-4, rtol=0)
        assert torch.equal(batched.labels, alone.labels)


def test_bf16_is_for_images_and_finds_much_the_same(folder: Path, grid: Sam2MatchingBaseline_noAMG) -> None:
    baseline = build(folder, precision="bf16")
    assert baseline.encoder.dtype == sam2_of(baseline).image_dtype == torch.bfloat16
    assert sam2_of(baseline).dtype == torch.float32
    image = picture(7)
    torch.testing.assert_close(baseline.encode(image), grid.encode(image), atol=0.15, rtol=0.05)
    (patches,), (expected,) = baseline.encode_batch([image]), grid.encode_batch([image])
    (masks,), (others,) = baseline.propose([image], [patches]), grid.propose([image], [expected])
    assert ((masks.mask_logits > 0) == (others.mask_logits > 0)).float().mean() > 0.9


def test_prompts_by_the_references_are_fewer(folder: Path, grid: Sam2MatchingBaseline_noAMG) -> None:
    fill(grid)
    prior = build(folder, sam2_infer_cfgs={"points_per_side": 4, "iou_thr": 0.0, "prompt_selection": "prior"})
    fill(prior)
    image = picture(7)
    (few,), (all_of_them,) = (each.propose([image], each.encode_batch([image])) for each in (prior, grid))
    assert 0 < len(few.mask_logits) < len(all_of_them.mask_logits) == 16
    # Each of them is one of the grid's.
    for mask in few.mask_logits:
        assert (all_of_them.mask_logits - mask).flatten(1).abs().amax(dim=1).min() < 1e-4


def test_settings_reach_the_matching(folder: Path) -> None:
    image = picture(7)
    settings = {"points_per_side": 4, "nms_thr": 0.9, "num_out_instance": 3}
    trial = build(folder)
    points = Prompts(points=point_grid(4, trial.promptable.image_size)[:, None])
    masks = trial.promptable.best_masks(trial.promptable.embed(trial.promptable.preprocess(image)), points)
    threshold = float(masks.predicted_iou.clamp(0, 1).median())
    baseline = build(
        folder, sam2_infer_cfgs={**settings, "iou_thr": threshold}, memory_bank_cfg={"negative_sigma": 0.1}
    )
    bank = fill(baseline)
    for index in range(2):
        # A negative reference counts where it is more alike than the positive ones: the target itself is.
        bank.add(index, baseline.encode(image), torch.ones(4, 4), negative=True)
    kept = masks.predicted_iou > threshold
    assert 0 < kept.sum() < len(kept)
    arguments: dict[str, Any] = {
        "image_size": (48, 64),
        "nms_threshold": 0.9,
        "max_instances": 3,
        "negative_sigma": 0.1,
    }
    inputs = (baseline.encode(image), masks.mask_logits[kept], masks.predicted_iou[kept], bank)
    found = baseline.predict(image)
    assert 0 < len(found) <= 3
    assert same(found, match_masks(*inputs, **arguments))
    # What is given matters, so that one left out would be seen.
    assert not same(found, match_masks(*inputs, **{**arguments, "negative_sigma": 0.8}))


def test_automatic_prediction_is_its_parts(folder: Path) -> None:
    baseline = amg(folder, memory_bank_cfg={"negative_sigma": 0.1})
    bank = fill(baseline)
    image = picture(7)
    bank.add(0, baseline.encode(image), torch.ones(4, 4), negative=True)
    model = baseline.promptable
    masks = baseline.proposer(model.embed(model.preprocess(image)), torch.empty(0, 0, 0), bank)
    inputs = (baseline.encode(image), masks.mask_logits, bank)
    arguments: dict[str, Any] = {"image_size": (48, 64), "max_instances": 7}
    found = baseline.predict(image)
    assert len(found) > 0
    assert same(found, match_all_mask_class_pairs(*inputs, **arguments, negative_sigma=0.1))
    assert not same(found, match_all_mask_class_pairs(*inputs, **arguments, negative_sigma=0.8))


def test_dataclasses_say_what_mappings_say(folder: Path) -> None:
    mapped = build(folder, memory_bank_cfg={"crop_scale": 1.4, "debias": {"enabled": True, "components": 3}})
    classes = build(
        folder,
        encoder_cfg=EncoderConfigArgs(**SMALL),
        sam2_infer_cfgs=Sam2InferConfig(points_per_side=4, iou_thr=0.0),
        memory_bank_cfg=MemoryBankConfig(crop_scale=1.4, debias=DebiasConfig(enabled=True, components=3)),
    )
    automatic = [amg(folder), amg(folder, sam2_amg_cfg=AmgConfig(**LOOSE), encoder_cfg=EncoderConfigArgs(**SMALL))]
    for first, second in ((mapped, classes), automatic):
        assert first.memory_fingerprint == second.memory_fingerprint
        fill(first), fill(second)
        found = first.predict(picture(7))
        assert len(found) > 0
        assert same(second.predict(picture(7)), found)


def test_unsure_masks_are_left_out(folder: Path) -> None:
    # The threshold itself is left out too; nothing is surer than 1.
    baseline = build(folder, sam2_infer_cfgs={"points_per_side": 4, "iou_thr": 1.0})
    fill(baseline)
    found = baseline.predict(picture(7))
    assert len(found) == 0
    assert found.masks.shape == (0, 48, 64)


def test_automatic_masks_that_are_unsure_are_left_out(folder: Path) -> None:
    baseline = amg(folder, sam2_amg_cfg={**LOOSE, "pred_iou_thresh": 1.0})
    fill(baseline)
    found = baseline.predict(picture(7))
    assert len(found) == 0
    assert found.masks.shape == (0, 48, 64)


def test_automatic_masks(folder: Path) -> None:
    baseline = amg(folder)
    fill(baseline)
    found = baseline.predict(picture(7))
    assert 0 < len(found) <= 7
    assert found.scores.max() <= 1
    assert torch.equal(found.scores, found.scores.sort(descending=True).values)
    torch.testing.assert_close(baseline.encode(picture(1)).norm(dim=-1), torch.ones(4, 4))


@pytest.mark.parametrize("automatic", [False, True])
def test_what_came_before_changes_nothing(folder: Path, automatic: bool) -> None:
    # Debiasing keeps a basis for each grid, and keep_ratio makes different ones.
    settings: dict[str, Any] = {
        "encoder_cfg": {**SMALL, "resize_policy": "keep_ratio"},
        "memory_bank_cfg": {"debias": {"enabled": True, "components": 3}},
    }
    baseline = amg(folder, **settings) if automatic else build(folder, **settings)
    fill(baseline)
    alone = baseline.predict(picture(7))
    assert len(alone) > 0
    for seed, height, width in ((3, 32, 64), (4, 64, 40), (5, 48, 64)):
        baseline.predict(picture(seed, height, width))
    assert same(baseline.predict(picture(7)), alone)


def test_a_memory_from_a_file_is_the_memory(grid: Sam2MatchingBaseline_noAMG, tmp_path: Path) -> None:
    fill(grid).save(tmp_path / "bank.safetensors")
    before = grid.predict(picture(7))
    grid.use_memory(MemoryBank.load(tmp_path / "bank.safetensors"))
    assert same(grid.predict(picture(7)), before)


def test_a_class_without_references_is_named(grid: Sam2MatchingBaseline_noAMG) -> None:
    bank = grid.start_memory(["red", "green"])
    bank.add(0, *grid.encode_reference(picture(0), mask(), BOX))
    with pytest.raises(EmptyClassError, match="have no reference: green"):
        grid.predict(picture(7))


def test_a_memory_is_needed(folder: Path) -> None:
    with pytest.raises(ConfigError, match="give it as --ckpt_path"):
        build(folder).predict(picture(1))


@pytest.mark.usefixtures("unchecked_shapes")
def test_references_must_fit_their_image(grid: Sam2MatchingBaseline_noAMG) -> None:
    with pytest.raises(MaskSizeError, match="64x48 for an image of 48x64"):
        grid.encode_reference(picture(1), mask().T, BOX)
    with pytest.raises(ImageSizeError, match="convert to RGB"):
        grid.encode_reference(picture(1)[:1], mask(), BOX)


def test_reference_is_encoded_within_its_window(grid: Sam2MatchingBaseline_noAMG) -> None:
    """What lies outside the window has no say."""
    image, changed = picture(1), picture(1)
    changed[:, 44:, 50:] = 255
    patches, on_grid = grid.encode_reference(image, mask(), BOX)
    again, _ = grid.encode_reference(changed, mask(), BOX)
    assert torch.equal(patches, again)
    assert (patches.shape[:2], on_grid.dtype) == ((4, 4), torch.bool)
    assert 0 < on_grid.sum() < 16


def test_fingerprint_tells_all_that_changes_features(
    folder: Path, grid: Sam2MatchingBaseline_noAMG, tmp_path: Path
) -> None:
    others: list[dict[str, Any]] = [
        {"encoder_cfg": {**SMALL, "img_size": 80}},
        {"encoder_cfg": {**SMALL, "resize_policy": "keep_ratio"}},
        {"encoder_cfg": {**SMALL, "name": "dinov3_small_plus"}},
        {"memory_bank_cfg": {"crop_scale": 1.5}},
        {"memory_bank_cfg": {"debias": {"enabled": True}}},
        {"memory_bank_cfg": {"debias": {"enabled": True, "components": 3}}},
    ]
    # The same architecture with other weights: one bias of 12 blocks is enough.
    torch_model(grid).save_pretrained(tmp_path / "same")
    with torch.no_grad():
        changed = torch_model(build(folder))
        changed.get_parameter("norm.bias")[0] += 1
    changed.save_pretrained(tmp_path / "changed")
    others.append({"encoder_ckpt_path": tmp_path / "changed"})
    prints = {grid.memory_fingerprint, amg(folder).memory_fingerprint}
    prints |= {build(folder, **settings).memory_fingerprint for settings in others}
    assert len(prints) == 2 + len(others)
    assert build(folder, encoder_ckpt_path=tmp_path / "same").memory_fingerprint == grid.memory_fingerprint
    # What changes scores only needs no new memory.
    assert build(folder, memory_bank_cfg={"negative_sigma": 0.1}).memory_fingerprint == grid.memory_fingerprint


def test_a_memory_of_another_encoder_is_refused(grid: Sam2MatchingBaseline_noAMG, folder: Path, tmp_path: Path) -> None:
    fill(grid).save(tmp_path / "bank.safetensors")
    grid.use_memory(MemoryBank.load(tmp_path / "bank.safetensors"))
    other = build(folder, encoder_cfg={**SMALL, "img_size": 80})
    with pytest.raises(EncoderMismatchError, match=r"64px.*80px"):
        other.use_memory(MemoryBank.load(tmp_path / "bank.safetensors"))


def test_masks_of_boxes_stay_in_them(grid: Sam2MatchingBaseline_noAMG) -> None:
    for box in (BOX, (0.0, 0.0, 64.0, 48.0), (60.0, 40.0, 1.0, 1.0), (10.0, 20.0, 40.0, 6.0)):
        drawn = grid.mask_of_box(picture(2), box)
        assert drawn.shape == (48, 64)
        ys, xs = drawn.nonzero(as_tuple=True)
        assert len(ys) > 0
        assert box[0] - 1 <= xs.min() <= xs.max() <= box[0] + box[2]
        assert box[1] - 1 <= ys.min() <= ys.max() <= box[1] + box[3]


def test_mask_of_a_box_is_sam2s_where_it_drew_one(grid: Sam2MatchingBaseline_noAMG) -> None:
    box = (10.0, 8.0, 32.0, 32.0)
    sam2 = grid.promptable
    corners = scale_boxes(sam2, torch.tensor([[10.0, 8.0, 42.0, 40.0]]), (48, 64))
    logits = sam2.best_masks(sam2.embed(sam2.preprocess(picture(2))), Prompts(boxes=corners)).mask_logits
    full = torch.nn.functional.interpolate(logits[None], size=(48, 64), mode="bilinear")[0, 0] > 0
    drawn = grid.mask_of_box(picture(2), box)
    assert 0 < full[8:40, 10:42].sum() < 32 * 32
    assert torch.equal(drawn[8:40, 10:42], full[8:40, 10:42])
    assert drawn.sum() == full[8:40, 10:42].sum()


def test_ratio_is_kept_when_asked_for(folder: Path) -> None:
    baseline = build(folder, encoder_cfg={**SMALL, "resize_policy": "keep_ratio"})
    assert baseline.encode(picture(1, 32, 64)).shape == (2, 4, 384)
    fill(baseline)
    assert baseline.predict(picture(1, 32, 64)).masks.shape[1:] == (32, 64)


def test_debiasing_removes_what_a_blank_image_shows(folder: Path, grid: Sam2MatchingBaseline_noAMG) -> None:
    baseline = build(folder, memory_bank_cfg={"debias": {"enabled": True, "components": 5}})
    assert baseline.encoder.fingerprint == grid.encoder.fingerprint
    cleaned = baseline.encode(picture(1)).flatten(0, 1)
    torch.testing.assert_close(cleaned.norm(dim=-1), torch.ones(16))
    blank = grid._encode_blank(4, 4).flatten(0, 1)
    blank = torch.nn.functional.normalize(blank, dim=-1)
    _, _, directions = torch.linalg.svd(blank - blank.mean(dim=0), full_matrices=False)
    # fp32 projections of unit vectors.
    assert (cleaned @ directions[:5].T).abs().max() < 1e-5


def test_random_weights_are_named(grid: Sam2MatchingBaseline_noAMG, folder: Path, tmp_path: Path) -> None:
    assert grid.random_weights == ["encoder", "SAM2"]
    torch_model(grid).save_pretrained(tmp_path / "encoder")
    assert build(folder, encoder_ckpt_path=tmp_path / "encoder").random_weights == ["SAM2"]


def test_weights_are_found_under_checkpoints(grid: Sam2MatchingBaseline_noAMG, folder: Path) -> None:
    """`random_init` is for what has none."""
    weight = torch_model(grid).get_parameter("norm.weight")
    before = weight.detach().clone()
    with torch.no_grad():
        weight[0] += 1
    try:
        torch_model(grid).save_pretrained(Path("checkpoints") / "dinov3_small")
        found = build(folder)
        assert found.random_weights == ["SAM2"]
        assert found.encoder.fingerprint == grid.encoder.fingerprint
    finally:
        # Other tests share this baseline.
        with torch.no_grad():
            weight.copy_(before)


@pytest.mark.parametrize("protocol", ["improved", "published"])
def test_onednn_multiplies_where_bits_need_not_be_torchs(
    protocol: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("no_time_to_train.encoders.onednn_linear.prefers_onednn", lambda: True)
    baseline = build(folder, protocol=protocol)
    kinds = {type(part) for part in baseline.modules() if isinstance(part, nn.Linear)}
    assert kinds == {OneDnnLinear if protocol == "improved" else nn.Linear}
