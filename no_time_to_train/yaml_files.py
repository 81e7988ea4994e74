"""Settings in YAML files, which anybody may have written."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from no_time_to_train.errors import ConfigError, DataNotFoundError

_MOST_VALUES = 100_000
_MOST_DEPTH = 50


class _EachKeyOnce(yaml.SafeLoader):
    """PyYAML's safe loader, without its two faults: it takes the last of equal keys, and is slow where values nest."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Read a value with all in it, unless that is nested too deeply: PyYAML's time grows with the square."""
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call] # of PyYAML
            raise yaml.composer.ComposerError(None, None, f"values are nested deeper than {_MOST_DEPTH}", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping, of whose keys none is there twice; what an anchor merges in may be overridden."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is there twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a file of settings.

    Raises:
        DataNotFoundError: There is no such file, or it may not be read.
        ConfigError: It is not valid YAML, has a key twice, or holds anything but settings by name.
    """
    if not path.is_file() and not path.is_dir() and path.exists():
        raise ConfigError(f"{path} is not a regular file", remedy="name a YAML such as those under pl_configs/")
    if not path.is_file():
        raise DataNotFoundError(f"there is no file {path}", remedy="name a YAML such as those under pl_configs/")
    try:
        # Derived from the safe loader: it builds plain values and nothing else.
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_EachKeyOnce)
    except OSError as error:
        raise DataNotFoundError(f"cannot read {path}: {error.strerror}", remedy="check its permissions") from error
    except (
        yaml.YAMLError,
        RecursionError,
        ValueError,
        LookupError,
        ArithmeticError,
        TypeError,
        AttributeError,
    ) as error:
        # PyYAML lets through what its constructors of dates, numbers and booleans raise.
        raise ConfigError(f"{path} is not valid YAML: {' '.join(_said(error).split())}", remedy="correct it") from error
    if not isinstance(document, dict) or not document:
        got = f"a {type(document).__name__}" if document else "nothing"
        raise ConfigError(f"{path} holds {got}, expected settings by name", remedy="correct it")
    if not _is_small(document):
        raise ConfigError(f"{path} holds more than {_MOST_VALUES} values", remedy="name a YAML of the main job")
    return document


def _is_small(document: Any) -> bool:
    """Return whether a document is as small as settings are: by its aliases a short one can be endless."""
    rest, count = [document], 0
    while rest and count <= _MOST_VALUES:
        value = rest.pop()
        count += 1
        if isinstance(value, dict):
            rest += value.values()
        elif isinstance(value, list | tuple | set):
            rest += value
    return count <= _MOST_VALUES


def _said(error: Exception) -> str:
    """Return what is wrong and where, without the lines of the file around it."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return str(error)
    return f"line {mark.line + 1}: {getattr(error, 'problem', None) or 'it cannot be read'}"
