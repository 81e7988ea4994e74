"""Checkpoints in Meta's layout with features that Meta's own code gives for them, and other golden files."""

from pathlib import Path

import pytest

from tests.conftest import DATA

BESIDE = Path(__file__).parents[2] / "shared"
SHARED = BESIDE / "golden" / "meta"
NAMES = ["vit_mlp", "vit_swiglu", "vit_mlp_untied", "vit_swiglu64_untied", "vit_mlp_released", "convnext"]


def shared(*parts: str) -> Path:
    """Return a path in shared/, which the repository does not have."""
    path = BESIDE.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{'/'.join(parts)} is in shared/ alone, which is not next to this checkout")
    return path


def golden(name: str, suffix: str = ".pth", *, whole: bool = False) -> Path:
    """Return a golden file; a `whole` one is looked for in shared/ first, as the repository's own are cut."""
    for folder in (SHARED, DATA / "golden") if whole else (DATA / "golden", SHARED):
        for path in folder.rglob(f"{name}{suffix}"):
            return path
    pytest.skip(f"{name}{suffix} lies in shared/golden alone, which is not beside this checkout")
