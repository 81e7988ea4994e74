"""The commands around weights: what a file is, other layouts, fetching, checking, finding out what is wrong."""

import difflib
import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from no_time_to_train.cli.options import GivenPath, OptionalPath
from no_time_to_train.errors import ConfigError, WeightsFormatError
from no_time_to_train.io.paths import check_local, in_home, without_home
from no_time_to_train.io.redact import printable

# What `dinov3-fetcher` reads of a training's configuration, by section.
_KEYS = {"train": ("dino_root", "dino_model"), "paths": ("dataset_root",)}


def inspect(path: GivenPath, *, headers_only: bool = False, json: bool = False) -> None:
    """Tell what a weights file or folder is, from its tensors: layout, architecture, registry entry, hash, NaN.

    Args:
        path: A file or a folder, of an encoder or of SAM2.
        headers_only: Read names and shapes alone: at once, however large the file is, but without hash and NaN.
        json: Print JSON.
    """
    from no_time_to_train.weights import inspect_weights

    report = inspect_weights(path, headers_only=headers_only)
    print(report.as_json() if json else printable(report.as_text()))


def convert(source: GivenPath, destination: GivenPath, *, to: Literal["hf", "meta", "equinox"]) -> None:
    """Write an encoder's weights in another layout, byte by byte, however large they are.

    Args:
        source: A file or a folder in any layout.
        destination: A new folder for `hf`, a new file for `meta` (.pth) and `equinox` (.eqx).
        to: `hf` is a folder that transformers opens, `meta` is Meta's own layout, `equinox` is for the JAX models.
    """
    from no_time_to_train.weights.conversion import convert_weights

    print(without_home(str(convert_weights(source, destination, to))))


def fetch(
    name: str,
    *,
    root: OptionalPath = None,
    source: Literal["hub", "timm", "url"] | None = None,
    revision: str | None = None,
    quiet: bool = False,
    json: bool = False,
) -> None:
    """Fetch an encoder's weights into a folder, or a file of SAM2; what is there and whole is not fetched again.

    The token comes from HF_TOKEN or from `hf auth login`, never from the command line.

    Args:
        name: A registry name such as dinov3_large, a Hub id, a link (Meta's presigned ones, in quotes), or a file of
            SAM2 such as sam2_hiera_tiny or sam2.1_hiera_large; or recommended, for what `ntt setup --yes` fetches.
        root: The folder; checkpoints/ with the repository's name if left out, where configurations look for it.
            SAM2's file goes into it, or into checkpoints/.
        source: `timm` for timm's ungated copies; otherwise told by the name.
        revision: Branch, tag or commit of a repository.
        quiet: Show no progress.
        json: Print what was done as JSON, and show no progress.
    """
    if name == "recommended":
        from no_time_to_train.cli.installation import setup

        setup(yes=True)
        return
    from no_time_to_train.weights.hub.fetch import fetch as fetch_weights

    done = fetch_weights(name, root, source=source, revision=revision, quiet=quiet or json)
    if json:
        print(json_module.dumps(asdict(done) | {"path": str(done.path)}, indent=2))
    else:
        state = "is there and whole" if done.was_there else "fetched and checked"
        encoder = printable(done.encoder or "in no registry entry")
        print(f"{without_home(str(done.path))}: {state}, {encoder}, {done.size:,} bytes")


def validate(root: GivenPath, *, deep: bool = False) -> None:
    """Check that a folder holds an encoder's weights, whole.

    Args:
        root: The folder.
        deep: Read every byte and compare with the hashes recorded when it was fetched.
    """
    from no_time_to_train.weights.hub.manifest import check_folder

    report = check_folder(root, deep=deep)
    print(f"{printable(str(root))}: whole, {report.encoder or report.description}")


