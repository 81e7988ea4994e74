"""From what a server or a proxy answers to errors that say whose fault it is and what mends it."""

import base64
import binascii
import json
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import httpx2

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

TOKEN_PAGE = "huggingface.co/settings/tokens"
META_PAGE = "ai.meta.com/resources/models-and-libraries/dinov3-downloads"
_SHOWN = 200


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


def without_secrets(url: str) -> str:
    """Return a link without its query and credentials, which open it to whoever has them.

    Example:
        >>> without_secrets("https://a:b@host/x.pth?Signature=abc")
        'https://host/x.pth'
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def said_by(response: httpx2.Response) -> str:
    """Return what a server says of its refusal, in one line; empty if it says nothing."""
    stated = response.headers.get("X-Error-Message")
    if not stated:
        try:
            stated = response.text
            content = json.loads(stated)
            stated = content.get("error", "") if isinstance(content, dict) else stated
        except (ValueError, httpx2.ResponseNotRead):
            stated = stated or ""
    return " ".join(re.sub(r"<[^>]*>", " ", str(stated)).split())[:_SHOWN]


def refusal(response: httpx2.Response, target: Target) -> FetchError | WeightsNotFoundError:
    """Make the error that a refusing answer stands for.

    Args:
        response: With a status of 400 or more.
        target: What was asked for.
    """
    status, said, code = response.status_code, said_by(response), response.headers.get("X-Error-Code", "")
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


def unreachable(error: httpx2.HTTPError, target: Target) -> FetchError:
    """Make the error for a request that got no answer."""
    reason = str(error).split("\n")[0] or type(error).__name__
    if isinstance(error, httpx2.ProxyError):
        return _refused_by_proxy(f"the proxy refused a request for {target.name}: {reason}")
    return NetworkError(
        f"cannot reach {urlsplit(target.url).hostname} for {target.name}: {reason}",
        remedy="check the network and HTTPS_PROXY; run it again, what has come is kept",
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
