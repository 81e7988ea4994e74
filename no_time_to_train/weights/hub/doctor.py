"""What stands between a user and the weights: each thing that can be wrong, looked at one after another."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import httpx2
from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound, OfflineModeIsEnabled

from no_time_to_train.configs.encoders import resolve_encoder, weights_at_hand
from no_time_to_train.configs.shipped import weights_folder
from no_time_to_train.errors import (
    AuthenticationError,
    ConfigError,
    DiskFullError,
    NetworkError,
    NoTimeToTrainError,
    OutputError,
    ShapeMismatchError,
)
from no_time_to_train.io.paths import without_home
from no_time_to_train.io.redact import printable
from no_time_to_train.weights.architecture import matches
from no_time_to_train.weights.http.download import Retries
from no_time_to_train.weights.http.errors import (
    TOKEN_PAGE,
    Answer,
    Target,
    error_from_response,
    error_from_transport,
    in_one_line,
    not_an_address,
)
from no_time_to_train.weights.http.requests import ask, opened, read
from no_time_to_train.weights.hub.client import current_token, endpoint, is_link, shown_endpoint, token_header
from no_time_to_train.weights.hub.manifest import check_folder, read_manifest
from no_time_to_train.weights.hub.sources import FetchPlan, Kind, default_folder, plan_hub, repository_of
from no_time_to_train.weights.hub.staging import unfinished
from no_time_to_train.weights.inspect import inspect_weights

State = Literal["fine", "failed", "left out"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: What was looked at.
        state: `fine`, `failed`, or `left out` because an earlier failure or the question makes it meaningless.
        found: In a few words.
        remedy: What mends it; empty if nothing is wrong.
    """

    check: str
    state: State
    found: str
    remedy: str = ""


def run_checks(encoder: str | None, root: Path | None, *, source: Kind | None = None) -> list[Finding]:
    """Look at network, token, access to the repository, disk, cache and files, in this order.

    Args:
        encoder: A registry name or a Hub id; None leaves out what only an encoder has.
        root: The folder that is to hold the weights; under `checkpoints/` if None.
        source: `timm` for the ungated copies.

    Raises:
        UnknownEncoderError: No entry has that name.
        WeightsNotFoundError: No weights of that encoder were released there.
    """
    if encoder is not None and is_link(encoder):
        raise ConfigError("a link has nothing to look at but itself", remedy="ntt fetch says what is wrong with it")
    repository = repository_of(encoder, source)[1] if encoder is not None else None
    folder = root if root is not None or encoder is None else _folder_of(encoder, source)
    network = _looked("network", _network)
    token = _looked("token", _token) if network.state == "fine" else _left_out("token", "the Hub is not reached")
    plan: FetchPlan | None = None

    def access() -> str:
        nonlocal plan
        assert encoder is not None
        plan = plan_hub(encoder, source=source, revision=None, retries=_ONCE)
        _readable(plan)
        return f"{plan.source} can be read, {plan.size / 1e9:.2f} GB"

    if repository is None:
        reached = _left_out("access", "no encoder was named")
    elif network.state != "fine":
        reached = _left_out("access", "the Hub is not reached")
    else:
        reached = _looked("access", access)
    findings = [
        network,
        token,
        reached,
        _looked("disk", lambda: _disk(folder, plan)),
        _looked("cache", lambda: _cache(folder, repository)),
        _files_looked_at(folder, encoder, source),
    ]
    # They are made to be shown to others.
    return [replace(entry, found=without_home(entry.found), remedy=without_home(entry.remedy)) for entry in findings]


def as_text(findings: list[Finding]) -> str:
    """Return the findings as a table, with the first cause and its remedy at the end."""
    lines = [f"{finding.check:9} {finding.state:9} {finding.found}" for finding in findings]
    failed = [finding for finding in findings if finding.state == "failed"]
    if not failed:
        return "\n".join([*lines, "", "nothing is wrong"])
    first = failed[0]
    lines += ["", f"first cause: {first.check}: {first.found}", f"remedy: {first.remedy}"]
    if findings[-1].state == "fine":
        lines.append("the weights are there and whole all the same: they need no network")
    return "\n".join(lines)


_ONCE = Retries(attempts=2, first_wait=0.5, longest_wait=5.0)


def _folder_of(encoder: str, source: Kind | None) -> Path:
    """Return where the weights lie: where they are fetched to, or wherever configurations find them."""
    folder = default_folder(encoder, source)
    if not folder.exists() and source is None and "/" not in encoder:
        return weights_at_hand(resolve_encoder(encoder)) or folder
    return folder


