"""XML that anybody may have written.

The standard library's reader builds the tree, and refuses every document type declaration: there is no entity without
one, so that nothing can grow or be read from elsewhere. No annotation tool writes such a declaration. It is what the
package defusedxml is for, without one more dependency.
"""

from pathlib import Path
from xml.etree import ElementTree

from no_time_to_train.errors import AnnotationError, DataNotFoundError
from no_time_to_train.io.paths import read_regular

_MOST_DEPTH = 50
_REMEDY = "correct it at this place, or export the file again"


class _PlainTree(ElementTree.TreeBuilder):
    _depth = 0

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError(f"it declares a document type, {name:.40}, which may hold entities")

    def start(self, tag: str, attrs: dict[str, str]) -> ElementTree.Element:
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise ValueError(f"elements are nested deeper than {_MOST_DEPTH}")
        return super().start(tag, attrs)

    def end(self, tag: str) -> ElementTree.Element:
        self._depth -= 1
        return super().end(tag)


def read_xml(path: Path) -> ElementTree.Element:
    """Return the root of an XML file.

    Raises:
        DataNotFoundError: It cannot be opened, or is not a regular file.
        AnnotationError: It is not valid XML, declares a document type, or is nested too deeply.
    """
    try:
        content = read_regular(path)
    except OSError as error:
        raise DataNotFoundError(f"{path} cannot be read: {error.strerror}", remedy="check the path") from error
    parser = ElementTree.XMLParser(target=_PlainTree())
    try:
        parser.feed(content)
        root: ElementTree.Element = parser.close()
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        raise AnnotationError(f"{path} is not valid XML: {error}", remedy=_REMEDY) from error
    return root


def text_of(element: ElementTree.Element, name: str, place: str) -> str:
    """Return the text of a child element, without the spaces around it.

    Raises:
        AnnotationError: There is no such child, or it is empty.
    """
    text = (element.findtext(name) or "").strip()
    if not text:
        raise AnnotationError(f"{place}: expected <{name}>", remedy=_REMEDY)
    return text
