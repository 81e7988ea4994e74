"""From what a server or a proxy answers to errors that say whose fault it is and what mends it."""

import base64
import binascii
import json
import logging
import math
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qs, urlsplit

import httpx2
from huggingface_hub import get_session

from no_time_to_train.errors import (
    AccessPendingError,
    AccessRejectedError,
    AuthenticationError,
    FetchError,
    NetworkError,
    ProxyRefusedError,
    RepositoryNotFoundError,
    WeightsNotFoundError,
)
from no_time_to_train.io.redact import printable, redact

TOKEN_PAGE = "huggingface.co/settings/tokens"
META_PAGE = "ai.meta.com/resources/models-and-libraries/dinov3-downloads"
# Statuses that may be gone at the next attempt.
RETRYABLE_STATUS = (408, 425, 429, 500, 502, 503, 504)
_SHOWN = 200
_SECRETS = re.compile(r"(?<=\S)\?[^\s'\"]+|(?<=://)[^\s/@]+@")


@dataclass(frozen=True)
class Target:
    """What is asked of a server.

    Attributes:
        name: For messages: a repository's id, or a link without its secrets.
        url: Where it lies.
        page: Where a user asks for access to a repository; None for a plain link.
    """

    name: str
    url: str
    page: str | None = None


@dataclass(frozen=True)
class Answer:
    """What a server answered.

    Attributes:
        status: The HTTP status.
        headers: Of the answer.
        body: Decompressed; of a refusal only its beginning.
    """

    status: int
    headers: httpx2.Headers
    body: bytes = b""


class RefusedError(Exception):
    """A status that is not success; `error_from_response` makes the user's error of it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"status {answer.status}")
        self.answer = answer


def without_secrets(url: str) -> str:
    """Return a link without its query and credentials, which open it to whoever has them.

    Examples:
        >>> without_secrets("https://a:b@host/x.pth?Signature=abc")
        'https://host/x.pth'
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # no whole address
        return url.partition("?")[0]
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.scheme else parts.path


def server_message(answer: Answer) -> str:
    """Return what a server says of its refusal, in one line, without secrets; empty if it says nothing."""
    stated: object = answer.headers.get("X-Error-Message")
    if not stated:
        stated = text = answer.body.decode("utf-8", "replace")
        try:
            content = json.loads(text)
            stated = content.get("error", "") if isinstance(content, dict) else text
        except (ValueError, RecursionError):
            pass
    # Masked before it is cut: the beginning of a secret would not be known as one.
    return in_one_line(re.sub(r"<[^>]*>", " ", redact(str(stated))))


def in_one_line(text: str) -> str:
    """Return text of a server's as it can stand in a message: short, masked, without control characters."""
    return printable(" ".join(redact(text).split())[:_SHOWN])


def session() -> httpx2.Client:
    """Return the client that `huggingface_hub` shares, which honours the proxy variables.

    Raises:
        ProxyRefusedError: A proxy variable is not an address, or of a kind that is not known.
    """
    try:
        return get_session()
    except (ImportError, ValueError, TypeError, LookupError, httpx2.InvalidURL) as error:
        raise _refused_by_proxy(
            f"the proxy cannot be used: {in_one_line(str(error)) or type(error).__name__}"
        ) from error


def retry_after(answer: Answer) -> float | None:
    """Return the seconds that a server asks to wait for, given as such or as a date; None if it does not."""
    value = answer.headers.get("Retry-After")
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError, OverflowError):
            return None
    return seconds if math.isfinite(seconds) else None


