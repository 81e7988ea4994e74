"""Fetching weights into a folder that is whole or not there, whatever happens on the way."""

import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from no_time_to_train.configs.sam2_releases import Sam2File, sam2_file
from no_time_to_train.configs.shipped import weights_folder
from no_time_to_train.errors import (
    ChecksumMismatchError,
    ConfigError,
    LocalEntryNotFoundError,
    NoTimeToTrainError,
    ShapeMismatchError,
)
from no_time_to_train.io.atomic import put_in_place, write_text_atomic
from no_time_to_train.io.redact import remember_link
from no_time_to_train.weights.architecture import matches
from no_time_to_train.weights.http.download import RemoteFile, Retries, download, open_partial
from no_time_to_train.weights.http.errors import without_secrets
from no_time_to_train.weights.hub.client import is_link
from no_time_to_train.weights.hub.fetch_sam2 import fetch_sam2
from no_time_to_train.weights.hub.manifest import Manifest, check_folder, is_valid, read_manifest
from no_time_to_train.weights.hub.progress import FetchDisplay
from no_time_to_train.weights.hub.sources import (
    FetchPlan,
    Kind,
    default_folder,
    plan_hub,
    plan_link,
    repository_of,
)
from no_time_to_train.weights.hub.staging import (
    check_destination,
    check_room,
    fetch_lock,
    matches_plan,
    remove_replaced,
    staging_for,
)
from no_time_to_train.weights.inspect import WeightsReport, sha256_of
from no_time_to_train.weights.license import NOTICE, NOTICE_FILE, SHORT, is_dinov3_licensed

DEFAULT_MODEL = "facebook/dinov3-vitl16-pretrain-lvd1689m"
_SHA256_DIGITS = 64
_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class FetchResult:
    """What `fetch` did.

    Attributes:
        path: The folder, which is whole; of SAM2 the file.
        kind: `hub`, `timm` or `url`; None where it was there by other means.
        source: The repository's id, or the link without its secrets; None likewise.
        revision: The commit, or the server's version of the file; None likewise.
        encoder: The registry entry that the weights are, or the name of SAM2's file.
        size: Bytes of the weights' files.
        was_there: Whether nothing had to be fetched.
    """

    path: Path
    kind: str | None
    source: str | None
    revision: str | None
    encoder: str | None
    size: int
    was_there: bool


Fetched = FetchResult
"""The name that it had in the first release."""


def fetch_dinov3(dino_root: Path | str, model_name: str = DEFAULT_MODEL) -> Path:
    """Fetch an encoder's weights into a folder; a valid folder is left as it is.

    Args:
        dino_root: The folder that is to hold `config.json`, `preprocessor_config.json` and the weights.
        model_name: A registry name, a Hub id, or a link.

    Returns:
        The folder.

    Raises:
        AuthenticationError: The Hub wants a token (`HF_TOKEN`, or `hf auth login`).
        AccessPendingError: Access to the repository is not granted yet.
        AccessRejectedError: Access was refused, or the link has expired.
        RepositoryNotFoundError: There is no such repository, or nothing behind the link.
        ShapeMismatchError: What came is another encoder.
        LocalEntryNotFoundError: What came is not whole, or is at hand and damaged while the network is switched off.
        ChecksumMismatchError: A file came with another hash.
        DiskFullError: The disk has not the room.
        NetworkError: The server cannot be reached. What came is kept, and the next call goes on from there.
    """
    return fetch(model_name, dino_root).path


def validate_dinov3(dino_root: Path | str, *, deep: bool = False) -> bool:
    """Return whether a folder holds an encoder's weights, whole; `check_folder` says what is wrong.

    Args:
        dino_root: The folder.
        deep: Compare every file with its recorded sha256.
    """
    return is_valid(Path(dino_root), deep=deep)


