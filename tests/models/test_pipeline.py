"""Masks of boxes and points, and limits of the matching, with a model whose masks are known to the pixel."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from no_time_to_train.configs.pipeline import MatcherConfig
from no_time_to_train.errors import ConfigError
from no_time_to_train.export.onnx import export_onnx
from no_time_to_train.models.pipeline import MatchingPipeline
from no_time_to_train.proposers import factory
from no_time_to_train.proposers.automatic import AutomaticMaskGenerator
from no_time_to_train.proposers.base import MaskProposals
from no_time_to_train.proposers.grid import GridProposer
from no_time_to_train.proposers.prior_guided import GuidedProposer
from tests.proposers.toy import ToyPromptable, build_toy

QUICKSTART = Path(__file__).parents[2] / "checkpoints" / "quickstart"
HEIGHT, WIDTH = 48, 64


def build(**settings: Any) -> MatchingPipeline:
    """Build a pipeline of the small trained encoder and the stand-in for SAM2."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(factory.BUILDERS, "toy", build_toy)
        config: dict[str, Any] = {
            "name": "matching_baseline_noAMG",
            "sam2_cfg_file": "toy:small",
            "encoder_cfg": {"name": "dinov3_quickstart", "img_size": 32},
            "encoder_ckpt_path": QUICKSTART / "encoder",
            **settings,
        }
        return MatchingPipeline(MatcherConfig.from_settings(**config))


@pytest.fixture(scope="module")
def pipeline() -> MatchingPipeline:
    return build()


@pytest.fixture(scope="module")
def blind() -> MatchingPipeline:
    """Return one whose masks are empty."""
    pipeline = build()
    cast(ToyPromptable, pipeline.promptable).get_buffer("widths").fill_(-1)
    return pipeline


def picture() -> Tensor:
    """Black, with a white rectangle."""
    image = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    image[:, 12:36, 40:56] = 255
    return image


# Of one color, so that every mask is the whole image, cut to the box; where nothing is drawn the mask is the box, too.
@pytest.mark.parametrize("which", ["pipeline", "blind"])
@pytest.mark.parametrize(
    ("box", "corners"),
    [
        ((8.4, 6.6, 10.2, 4.0), (8, 6, 19, 11)),
        ((8.0, 6.0, 10.0, 4.0), (8, 6, 18, 10)),
        ((0.0, 0.0, 64.0, 48.0), (0, 0, 64, 48)),
        ((-5.0, 10.0, 200.0, 300.0), (0, 10, 64, 48)),
        ((63.5, 47.5, 5.0, 5.0), (63, 47, 64, 48)),
        # At least one pixel, at the border that is nearest.
        ((70.0, 60.0, 5.0, 5.0), (63, 47, 64, 48)),
        ((-5.0, -6.0, 3.0, 2.0), (0, 0, 1, 1)),
        ((10.0, 20.0, 0.0, 0.0), (10, 20, 11, 21)),
    ],
)
def test_the_mask_of_a_box_ends_with_it(
    box: tuple[float, float, float, float],
    corners: tuple[int, int, int, int],
    which: str,
    request: pytest.FixtureRequest,
) -> None:
    pipeline: MatchingPipeline = request.getfixturevalue(which)
    x1, y1, x2, y2 = corners
    expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    expected[y1:y2, x1:x2] = True
    assert torch.equal(pipeline.mask_of_box(torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8), box), expected)


def test_the_mask_of_a_box_is_what_is_drawn_in_it(pipeline: MatchingPipeline) -> None:
    # Its center, x 44 and y 22, is white.
    mask = pipeline.mask_of_box(picture(), (30.0, 4.0, 28.0, 36.0))
    assert not mask[:4].any()
    assert not mask[40:].any()
    assert not mask[:, :30].any()
    assert not mask[:, 58:].any()
    # A mask's pixel is 2 of the image wide and 1.5 high, so that the border is a pixel or two off.
    assert mask[14:34, 42:54].all()
    assert not mask[:10].any()
    assert not mask[38:].any()
    assert not mask[:, :38].any()


def test_the_mask_of_points_is_anywhere(pipeline: MatchingPipeline) -> None:
    mask = pipeline.mask_of_points(picture(), [(50.0, 30.0)])
    assert mask[14:34, 42:54].all()
    assert not mask[:, :38].any()
    ground = pipeline.mask_of_points(picture(), [(30.0, 40.0)])
    assert ground[:, :38].all()
    assert not ground[14:34, 42:54].any()


def test_a_reference_by_its_box(pipeline: MatchingPipeline) -> None:
    box = (38.0, 10.0, 20.0, 28.0)
    expected = pipeline.reference_mean(picture(), pipeline.mask_of_box(picture(), box), box, "it")
    assert torch.equal(pipeline.reference_mean(picture(), None, box, "it"), expected)
    whole = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    assert not torch.allclose(pipeline.reference_mean(picture(), whole, box, "it"), expected)


def test_a_blank_image_has_the_grid_that_is_asked_for(pipeline: MatchingPipeline) -> None:
    assert pipeline._encode_blank(3, 5).shape == (3, 5, pipeline.encoder.embed_dim)


@pytest.mark.parametrize(("most", "expected"), [(None, 100), (101, 101), (7, 7)])
def test_automatic_masks_give_a_hundred_instances(most: int | None, expected: int) -> None:
    pipeline = build(name="matching_baseline", max_instances=most)
    memory = pipeline.start_memory(["one", "other"])
    means = torch.eye(pipeline.encoder.embed_dim)
    for index in range(2):
        memory.add_mean(index, means[index])
    # Each of 60 masks may be of both classes.
    masks = MaskProposals(torch.ones(60, 2, 2), torch.ones(60))
    found = pipeline.match(means[0].expand(2, 2, -1), masks, (4, 4))
    assert len(found) == expected


def test_what_is_asked_of_the_model() -> None:
    prior = build(sam2_infer_cfgs={"prompt_selection": "prior"})
    assert isinstance(prior.proposer, GuidedProposer)
    assert isinstance(build().proposer, GridProposer)
    assert isinstance(build(name="matching_baseline").proposer, AutomaticMaskGenerator)
    assert cast(ToyPromptable, build(precision="bf16").promptable).precision == torch.bfloat16


def test_both_networks_are_compiled() -> None:
    plain, compiled = build(), build(compile=True)
    for network in (compiled.encoder.model, compiled.promptable.image_encoder):
        assert getattr(network, "_compiled_call_impl", None) is not None
    assert getattr(plain.promptable.image_encoder, "_compiled_call_impl", None) is None
    assert list(compiled.state_dict()) == list(plain.state_dict())
    # What compiled code computes is a test for a GPU (tests/gpu): on two cores compiling takes a minute.
    with torch.compiler.set_stance("force_eager"):
        # Products are torch's own then, and oneDNN's otherwise: 3e-7 apart.
        torch.testing.assert_close(compiled.encode(picture()), plain.encode(picture()), atol=1e-5, rtol=0)


def test_an_onnx_encoder_is_not_compiled(tmp_path: Path) -> None:
    folder = export_onnx(QUICKSTART / "encoder", output=tmp_path / "onnx")
    encoder = {"name": f"onnx:{folder}", "img_size": 32}
    with pytest.raises(ConfigError, match=r"compile is true and the encoder .* which torch cannot compile"):
        build(encoder_cfg=encoder, encoder_ckpt_path=None, compile=True)
