"""A check that the built pages load nothing from another host."""

import re
from pathlib import Path

# What a browser loads by itself: sources of any element, style sheets and icons, and what style sheets load in turn.
_LOADED = re.compile(
    r"""<(?!a\b)[a-z]+\s[^<>]*?\bsrc=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\s(?![^<>]*\brel=["']?(?:canonical|next|prev)\b)[^<>]*?\bhref=["']?(?:https?:)?//[^"'\s>]+"""
    r"""|(?:url\(|@import\s)\s*["']?(?:https?:)?//[^"')\s]+""",
    re.IGNORECASE,
)


def loaded_from_elsewhere(site: Path) -> list[str]:
    """Return what the pages and style sheets of a built site would load from another host, each with its page."""
    return [
        f"{path.relative_to(site).as_posix()}: {match[0]}"
        for path in sorted(site.rglob("*"))
        if path.suffix in (".html", ".css")
        for match in _LOADED.finditer(path.read_text(encoding="utf-8"))
    ]