def fetch(
    name: str,
    root: Path | str | None = None,
    *,
    source: Kind | None = None,
    revision: str | None = None,
    quiet: bool = False,
    retries: Retries | None = None,
) -> FetchResult:
    """Fetch weights from the Hub, from timm's ungated copies, or from a link such as Meta's presigned ones.

    Files come into a workshop beside the folder (`.ntt-fetch`), which the next call takes up where this one stopped.
    The folder appears, or changes places with an older one, in one step, once everything in it is checked.

    Args:
        name: A registry name, a Hub id, a link, or a file of SAM2's, such as `sam2_hiera_tiny`.
        root: The folder; `checkpoints/` with the repository's name if None. SAM2's file goes into it, or into
            `checkpoints/`.
        source: `timm` for the ungated copies; told by the name if None.
        revision: Branch, tag or commit of a repository; the newest if None.
        quiet: Show no progress.
        retries: When to try again.

    Raises:
        FetchError: As `fetch_dinov3` lists them.
        UnknownEncoderError: No entry has that name.
        ConfigError: Arguments that contradict each other.
        OutputError: The folder holds something else, or cannot be written.
    """
    retries, name = retries or Retries(), name.strip()
    remember_link(name)
    if source is not None and (source == "url") != is_link(name):
        raise ConfigError(f"{without_secrets(name)} cannot come from {source}", remedy="leave --source out")
    file = sam2_file(name)
    if file is not None and source not in (None, "url"):
        raise ConfigError(f"{file.name} comes from Meta's public address", remedy="leave --source out")
    if file is not None and revision is not None:
        raise ConfigError(f"{file.name} has no revisions", remedy="leave --revision out")
    if is_link(name) and revision is not None:
        raise ConfigError("a link has no revisions", remedy="leave --revision out")
    try:
        if root is None:
            root = weights_folder() if file is not None else default_folder(name, source)
        folder = Path(root).resolve()
    except ValueError as error:
        raise ConfigError(f"{str(root)!r} is not a folder's name: {error}", remedy="name another") from error
    with FetchDisplay(quiet=quiet) as display:
        if file is not None:
            return _fetch_sam2(file, name, folder / file.file_name, display, retries)
        there = _at_hand(folder, name, display, source=source, revision=revision)
        if there is not None:
            return there
        check_destination(folder, None)
        with fetch_lock(folder, display):
            # Another process may have fetched it while this one waited.
            return _at_hand(folder, name, display, source=source, revision=revision) or _fetch(
                name, folder, source=source, revision=revision, display=display, retries=retries
            )


def _fetch_sam2(file: Sam2File, name: str, path: Path, display: FetchDisplay, retries: Retries) -> FetchResult:
    url = name if is_link(name) else file.url
    was_there = fetch_sam2(file, url, path, display=display, retries=retries)
    return FetchResult(
        path=path,
        kind="url",
        source=without_secrets(url),
        revision=file.sha256,
        encoder=file.name,
        size=path.stat().st_size,
        was_there=was_there,
    )


def _at_hand(
    folder: Path, name: str, display: FetchDisplay, *, source: Kind | None, revision: str | None
) -> FetchResult | None:
    """Return what lies in the folder if it is whole and what is asked for."""
    wanted, entry = (without_secrets(name), None) if is_link(name) else repository_of(name, source)[1:]
    whole = _whole(folder)
    if whole is None:
        return None
    report, manifest = whole
    if manifest is not None:
        same = manifest.source == wanted or (entry is not None and manifest.encoder == entry.name)
        fits = same and revision in (None, manifest.revision) and source in (None, manifest.kind)
        if not fits:
            return None
        remove_replaced(folder, manifest)
        return _described(folder, report, manifest, was_there=True)
    if revision is not None or source is not None or is_link(name):
        return None
    if entry is not None and not (report.architecture and matches(entry, report.architecture)):
        display.tell(f"{folder} was not fetched, and holds {report.description}, not {entry.name}; it is left as it is")
    return _described(folder, report, None, was_there=True)


def _whole(folder: Path) -> tuple[WeightsReport, Manifest | None] | None:
    """Return what a folder holds, if it is whole."""
    try:
        return check_folder(folder), read_manifest(folder)
    except LocalEntryNotFoundError:
        return None


def _described(folder: Path, report: WeightsReport, manifest: Manifest | None, *, was_there: bool) -> FetchResult:
    return FetchResult(
        path=folder,
        kind=manifest.kind if manifest else None,
        source=manifest.source if manifest else None,
        revision=manifest.revision if manifest else None,
        encoder=(manifest.encoder if manifest else None) or report.encoder,
        size=sum(report.files.values()),
        was_there=was_there,
    )


