"""The licence that released weights are under, said to the user and written beside them."""

from no_time_to_train.registry import DINOV3_LICENSE, EncoderConfig

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


def is_dinov3(entry: EncoderConfig | None, source: str) -> bool:
    """Tell whether the DINOv3 License governs weights: by their registry entry, else by their source's name."""
    return entry.license == DINOV3_LICENSE if entry is not None else "dinov3" in source.lower()
