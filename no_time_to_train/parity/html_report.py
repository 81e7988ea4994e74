"""A comparison as a folder to look at: one page that needs nothing else, and its pictures as PNG files."""

import json
import re
from pathlib import Path

from no_time_to_train.errors import OutputError
from no_time_to_train.io.atomic import atomic_folder
from no_time_to_train.io.messages import small_number
from no_time_to_train.parity.compare import Result, versions
from no_time_to_train.results.html import page_templates

PAGE, RESULT = "index.html", "parity.json"
_WRITTEN = re.compile(rf"{re.escape(PAGE)}|{re.escape(RESULT)}|\d+x\d+-batch\d+-\d+-[\w-]+\.png")


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