def _fetch(
    name: str, folder: Path, *, source: Kind | None, revision: str | None, display: FetchDisplay, retries: Retries
) -> FetchResult:
    plan = (
        plan_link(name, retries=retries)
        if is_link(name)
        else plan_hub(name, source=source, revision=revision, retries=retries)
    )
    whole = _whole(folder)
    if whole is not None and whole[1] is not None and matches_plan(whole[1], plan):
        # A branch or a tag was named, and it is this commit.
        remove_replaced(folder, whole[1])
        return _described(folder, *whole, was_there=True)
    check_destination(folder, plan)
    staging = staging_for(folder, plan)
    check_room(staging, plan)
    if is_dinov3_licensed(plan.entry, plan.source):
        display.announce(SHORT, always=True)
    display.announce(f"{plan.source} ({plan.revision[:12]}) -> {folder}")
    for file in plan.files:
        display.begin(file.name, file.size)
        _take_from_cache(file, plan, staging, display, retries)
        download(file, staging, advance=display.advance, retries=retries)
    report = _finish(staging, plan)
    # Somebody may have put something there in the meantime.
    check_destination(folder, plan)
    put_in_place(staging, folder)
    return _described(folder, report, read_manifest(folder), was_there=False)


def _take_from_cache(file: RemoteFile, plan: FetchPlan, staging: Path, display: FetchDisplay, retries: Retries) -> None:
    """Copy a file that other programs have put into the Hub's cache, if its bytes are the right ones."""
    partial = file.partial(staging)
    if plan.kind == "url" or os.path.lexists(staging / file.name) or os.path.lexists(partial):
        return
    cached = try_to_load_from_cache(plan.source, file.name, revision=plan.revision)
    if not isinstance(cached, str) or not Path(cached).is_file() or Path(cached).stat().st_size != file.size:
        return
    try:
        with Path(cached).open("rb") as source, open_partial(partial) as copy:
            shutil.copyfileobj(source, copy, _BLOCK)
        download(file, staging, advance=lambda count: None, retries=retries)
        display.say(f"{file.name} was in the Hub's cache")
    except ChecksumMismatchError:
        display.say(f"{file.name} in the Hub's cache is damaged, so it is fetched")
    except OSError as error:
        partial.unlink(missing_ok=True)
        display.say(f"{file.name} cannot be taken from the Hub's cache: {error}")


def _finish(staging: Path, plan: FetchPlan) -> WeightsReport:
    """Check what came, and record it."""
    names = {file.name for file in plan.files}
    if is_dinov3_licensed(plan.entry, plan.source):
        write_text_atomic(staging / NOTICE_FILE, NOTICE.format(source=f"{plan.source}, {plan.revision}"))
    for path in staging.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in names | {NOTICE_FILE}:
            path.unlink()
    Manifest(
        kind=plan.kind,
        source=plan.source,
        revision=plan.revision,
        encoder=plan.entry.name if plan.entry else None,
        fetched=datetime.now(UTC).isoformat(timespec="seconds"),
        files={
            file.name: {"size": file.size, "sha256": _sha256(file, staging)}
            for file in sorted(plan.files, key=lambda file: file.name)
        },
    ).write(staging)
    try:
        report = check_folder(staging)
        if plan.entry is not None and not (report.architecture and matches(plan.entry, report.architecture)):
            raise ShapeMismatchError(
                f"{plan.source} holds {report.encoder or report.description}, expected {plan.entry.name}",
                remedy="check HF_ENDPOINT: a mirror may hold other files; or name another repository",
            )
        return report
    except NoTimeToTrainError:
        # Every byte is as the server announced it: another try would bring the same.
        shutil.rmtree(staging)
        raise


def _sha256(file: RemoteFile, staging: Path) -> str:
    """Return a file's hash: the one that it was checked against, if it was that."""
    digest = file.digest
    known = digest is not None and digest.kind == "sha256" and len(digest.value) == _SHA256_DIGITS
    return digest.value if digest is not None and known else sha256_of(staging / file.name)
