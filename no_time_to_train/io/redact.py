"""Secrets that this process knows, and the functions that keep them and control characters out of its output.

Everything that a command prints, logs or raises passes `redact`: see `no_time_to_train.io.process`. Text that others
wrote, such as a server's answer or a file's name, passes `printable` where it enters a message.
"""

import base64
import json
import os
import re
import unicodedata
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from urllib.parse import parse_qsl, quote, quote_plus, unquote, unquote_plus

_MASK = "..."
_SHORTEST = 4
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_ADDRESSES = ("HF_ENDPOINT", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
_PLACES = (*_TOKENS, *_ADDRESSES, "HF_TOKEN_PATH", "HF_HOME", "XDG_CACHE_HOME", "HOME")
_LARGEST_TOKEN_FILE = 1 << 16

# Of a link's query: what is a secret even if it is short, and what is none although it is long.
_SECRET_NAME = re.compile(r"sig|token|policy|key|cred|secret|pass|pw|auth|session", re.IGNORECASE)
_OPEN_NAME = re.compile(
    r"(x-amz-|x-goog-)?(algorithm|date|expires|signedheaders)|x-id|response-.*|se|sp|sv|sr|spr|st|download|version|v",
    re.IGNORECASE,
)
_JSON_WORDS = ("true", "false", "null")  # masking them would break what programs read
_BROKEN_PORT = re.compile(r"[^:]*:(?!\d*$).*")
_SHORTEST_UNNAMED = 6
_LONGEST_COUNT = 10  # digits: longer numbers are taken for codes
_MOST_VALUES = 100  # of one link
_MOST_PASSING = 2000

_lasting: set[str] = set()
# A server chooses where it redirects to, and as often as it likes: of these only the newest are kept.
_passing: deque[str] = deque(maxlen=_MOST_PASSING)


def remember_secret(value: str | None) -> None:
    """Add a value that must never be printed, such as a token or a link's signature.

    Args:
        value: The secret itself; its percent-encoded, decoded and JSON-escaped forms count too. Values of fewer than 4
            characters are not masked: they would hide ordinary text.
    """
    if value:
        _lasting.update(_forms(value))


def remember_link(link: str, *, lasting: bool = True) -> None:
    """Add the secrets of a link: its user part, the values of its query, its fragment. Other text is ignored.

    Args:
        link: An address, whole or not, with or without a scheme.
        lasting: Keep them for good; false for links that a server names, of which only the newest are kept.
    """
    forms = {form for secret in _secrets_of(link) for form in _forms(secret)}
    if lasting:
        _lasting.update(forms)
    else:
        _passing.extend(form for form in forms if form not in _passing)


def redact(text: str) -> str:
    """Return `text` with every known secret replaced by `...`.

    Known are what `remember_secret` and `remember_link` were given, the tokens in the environment and in Hugging Face's
    token file, and the user parts of `HF_ENDPOINT` and of the proxy variables.

    Examples:
        >>> remember_secret("hf_exampletoken")
        >>> redact("refused: Bearer hf_exampletoken")
        'refused: Bearer ...'
    """
    # The longest first: one secret may be part of another.
    for secret in sorted(_lasting | set(_passing) | _of_environment(), key=len, reverse=True):
        text = text.replace(secret, _MASK)
    return text


def printable(text: str) -> str:
    r"""Return text of others with everything escaped that steers a terminal or cannot be printed.

    These are control characters but newline and tab, marks that change the direction of writing, and lone surrogates.

    Examples:
        >>> printable("dino\x1b[2J\u202egnp.exe")
        'dino\\x1b[2J\\u202egnp.exe'
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")


def _secrets_of(link: str) -> Iterator[str]:
    """Yield what opens a link to whoever has it."""
    scheme, has_scheme, rest = link.strip().partition("://")
    if not has_scheme:
        rest = scheme
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" not in authority and _BROKEN_PORT.fullmatch(authority):
        authority = rest.partition("?")[0]  # a password that holds a slash
    if has_scheme and "@" in authority:
        yield from _secrets_of_user_part(authority.rpartition("@")[0])
    path, _, query = rest.partition("?")
    query, _, fragment = query.partition("#")
    if has_scheme:
        yield fragment
    shown = unquote(path)
    for name, value in parse_qsl(query, keep_blank_values=True)[:_MOST_VALUES]:
        named, secret = (name, value) if value else ("", name)
        if _is_secret(named, secret, in_link=bool(has_scheme)) and secret not in shown:
            yield secret


def _secrets_of_user_part(user_part: str) -> Iterator[str]:
    user, _, password = user_part.partition(":")
    plain = unquote(user_part)
    yield user_part
    yield base64.b64encode(plain.encode("utf-8", "surrogateescape")).decode()
    yield password
    # A name is not a secret, unless it stands alone or is as long as tokens are.
    if not password or len(user) >= 2 * _SHORTEST:
        yield user


def _is_secret(name: str, value: str, *, in_link: bool) -> bool:
    if _OPEN_NAME.fullmatch(name) or value.lower() in _JSON_WORDS:
        return False
    if _SECRET_NAME.search(name):
        return True
    return in_link and len(value) >= _SHORTEST_UNNAMED and not (value.isdigit() and len(value) < _LONGEST_COUNT)


def _forms(secret: str) -> set[str]:
    """Return a secret as it may be written: as it is, encoded for a link, decoded, and within JSON."""
    plain = (secret, unquote(secret), unquote_plus(secret))
    encoded = {form for text in plain for form in (quote(text, safe=""), quote(text), quote_plus(text))}
    lower = {re.sub("%[0-9A-F]{2}", lambda byte: byte[0].lower(), form) for form in encoded}
    escaped = {json.dumps(text)[1:-1] for text in plain} | {secret.replace("/", "\\/")}
    return {form for form in {*plain, *encoded, *lower, *escaped} if len(form) >= _SHORTEST}


def _of_environment() -> frozenset[str]:
    """Return the secrets that the environment and the token file hold now."""
    return _secrets_in(tuple(os.environ.get(name, "") for name in _PLACES), _token_file())


def _token_file() -> str:
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = os.environ.get("HF_HOME") or f"{home}/huggingface"
    path = os.environ.get("HF_TOKEN_PATH") or f"{folder}/token"
    try:
        with Path(os.path.expandvars(path)).expanduser().open("rb") as file:
            return file.read(_LARGEST_TOKEN_FILE).decode("utf-8", "replace")
    except (OSError, ValueError, RuntimeError):
        return ""


@lru_cache(maxsize=8)
def _secrets_in(values: tuple[str, ...], token_file: str) -> frozenset[str]:
    settings = dict(zip(_PLACES, values, strict=True))
    secrets = {settings[name].strip() for name in _TOKENS} | {token_file.strip()}
    for name in _ADDRESSES:
        address = settings[name].strip()
        secrets.update(_secrets_of(address if "://" in address else f"http://{address}"))
    return frozenset(form for secret in secrets for form in _forms(secret))