def _looked(check: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(check, "fine", look())
    except NoTimeToTrainError as error:
        return Finding(check, "failed", error.message, error.remedy)
    except (OSError, ValueError) as error:  # a ValueError is of a path that cannot be one
        return Finding(check, "failed", str(error), "check the path and its permissions")


def _left_out(check: str, why: str) -> Finding:
    return Finding(check, "left out", why)


def _get(path: str, *, with_token: bool) -> Answer:
    target = Target(shown_endpoint(), f"{endpoint()}{path}", shown_endpoint())
    try:
        return ask("GET", target.url, token_header() if with_token else {})
    except OfflineModeIsEnabled as error:
        raise NetworkError("HF_HUB_OFFLINE forbids every request", remedy="unset HF_HUB_OFFLINE") from error
    except httpx2.HTTPError as error:
        raise error_from_transport(error, target) from error
    except httpx2.InvalidURL as error:
        raise not_an_address(target, error) from error


def _refused(answer: Answer) -> NoTimeToTrainError:
    return error_from_response(answer, Target(shown_endpoint(), endpoint(), shown_endpoint()))


def _network() -> str:
    # Any answer of the Hub will do; a proxy's refusal is none.
    answer = _get("/api/models?limit=1", with_token=False)
    if answer.status == 407 or answer.status >= 500:
        raise _refused(answer)
    by = next((f" by way of {name}" for name in ("HTTPS_PROXY", "https_proxy") if os.environ.get(name)), "")
    return f"{shown_endpoint()} answers{by}"


def _token() -> str:
    if current_token() is None:
        return "none is set; gated repositories need one (HF_TOKEN, or hf auth login)"
    answer = _get("/api/whoami-v2", with_token=True)
    if answer.status in (401, 403):
        raise AuthenticationError(
            f"the Hub does not know the token ({answer.status})",
            remedy=f"make a new one at {TOKEN_PAGE} and set HF_TOKEN, or run: hf auth login",
        )
    if answer.status >= 300:
        raise _refused(answer)
    try:
        name = json.loads(answer.body)["name"]
    except (ValueError, LookupError, TypeError, RecursionError):
        name = None
    return f"belongs to {in_one_line(name) if isinstance(name, str) else 'an account'}"


def _readable(plan: FetchPlan) -> None:
    """Ask for one byte of the smallest file: a gated repository lists its files to everybody."""
    file = plan.files[0]
    try:
        with opened("GET", file.target.url, {**file.headers, "Range": "bytes=0-0"}) as response:
            if response.status_code >= 300:
                raise error_from_response(read(response), file.target)
    except httpx2.HTTPError as error:
        raise error_from_transport(error, file.target) from error


def _disk(folder: Path | None, plan: FetchPlan | None) -> str:
    place = (folder or weights_folder()).resolve()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        if folder is None or place != folder.resolve():
            raise OutputError(f"{place} is not a folder", remedy="name another folder with --root")
        place = place.parent
    free = shutil.disk_usage(place).free
    if plan is not None and not (folder and folder.is_dir()) and free < plan.size:
        raise DiskFullError(
            f"{plan.source} needs {plan.size:,} bytes, and the disk of {place} has {free:,} free",
            remedy=f"make room for {plan.size - free:,} bytes, or name a folder on another disk with --root",
        )
    if not os.access(place, os.W_OK):
        raise DiskFullError(f"{place} cannot be written", remedy="name another folder with --root")
    return f"{free / 1e9:.1f} GB free at {place}"


def _cache(folder: Path | None, repository: str | None) -> str:
    said = []
    if folder is not None:
        begun = [path for staging in unfinished(folder) for path in staging.iterdir() if path.is_file()]
        if begun:
            size = sum(path.stat().st_size for path in begun)
            said.append(f"{size / 1e9:.2f} GB have come of an unfinished fetch, which the next one takes up")
    try:
        held = {repo.repo_id: repo.size_on_disk for repo in scan_cache_dir().repos}
        if repository in held:
            said.append(f"the Hub's cache holds {held[repository] / 1e9:.2f} GB of {repository}, which a fetch uses")
    except (CacheNotFound, ValueError):
        pass
    return "; ".join(said) or "nothing of it is there yet"


def _files_looked_at(folder: Path | None, encoder: str | None, source: Kind | None) -> Finding:
    if folder is None:
        return _left_out("files", "no encoder and no folder is named")
    try:
        _check_whose(folder, encoder, source)
    except NoTimeToTrainError as error:
        return Finding("files", "failed", error.message, error.remedy)
    finding = _looked("files", lambda: _files(folder))
    if finding.state == "failed" and encoder is not None:
        return replace(finding, remedy=f"ntt fetch {encoder} --root {folder}")
    return finding


def _files(folder: Path) -> str:
    report = inspect_weights(folder, headers_only=True) if folder.is_file() else check_folder(folder)
    return f"{folder} is whole, {report.encoder or report.description}"


def _check_whose(folder: Path, encoder: str | None, source: Kind | None) -> None:
    """Refuse weights that are there and are another encoder's; what is wrong with them otherwise is told later.

    Raises:
        ShapeMismatchError: They are.
    """
    if encoder is None:
        return
    try:
        manifest = read_manifest(folder) if folder.is_dir() else None
        report = inspect_weights(folder, headers_only=True)
    except (NoTimeToTrainError, OSError):
        return
    _, repository, entry = repository_of(encoder, source)
    if entry is not None:
        other = report.architecture is None or not matches(entry, report.architecture)
        # Tensors do not tell all entries apart; what was fetched does.
        other = other or (manifest is not None and manifest.encoder not in (None, entry.name))
    else:
        other = manifest is not None and manifest.source != repository
    if other:
        held = (manifest.encoder or manifest.source) if manifest is not None else report.encoder or report.description
        raise ShapeMismatchError(
            f"{folder} holds another encoder, {printable(held)}, expected {encoder}",
            remedy="name another folder with --root, or move this one away",
        )