class _WithoutSecrets(logging.Filter):
    """Takes queries, credentials and control characters out of what the HTTP libraries log, and the Hub's client."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = printable(redact(_SECRETS.sub("", record.getMessage()))), None
        return True


# A logger's filter is not asked about what those below it say.
for _name in ("httpx2", "httpcore2.connection", "httpcore2.http11", "httpcore2.proxy", "huggingface_hub.utils._http"):
    logging.getLogger(_name).addFilter(_WithoutSecrets())


def error_from_response(answer: Answer, target: Target) -> FetchError | WeightsNotFoundError:
    """Make the error that a refusing answer stands for.

    Args:
        answer: With a status of 300 or more.
        target: What was asked for.
    """
    status, said, code = answer.status, server_message(answer), answer.headers.get("X-Error-Code", "")
    if status == 407:
        return _refused_by_proxy(f"the proxy wants credentials (407) for {target.name}")
    if status in (401, 403) and target.page is None:
        return _link_refused(target, said)
    if status == 401 and code != "RepoNotFound":
        return AuthenticationError(
            f"the Hub wants a valid token for {target.name} (401{': ' + said if said else ''})",
            remedy=f"make one at {TOKEN_PAGE} and set HF_TOKEN, or run: hf auth login",
        )
    if status == 403:
        return _access_refused(target, said)
    if code == "RevisionNotFound":
        return RepositoryNotFoundError(
            f"{target.name} has no such revision", remedy="name a branch, a tag or a commit of it, or leave it out"
        )
    if code == "EntryNotFound" and target.page is not None:
        return WeightsNotFoundError(
            f"{without_secrets(target.url)} is not in {target.name}", remedy="name another revision or source"
        )
    if status in (401, 404, 410):
        private = " or it is private and the token may not see it" if target.page else ""
        return RepositoryNotFoundError(
            f"there is no {target.name} ({status}){private}",
            remedy="check the name" if target.page else f"check the link, or ask for a new one at {META_PAGE}",
        )
    if status == 429:
        return NetworkError(
            f"{target.name}: the server asks to wait (429), and did so again after waiting",
            remedy="run it again later; what has come is kept",
        )
    return NetworkError(
        f"{target.name}: the server answered {status}{': ' + said if said else ''}",
        remedy="run it again later; what has come is kept",
    )


def error_from_transport(error: httpx2.HTTPError, target: Target) -> FetchError:
    """Make the error for a request that got no answer."""
    reason = in_one_line(str(error).split("\n")[0]) or type(error).__name__
    if isinstance(error, httpx2.ProxyError):
        return _refused_by_proxy(f"the proxy refused a request for {target.name}: {reason}")
    return NetworkError(
        f"cannot reach {urlsplit(target.url).hostname} for {target.name}: {reason}",
        remedy="check the network and HTTPS_PROXY; run it again, what has come is kept",
    )


def not_an_address(target: Target, error: httpx2.InvalidURL) -> RepositoryNotFoundError:
    """Make the error for an address that no request can be made of, such as one that is too long."""
    return RepositoryNotFoundError(
        f"{in_one_line(target.name)!r} makes no address: {in_one_line(str(error))}",
        remedy="check the name, the revision or the link",
    )


def expiry_of(url: str) -> datetime | None:
    """Return until when a presigned link holds, as far as it tells.

    Source: CloudFront's `Policy` and `Expires`, S3's `X-Amz-Date` with `X-Amz-Expires`.
    """
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    try:
        if "Policy" in query:
            packed = query["Policy"].replace("-", "+").replace("_", "=").replace("~", "/")
            policy = base64.b64decode(packed + "=" * (-len(packed) % 4))
            match = re.search(rb'"AWS:EpochTime"\s*:\s*(\d+)', policy)
            return datetime.fromtimestamp(int(match[1]), UTC) if match else None
        if "Expires" in query:
            return datetime.fromtimestamp(int(query["Expires"]), UTC)
        if "X-Amz-Date" in query:
            begin = datetime.strptime(query["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            return datetime.fromtimestamp(begin.timestamp() + int(query["X-Amz-Expires"]), UTC)
    except (binascii.Error, ValueError, KeyError, OverflowError, OSError):
        return None
    return None


def _link_refused(target: Target, said: str) -> AccessRejectedError:
    until = expiry_of(target.url)
    if until is not None and until < datetime.now(UTC):
        reason = f"it expired on {until:%Y-%m-%d at %H:%M} UTC"
    else:
        reason = f"it has expired or is not whole{': ' + said if said else ''}"
    return AccessRejectedError(
        f"the link to {target.name} is refused: {reason}",
        remedy=f"ask for a new one at {META_PAGE} and give it in quotes; what has come is kept",
    )


def _access_refused(target: Target, said: str) -> FetchError:
    told = said.lower()
    if "awaiting" in told or "pending" in told:
        return AccessPendingError(
            f"access to {target.name} was asked for and is not granted yet (403)",
            remedy=f"wait for the mail, see {target.page}; meanwhile: ntt fetch NAME --source timm",
        )
    if "reject" in told:
        return AccessRejectedError(
            f"access to {target.name} was refused (403: {said})",
            remedy="take the ungated copy: ntt fetch NAME --source timm",
        )
    if "fine-grained" in told or "permission" in told:
        return AccessRejectedError(
            f"the token may not read {target.name} (403: {said})",
            remedy=f"let it read public gated repositories at {TOKEN_PAGE}, or use a read token",
        )
    return AccessPendingError(
        f"access to {target.name} is not granted to the token's account (403{': ' + said if said else ''})",
        remedy=f"accept the licence at {target.page}; or: ntt fetch NAME --source timm",
    )


def _refused_by_proxy(message: str) -> ProxyRefusedError:
    named = [
        name for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY") if name in os.environ
    ]
    return ProxyRefusedError(
        message, remedy=f"check {' and '.join(named) or 'HTTPS_PROXY'}, or exempt the host by NO_PROXY"
    )
