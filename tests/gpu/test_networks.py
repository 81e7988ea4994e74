"""Encoders and SAM2 on a GPU, against what they give on a CPU and against Meta's own features."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from no_time_to_train.encoders.cuda_graphs import Replayed
from no_time_to_train.encoders.preprocessing import encoder_pixels
from no_time_to_train.encoders.torch_encoder import build_encoder_from_checkpoint
from no_time_to_train.models.pipeline import replayed_features
from no_time_to_train.parity.drift import tolerance_of
from no_time_to_train.proposers.base import Prompts
from no_time_to_train.proposers.grid import point_grid
from no_time_to_train.proposers.sam2.fast_decoder import PromptDecoder
from no_time_to_train.proposers.sam2.predictor import Sam2Predictor, build_sam2
from tests.conftest import DATA
from tests.golden_files import NAMES, golden
from tests.proposers.test_fast_decoder import _theirs

GOLDEN = DATA / "golden"
QUICKSTART = Path(__file__).parents[2] / "checkpoints" / "quickstart"


@pytest.fixture(params=["default", "TF32 off"])
def convolutions(request: pytest.FixtureRequest) -> Iterator[str]:
    """Let cuDNN convolve in TF32, as torch does unless told otherwise, or not."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = request.param == "default"
    yield request.param
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def high_precision() -> Iterator[None]:
    """Let matrices be multiplied in TF32, as Lightning advises on such GPUs."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="module")
def sam2() -> Sam2Predictor:
    return build_sam2(QUICKSTART / "sam2")


def _picture() -> Tensor:
    rows = torch.linspace(0, 3, 256)[:, None] * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    return (127 * (1 + torch.sin(rows * rows.mT))).byte()


@pytest.mark.parametrize("name", NAMES)
def test_encoders_give_metas_features(name: str, device: torch.device, convolutions: str) -> None:
    expected = load_file(golden(name, ".safetensors"))
    encoder = build_encoder_from_checkpoint(golden(name), device=device)
    for size in ("64x64", "48x96", "80x112"):
        with torch.inference_mode():
            found = encoder(load_file(GOLDEN / "inputs.safetensors")[size].to(device))
        wanted = expected[f"{size}.x_norm_patchtokens"]
        difference = (found.patches.flatten(1, 2).cpu() - wanted).abs().max()
        print(f"{name} {size} {convolutions}: {difference:.1e}")
        # TF32 keeps 11 bits of what a convolution multiplies. A ConvNeXt has dozens of them (1.6e-3 seen on an H200), a
        # ViT one, which comes out as in float32.
        assert difference <= (5e-3 if convolutions == "default" and name == "convnext" else 2e-5)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_encoders_in_half_precision(name: str, precision: str, device: torch.device) -> None:
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    expected = load_file(golden(name, ".safetensors"))["64x64.x_norm_patchtokens"]
    encoder = build_encoder_from_checkpoint(golden(name), device=device, dtype=dtype)
    with torch.inference_mode():
        found = encoder(load_file(GOLDEN / "inputs.safetensors")["64x64"].to(device)).patches.flatten(1, 2)
    least = F.cosine_similarity(found.float().cpu(), expected, dim=-1).min()
    print(f"{name} {precision}: least cosine {least:.6f}")
    tolerance = tolerance_of((precision, "cuda")).least_cosine
    assert tolerance is not None
    assert least >= tolerance


def test_sam2_embeds_the_same(sam2: Sam2Predictor, device: torch.device, convolutions: str) -> None:
    image = _picture()
    expected = sam2.to("cpu").embed(sam2.preprocess(image))
    found = sam2.to(device).embed(sam2.preprocess(image))
    for name, theirs in expected.items():
        difference = (found[name].cpu() - theirs).abs().max() / theirs.abs().max()
        print(f"{convolutions}: {difference:.1e}")
        # Seen on an H200: 1.3e-6, and 2.1e-4 in TF32.
        assert difference <= (1e-5 if convolutions == "TF32 off" else 1e-3)


def test_what_is_replayed_is_what_is_computed(sam2: Sam2Predictor, device: torch.device) -> None:
    encoder = build_encoder_from_checkpoint(QUICKSTART / "encoder", device=device, dtype=torch.bfloat16)
    promptable = copy.deepcopy(sam2).to(device)
    promptable.set_precision(torch.bfloat16)
    features = replayed_features(encoder, promptable)
    images = [_picture().roll(shift, dims=1) for shift in range(0, 60, 10)]
    for _ in range(2):
        for image in images:
            with torch.inference_mode():
                expected = encoder(encoder_pixels(image, encoder)).patches.float()
                embedding = promptable.embed(promptable.preprocess(image))
            assert torch.equal(features.patches([image])[0], expected[0])
            (found,) = features.embeddings([image])
            assert all(torch.equal(part, embedding[name]) for name, part in found.items())
        if device.type == "cuda":
            for replayed in (features._encode, features._embed):
                assert isinstance(replayed, Replayed)
                assert replayed._graphs
        # Other weights, elsewhere: a graph of the old ones would go on giving the old features.
        torch.nn.Module.to(encoder, torch.float32)
        torch.nn.Module.to(encoder, torch.bfloat16)
        with torch.no_grad():
            encoder.model.get_parameter("norm.weight").mul_(-1)
    copied = copy.deepcopy(features)
    assert torch.equal(copied.patches([images[0]])[0], features.patches([images[0]])[0])


@pytest.mark.parametrize("kind", ["points", "boxes"])
def test_prompts_are_decoded_as_transformers_does(
    sam2: Sam2Predictor, device: torch.device, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # transformers upscales by convolutions, which cuDNN computes in TF32 unless told otherwise: 6e-5; ours multiplies.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    sam2 = sam2.to(device)
    embedding = sam2.embed(sam2.preprocess(_picture()))
    points = torch.from_numpy(point_grid(10, sam2.image_size)).to(device)
    prompts = Prompts(points[:, None]) if kind == "points" else Prompts(boxes=torch.cat([points - 9, points + 9], 1))
    expected = _theirs(sam2.model, embedding, prompts, multimask=True)
    decoder = PromptDecoder(sam2.model)
    parts = list(decoder.selected(decoder.prepare(embedding), prompts, torch.isfinite, batch_size=64))
    logits = torch.cat([part.mask_logits for part in parts])
    difference = (logits - expected.mask_logits.flatten(0, 1)).abs().max() / logits.abs().max()
    print(f"{kind}: {difference:.1e}")
    assert difference <= 1e-5
    assert (torch.cat([part.predicted_iou for part in parts]) - expected.predicted_iou.flatten()).abs().max() <= 1e-5


def test_prompts_that_are_replayed_give_the_same(sam2: Sam2Predictor, device: torch.device) -> None:
    built = copy.deepcopy(sam2).to(device)
    decoder = built._decoder
    for shift in range(0, 60, 10):
        embedding = built.embed(built.preprocess(_picture().roll(shift, dims=1)))
        plain = PromptDecoder(built.model)
        plain._replayed_share._works = plain._replayed_layers._works = False
        image, expected_image = decoder.prepare(embedding), plain.prepare(embedding)
        for count in (16, 10, 61, 130):
            points = torch.from_numpy(point_grid(12, built.image_size)[:count]).to(device)
            for prompts in (Prompts(points[:, None]), Prompts(boxes=torch.cat([points - 9, points + 9], 1))):
                found = list(decoder.selected(image, prompts, torch.isfinite, batch_size=128))
                expected = list(plain.selected(expected_image, prompts, torch.isfinite, batch_size=128))
                logits, theirs = (torch.cat([part.mask_logits for part in parts]) for parts in (found, expected))
                # Rows that fill a chunk up may choose another kernel.
                assert (logits - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    if device.type == "cuda":
        assert decoder._replayed_share._graphs
        assert len(decoder._replayed_layers._graphs) > 2


@pytest.mark.usefixtures("high_precision")
def test_prompts_keep_their_precision_beside_tf32(sam2: Sam2Predictor, device: torch.device) -> None:
    sam2 = sam2.to(device)
    embedding = sam2.embed(sam2.preprocess(_picture()))
    prompts = Prompts(torch.from_numpy(point_grid(8, sam2.image_size)[:, None]))
    fast = sam2.best_masks(embedding, prompts)
    torch.set_float32_matmul_precision("highest")
    exact = sam2.best_masks(embedding, prompts)
    difference = (fast.mask_logits - exact.mask_logits).abs().max() / exact.mask_logits.abs().max()
    print(f"TF32: {difference:.1e}")
    assert difference <= 1e-5
