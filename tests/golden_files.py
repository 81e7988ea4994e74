"""Checkpoints in Meta's layout, with features that Meta's own code gives for them."""

from pathlib import Path

import pytest

from tests.conftest import DATA

SHARED = Path(__file__).parents[2] / "shared" / "golden" / "meta"
NAMES = ["vit_mlp", "vit_swiglu", "vit_mlp_untied", "vit_swiglu64_untied", "vit_mlp_released", "convnext"]


def golden(name: str, suffix: str = ".pth", *, whole: bool = False) -> Path:
    """Return a golden file; a `whole` one is looked for in shared/ first, as the repository's own are cut."""
    for folder in (SHARED, DATA / "golden") if whole else (DATA / "golden", SHARED):
        for path in folder.rglob(f"{name}{suffix}"):
            return path
    pytest.skip(f"{name}{suffix} lies in shared/golden alone, which is not beside this checkout")
