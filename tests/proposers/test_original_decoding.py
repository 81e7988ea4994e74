"""The decoder in the original's order of computation, bit for bit against Meta's own code, and when it runs."""

from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from no_time_to_train.matching.single_thread import single_threaded
from no_time_to_train.models.protocols import PROTOCOLS, PUBLISHED
from no_time_to_train.models.Sam2MatchingBaseline_noAMG import Sam2MatchingBaseline_noAMG
from no_time_to_train.proposers.base import Prompts
from no_time_to_train.proposers.sam2.original_decoding import decode_as_original
from no_time_to_train.proposers.sam2.predictor import build_sam2
from tests.proposers.sam2_oracle import SCRIPT_WARNING, meta_masks, meta_predictor, save_meta
from tests.tiny import IMAGE_SIZE, sam2_of, write_config

QUICKSTART = Path(__file__).parents[2] / "checkpoints" / "quickstart"


# Of 17, two parts: one of a single prompt would round otherwise.
@pytest.mark.filterwarnings(SCRIPT_WARNING)
@pytest.mark.parametrize("count", [16, 17, 40])
def test_masks_are_metas_to_the_last_bit(tmp_path: Path, count: int) -> None:
    image = torch.randint(0, 256, (3, 90, 120), dtype=torch.uint8)
    ours = build_sam2(write_config(tmp_path / "folder"), save_meta(tmp_path))
    predictor = meta_predictor(image)
    stride4, stride8 = predictor._features["high_res_feats"]
    embedding = {"features": predictor._features["image_embed"], "stride4": stride4, "stride8": stride8}
    points = torch.rand(count, 2) * IMAGE_SIZE
    # The original's copy of SAM2 turns fused attention off where there is no GPU.
    with single_threaded(), sdpa_kernel(SDPBackend.MATH):
        masks, quality = meta_masks(predictor, points[:, None], torch.ones(count, 1, dtype=torch.int64))
        best, choice = quality.max(dim=1)
        # Between two of them, so that rounding changes none.
        threshold = best.sort().values[count // 2 - 1 : count // 2 + 1].mean().item()
        kept = best > threshold
        found = decode_as_original(ours.model, embedding, points, min_iou=threshold)
    assert 0 < kept.sum() < count
    assert torch.equal(found.predicted_iou, best[kept])
    assert torch.equal(found.mask_logits, masks[kept, choice[kept]])
    # The faster decoder's are the same up to rounding, and no more.
    near = ours.best_masks(embedding, Prompts(points=points[:, None]), min_iou=threshold)
    assert len(near.predicted_iou) == len(found.predicted_iou)
    torch.testing.assert_close(near.mask_logits, found.mask_logits, atol=1e-3, rtol=1e-4)
    assert not torch.equal(near.mask_logits, found.mask_logits)


@pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")
@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_published_decodes_so_on_a_cpu(name: str) -> None:
    protocol = PROTOCOLS[name]
    baseline = Sam2MatchingBaseline_noAMG(
        str(QUICKSTART / "sam2"),
        sam2_infer_cfgs={"points_per_side": 5, "iou_thr": 0.1},
        encoder_cfg={"name": "dinov3_quickstart", "img_size": 32},
        encoder_ckpt_path=QUICKSTART / "encoder",
        protocol=protocol.name,
    )
    image = torch.randint(0, 256, (3, 60, 50), dtype=torch.uint8)
    (embedding,) = baseline.features.embeddings([image])
    points = torch.from_numpy(protocol.points(5, baseline.promptable.image_size))
    memory = baseline.start_memory(["it"])
    found = baseline.proposer(embedding, torch.empty(0, 0, 0), memory)
    exact = decode_as_original(sam2_of(baseline).model, embedding, points, min_iou=0.1)
    assert len(found.predicted_iou) == len(exact.predicted_iou) > 0
    assert torch.equal(found.mask_logits, exact.mask_logits) == (protocol is PUBLISHED)
