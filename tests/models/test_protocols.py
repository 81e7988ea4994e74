"""The protocols as a setting: refused where it means nothing, and told apart in all that is kept in files."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from no_time_to_train.configs.parsing import as_config
from no_time_to_train.configs.pipeline import MatcherConfig
from no_time_to_train.encoders.preprocessing import encoder_pixels
from no_time_to_train.errors import ConfigError, EncoderMismatchError
from no_time_to_train.models.protocols import IMPROVED, PROTOCOLS, PUBLISHED, protocol_of
from no_time_to_train.models.Sam2MatchingBaseline_noAMG import Sam2MatchingBaseline_noAMG
from no_time_to_train.proposers.sam2.predictor import Sam2Predictor
from no_time_to_train.segmenter import Segmenter
from tests.tiny import sam2_of, write_config

pytestmark = pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")
BOX = (9.6, 9.4, 24.8, 20.9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("sam2"))


def build(folder: Path, protocol: Any = "published", **settings: Any) -> Sam2MatchingBaseline_noAMG:
    infer = {"points_per_side": 4, "iou_thr": 0.0, **settings.pop("sam2_infer_cfgs", {})}
    encoder = {"name": "dinov3_small", "img_size": 64, **settings.pop("encoder_cfg", {})}
    return Sam2MatchingBaseline_noAMG(
        str(folder), random_init=True, sam2_infer_cfgs=infer, encoder_cfg=encoder, protocol=protocol, **settings
    )


def picture() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    image = torch.randint(0, 90, (3, 48, 64), dtype=torch.uint8, generator=generator)
    image[0, 10:30, 10:34] = 240
    return image


def mask() -> Tensor:
    inside = torch.zeros(48, 64, dtype=torch.bool)
    inside[10:30, 10:34] = True
    return inside


FOREIGN: dict[str, dict[str, Any]] = {
    "encoder_cfg.resize_policy is keep_ratio": {"encoder_cfg": {"resize_policy": "keep_ratio"}},
    "compile is true": {"compile": True},
    "sam2_infer_cfgs.prompt_selection is prior": {"sam2_infer_cfgs": {"prompt_selection": "prior"}},
    "memory_bank_cfg.debias.enabled is true": {"memory_bank_cfg": {"debias": {"enabled": True}}},
}


@pytest.mark.parametrize("message", FOREIGN)
def test_what_the_original_does_not_have_is_refused(folder: Path, message: str) -> None:
    name = message.split()[0]
    with pytest.raises(ConfigError, match=rf"{message}, which the original does not have \(set {name} to .*improved"):
        build(folder, **FOREIGN[message])
    settings: dict[str, Any] = {
        "name": "matching_baseline_noAMG",
        "sam2_cfg_file": str(folder),
        "protocol": "published",
        **FOREIGN[message],
    }
    settings["encoder_cfg"] = {"name": "dinov3_small", **settings.get("encoder_cfg", {})}
    with pytest.raises(ConfigError, match=message):
        as_config(MatcherConfig, settings, "model_cfg")
    as_config(MatcherConfig, {**settings, "protocol": "improved"}, "model_cfg")


def test_a_name_that_is_not_known_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"protocol is 'publishd', expected published or improved"):
        build(folder, "publishd")
    settings = {"name": "matching_baseline_noAMG", "sam2_cfg_file": "x", "encoder_cfg": {"name": "dinov3_small"}}
    with pytest.raises(ConfigError, match=r"model_cfg.protocol is 'exact', expected published or improved"):
        as_config(MatcherConfig, {**settings, "protocol": "exact"}, "model_cfg")


def test_automatic_masks_have_no_published_protocol() -> None:
    settings = {"name": "matching_baseline", "sam2_cfg_file": "x", "encoder_cfg": {"name": "dinov3_small"}}
    as_config(MatcherConfig, {**settings, "protocol": "improved"}, "model_cfg")
    with pytest.raises(ConfigError, match="of which there is only improved"):
        as_config(MatcherConfig, {**settings, "protocol": "published"}, "model_cfg")


def test_improved_is_the_default(folder: Path) -> None:
    settings = {"name": "matching_baseline_noAMG", "sam2_cfg_file": "x", "encoder_cfg": {"name": "dinov3_small"}}
    assert as_config(MatcherConfig, settings, "model_cfg").protocol == "improved"
    sam2_infer, encoder = {"points_per_side": 4}, {"name": "dinov3_small", "img_size": 64}
    baseline = Sam2MatchingBaseline_noAMG(
        str(folder), random_init=True, sam2_infer_cfgs=sam2_infer, encoder_cfg=encoder
    )
    assert baseline.protocol is IMPROVED
    assert {name: protocol_of(name) for name in PROTOCOLS} == {"improved": IMPROVED, "published": PUBLISHED}


def test_memories_of_the_two_are_not_mixed_up(folder: Path) -> None:
    published, improved = build(folder), build(folder, "improved")
    assert published.memory_fingerprint == f"{improved.memory_fingerprint} published"
    bank = published.start_memory(["red"])
    bank.add(0, *published.encode_reference(picture(), mask(), BOX))
    with pytest.raises(EncoderMismatchError, match="fill it anew"):
        improved.use_memory(bank)


def test_caches_of_the_two_are_not_mixed_up(folder: Path, tmp_path: Path) -> None:
    """Each protocol gives with the other's cache what it gives without one."""
    for protocol in ("improved", "published", "improved"):
        cached, alone = (
            build(folder, protocol, feature_cache=cache) for cache in ({"folder": tmp_path / "cache"}, None)
        )
        found = []
        for baseline in (cached, alone):
            bank = baseline.start_memory(["red"])
            # A reference whose window is the whole image has the pixels of a target.
            bank.add(0, *baseline.encode_reference(picture(), mask(), (0.0, 0.0, 64.0, 48.0)))
            bank.finalize()
            found.append((bank.means, baseline.encode(picture()), baseline.predict(picture())))
        assert torch.equal(found[0][0], found[1][0])
        assert torch.equal(found[0][1], found[1][1])
        assert torch.equal(found[0][2].scores, found[1][2].scores)
        assert torch.equal(found[0][2].masks, found[1][2].masks)
        means, patches = found[0][0], found[0][1]
        if protocol == "published":
            # Targets by way of 1024 pixels, references not.
            weights = cached.protocol.mask_weights(mask(), (64, 64), (4, 4))
            assert not torch.allclose((patches * weights[..., None]).sum((0, 1)) / weights.sum(), means[0], atol=1e-3)


