"""Features in batches and from the cache: the same as one by one and anew, and never another image's or network's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from no_time_to_train.encoders.torch_encoder import build_encoder
from no_time_to_train.matching import Instances, MemoryBank
from no_time_to_train.models.cache.feature_cache import FeatureCache, content_key
from no_time_to_train.models.feature_extractor import ImageFeatures
from no_time_to_train.models.Sam2MatchingBaseline import Sam2MatchingBaseline
from no_time_to_train.models.Sam2MatchingBaseline_noAMG import Sam2MatchingBaseline_noAMG
from no_time_to_train.proposers.base import Embedding, MaskProposals
from no_time_to_train.proposers.sam2.predictor import build_sam2
from tests.tiny import config_settings, write_config

pytestmark = pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("sam2"))


def features(folder: Path, cache: Path | None = None, *, seed: int = 0, **settings: Any) -> ImageFeatures:
    encoder = build_encoder(
        "dinov3_small", random_init=True, seed=seed, **{"img_size": 64, "dtype": torch.float32, **settings}
    )
    kept = None if cache is None else FeatureCache(cache, 10**9)
    return ImageFeatures(encoder, build_sam2(folder, random_init=True, seed=seed), "stretch", kept)


def pictures(count: int, height: int = 48, width: int = 64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator) for _ in range(count)]


def broken(*_: Any, **__: Any) -> Any:
    raise AssertionError("a network ran, although its result was kept")


def test_batches_are_each_image(folder: Path) -> None:
    source, images = features(folder), [*pictures(2), *pictures(1, 30, 90)]
    for batched, image in zip(source.patches(images), images, strict=True):
        torch.testing.assert_close(batched, source.patches([image])[0], atol=1e-5, rtol=1e-5)
    for one, image in zip(source.embeddings(images), images, strict=True):
        alone = source.embeddings([image])[0]
        for name, expected in alone.items():
            torch.testing.assert_close(one[name], expected, atol=1e-5, rtol=1e-5)


def test_images_of_several_sizes_keep_their_order(folder: Path) -> None:
    encoder = build_encoder("dinov3_small", random_init=True, img_size=64)
    source = ImageFeatures(encoder, build_sam2(folder, random_init=True), "keep_ratio")
    images = [*pictures(1, 32, 64), *pictures(1, 64, 32), *pictures(1, 32, 64)]
    shapes = [tuple(patches.shape[:2]) for patches in source.patches(images)]
    assert shapes == [(2, 4), (4, 2), (2, 4)]
    assert torch.equal(source.patches(images)[0], source.patches(images)[2])


def test_what_was_kept_is_not_computed_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(3)
    first = features(folder, tmp_path)
    patches, embeddings = first.patches(images), first.embeddings(images)
    second = features(folder, tmp_path)
    monkeypatch.setattr(second._encoder, "tokens", broken)
    monkeypatch.setattr(second._promptable, "embed", broken)
    assert all(torch.equal(*pair) for pair in zip(second.patches(images), patches, strict=True))
    for got, expected in zip(second.embeddings(images), embeddings, strict=True):
        assert all(torch.equal(part, expected[name]) for name, part in got.items())


def test_a_batch_computes_what_is_missing_of_it(folder: Path, tmp_path: Path) -> None:
    images, source = pictures(3), features(folder, tmp_path)
    source.patches([images[1]])
    got = features(folder, tmp_path).patches(images)
    for one, expected in zip(got, features(folder).patches(images), strict=True):
        torch.testing.assert_close(one, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", ["weights", "size", "precision", "policy", "image", "autocast"])
def test_other_features_are_not_taken_for_these(folder: Path, tmp_path: Path, change: str) -> None:
    (image,) = pictures(1)
    features(folder, tmp_path).patches([image])
    changes: dict[str, dict[str, Any]] = {
        "weights": {"seed": 1},
        "size": {"img_size": 96},
        "precision": {"dtype": torch.bfloat16},
    }
    settings = changes.get(change, {})
    other = features(folder, tmp_path, **settings)
    if change == "policy":
        other._policy = "keep_ratio"
    if change == "image":
        image = image.clone()
        image[0, 0, 0] ^= 1
    with torch.autocast("cpu", torch.bfloat16, enabled=change == "autocast"):
        other.patches([image])
    assert other.cache is not None
    assert other.cache.hits == 0
    assert other.cache.written == 1


def test_what_only_the_configuration_of_sam2_says_is_seen(folder: Path, tmp_path: Path) -> None:
    """The window and the blocks that attend to everything show in no tensor."""
    images, settings = pictures(1), config_settings()
    settings["vision_config"]["backbone_config"]["global_attention_blocks"] = []
    other = write_config(tmp_path / "other", settings)
    embeddings = [
        features(each, tmp_path / "cache").embeddings(images)[0]["features"] for each in (folder, other, folder)
    ]
    assert not torch.equal(embeddings[0], embeddings[1])
    assert torch.equal(embeddings[0], embeddings[2])


class Asked:
    """A proposer that knows for which images it was asked."""

    settings, uses_memory = "settings", False

    def __init__(self) -> None:
        self.images: list[int] = []

    def __call__(self, embedding: Embedding, patches: Tensor, memory: MemoryBank | None) -> MaskProposals:
        self.images.append(int(patches.sum()))
        features = embedding["features"][0, :3]
        return MaskProposals(features - features.mean(), torch.full((3,), 0.25 + len(self.images) / 8))


def proposed(source: ImageFeatures, images: list[Tensor], asked: Asked, key: str = "settings") -> list[MaskProposals]:
    numbers = [torch.full((1, 1, 1), float(index)) for index in range(len(images))]
    return source.proposals(images, key, asked, numbers, MemoryBank(["it"], 1, "nothing"))


def test_proposals_are_kept_as_masks(folder: Path, tmp_path: Path) -> None:
    images, asked = pictures(2), Asked()
    first = proposed(features(folder, tmp_path), images, asked)
    again = proposed(features(folder, tmp_path), images, asked)
    assert asked.images == [0, 1]
    for got, expected in zip(again, first, strict=True):
        assert torch.equal(got.mask_logits > 0, expected.mask_logits > 0)
        assert torch.equal(got.predicted_iou, expected.predicted_iou)
    proposed(features(folder, tmp_path), images, asked, "other settings")
    assert asked.images == [0, 1, 0, 1]


@pytest.mark.parametrize("change", ["name", "shape", "dtype", "nan", "empty"])
def test_entries_of_other_tensors_are_made_anew(
    folder: Path, tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Key and checksum are right, the content is not."""
    (image,) = images = pictures(1)

    def everything(source: ImageFeatures) -> list[Tensor]:
        (embedding,), (masks,) = source.embeddings(images), proposed(source, images, Asked())
        return [*source.patches(images), *embedding.values(), masks.mask_logits > 0]

    source = features(folder, tmp_path)
    expected = everything(source)
    cache = source.cache
    assert cache is not None
    fingerprints = {"embedding": source._promptable_fingerprint(), "settings": source._promptable_fingerprint()}
    fingerprints["patches 64 stretch"] = source._encoder_fingerprint()
    for what, fingerprint in fingerprints.items():
        key = content_key(what, fingerprint, image)
        tensors = cache.get(key)
        assert tensors is not None
        name = "outlines" if what == "settings" else next(iter(tensors))
        content = tensors.pop(name)
        changed = {
            "name": {"other": content},
            "shape": {name: content[..., :-1].contiguous()},
            "dtype": {name: content.double()},
            "nan": {name: torch.full_like(content, float("nan"))},
            "empty": {},
        }
        cache.put(key, tensors | changed[change])
    again = features(folder, tmp_path)
    assert all(torch.equal(*pair) for pair in zip(everything(again), expected, strict=True))
    # Too few outlines are of the right kind; only unpacking them tells.
    refused = 2 if change == "shape" else 3
    assert caplog.text.count("its tensors are not what the key names") == refused


