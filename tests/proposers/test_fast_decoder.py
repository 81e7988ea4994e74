"""The decoder of many prompts against transformers' own, on small models and in the shapes of the released ones."""

import copy
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import Sam2Config, Sam2Model

from no_time_to_train.proposers.base import Embedding, MaskFilter, MaskProposals, Prompts
from no_time_to_train.proposers.grid import point_grid
from no_time_to_train.proposers.sam2 import fast_decoder as prompting
from no_time_to_train.proposers.sam2 import mask_upscaling as mask_drawing
from no_time_to_train.proposers.sam2.configs import resolve_sam2_config
from no_time_to_train.proposers.sam2.fast_decoder import ImageState, PromptDecoder, _ChunkSize, _run_layers
from no_time_to_train.proposers.sam2.mask_upscaling import MaskDrawing
from no_time_to_train.proposers.sam2.predictor import MaskPredictions, build_sam2
from no_time_to_train.proposers.sam2.weights import new_sam2
from tests.tiny import write_config

# In units of the largest logit; 6e-7 and 2e-7 are measured.
RELATIVE = 1e-5


def _model(config: Sam2Config) -> Sam2Model:
    """Build a model in which everything tells: biases are not 0, norms not 1, and attention is not even."""
    model = new_sam2(config)
    with torch.no_grad():
        for part in (model.mask_decoder, model.prompt_encoder):
            for parameter in part.parameters():
                noise = torch.randn(parameter.shape)
                if parameter.ndim == 2:
                    parameter.copy_(noise / parameter.shape[1] ** 0.5)
                else:
                    parameter.add_(noise, alpha=0.3)
    torch.nn.Module.eval(model)
    return model


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Sam2Model:
    return _model(resolve_sam2_config(write_config(tmp_path_factory.mktemp("tiny"))))


@pytest.fixture(scope="module")
def real() -> Sam2Model:
    return _model(resolve_sam2_config("sam2_hiera_t.yaml"))


