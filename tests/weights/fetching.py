"""What the tests of fetching share."""

import hashlib
from pathlib import Path

from no_time_to_train.weights.http.download import Retries
from no_time_to_train.weights.hub.fetch import FetchResult, fetch
from tests.weights.conftest import REPOSITORY

WEIGHTS = "model.safetensors"
AT_ONCE = Retries(attempts=3, first_wait=0.0)


def fetch_tiny(root: Path, name: str = REPOSITORY, *, revision: str | None = None) -> FetchResult:
    return fetch(name, root, quiet=True, retries=AT_ONCE, revision=revision)


def same_files(root: Path, folder: Path) -> bool:
    return all((root / path.name).read_bytes() == path.read_bytes() for path in folder.iterdir())


def corrupt_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def meta_name(content: bytes) -> str:
    return f"dinov3_vits16_pretrain_lvd1689m-{hashlib.sha256(content).hexdigest()[:8]}.pth"
