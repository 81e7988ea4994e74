"""Old import paths, all of the first release's, in processes where nothing else has been imported."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from no_time_to_train.io.old_import_paths import MOVED

# Modules of the first release (154e7d7), as `git ls-tree -r --name-only 154e7d7 no_time_to_train` names them.
ROOT = Path(__file__).parents[2]
NAME_THEM = {"CHANGELOG.md", "tests/io/test_old_import_paths.py"}
FIRST_RELEASE = (Path(__file__).parent / "first_release_modules.txt").read_text().split()
# What its documentation imports or lists, and the classes that its YAMLs name.
FIRST_NAMES = (Path(__file__).parent / "first_release_names.txt").read_text().split()


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_path_gives_the_new_module(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, new = f"no_time_to_train.{old}", importlib.import_module(f"no_time_to_train.{MOVED[old]}")
    monkeypatch.delitem(sys.modules, path, raising=False)
    spec = new.__spec__
    with pytest.warns(DeprecationWarning, match=f"^{path} is no_time_to_train.{MOVED[old]} now$"):
        assert importlib.import_module(path) is new
    assert new.__spec__ is spec
    monkeypatch.delitem(sys.modules, path)


def test_every_module_of_the_first_release_is_found() -> None:
    code = "import importlib, sys, warnings; warnings.simplefilter('ignore')\n" + (
        "for name in sys.argv[1:]: importlib.import_module(name)"
    )
    subprocess.run([sys.executable, "-c", code, *FIRST_RELEASE], check=True)


def test_every_documented_name_of_the_first_release_is_found() -> None:
    code = "import importlib, sys, warnings; warnings.simplefilter('ignore')\n" + (
        "for name in sys.argv[1:]:\n"
        "    module, _, attribute = name.rpartition('.')\n"
        "    found = importlib.import_module(module)\n"
        "    hasattr(found, attribute) or importlib.import_module(name)"
    )
    assert len(FIRST_NAMES) == 96
    subprocess.run([sys.executable, "-c", code, *FIRST_NAMES], check=True)


def test_nothing_here_uses_an_old_path() -> None:
    old = re.compile(r"(?<![\w.])no_time_to_train\.(" + "|".join(re.escape(name) for name in MOVED) + r")(?![\w])")
    folders = ("no_time_to_train", "tests", "benchmarks", "docs", "docs_tools", "pl_configs")
    paths = [*ROOT.glob("*.*"), *(path for folder in folders for path in (ROOT / folder).rglob("*"))]
    names = [str(path.relative_to(ROOT)) for path in paths if path.suffix in (".py", ".yaml", ".toml", ".md")]
    names = [name for name in names if name not in NAME_THEM]
    assert len(names) > 300
    found = {name: match[0] for name in names if (match := old.search((ROOT / name).read_text()))}
    assert not found


def test_every_form_of_import() -> None:
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from no_time_to_train import registry\n"
        "import no_time_to_train.files as files\n"
        "from no_time_to_train.models.configs import Sam2InferConfig\n"
        "from no_time_to_train.visualization import OverlayWriter, draw_masks\n"
        "from no_time_to_train.cli import main\n"
        "from no_time_to_train.io import atomic\n"
        "from no_time_to_train.configs import encoders\n"
        "assert files is atomic and registry is encoders and callable(main)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_time_to_train.never_was")
