"""Settings in YAML files."""

from pathlib import Path

import pytest

from no_time_to_train.errors import ConfigError
from no_time_to_train.io.strict_yaml import read_yaml


def test_values_that_nest_too_deeply_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"a: 1\nb: {'[' * 48}1{']' * 48}")
    assert read_yaml(path)["a"] == 1
    path.write_text(f"a: 1\nb: {'[' * 49}1{']' * 49}")
    with pytest.raises(ConfigError, match=r"line 2: values are nested deeper than 50 \(correct it\)"):
        read_yaml(path)
