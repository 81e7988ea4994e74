"""Pages that need nothing but themselves: templates that escape what they are given, and pictures as data URIs."""

import base64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def page_templates(package: str) -> "Environment":
    """Return the templates in the folder `templates/` of a package; all text that comes in is escaped.

    Args:
        package: Such as `no_time_to_train.parity`. Its templates have a filter `data_uri` for PNG and JPEG files.
    """
    from jinja2 import Environment, PackageLoader

    templates = Environment(
        loader=PackageLoader(package, "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters["data_uri"] = data_uri
    return templates


def data_uri(picture: bytes) -> str:
    r"""Write a PNG or JPEG file as a URI.

    Example:
        >>> data_uri(b"\xff\xd8")
        'data:image/jpeg;base64,/9g='
    """
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
