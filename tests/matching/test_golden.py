"""The original system's inputs and outputs (no-time-to-train at 214fc79), by torch and by NumPy."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from no_time_to_train.matching import MemoryBank, match_masks
from no_time_to_train.matching.array_ops import to_numpy
from tests.conftest import DATA

CASES = ["match_0", "match_1"]
KINDS = ["torch", "numpy"]


def load_case(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    with np.load(DATA / "golden" / f"{name}.npz") as file:
        arrays: dict[str, Any] = dict(file)
    tensors = {key: torch.from_numpy(value) for key, value in arrays.items() if value.dtype.kind != "U"}
    return tensors, {key: str(value) for key, value in arrays.items() if value.dtype.kind == "U"}


def fill_bank(case: dict[str, Any], grid: int) -> MemoryBank:
    classes, shots, _, dim = case["ref_feats"].shape
    bank = MemoryBank([f"class {index}" for index in range(classes)], dim, "golden")
    for index in range(classes):
        for shot in range(shots):
            features = case["ref_feats"][index, shot].reshape(grid, grid, dim)
            bank.add(index, features, case["ref_masks"][index, shot].reshape(grid, grid))
    bank.finalize()
    return bank


def of_kind(case: dict[str, Tensor], kind: str) -> dict[str, Any]:
    return {key: value.numpy() for key, value in case.items()} if kind == "numpy" else case


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_memory_agrees(name: str, kind: str) -> None:
    case, parameters = load_case(name)
    bank = fill_bank(of_kind(case, kind), int(parameters["grid"]))
    assert isinstance(bank.prototypes, np.ndarray) == (kind == "numpy")
    means, prototypes = (torch.from_numpy(to_numpy(array)) for array in (bank.means, bank.prototypes))
    # fp32 sums over up to 90 patches.
    torch.testing.assert_close(means.reshape(case["post_ins_avg"].shape), case["post_ins_avg"], atol=1e-6, rtol=0)
    expected = F.normalize(case["post_ins_avg"].mean(dim=1), dim=-1)
    torch.testing.assert_close(prototypes, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_instances_agree(name: str, kind: str) -> None:
    case, parameters = load_case(name)
    given, grid = of_kind(case, kind), int(parameters["grid"])
    found = match_masks(
        given["tar_feat"].reshape(grid, grid, -1),
        given["lr_masks"],
        given["pred_ious"],
        fill_bank(given, grid),
        image_size=(int(parameters["ori_h"]), int(parameters["ori_w"])),
        nms_threshold=float(parameters["nms_thr"]),
        max_instances=int(parameters["num_out"]),
    )
    parts = (found.masks, found.boxes, found.scores, found.labels)
    assert all(isinstance(part, np.ndarray) == (kind == "numpy") for part in parts)
    masks, boxes, scores, labels = (torch.from_numpy(to_numpy(part)) for part in parts)
    assert torch.equal(labels, case["out_labels"])
    # Measured 1.2e-7; any other order of suppression or merging moves scores by more than 1e-3.
    assert (scores - case["out_scores"]).abs().max() <= 1e-5
    assert torch.equal(masks, case["out_masks"].bool())
    assert torch.equal(boxes, case["out_boxes"])


_WITHOUT_TORCH = """
import sys
for name in ("torch", "torchvision", "jax", "lightning", "transformers"):
    sys.modules[name] = None
import numpy as np
from no_time_to_train.matching import MemoryBank, match_masks
with np.load(sys.argv[1]) as file:
    case = dict(file)
grid, (classes, shots, _, dim) = int(case["grid"]), case["ref_feats"].shape
bank = MemoryBank([str(index) for index in range(classes)], dim, "golden")
for index in range(classes):
    for shot in range(shots):
        features = case["ref_feats"][index, shot].reshape(grid, grid, dim)
        bank.add(index, features, case["ref_masks"][index, shot].reshape(grid, grid))
bank.save(sys.argv[2])
found = match_masks(
    case["tar_feat"].reshape(grid, grid, -1), case["lr_masks"], case["pred_ious"],
    MemoryBank.load(sys.argv[2], encoder_fingerprint="golden"),
    image_size=(int(case["ori_h"]), int(case["ori_w"])),
    nms_threshold=float(case["nms_thr"]), max_instances=int(case["num_out"]),
)
assert np.array_equal(found.labels, case["out_labels"])
assert np.array_equal(found.masks, case["out_masks"].astype(bool))
assert np.array_equal(found.boxes, case["out_boxes"])
assert np.abs(found.scores - case["out_scores"]).max() <= 1e-5
"""


def test_neither_torch_nor_jax_is_needed(tmp_path: Any) -> None:
    arguments = [str(DATA / "golden" / "match_0.npz"), str(tmp_path / "bank.safetensors")]
    subprocess.run([sys.executable, "-W", "error", "-c", _WITHOUT_TORCH, *arguments], check=True)
