"""What is to be fetched from where: a repository on the Hub, or a link."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import unquote, urlsplit

import httpx2
from huggingface_hub import hf_hub_url
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # documented as it is imported here

from no_time_to_train.configs.encoders import ENCODER_CONFIGS, TIMM_IDS, EncoderConfig, resolve_encoder
from no_time_to_train.configs.sam2_releases import nearest_sam2
from no_time_to_train.configs.shipped import weights_folder
from no_time_to_train.errors import (
    LocalEntryNotFoundError,
    NetworkError,
    RepositoryNotFoundError,
    UnknownEncoderError,
    WeightsNotFoundError,
)
from no_time_to_train.io.redact import printable
from no_time_to_train.weights.http.download import Digest, RemoteFile, Retries
from no_time_to_train.weights.http.errors import (
    META_PAGE,
    RETRYABLE_STATUS,
    RefusedError,
    Target,
    error_from_response,
    error_from_transport,
    in_one_line,
    not_an_address,
    retry_after,
    session,
    without_secrets,
)
from no_time_to_train.weights.http.requests import ask, opened, read
from no_time_to_train.weights.hub.client import (
    Listed,
    Listing,
    checked_size,
    endpoint,
    is_address,
    is_link,
    listing_url,
    read_listing,
    shown_endpoint,
    size_and_digest,
    token_header,
)

Kind = Literal["hub", "timm", "url"]
T = TypeVar("T")

_META_HASH = re.compile(r"dino\w*-([0-9a-f]{8,64})\.(?:pth|pt|safetensors)")
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors", re.ASCII)
_INDEX = "model.safetensors.index.json"
_LICENCE = re.compile(r"LICENSE(\.\w{1,20})?", re.ASCII)
_LARGEST_COMPANION = 1 << 26  # of files beside the weights, which are read whole
# What reading an answer of somebody else's may raise.
_NOT_THE_HUBS = (ValueError, TypeError, LookupError, AttributeError, RecursionError)


@dataclass(frozen=True, kw_only=True)
class FetchPlan:
    """What is to be fetched.

    Attributes:
        kind: Where from.
        source: The repository's id, or the link without its secrets.
        revision: The commit, or the ETag of a link.
        files: All files, the largest last.
        entry: The registry entry; None where the name does not tell it.
    """

    kind: Kind
    source: str
    revision: str
    files: tuple[RemoteFile, ...]
    entry: EncoderConfig | None = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def mark(self) -> str:
        """The same for two plans exactly when they give the same bytes."""
        content = [(file.name, file.size, file.version) for file in self.files]
        return hashlib.sha256(f"{self.source} {content}".encode()).hexdigest()[:12]


def repository_of(name: str, source: Kind | None) -> tuple[Kind, str, EncoderConfig | None]:
    """Find the repository that a name stands for.

    Args:
        name: A registry name, one of its aliases, or a repository's id.
        source: `timm` for the ungated copies.

    Returns:
        Where it lies, its id, and the registry entry it is of where that is known.

    Raises:
        UnknownEncoderError: It is neither a known name nor an id.
        WeightsNotFoundError: There are no released weights of that encoder there.
    """
    if "?" in name or "://" in name:
        raise RepositoryNotFoundError(
            f"{without_secrets(name)!r} is neither a name nor a link", remedy="let a link begin with https://"
        )
    released = nearest_sam2(name)
    if released is not None:
        raise UnknownEncoderError(f"{name!r} is not an encoder but a SAM2", remedy=f"ntt fetch {released}")
    by_timm = {repository: ENCODER_CONFIGS[entry] for entry, repository in TIMM_IDS.items()}
    if name in by_timm:
        return "timm", name, by_timm[name]
    try:
        entry = resolve_encoder(name)
    except UnknownEncoderError:
        if "/" not in name or source == "timm":
            raise
        return "hub", name, None
    if entry.own:
        raise WeightsNotFoundError(
            f"{entry.name} is this project's own and lies in checkpoints/{entry.folder}", remedy="nothing is to fetch"
        )
    if source == "timm":
        if entry.name not in TIMM_IDS:
            raise WeightsNotFoundError(f"timm has no {entry.name}", remedy=f"it has {', '.join(TIMM_IDS)}")
        return "timm", TIMM_IDS[entry.name], entry
    if entry.hub_id is None:
        raise _not_on_hub(entry)
    return "hub", entry.hub_id, entry


def _not_on_hub(entry: EncoderConfig) -> WeightsNotFoundError:
    if entry.meta_file is None:
        return WeightsNotFoundError(
            f"Meta released no weights of {entry.name}; the largest released model under 1B is dinov3_huge_plus",
            remedy="ntt fetch dinov3_huge_plus, or give a checkpoint of your own as encoder_ckpt_path",
        )
    return WeightsNotFoundError(
        f"{entry.name} is not on the Hub", remedy=f"ask for a link at {META_PAGE}, then: ntt fetch 'LINK'"
    )


def plan_hub(name: str, *, source: Kind | None, revision: str | None, retries: Retries) -> FetchPlan:
    """Ask the Hub which files a repository has, and at which commit.

    Raises:
        FetchError: What the Hub answers, or that it cannot be reached.
        WeightsNotFoundError: The repository lacks a file without which its weights are of no use.
    """
    kind, repository, entry = repository_of(name, source)
    headers = token_header()
    target = Target(repository, listing_url(repository, revision), f"{shown_endpoint()}/{repository}")

    def look() -> Listing:
        validate_repo_id(repository)
        answer = ask("GET", target.url, headers)
        if answer.status >= 300:
            raise RefusedError(answer)
        return read_listing(json.loads(answer.body))

    session()  # so that a wrong proxy is not taken for a wrong answer
    listing = call_hub(look, target, retries)
    chosen = _chosen(listing.files, repository, with_preprocessor=kind == "hub")
    commit = listing.commit or revision or "main"
    files = [_hub_file(listing.files[file], target, commit, headers, retries) for file in chosen]
    return FetchPlan(
        kind=kind,
        source=repository,
        revision=commit,
        files=tuple(sorted(files, key=lambda file: file.size)),
        entry=entry,
    )


def call_hub(ask: Callable[[], T], target: Target, retries: Retries) -> T:
    """Put a question to a server, again where the failure may pass.

    Raises:
        FetchError: The Hub's refusal, or that it cannot be reached.
        LocalEntryNotFoundError: Requests are switched off.
    """
    for attempt in range(1, retries.attempts + 1):
        wait: float | None = None
        cause: Exception
        try:
            return ask()
        except OfflineModeIsEnabled as error:
            raise LocalEntryNotFoundError(
                f"{target.name} is not at hand, and HF_HUB_OFFLINE forbids to fetch it", remedy="unset HF_HUB_OFFLINE"
            ) from error
        except HFValidationError as error:
            raise RepositoryNotFoundError(
                f"{in_one_line(target.name)!r} is not a repository's id", remedy="write it as OWNER/NAME"
            ) from error
        except httpx2.InvalidURL as error:
            raise not_an_address(target, error) from error
        except RefusedError as error:
            failure, passing = error_from_response(error.answer, target), error.answer.status in RETRYABLE_STATUS
            wait, cause = retry_after(error.answer), error
        except httpx2.HTTPError as error:
            failure, passing, cause = error_from_transport(error, target), True, error
        except _NOT_THE_HUBS as error:
            failure = NetworkError(
                f"{target.name}: the answer is not the Hub's", remedy="check HF_ENDPOINT and the proxy"
            )
            passing, cause = True, error
        if not passing or attempt == retries.attempts:
            raise failure from cause
        retries.wait(attempt, wait)
    raise AssertionError  # retries.attempts is at least 1


def _chosen(present: Mapping[str, Listed], repository: str, *, with_preprocessor: bool) -> list[str]:
    """Choose the files that are of use, all at the top of the repository."""
    if "model.safetensors" in present:
        weights = ["model.safetensors"]
    else:
        weights = [name for name in present if _SHARD.fullmatch(name)]
        if _INDEX not in present or not weights:
            raise WeightsNotFoundError(
                f"{repository} has neither model.safetensors nor its shards with {_INDEX}",
                remedy="name another repository",
            )
        weights.append(_INDEX)
    needed = ["config.json", *(["preprocessor_config.json"] if with_preprocessor else [])]
    missing = [name for name in needed if name not in present]
    if missing:
        raise WeightsNotFoundError(
            f"{repository} has no {' and no '.join(missing)}", remedy="name another repository or revision"
        )
    return [*needed, *(name for name in present if _LICENCE.fullmatch(name)), *weights]


def _hub_file(
    listed: Listed, asked_for: Target, commit: str, headers: Mapping[str, str], retries: Retries
) -> RemoteFile:
    repository = asked_for.name
    url = hf_hub_url(repository, listed.name, revision=commit, endpoint=endpoint())
    target = Target(repository, url, asked_for.page)
    size, digest = listed.size, listed.digest
    if digest is None:  # some mirrors list names alone
        size, digest = call_hub(lambda: size_and_digest(url, headers), target, retries)
    if size is None:
        raise NetworkError(f"{repository}: the Hub does not tell the size of its files", remedy="check HF_ENDPOINT")
    if size > _LARGEST_COMPANION and not listed.name.endswith(".safetensors"):
        raise NetworkError(
            f"{repository}: {listed.name} has {size:,} bytes, expected at most {_LARGEST_COMPANION:,}",
            remedy="check HF_ENDPOINT, or name another repository",
        )
    return RemoteFile(listed.name, target, size, digest, digest.value if digest else "", headers)


def is_of_repository(name: str) -> bool:
    """Return whether a file's name is one under which repositories hold weights or their licence."""
    return name in ("model.safetensors", _INDEX) or bool(_SHARD.fullmatch(name) or _LICENCE.fullmatch(name))


