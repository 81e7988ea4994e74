"""Links between docs/ and the rest of the repository, so that they hold in both renderings.

The pages are written for the repository: `../benchmarks/README.md` is where it lies. On the site, docs/ and the
repository's other pages share one root: whatever is linked from docs/ or from the README is put there under its own
path, and links are rewritten to it.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

DOCS = "docs"
HOME = "README.md"
_LINK = re.compile(r"(?<=\]\()(?P<path>[^()\s#:]+)(?P<rest>#[^()\s]*)?(?=[)\s])")


def linked_files(root: Path) -> list[str]:
    """Return the files outside docs/ that the site's pages link to, pages of them too, the README first.

    Args:
        root: The repository's.

    Returns:
        Paths from the root.
    """
    waiting = [HOME, *sorted(str(page.relative_to(root)) for page in (root / DOCS).rglob("*.md"))]
    seen = set(waiting)
    found = [HOME]
    while waiting:
        page = waiting.pop(0)
        for target in _targets(page, root):
            if target not in seen and not target.startswith(f"{DOCS}/"):
                seen.add(target)
                found.append(target)
                if target.endswith(".md"):
                    waiting.append(target)
    return found


def rewrite(markdown: str, page: str, root: Path) -> str:
    """Rewrite the links of a page to where their targets are on the site; others stay as they are.

    Args:
        markdown: The page's text.
        page: Its path from the repository's root.
        root: The repository's.
    """
    here = posixpath.dirname(site_path(page))

    def moved(match: re.Match[str]) -> str:
        target = _resolved(match["path"], page, root)
        if target is None:
            return match[0]
        return posixpath.relpath(site_path(target), here or ".") + (match["rest"] or "")

    return _LINK.sub(moved, markdown)


def site_path(path: str) -> str:
    """Return where a file of the repository is among the site's sources.

    Examples:
        >>> site_path("docs/export.md"), site_path("benchmarks/README.md")
        ('export.md', 'benchmarks/README.md')
    """
    return path.removeprefix(f"{DOCS}/")


def _targets(page: str, root: Path) -> Iterator[str]:
    for match in _LINK.finditer((root / page).read_text(encoding="utf-8")):
        target = _resolved(match["path"], page, root)
        if target is not None:
            yield target


def _resolved(link: str, page: str, root: Path) -> str | None:
    """Return the file that a link leads to, from the root; None if there is none. A folder is its README."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    if path.startswith(".."):
        return None
    if (root / path).is_dir():
        path = posixpath.join(path, "README.md")
    return path if (root / path).is_file() else None