def _same(got: Instances, expected: Instances) -> bool:
    return all(
        torch.equal(getattr(got, name), getattr(expected, name)) for name in ("masks", "boxes", "scores", "labels")
    )


def _baseline(folder: Path, kind: str, cache: Path) -> Sam2MatchingBaseline | Sam2MatchingBaseline_noAMG:
    shared: dict[str, Any] = {
        "encoder_cfg": {"name": "dinov3_small", "img_size": 64},
        "random_init": True,
        "feature_cache": {"folder": cache},
    }
    if kind == "automatic":
        loose = {"points_per_side": 4, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
        return Sam2MatchingBaseline(str(folder), sam2_amg_cfg=loose, **shared)
    settings = {"points_per_side": 4, "iou_thr": 0.0, "prompt_selection": kind}
    return Sam2MatchingBaseline_noAMG(str(folder), sam2_infer_cfgs=settings, **shared)


def _fill(baseline: Sam2MatchingBaseline | Sam2MatchingBaseline_noAMG, seed: int = 0) -> None:
    torch.manual_seed(seed)
    bank = baseline.start_memory(["one", "other"])
    for index in range(2):
        bank.add_mean(index, torch.randn(baseline.encoder.embed_dim))


@pytest.mark.parametrize("kind", ["grid", "prior", "automatic"])
def test_a_second_run_gives_the_same_without_a_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    images = pictures(2)
    first = _baseline(folder, kind, tmp_path)
    _fill(first)
    expected = first.predict_batch(images)
    second = _baseline(folder, kind, tmp_path)
    _fill(second)
    for network, name in ((second.encoder, "tokens"), (second.promptable, "embed"), (second.promptable, "prepare")):
        monkeypatch.setattr(network, name, broken)
    assert all(len(found) > 0 for found in expected)
    assert all(_same(*pair) for pair in zip(second.predict_batch(images), expected, strict=True))


@pytest.mark.parametrize(("kind", "prompted"), [("grid", False), ("prior", True)])
def test_other_references_are_prompted_for_only_where_they_decide_prompts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, prompted: bool
) -> None:
    first = _baseline(folder, kind, tmp_path)
    _fill(first)
    first.predict_batch(pictures(1))
    second = _baseline(folder, kind, tmp_path)
    _fill(second, seed=1)
    prepared: list[Embedding] = []
    prepare = second.promptable.prepare

    def counted(embedding: Embedding) -> Any:
        prepared.append(embedding)
        return prepare(embedding)

    monkeypatch.setattr(second.promptable, "prepare", counted)
    monkeypatch.setattr(second.encoder, "tokens", broken)
    monkeypatch.setattr(second.promptable, "embed", broken)
    second.predict_batch(pictures(1))
    assert bool(prepared) is prompted
