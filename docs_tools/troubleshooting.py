"""The troubleshooting page's list of messages, as HTML within Markdown."""

import html
import re
from collections.abc import Iterator

from docs_tools.messages import ErrorClass, Message, error_classes, messages
from docs_tools.source import PACKAGE, Package

MARK = "<!-- messages -->"


def messages_page(package: Package) -> str:
    """Return every error class with its messages and remedies, as Markdown.

    Raises:
        ValueError: As of `messages`.
    """
    found = messages(package)
    parts = []
    for each in error_classes(package).values():
        own = [message for message in found if message.error == each.name]
        parts += [f"### {each.name}", _meaning(each, silent=not own)]
        for module in dict.fromkeys(message.module for message in own):
            parts.append(f"#### {_heading(package, module)} {{ #{each.name.lower()}-{module.replace('.', '-')} }}")
            parts.append(_listed([message for message in own if message.module == module]))
    return "\n\n".join(parts)


def _meaning(each: ErrorClass, *, silent: bool) -> str:
    builtins = [f"`{name}`" for name in dict.fromkeys(each.builtins)]
    kinds = [f"[`{name}`](#{name.lower()})" for name in each.parents]
    said = [html.escape(each.meaning)]
    if kinds:
        said.append(f"It is a {' and a '.join(kinds)}{' and also a ' + ' and a '.join(builtins) if builtins else ''}.")
    if silent:
        said.append("It is never raised itself: catch it to catch all of its kind.")
    return " ".join(said)


def _heading(package: Package, module: str) -> str:
    return f"{html.escape(package.modules[module].summary)} (`{module.removeprefix(PACKAGE + '.')}`)"


def _listed(found: list[Message]) -> str:
    lines = [line for message in found for line in _entry(message)]
    return "\n".join(['<dl class="messages">', *lines, "</dl>"])


def _entry(message: Message) -> Iterator[str]:
    yield f"<dt><code>{_shown(message.text)}</code></dt>"
    yield f"<dd>{' <em>or:</em> '.join(map(_shown, message.remedies))}</dd>"


def _shown(text: str) -> str:
    """Return a text as HTML, its fields marked."""
    return re.sub(r"&lt;([^&]*)&gt;", r"<var>&lt;\1&gt;</var>", html.escape(text, quote=False))
