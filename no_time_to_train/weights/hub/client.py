"""What is particular to the Hub: its address, the user's token, and what it says of a repository's files."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import httpx2
from huggingface_hub import constants, get_token

from no_time_to_train.errors import AuthenticationError, ConfigError
from no_time_to_train.io.redact import printable, redact, remember_secret
from no_time_to_train.weights.http.download import Digest
from no_time_to_train.weights.http.errors import RefusedError, in_one_line, without_secrets
from no_time_to_train.weights.http.requests import ask

_COMMIT = re.compile(r"[\w.-]{1,64}", re.ASCII)  # forty hex digits on the Hub; mirrors have others
_LARGEST_FILE = 1 << 50
_HEX_DIGITS = {"sha256": 64, "git": 40}


def endpoint() -> str:
    """Return the Hub's address: `HF_ENDPOINT`, or the public one.

    Raises:
        ConfigError: `HF_ENDPOINT` is not an address.
    """
    address = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or str(constants.ENDPOINT)
    if not is_address(address):
        raise ConfigError(
            f"HF_ENDPOINT is {printable(redact(address))!r}, expected an address",
            remedy="set it to https://HOST, or unset it",
        )
    return address


def shown_endpoint() -> str:
    """Return the Hub's address as it may be printed: without a password in it."""
    return without_secrets(endpoint())


def is_address(text: str) -> bool:
    """Return whether a request can be sent to an address."""
    try:
        return is_link(text) and bool(urlsplit(text).hostname) and bool(httpx2.URL(text).host)
    except (httpx2.InvalidURL, ValueError):
        return False


def token_header() -> dict[str, str]:
    """Return the header that shows the user's token to the Hub; empty without a token.

    Raises:
        AuthenticationError: It cannot be read, or is not a token.
    """
    token = current_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def current_token() -> str | None:
    """Return the user's token, which is never printed from then on; None without one.

    Raises:
        AuthenticationError: It cannot be read, or is not a token.
    """
    remedy = "set HF_TOKEN anew, or run: hf auth login"
    try:
        token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    except (OSError, ValueError) as error:
        raise AuthenticationError(f"the token cannot be read: {in_one_line(str(error))}", remedy=remedy) from error
    remember_secret(token)
    if token and not (token.isascii() and token.isprintable()):
        raise AuthenticationError("the token holds characters that no token has", remedy=remedy)
    return token


def is_link(name: str) -> bool:
    """Return whether a name is a link."""
    return name.lower().startswith(("http://", "https://"))


@dataclass(frozen=True)
class Listed:
    """One file of a repository; size and hash are None where the Hub does not tell them."""

    name: str
    size: int | None
    digest: Digest | None


@dataclass(frozen=True)
class Listing:
    """What the Hub says of a repository."""

    commit: str | None
    files: Mapping[str, Listed]


def listing_url(repository: str, revision: str | None) -> str:
    """Return where the Hub lists a repository's files, with their sizes and hashes."""
    branch = f"/revision/{quote(revision, safe='')}" if revision is not None else ""
    return f"{endpoint()}/api/models/{repository}{branch}?blobs=true"


def read_listing(content: Any) -> Listing:
    """Read what the Hub's API says of a repository.

    Raises:
        ValueError: It is not what the Hub says; or another error of reading.
    """
    commit = content["sha"]
    if commit is not None and not _COMMIT.fullmatch(commit):
        raise ValueError("sha")
    files = {}
    for sibling in content.get("siblings") or []:
        name, size, digest, large = sibling["rfilename"], sibling.get("size"), None, sibling.get("lfs")
        if large is not None:
            size, digest = large["size"], _checked_digest("sha256", large["sha256"])
        elif sibling.get("blobId") is not None and size is not None:
            digest = _checked_digest("git", sibling["blobId"])
        if not isinstance(name, str):
            raise TypeError("rfilename")
        files[name] = Listed(name, checked_size(size), digest)
    return Listing(commit, files)


def checked_size(size: object) -> int | None:
    """Return the size of a file that is announced.

    Raises:
        ValueError: It is none that a file has.
    """
    if size is not None and not (type(size) is int and 0 <= size <= _LARGEST_FILE):
        raise ValueError("size")
    return size


def size_and_digest(url: str, headers: Mapping[str, str]) -> tuple[int | None, Digest | None]:
    """Read size and hash from the headers of the Hub's own answer, before it redirects to where large files are.

    Raises:
        RefusedError: The Hub says no.
    """
    answer = ask("HEAD", url, headers, other_hosts=False)
    redirected = 300 <= answer.status < 400
    if answer.status >= 300 and not (redirected and "X-Linked-Size" in answer.headers):
        raise RefusedError(answer)
    etag = answer.headers.get("X-Linked-ETag", answer.headers.get("ETag", ""))
    size = answer.headers.get("X-Linked-Size", answer.headers.get("Content-Length", ""))
    return checked_size(int(size)) if size else None, _digest_of_etag(etag.removeprefix("W/").strip('"'))


def _digest_of_etag(etag: str) -> Digest | None:
    """Read the hash that the Hub gives as a file's ETag: the sha256 of large files, git's of small ones."""
    if not re.fullmatch("[0-9a-f]{64}|[0-9a-f]{40}", etag):
        return None
    return Digest("sha256" if len(etag) == _HEX_DIGITS["sha256"] else "git", etag)


def _checked_digest(kind: Literal["sha256", "git"], value: str) -> Digest:
    if not re.fullmatch(f"[0-9a-f]{{{_HEX_DIGITS[kind]}}}", value):
        raise ValueError(kind)
    return Digest(kind, value)