def file_name_of(url: str) -> str:
    """Return the name of the file behind a link."""
    return unquote(urlsplit(url).path).rpartition("/")[2]


def entry_of_link(url: str) -> EncoderConfig | None:
    """Return the registry entry of the file behind a link, if it is one of Meta's under its own name."""
    return next((entry for entry in ENCODER_CONFIGS.values() if entry.meta_file == file_name_of(url)), None)


def plan_link(url: str, *, retries: Retries) -> FetchPlan:
    """Ask a server for the size of the file behind a link, such as Meta's presigned ones.

    The name of Meta's files ends in the beginning of their sha256, which is what the file must hash to.

    Raises:
        FetchError: What the server answers, or that it cannot be reached.
        RepositoryNotFoundError: The link names no file.
    """
    if not is_address(url):
        raise RepositoryNotFoundError(
            f"{printable(without_secrets(url))!r} is not a complete link", remedy="give it in quotes, as it was mailed"
        )
    target = Target(without_secrets(url), url)
    name = file_name_of(url)
    if not re.fullmatch(r"[\w.+-]+\.(pth|pt|safetensors)", name):
        raise RepositoryNotFoundError(
            f"the link {target.name} names no weights file: expected it to end in .pth, .pt or .safetensors",
            remedy="give the whole link in quotes, its signature included",
        )

    def look() -> tuple[int | None, str, str]:
        # One byte alone: a signature is often good for GET and not for HEAD.
        with opened("GET", url, {"Range": "bytes=0-0"}) as response:
            if response.status_code >= 300:
                raise RefusedError(read(response))
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
            size = total if response.status_code == 206 else response.headers.get("Content-Length", "")
            etag = response.headers.get("ETag", "")
            version = etag or response.headers.get("Last-Modified", "")
            return checked_size(int(size)) if size.isdecimal() else None, etag, version

    session()
    size, etag, version = call_hub(look, target, retries)
    if size is None:
        raise NetworkError(
            f"{target.name}: the server does not tell the size of the file", remedy="fetch it by other means"
        )
    hashed = _META_HASH.fullmatch(name)
    digest = Digest("sha256", hashed[1]) if hashed else None
    file = RemoteFile(name, target, size, digest, digest.value if digest else version, {}, etag="" if digest else etag)
    return FetchPlan(
        kind="url",
        source=target.name,
        revision=version or (digest.value if digest else ""),
        files=(file,),
        entry=entry_of_link(url),
    )


def default_folder(name: str, source: Kind | None) -> Path:
    """Return where configurations look for an encoder's weights: a folder named as its repository, or as its entry."""
    if is_link(name):
        entry = entry_of_link(name)
        return weights_folder() / (entry.name if entry else file_name_of(name).rpartition(".")[0] or "weights")
    kind, repository, entry = repository_of(name, source)
    return weights_folder() / (entry.name if entry and kind == "timm" else repository.rpartition("/")[2])
