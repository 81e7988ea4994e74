"""The licence that released weights are under, said to the user and written beside them."""

import shutil
from pathlib import Path

from no_time_to_train.configs.encoders import DINOV3_LICENSE, EncoderConfig
from no_time_to_train.io.atomic import write_text_atomic

NOTICE_FILE = "DINOV3_LICENSE_NOTICE.txt"
DINOV3_LICENSE_PAGE = "https://ai.meta.com/resources/models-and-libraries/dinov3-license/"

SHORT = f"These weights are under the DINOv3 License: {DINOV3_LICENSE_PAGE}"
NOTICE = f"""DINOv3 licence notice

These weights are Meta's DINOv3, or were made from it. They are made available under the DINOv3 License:
{DINOV3_LICENSE_PAGE}

By using them you agree to its terms. It governs passing them on, changed or unchanged, in any format: its text goes
along with them, and whoever receives them is bound by it too. Read it before you use them in a product.

From: {{source}}
"""


SAM2_NOTICE_FILE = "SAM2_LICENSE_NOTICE.txt"
SAM2_LICENSE = "apache-2.0"
SAM2_NOTICE = """SAM 2 licence notice

These weights have the sizes of Meta's SAM 2, and are its released ones or were made from them, unless somebody trained
them anew. SAM 2 is made available under the Apache License, Version 2.0:
https://github.com/facebookresearch/sam2/blob/main/LICENSE

A copy of the licence goes along with the weights, in any format, and says so where they were changed.

From: {source}
"""


def is_dinov3_licensed(entry: EncoderConfig | None, source: str) -> bool:
    """Return whether the DINOv3 License governs weights: by their registry entry, else by their source's name."""
    return entry.license == DINOV3_LICENSE if entry is not None else "dinov3" in source.lower()


def copy_license_notice(folder: Path, source: Path, entry: EncoderConfig | None) -> None:
    """Put the notice beside weights that were made from others: the one that lies beside those, or one of our own.

    Args:
        folder: Where the new weights are.
        source: The file or folder that they were made from.
        entry: What they are.

    Raises:
        OutputError: The folder cannot be written to.
    """
    if (folder / NOTICE_FILE).exists():
        return
    beside = (source if source.is_dir() else source.parent) / NOTICE_FILE
    if beside.is_file():
        shutil.copyfile(beside, folder / NOTICE_FILE)
    elif is_dinov3_licensed(entry, source.name):
        write_text_atomic(folder / NOTICE_FILE, NOTICE.format(source=source.name))


def copy_sam2_notice(folder: Path, source: Path, *, released: bool) -> None:
    """Put SAM2's notice next to weights that were made from others: the one next to those, or one of our own.

    Args:
        folder: Where the new weights are.
        source: The file or folder that they were made from.
        released: Whether they have the sizes of a released model.

    Raises:
        OutputError: The folder cannot be written to.
    """
    beside = (source if source.is_dir() else source.parent) / SAM2_NOTICE_FILE
    if (folder / SAM2_NOTICE_FILE).exists():
        return
    if beside.is_file():
        shutil.copyfile(beside, folder / SAM2_NOTICE_FILE)
    elif released:
        write_text_atomic(folder / SAM2_NOTICE_FILE, SAM2_NOTICE.format(source=source.name))