def doctor(
    encoder: str | None = None,
    *,
    root: OptionalPath = None,
    source: Literal["hub", "timm"] | None = None,
    json: bool = False,
) -> int:
    """Find out why weights cannot be had: network, token, access, disk, cache, files, one after another.

    Args:
        encoder: A registry name or a Hub id; without it, access and files are left out.
        root: The folder that is to hold the weights.
        source: `timm` for timm's ungated copies.
        json: Print JSON.

    Returns:
        0 if nothing is wrong, 1 if something is.
    """
    from no_time_to_train.weights.hub.doctor import as_text, run_checks

    findings = run_checks(encoder, root, source=source)
    if json:
        print(json_module.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print(as_text(findings))
    return int(any(finding.state == "failed" for finding in findings))


def fetcher(
    *,
    config_file: Annotated[GivenPath, Parameter(name="--config")],
    model: str | None = None,
    quiet: bool = False,
    json: bool = False,
) -> None:
    """Fetch the DINOv3 weights that a training's JSON configuration wants.

    It reads `train.dino_root`, the folder that is to hold them (relative to the configuration's own folder), or else
    `paths.dataset_root`, in which a folder with the model's name is made; and `train.dino_model`, if it is there.

    Args:
        config_file: The configuration, a JSON file.
        model: A registry name or a Hub id, before the configuration's.
        quiet: Show no progress.
        json: Print what was done as JSON, and show no progress.
    """
    from no_time_to_train.weights.hub.fetch import DEFAULT_MODEL
    from no_time_to_train.weights.hub.sources import default_folder

    settings = _read_settings(config_file)
    _check_keys(settings, config_file)
    train, paths = _section(settings, "train", config_file), _section(settings, "paths", config_file)
    name = model or _text(train, "dino_model", config_file) or DEFAULT_MODEL
    root, data = _text(train, "dino_root", config_file), _text(paths, "dataset_root", config_file)
    if root is None and data is None:
        raise ConfigError(
            f"{config_file} says neither train.dino_root nor paths.dataset_root",
            remedy="set train.dino_root to the folder that is to hold the weights",
        )
    for key, given in (("train.dino_root", root), ("paths.dataset_root", data)):
        if given is not None:
            check_local(given, f"{key} in {config_file}")
    within = in_home(root) if root is not None else Path(in_home(data or "")) / default_folder(name, None).name
    folder = config_file.parent / within
    fetch(name, root=folder, quiet=quiet, json=json)


def _read_settings(path: Path) -> dict[str, object]:
    from no_time_to_train.weights.formats.json_files import read_object

    try:
        return read_object(path)
    except WeightsFormatError as error:
        raise ConfigError(error.message, remedy="check --config") from error


def _check_keys(settings: dict[str, object], path: Path) -> None:
    """Refuse misspelled keys, which would not be read; the other keys are those of the training.

    Raises:
        ConfigError: A key is nearly one that is read, or begins with `dino_`, or is one in another section.
    """
    sections = {name: section for name, section in settings.items() if isinstance(section, dict)}
    for section, entries in [("", settings), *sections.items()]:
        own = _KEYS.get(section, ())
        for key in entries:
            if key in own:
                continue
            near = difflib.get_close_matches(key, [*_KEYS["train"], *own], n=1, cutoff=0.85)
            if near or key.startswith("dino_"):
                known = [f"{name}.{one}" for name, keys in _KEYS.items() for one in keys]
                meant = next((f"did you mean {one}? " for one in known if near and one.endswith(f".{near[0]}")), "")
                name = f"{section}.{key}" if section else key
                raise ConfigError(f"{name} in {path} is not read", remedy=f"{meant}what is read: {', '.join(known)}")


def _section(settings: dict[str, object], name: str, path: Path) -> dict[str, object]:
    section = settings.get(name, {})
    if not isinstance(section, dict):
        raise ConfigError(f"{name} in {path} is not a JSON object", remedy="correct it")
    return section


def _text(section: dict[str, object], name: str, path: Path) -> str | None:
    value = section.get(name)
    if value is not None and (not isinstance(value, str) or not value):
        raise ConfigError(f"{name} in {path} is {value!r}, expected a text", remedy="correct it")
    return value