def _embedding(model: Sam2Model) -> Embedding:
    channels = model.mask_decoder.hidden_size
    side, dtype = model.prompt_encoder.image_embedding_size[0], model.mask_decoder.iou_token.weight.dtype
    features = torch.randn(1, channels, side, side, dtype=dtype)
    # In the model, two convolutions reduce these already.
    stride8 = torch.randn(1, channels // 4, 2 * side, 2 * side, dtype=dtype)
    stride4 = torch.randn(1, channels // 8, 4 * side, 4 * side, dtype=dtype)
    return {"features": features, "stride4": stride4, "stride8": stride8}


def _theirs(model: Sam2Model, embedding: Embedding, prompts: Prompts, multimask: bool) -> MaskPredictions:
    points, labels, boxes = (
        None if part is None else part[None] for part in (prompts.points, prompts.labels, prompts.boxes)
    )
    with torch.inference_mode():
        sparse, dense = model.get_prompt_embeddings(points, cast(torch.LongTensor | None, labels), boxes)
        masks, quality, _, _ = model.mask_decoder(
            image_embeddings=embedding["features"],
            image_positional_embeddings=model.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            high_resolution_features=[embedding["stride4"], embedding["stride8"]],
        )
    return MaskPredictions(masks[0], quality[0])


def _prompts(model: Sam2Model, kind: str, count: int) -> Prompts:
    side = cast(int, model.prompt_encoder.input_image_size)
    if kind == "boxes":
        corners = torch.rand(count, 2, 2).sort(dim=1).values
        return Prompts(boxes=side * corners.reshape(count, 4))
    points = side * torch.rand(count, 1 if kind == "points" else 3, 2)
    if kind == "points":
        return Prompts(points)
    return Prompts(points, torch.tensor([1, 0, -10]).expand(count, -1))


def _collected(parts: Iterator[MaskProposals]) -> MaskProposals:
    logits, quality = zip(*parts, strict=True)
    return MaskProposals(torch.cat(logits), torch.cat(quality))


def _selected(decoder: PromptDecoder, image: ImageState, prompts: Prompts, keep: MaskFilter) -> MaskProposals:
    return _collected(decoder.selected(image, prompts, keep, batch_size=4))


def _assert_same(got: Tensor, expected: Tensor, relative: float = RELATIVE) -> None:
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= relative * expected.abs().max()


@pytest.mark.parametrize("kind", ["points", "labelled points", "boxes"])
@pytest.mark.parametrize("count", [1, 5])
def test_three_masks_are_those_of_transformers(small: Sam2Model, kind: str, count: int) -> None:
    embedding, prompts = _embedding(small), _prompts(small, kind, count)
    expected = _theirs(small, embedding, prompts, multimask=True)
    decoder = PromptDecoder(small)
    got = _selected(decoder, decoder.prepare(embedding), prompts, torch.isfinite)
    _assert_same(got.mask_logits, expected.mask_logits.flatten(0, 1))
    _assert_same(got.predicted_iou, expected.predicted_iou.flatten())


@pytest.mark.parametrize("kind", ["points", "boxes"])
def test_nothing_but_rounding_differs(small: Sam2Model, kind: str) -> None:
    exact = copy.deepcopy(small).double()
    embedding, prompts = _embedding(exact), _prompts(exact, kind, 5)
    expected = _theirs(exact, embedding, prompts, multimask=True)
    decoder = PromptDecoder(exact)
    got = _selected(decoder, decoder.prepare(embedding), prompts, torch.isfinite)
    # Results and positions are float32; what is between them is float64, so that any other term would show.
    _assert_same(got.mask_logits, expected.mask_logits.flatten(0, 1), 1e-7)
    _assert_same(got.predicted_iou, expected.predicted_iou.flatten(), 1e-7)


def test_with_trained_weights() -> None:
    quickstart = Path(__file__).parents[2] / "checkpoints" / "quickstart" / "sam2"
    sam2 = build_sam2(quickstart)
    rows = torch.linspace(0, 3, 256)[:, None] * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    embedding = sam2.embed(sam2.preprocess((127 * (1 + torch.sin(rows * rows.mT))).byte()))
    prompts = Prompts(torch.from_numpy(point_grid(8, sam2.image_size)[:, None]))
    expected = _theirs(sam2.model, embedding, prompts, multimask=True)
    decoder = PromptDecoder(sam2.model)
    got = _selected(decoder, decoder.prepare(embedding), prompts, torch.isfinite)
    _assert_same(got.mask_logits, expected.mask_logits.flatten(0, 1))
    _assert_same(got.predicted_iou, expected.predicted_iou.flatten())


# Of eight rows of eight positions: one at a time, three and at the end two, all.
@pytest.mark.parametrize("portion", [_ChunkSize(1, 1), _ChunkSize(2, 30), _ChunkSize(3, 10**6)])
def test_in_any_portions(small: Sam2Model, portion: _ChunkSize, monkeypatch: pytest.MonkeyPatch) -> None:
    embedding, prompts = _embedding(small), _prompts(small, "points", 5)
    expected = _theirs(small, embedding, prompts, multimask=True)
    monkeypatch.setattr(prompting, "_CHUNK_SIZES", {"cpu": portion})
    decoder = PromptDecoder(small)
    got = _selected(decoder, decoder.prepare(embedding), prompts, torch.isfinite)
    _assert_same(got.mask_logits, expected.mask_logits.flatten(0, 1))
    _assert_same(got.predicted_iou, expected.predicted_iou.flatten())


def test_weights_of_16_bits_are_computed_with_in_float32(small: Sam2Model) -> None:
    half = copy.deepcopy(small).bfloat16()
    same = copy.deepcopy(half)
    torch.nn.Module.float(same)
    embedding, prompts = _embedding(small), _prompts(small, "points", 5)
    results = []
    for model in (half, same):
        model.shared_image_embedding.positional_embedding = small.shared_image_embedding.positional_embedding
        embed = model.prompt_encoder.shared_embedding
        embed.positional_embedding = small.prompt_encoder.shared_embedding.positional_embedding
        decoder = PromptDecoder(model)
        results.append(_selected(decoder, decoder.prepare(embedding), prompts, torch.isfinite))
    # The same weights in the same precision; computed with in bfloat16, 1e-2 is measured.
    _assert_same(results[0].mask_logits, results[1].mask_logits)
    _assert_same(results[0].predicted_iou, results[1].predicted_iou)
    assert half.mask_decoder.iou_token.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("stable", [True, False])
def test_the_single_mask_is_that_of_transformers(
    small: Sam2Model, stable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small.mask_decoder, "dynamic_multimask_stability_thresh", 0.0 if stable else math.inf)
    embedding, prompts = _embedding(small), _prompts(small, "boxes", 5)
    expected = _theirs(small, embedding, prompts, multimask=False)
    decoder = PromptDecoder(small)
    got = _collected(decoder.single(decoder.prepare(embedding), prompts))
    _assert_same(got.mask_logits, expected.mask_logits[:, 0])
    _assert_same(got.predicted_iou, expected.predicted_iou[:, 0])


def test_in_the_shapes_of_the_released_models(real: Sam2Model) -> None:
    embedding, prompts = _embedding(real), _prompts(real, "points", 3)
    expected = _theirs(real, embedding, prompts, multimask=True)
    decoder = PromptDecoder(real)
    got = _selected(decoder, decoder.prepare(embedding), prompts, torch.isfinite)
    _assert_same(got.mask_logits, expected.mask_logits.flatten(0, 1))
    _assert_same(got.predicted_iou, expected.predicted_iou.flatten())


def test_only_wanted_masks_are_drawn(small: Sam2Model, monkeypatch: pytest.MonkeyPatch) -> None:
    embedding, prompts = _embedding(small), _prompts(small, "points", 6)
    expected = _theirs(small, embedding, prompts, multimask=True)
    wanted = torch.zeros(6, 3, dtype=torch.bool)
    wanted[1, 2] = wanted[4, 0] = wanted[4, 1] = True
    decoder, upscaled = PromptDecoder(small), []
    upscale = MaskDrawing._upscale

    def counted(*arguments: Any) -> Tensor:
        upscaled.append(arguments)
        return upscale(*arguments)

    monkeypatch.setattr(prompting, "_CHUNK_SIZES", {"cpu": _ChunkSize(2, 10**6)})
    monkeypatch.setattr(MaskDrawing, "_upscale", counted)

    def among_wanted(quality: Tensor) -> Tensor:
        # No two of the eighteen are as near to each other.
        near = RELATIVE * float(expected.predicted_iou.abs().max())
        return torch.isclose(quality[..., None], expected.predicted_iou[wanted], rtol=0, atol=near).any(dim=-1)

    got = _selected(decoder, decoder.prepare(embedding), prompts, among_wanted)
    _assert_same(got.mask_logits, expected.mask_logits[wanted])
    _assert_same(got.predicted_iou, expected.predicted_iou[wanted])
    assert len(upscaled) == 2


def test_masks_drawn_together_are_the_same(small: Sam2Model, monkeypatch: pytest.MonkeyPatch) -> None:
    embedding, prompts = _embedding(small), _prompts(small, "points", 6)
    decoder = PromptDecoder(small)
    expected = _selected(decoder, decoder.prepare(embedding), prompts, _some)
    # As on a GPU: here two prompts at a time, in tiles of whole rows.
    monkeypatch.setattr(MaskDrawing, "_draw_one_by_one", MaskDrawing._draw_together)
    monkeypatch.setattr(mask_drawing, "_TOGETHER", 2)
    for positions in (30, 10**6):
        monkeypatch.setattr(prompting, "_CHUNK_SIZES", {"cpu": _ChunkSize(4, positions)})
        got = _selected(decoder, decoder.prepare(embedding), prompts, _some)
        _assert_same(got.mask_logits, expected.mask_logits)
        _assert_same(got.predicted_iou, expected.predicted_iou)


def _some(predicted_iou: Tensor) -> Tensor:
    """Choose of each prompt the masks that are better than its mean; of a prompt in three, none."""
    kept = predicted_iou > predicted_iou.mean(dim=1, keepdim=True)
    return kept & (torch.arange(len(kept)) % 3 > 0)[:, None]


@pytest.mark.parametrize("draw", ["_draw_one_by_one", "_draw_together"])
def test_nothing_wanted(small: Sam2Model, draw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MaskDrawing, "draw", getattr(MaskDrawing, draw))
    decoder = PromptDecoder(small)
    got = _selected(
        decoder, decoder.prepare(_embedding(small)), _prompts(small, "points", 3), lambda quality: quality > 2
    )
    side = 4 * small.prompt_encoder.image_embedding_size[0]
    assert got.mask_logits.shape == (0, side, side)
    assert got.predicted_iou.shape == (0,)


def test_an_image_serves_many_prompts(small: Sam2Model) -> None:
    embedding, prompts = _embedding(small), _prompts(small, "points", 8)
    decoder = PromptDecoder(small)
    image = decoder.prepare(embedding)
    before = copy.deepcopy([*image.layers.token_to_image, *image.layers.image_to_token])
    first = _selected(decoder, image, prompts, torch.isfinite)
    again = _selected(decoder, image, prompts, torch.isfinite)
    assert torch.equal(first.mask_logits, again.mask_logits)
    assert_nested_equal([*image.layers.token_to_image, *image.layers.image_to_token], before)


@pytest.mark.parametrize("count", [3, 16, 17])
def test_chunks_for_a_gpu_are_filled_up(small: Sam2Model, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # A GPU replays 16, 32, ... prompts; here the same is computed without replaying.
    decoder, embedding = PromptDecoder(small), _embedding(small)
    image = decoder.prepare(embedding)
    with torch.inference_mode():
        given = decoder._tokens(image.decoder, _prompts(small, "points", count))
        expected = _run_layers(image.decoder, (image.layers, given))
        got = decoder._replay_layers(image.layers, given, at_once=20)
    _assert_same(got.quality, expected.quality)
    _assert_same(got.filters, expected.filters)
    for ours, theirs in zip(got.images.tiles, expected.images.tiles, strict=True):
        _assert_same(ours.coefficients, theirs.coefficients)
        _assert_same(ours.scale, theirs.scale)
    prompts = _prompts(small, "points", count)
    whole = _selected(decoder, image, prompts, torch.isfinite)
    monkeypatch.setattr(PromptDecoder, "_is_replayed", lambda self, decoder: True)
    replayed = _selected(decoder, decoder.prepare(embedding), prompts, torch.isfinite)
    _assert_same(replayed.mask_logits, whole.mask_logits)
    _assert_same(replayed.predicted_iou, whole.predicted_iou)


def assert_nested_equal(got: Any, expected: Any) -> None:
    """Compare the tensors in nested tuples, bit by bit."""
    if isinstance(got, Tensor):
        assert torch.equal(got, expected)
    elif isinstance(got, tuple | list):
        for one, other in zip(got, expected, strict=True):
            assert_nested_equal(one, other)


def test_autocast_changes_nothing(small: Sam2Model) -> None:
    embedding, prompts = _embedding(small), _prompts(small, "points", 3)
    decoder = PromptDecoder(small)
    expected = _selected(decoder, decoder.prepare(embedding), prompts, torch.isfinite)
    with torch.autocast("cpu", torch.bfloat16):
        got = _selected(decoder, decoder.prepare(embedding), prompts, torch.isfinite)
    assert torch.equal(got.mask_logits, expected.mask_logits)


@pytest.mark.parametrize("multimask", [True, False])
def test_threads_give_the_same_bits_in_the_same_order(small: Sam2Model, multimask: bool) -> None:
    embedding, prompts = _embedding(small), _prompts(small, "points", 30)
    decoder = PromptDecoder(small)
    image = decoder.prepare(embedding)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            # The same parts, whatever the number of threads.
            parts = decoder.selected(image, prompts, _above_mean, batch_size=4)
            found.append(_collected(parts if multimask else decoder.single(image, prompts, batch_size=4)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert torch.equal(other.mask_logits, found[0].mask_logits)
        assert torch.equal(other.predicted_iou, found[0].predicted_iou)


@pytest.mark.parametrize(("count", "parts"), [(1, [1]), (2, [1, 1]), (8, [4, 4]), (9, [5, 4]), (17, [5, 5, 5, 2])])
def test_parts_leave_no_thread_without_work(count: int, parts: list[int]) -> None:
    at_once = prompting._even_share(count, 8)
    assert [len(part) for part in torch.split(torch.zeros(count), at_once)] == parts


def test_threads_that_prompt_the_same_image(small: Sam2Model) -> None:
    decoder = PromptDecoder(small)
    image = decoder.prepare(_embedding(small))
    asked = [_prompts(small, "points", 12) for _ in range(4)]
    expected = [_selected(decoder, image, prompts, torch.isfinite) for prompts in asked]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda prompts: _selected(decoder, image, prompts, torch.isfinite), asked))
    for got, one in zip(found, expected, strict=True):
        assert torch.equal(got.mask_logits, one.mask_logits)


def _above_mean(predicted_iou: Tensor) -> Tensor:
    return predicted_iou > predicted_iou.mean(dim=1, keepdim=True)
