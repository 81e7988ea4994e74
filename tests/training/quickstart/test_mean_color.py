"""Colours as features: a mask's mean colour finds the reference of that colour."""

import pytest
import torch

from no_time_to_train.matching.similarity import class_similarity, pool_masks
from no_time_to_train.training.quickstart.mean_color import colour_bank, colour_patches, mean_colour


def test_patches_average_to_the_colour_of_a_mask() -> None:
    image = torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8)
    mask = torch.zeros(128, 128, dtype=torch.bool)
    mask[32:64, 64:128] = True
    pooled = (colour_patches(image)[16:32, 32:64]).mean(dim=(0, 1))
    torch.testing.assert_close(pooled, mean_colour(image, mask), rtol=0, atol=1e-6)


@pytest.mark.parametrize("wanted", [0, 1])
def test_the_colour_of_a_mask_is_found(wanted: int) -> None:
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[0, :, :32], image[2, :, 32:] = 200, 180
    bank = colour_bank(("red", "blue"))
    sides = torch.zeros(2, 64, 64, dtype=torch.bool)
    sides[0, :, :32], sides[1, :, 32:] = True, True
    for index, mask in enumerate(sides):
        bank.add_mean(index, mean_colour(image, mask))
    bank.finalize()
    pooled = torch.nn.functional.normalize(pool_masks(colour_patches(image), sides[wanted : wanted + 1]), dim=1)
    assert int(class_similarity(pooled, bank).argmax()) == wanted
