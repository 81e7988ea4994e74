"""What the tables of bad inputs are written in: a case, and what a case may ask for.

A case names a command line as a user would type it; its first word is a command of `ntt`, or `run_lightening`.
"""

import ctypes
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.tiny import TinyData

DROP = object()
Edit = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Case:
    """A command line that must be refused.

    Attributes:
        name: The command, and what is wrong.
        argv: Writes what the command is given, and returns the command line.
        says: Parts of the one line on stderr: what is wrong, and what mends it.
    """

    name: str
    argv: "Callable[[Given], list[str | Path]]"
    says: list[str]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Shop:
    """What all cases share, made once: nothing in it may change.

    Attributes:
        root: The folder of all of it; its name has spaces and letters that are not ASCII.
        data: Two classes in images of 64x48 pixels, as COCO JSON.
        sam2: A folder with the configuration of a small SAM2.
        matching: A YAML of the matching baseline, small, with random weights.
        distill: A YAML of a short distillation.
        encoder: A Hugging Face folder of `dinov3_quickstart_tiny`.
        sam2_weights: A Hugging Face folder of the small SAM2 with weights.
        memory: A memory file that fits `matching`.
        scenes: Embedded scenes, drawn.
    """

    root: Path
    data: TinyData
    sam2: Path
    matching: Path
    distill: Path
    encoder: Path
    sam2_weights: Path
    memory: Path
    scenes: Path


@dataclass(frozen=True)
class Given:
    """What a single case is given.

    Attributes:
        shop: What all cases share.
        root: The test's own folder, which is the working directory too.
        disk: Mounts a small file system and returns its folder, or skips the test: options of `mount`, filled or not.
    """

    shop: Shop
    root: Path
    disk: Callable[..., Path]

    @property
    def out(self) -> Path:
        """The folder for results, which holds somebody's file already."""
        return self.root / "out"

    @property
    def under_a_file(self) -> Path:
        """A path that cannot be made, whoever asks: its folder is a file."""
        self.text("a_file")
        return self.root / "given" / "a_file" / "out"

    def path(self, name: str) -> Path:
        """Return where an input of this case goes; its folder is made."""
        path = self.root / "given" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def text(self, name: str, content: str | bytes = "some text") -> Path:
        """Write a file."""
        path = self.path(name)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def folder(self, name: str, *files: str) -> Path:
        """Make a folder, with files of no use in it."""
        self.path(name).mkdir()
        for file in files:
            self.text(f"{name}/{file}")
        return self.path(name)

    def cut(self, path: Path, share: float = 0.5) -> Path:
        """Write the beginning of a file."""
        content = path.read_bytes()
        return self.text(path.name, content[: int(share * len(content))])

    def unreadable(self, path: Path) -> Path:
        """Write a copy of a file, which nobody may read."""
        copy = self.text(path.name, path.read_bytes())
        copy.chmod(0)
        return copy

    def read_only(self) -> Path:
        """Make a folder in which nobody may write."""
        folder = self.folder("read_only")
        folder.chmod(0o555)
        return folder

    # COCO JSON -----------------------------------------------------------------------------------------------------

    def coco(self, *edits: Edit, base: str = "references") -> Path:
        """Write the references, or the targets, with something changed."""
        document = json.loads(getattr(self.shop.data, base).read_text())
        for edit in edits:
            edit(document)
        return self.text(f"{base}.json", json.dumps(document))

    def settings(self, **changes: Any) -> Path:
        """Write the small matching YAML with settings of model_cfg changed; `a__b` is b in a."""
        document = yaml.safe_load(self.shop.matching.read_text())
        for key, value in changes.items():
            place = document["model"]["init_args"]["model_cfg"]
            *parents, last = key.split("__")
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        return self.text("settings.yaml", yaml.safe_dump(document))

    # Command lines -------------------------------------------------------------------------------------------------

    def predict(self, *more: str | Path) -> list[str | Path]:
        """`ntt predict` that would work, and what spoils it."""
        data = self.shop.data
        references = () if "--references" in more else ("--references", data.references)
        own = () if "--memory" in more else (*references, "--reference-images", data.images)
        # Of these, what comes again comes in addition.
        images = () if "--images" in more else ("--images", data.images / "005.jpg", data.images / "006.jpg")
        config = () if "--config" in more else ("--config", self.shop.matching)
        return ["predict", *config, *own, *images, "--output", self.out, "--min-score", "0", *more]

    def match(self, *more: str | Path) -> list[str | Path]:
        """`run_lightening.py` on the matching YAML, and what spoils it."""
        before = [more[0]] if more and more[0] in ("fit", "validate", "predict") else []
        config = ("--config", self.shop.matching, "--trainer.default_root_dir", self.out)
        return ["run_lightening", *before, *config, *self.shop.data.arguments, *more[len(before) :]]

    def fit(self, *more: str | Path) -> list[str | Path]:
        """`run_lightening.py fit` on the distillation's YAML, and what spoils it."""
        root = ("--trainer.default_root_dir", self.out, "--model.output", self.out / "student")
        return ["run_lightening", "fit", "--config", self.shop.distill, *root, *more]


# Edits of COCO documents -------------------------------------------------------------------------------------------


def whole(**changes: Any) -> Edit:
    """Change the document itself; DROP takes a key out."""
    return lambda document: _change(document, changes)


def annotation(**changes: Any) -> Edit:
    """Change the first annotation."""
    return lambda document: _change(document["annotations"][0], changes)


def image(**changes: Any) -> Edit:
    """Change the first image."""
    return lambda document: _change(document["images"][0], changes)


def category(**changes: Any) -> Edit:
    """Change the first category."""
    return lambda document: _change(document["categories"][0], changes)


def twice(key: str, **changes: Any) -> Edit:
    """Repeat the first entry of a list, with something changed."""

    def edit(document: dict[str, Any]) -> None:
        copy = deepcopy(document[key][0])
        _change(copy, changes)
        document[key].append(copy)

    return edit


def _change(entry: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if value is DROP:
            del entry[key]
        else:
            entry[key] = value


# Looking at folders ------------------------------------------------------------------------------------------------


def listing(root: Path) -> dict[str, str]:
    """Return all that is below a folder: files with their hashes, folders, links."""
    found = {}
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_symlink() or not path.is_file():
            found[name] = "folder" if path.is_dir() else "other"
        else:
            try:
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            except PermissionError:
                found[name] = "unreadable"
    return found


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Sets(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


@contextmanager
def permissions_bind() -> Iterator[None]:
    """Let the permissions of files bind this thread, root's too.

    Root may ignore them by two capabilities, which are taken out of the thread's effective set (`man capset`) and put
    back afterwards. For everybody else nothing changes.
    """
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = _Header(0x20080522, 0), (_Sets * 2)()
    assert libc.capget(ctypes.byref(header), sets) == 0
    kept = sets[0].effective
    sets[0].effective = kept & ~(1 << 1 | 1 << 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(ctypes.byref(header), sets) == 0
    try:
        yield
    finally:
        sets[0].effective = kept
        assert libc.capset(ctypes.byref(header), sets) == 0