def test_each_rule_reaches_the_models(folder: Path) -> None:
    baseline, image, protocol = build(folder), picture(), PUBLISHED
    pixels = encoder_pixels(image, baseline.encoder, resize=protocol.resize_target)
    torch.testing.assert_close(baseline.encode(image), baseline.encoder(pixels).patches[0])
    x1, y1, x2, y2 = protocol.window(BOX, 48, 64, 1.2)
    pixels = encoder_pixels(image[:, y1:y2, x1:x2], baseline.encoder, resize=protocol.resize_reference)
    patches, weights = baseline.encode_reference(image, mask(), BOX)
    torch.testing.assert_close(patches, baseline.encoder(pixels).patches[0])
    assert torch.equal(weights, protocol.mask_weights(mask()[y1:y2, x1:x2], (64, 64), (4, 4)))
    mean = (patches * weights[..., None]).sum(dim=(0, 1)) / weights.sum()
    torch.testing.assert_close(baseline.reference_mean(image, mask(), BOX, "it"), mean)
    bank = baseline.start_memory(["red"])
    bank.add(0, patches, weights)
    torch.testing.assert_close(bank.rows()[0][0], mean)


def test_no_memory_embedding_is_added(folder: Path) -> None:
    baseline, image = build(folder), picture()
    sam2 = sam2_of(baseline)
    # Random weights have zeros there.
    sam2.model.no_memory_embedding.fill_(0.5)
    (embedding,) = baseline.features.embeddings([image])
    usual = Sam2Predictor(sam2.model).embed(sam2.preprocess(image))
    assert torch.equal(embedding["features"] + 0.5, usual["features"])


def test_boxes_of_results_are_the_protocols(folder: Path) -> None:
    segmenters = {
        protocol: Segmenter(
            "dinov3_small",
            sam2=str(folder),
            img_size=64,
            random_init=True,
            protocol=protocol,
            sam2_infer_cfgs={"points_per_side": 4, "iou_thr": 0.0},
        )
        for protocol in PROTOCOLS
    }
    for protocol, segmenter in segmenters.items():
        segmenter.add_reference(picture(), mask=mask(), label="red")
        found = segmenter.predict(picture(), min_score=-1)
        assert len(found)
        x1, y1, x2, y2 = found.boxes[0].tolist()
        far = {"improved": 1, "published": 0}[protocol]
        assert found.above(0).to_coco(1)[0]["bbox"] == [x1, y1, x2 - x1 + far, y2 - y1 + far]
