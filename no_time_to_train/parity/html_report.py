"""A comparison as a folder to look at: one page that needs nothing else, and its pictures as PNG files."""

import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from no_time_to_train import __version__
from no_time_to_train.errors import OutputError
from no_time_to_train.io.atomic import atomic_folder
from no_time_to_train.io.messages import finite, small_number
from no_time_to_train.parity.compare import ParityReport
from no_time_to_train.parity.reference_values import KnownAnswer
from no_time_to_train.results.html import page_templates

PAGE, RESULT = "index.html", "parity.json"
_WRITTEN = re.compile(rf"{re.escape(PAGE)}|{re.escape(RESULT)}|\d+x\d+-batch\d+-\d+-[\w-]+\.png")
_PACKAGES = ("torch", "transformers", "jax", "equinox", "onnx", "onnxruntime", "jax2onnx")


@dataclass(frozen=True)
class Compared:
    """One of the backends.

    Attributes:
        name: `torch`, `eqx` or `onnx`, with a number where there are several.
        source: Where it came from.
        precision: fp32, bf16, fp16 or int8.
        device: cpu or cuda.
        fingerprint: Identity of its architecture and weights.
    """

    name: str
    source: str
    precision: str
    device: str
    fingerprint: str


@dataclass(frozen=True)
class Case:
    """What was found for images of one size and number.

    Attributes:
        title: The size and batch, and the images.
        report: What was found.
        pictures: PNG files by their names, with what they show.
    """

    title: str
    report: ParityReport
    pictures: Mapping[str, tuple[str, bytes]]


@dataclass(frozen=True)
class Result:
    """All that a comparison found.

    Attributes:
        encoder: The registry's name.
        backends: What was compared; the first is the reference.
        cases: A size and batch each.
        known_answer: For the photograph that answers are published for.
    """

    encoder: str
    backends: tuple[Compared, ...]
    cases: tuple[Case, ...]
    known_answer: KnownAnswer | None = None

    @property
    def ok(self) -> bool:
        """Return whether every verdict holds."""
        return all(case.report.ok for case in self.cases) and (self.known_answer is None or self.known_answer.ok)

    def to_dict(self) -> dict[str, Any]:
        """Return all but the pictures in plain types."""
        known = self.known_answer
        return {
            "ok": self.ok,
            "encoder": self.encoder,
            "backends": [vars(backend) for backend in self.backends],
            "known_answer": None if known is None else finite(vars(known) | {"ok": known.ok, "summary": str(known)}),
            "versions": versions(),
            "cases": [{"title": case.title, **case.report.to_dict()} for case in self.cases],
        }


def versions() -> dict[str, str]:
    """Return what the comparison ran on."""
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    own = {"python": platform.python_version(), "machine": machine, "no_time_to_train": __version__}
    return own | {name: version(name) for name in _PACKAGES}


def write_report(result: Result, folder: Path) -> Path:
    """Write the page, its pictures and the result as JSON; a report that is there already is replaced.

    Returns:
        The page.

    Raises:
        OutputError: The folder holds something else, or cannot be written.
    """
    folder = check_replaceable(folder)
    with atomic_folder(folder) as new:
        for case in result.cases:
            for name, (_, png) in case.pictures.items():
                (new / name).write_bytes(png)
        (new / RESULT).write_text(json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        (new / PAGE).write_text(_page(result), encoding="utf-8")
    return folder / PAGE


def check_replaceable(folder: Path) -> Path:
    """Refuse a folder that holds anything but a report.

    Returns:
        The folder, links followed.

    Raises:
        OutputError: It does, or is the one that the command runs in.
    """
    folder = folder.resolve()
    if folder == Path.cwd():
        raise OutputError(f"{folder} is the folder that this runs in", remedy="name one in it")
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return folder
    ours = folder.is_dir() and (folder / RESULT).is_file()
    if not ours or any(not _WRITTEN.fullmatch(path.name) or path.is_dir() for path in folder.iterdir()):
        raise OutputError(f"{folder} is there already, and holds no report", remedy="name a new folder")
    return folder


def _page(result: Result) -> str:
    templates = page_templates("no_time_to_train.parity")
    templates.filters["small"] = small_number
    return templates.get_template("report.html.jinja").render(result=result, versions=versions())
