"""Settings from YAML or from callers as dataclasses, checked."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from no_time_to_train.errors import ConfigError
from no_time_to_train.io.messages import nearest

T = TypeVar("T")


def settings_of(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the model's settings in a YAML of the main job.

    Raises:
        ConfigError: It has none.
    """
    found: Any = document
    for key in ("model", "init_args", "model_cfg"):
        found = found.get(key) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping):
        raise ConfigError(
            "the configuration has no model.init_args.model_cfg", remedy="name a YAML of the matching baselines"
        )
    return found


def deep_merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Put settings over others, and those within settings too: of several YAMLs a later one goes over an earlier one.

    Examples:
        >>> deep_merge({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"c": 4}})
        {'a': 1, 'b': {'c': 4, 'd': 3}}
    """
    result = dict(below)
    for name, value in above.items():
        under = below.get(name)
        result[name] = deep_merge(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return result


def as_config(cls: type[T], value: T | Mapping[str, Any] | None, name: str) -> T:
    """Take settings as a dataclass, as a mapping, or as None for the defaults.

    Args:
        cls: The dataclass.
        value: The settings.
        name: What to call them in errors; empty for what a caller gives by keyword.

    Raises:
        ConfigError: A key that the dataclass does not have, or one that it needs and the mapping lacks, or a value of
            another type.
    """
    if isinstance(value, cls):
        return value
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(
            f"{name} is of type {type(value).__name__}, expected {cls.__name__} or a mapping",
            remedy="give its settings by name",
        )
    given = dict(value or {})
    prefix = f"{name}." if name else ""
    known = {entry.name for entry in fields(cls)}  # type: ignore[arg-type] # every cls here is a dataclass
    unknown = sorted(map(str, given.keys() - known))
    if unknown:
        listed = f"{nearest(unknown[0], sorted(known))}it has {', '.join(sorted(known))}"
        raise ConfigError(f"{name or 'the pipeline'} has no setting {', '.join(unknown)}", remedy=listed)
    hints = get_type_hints(cls)
    for key, entry in given.items():
        # Of `X | None` the X.
        kinds = [kind for kind in (hints[key], *get_args(hints[key])) if is_dataclass(kind)]
        if kinds and entry is None and is_dataclass(hints[key]):
            raise ConfigError(f"{prefix}{key} is null", remedy="leave it out for the defaults")
        if kinds and entry is not None:
            given[key] = as_config(kinds[0], entry, f"{prefix}{key}")  # type: ignore[arg-type] # a class, not an instance
        elif not kinds and not _fits(entry, hints[key]):
            raise ConfigError(
                f"{prefix}{key} is {entry!r:.60}, expected {_described(hints[key])}", remedy="correct it in the YAML"
            )
    try:
        return cls(**given)
    except TypeError as error:
        raise ConfigError(
            f"{name or 'a setting'} is incomplete: {error}", remedy=f"it has {', '.join(sorted(known))}"
        ) from error


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value as YAML gives it is of an annotated type."""
    kind = get_origin(hint) or hint
    if kind in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if kind is Literal:
        return value in get_args(hint)
    accepted = {float: (int, float), Path: (str, Path), tuple: (list, tuple)}.get(kind, kind)
    # True and False are integers to Python, and to nobody else.
    return isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))


def _described(hint: Any) -> str:
    kind = get_origin(hint) or hint
    if kind in (Union, UnionType, Literal):
        return " or ".join(str(part) if kind is Literal else _described(part) for part in get_args(hint))
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    return "null" if kind is NoneType else words.get(kind, str(hint))
