"""The models that lie in the repository: whole, small, in half precision, and as good as their cards say."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, Sam2Model

from no_time_to_train.configs.encoders import resolve_encoder, weights_at_hand
from no_time_to_train.data.synthetic.dataset import BASE_CLASSES, write_shapes
from no_time_to_train.encoders.torch_encoder import build_encoder
from no_time_to_train.training.quickstart.prompt_scores import score_prompts
from no_time_to_train.training.quickstart.report import build_baseline, fill_memories, measure
from tests.tiny import sam2_of

ROOT = Path(__file__).parents[3]
FOLDERS = [ROOT / "checkpoints" / "quickstart" / name for name in ("encoder", "sam2")]


def test_they_are_whole_and_small() -> None:
    size = 0
    for folder in FOLDERS:
        names = {path.name for path in folder.iterdir()}
        graphs = {"encoder": {"model.onnx"}, "sam2": {"vision_encoder.onnx", "prompt_encoder_mask_decoder.onnx"}}
        settings = {"README.md", "config.json", "preprocessor_config.json"}
        assert names == {"model.safetensors", *settings, *graphs[folder.name]}
        size += sum(path.stat().st_size for path in folder.iterdir())
        tensors = load_file(folder / "model.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert size <= 12e6


def test_they_open_here_and_in_transformers() -> None:
    encoder, sam2 = FOLDERS
    entry = resolve_encoder("dinov3_quickstart")
    assert entry.own
    assert weights_at_hand(entry, ROOT / "checkpoints") == encoder
    assert build_encoder("dinov3_quickstart", encoder).img_size == 384
    models: list[tuple[Any, Path]] = [(AutoModel, encoder), (Sam2Model, sam2)]
    for model, folder in models:
        _, info = model.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_cards_state_what_the_report_measured(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    figures = json.loads(card.split("```json\n")[1].split("```")[0])
    assert set(figures) == {"sam2", "encoder", "ap", "seconds_per_image"}
    for said in ("seed 2026", "minutes", "Limits", "run_lightening.py fit --config", "license: apache-2.0"):
        assert said in card


def test_they_find_new_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few images of another seed; the bars lie far below what the report measures on two hundred."""
    monkeypatch.chdir(ROOT)
    baseline = build_baseline()
    targets = write_shapes(tmp_path / "targets", seed=11, shots=1, num_targets=8)
    memories = fill_memories(baseline, tmp_path / "references", seed=11, shots=(5,))
    figures = measure(baseline, [memories], targets)
    assert figures.ap[5] > 45
    assert figures.ap[5] > 1.5 * figures.ap_colour[5]
    assert figures.accuracy[5] > 0.8
    scores = score_prompts(sam2_of(baseline), BASE_CLASSES, seed=11, num_images=4)
    assert sum(scores.best_of_3) / len(scores.best_of_3) > 0.75
    assert sum(scores.box) / len(scores.box) > 0.75
