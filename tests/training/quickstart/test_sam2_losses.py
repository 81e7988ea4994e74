"""The losses of masks: what is right costs nothing, and only what should count counts."""

import pytest
import torch

from no_time_to_train.training.quickstart.sam2_losses import PixelHeads, mask_losses


def case() -> tuple[torch.Tensor, torch.Tensor]:
    masks = torch.zeros(3, 12, 12)
    masks[0, 2:8, 3:9] = 1
    masks[1, 5:, 5:] = 1
    return masks, torch.tensor([True, True, False])


def test_right_masks_cost_nothing() -> None:
    masks, on_object = case()
    logits = (masks[:, None] * 2 - 1).expand(-1, 3, -1, -1) * 30
    iou = torch.tensor([[1.0] * 3, [1.0] * 3, [0.0] * 3])
    losses = mask_losses(logits, iou, torch.tensor([30.0, 30.0, -30.0]), masks, on_object)
    assert losses.mask < 1e-4
    assert losses.iou < 1e-8
    assert losses.object_score < 1e-8
    assert losses.best_iou == losses.chosen_iou == 1


def test_best_and_chosen_masks_are_told_apart() -> None:
    masks, on_object = case()
    logits = torch.full((3, 3, 12, 12), -30.0)
    logits[:, 1] = masks * 60 - 30
    predicted = torch.tensor([[0.9, 0.1, 0.0]] * 3)
    losses = mask_losses(logits, predicted, torch.zeros(3), masks, on_object)
    assert losses.best_iou == 1
    assert losses.chosen_iou == 0
    # Squared errors against (0, 1, 0) on both objects and (0, 0, 0) on the background.
    expected = (2 * (0.81 + 0.81 + 0) + (0.81 + 0.01 + 0)) / 9
    assert float(losses.iou) == pytest.approx(expected, abs=1e-6)


def test_background_teaches_no_mask() -> None:
    masks, on_object = case()
    logits = torch.zeros(3, 3, 12, 12, requires_grad=True)
    mask_losses(logits, torch.zeros(3, 3), torch.zeros(3), masks, on_object).mask.backward()  # type: ignore[no-untyped-call] # of torch
    assert logits.grad is not None
    assert logits.grad[2].abs().max() == 0
    assert logits.grad[0].abs().max() > 0
    nothing = mask_losses(logits, torch.zeros(3, 3), torch.zeros(3), masks, torch.zeros(3, dtype=torch.bool))
    assert torch.isfinite(torch.stack(list(nothing))).all()


def test_pixel_heads_learn_to_tell_objects_apart() -> None:
    instances = torch.zeros(2, 32, 32, dtype=torch.uint8)
    instances[:, 4:16, 4:28] = 1
    instances[:, 18:30, 6:20] = 2
    features = torch.nn.functional.one_hot(instances[:, 2::4, 2::4].long(), 8).permute(0, 3, 1, 2).float()
    heads = PixelHeads(8)
    optimizer = torch.optim.Adam(heads.parameters(), 0.05)
    losses = []
    for _ in range(200):
        loss = heads(features, instances)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]
