"""Copy what the tests need of the golden data: ``python tests/data/golden/make.py SHARED/golden``.

Kept small: of Meta's outputs the final tokens, and the stages of one encoder; of the matching cases' mask logits those
that have both signs among their neighbours, the others are -1 or 1. Bilinear interpolation between values of one sign
keeps that sign, so that no mask changes at any size that is not smaller than the logits.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
# The smallest, whose blocks' stages are kept too.
WITH_STAGES = "vit_mlp_released"
ENCODERS = ("convnext", "vit_mlp_released", "vit_mlp_untied", "vit_swiglu64_untied")


def edges_only(logits: np.ndarray) -> np.ndarray:
    """Set the logits (N, H, W) whose 3x3 neighbours all have their sign to that sign."""
    padded = np.pad(logits > 0, ((0, 0), (1, 1), (1, 1)), mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    inside, outside = around.all(axis=(-2, -1)), ~around.any(axis=(-2, -1))
    return np.where(inside, np.float32(1), np.where(outside, np.float32(-1), logits))


def main(golden: Path) -> None:
    for name in ENCODERS:
        shutil.copy(golden / "meta" / f"{name}.pth", HERE / f"{name}.pth")
        outputs = load_file(golden / "meta" / f"{name}.safetensors")
        tokens = ("x_norm_clstoken", "x_storage_tokens", "x_norm_patchtokens")
        staged = (".blocks.",) if name == WITH_STAGES else ()
        kept = {key: value for key, value in outputs.items() if key.endswith(tokens) or any(s in key for s in staged)}
        save_file(kept, HERE / f"{name}.safetensors")
    shutil.copy(golden / "meta" / "inputs.safetensors", HERE / "inputs.safetensors")
    for case in ("match_0", "match_1"):
        path = golden / "matching" / f"{case}.safetensors"
        arrays = load_file(path)
        arrays["lr_masks"] = edges_only(arrays["lr_masks"])
        with safe_open(path, framework="np") as file:
            arrays |= {key: np.array(value) for key, value in file.metadata().items()}
        np.savez_compressed(HERE / f"{case}.npz", allow_pickle=False, **arrays)
    shutil.copy(golden / "published" / "shapes_crop4_results.json", HERE / "shapes_crop4_results.json")
    for path in HERE.iterdir():
        path.chmod(0o644)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
