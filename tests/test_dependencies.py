"""What the package imports is what `pyproject.toml` names, so that no other package's choice takes it away."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from no_time_to_train.io.messages import EXTRAS

ROOT = Path(__file__).parents[1]


def _imported() -> dict[str, str]:
    """Return the top-level modules that the package imports, each with a file that does."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "no_time_to_train").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [str(node.module)]
            found |= {name.split(".")[0]: str(path.relative_to(ROOT)) for name in names}
    return found


def _declared() -> dict[str, set[str]]:
    """Return the packages of each extra, and of the base under an empty name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    layers = {"": project["dependencies"], **project["optional-dependencies"]}
    return {
        extra: {_normal(re.split(r"[\[<>=!~;, ]", entry, maxsplit=1)[0]) for entry in entries} - {"no-time-to-train"}
        for extra, entries in layers.items()
    }


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_import_is_a_declared_dependency() -> None:
    """Of the base, or of the extra that the error of a missing library names."""
    distributions, declared = importlib.metadata.packages_distributions(), _declared()
    foreign = {
        module: path
        for module, path in _imported().items()
        if module not in sys.stdlib_module_names and module != "no_time_to_train"
    }
    assert {"torch", "numpy"} <= foreign.keys()
    missing = {
        f"{module} ({path})"
        for module, path in foreign.items()
        if not declared[EXTRAS.get(module, "")] & {_normal(name) for name in distributions.get(module, [module])}
    }
    assert not missing


_COMMANDS = """
import runpy, sys
sys.modules.update(dict.fromkeys(sys.argv.pop(1).split(",")))
sys.argv = sys.argv[1:]
run = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
run(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("blocked", "command", "needed"),
    [
        (EXTRAS, ["no_time_to_train", "--help"], None),
        (EXTRAS, ["no_time_to_train", "fetch", "--help"], None),
        (EXTRAS, ["no_time_to_train", "quickstart-report"], ("ntt quickstart-report", "torch", "torch")),
        (EXTRAS, ["no_time_to_train", "compare", "--encoder", "dinov3_small"], ("ntt compare", "torch", "torch")),
        (["jax"], ["no_time_to_train", "export", "dinov3_small"], ("ntt export", "jax", "jax")),
        (["lightning"], [str(ROOT / "run_lightening.py")], ("run_lightening.py", "lightning", "train")),
    ],
)
def test_what_needs_an_extra_says_which(
    blocked: Iterable[str], command: list[str], needed: tuple[str, str, str] | None
) -> None:
    run = [sys.executable, "-c", _COMMANDS, ",".join(blocked), *command]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    if needed is None:
        assert (done.returncode, done.stderr) == (0, "")
    else:
        program, module, extra = needed
        line = f'error: {program} needs {module}, which is not installed (pip install "no-time-to-train[{extra}]")'
        assert (done.returncode, done.stderr.splitlines()) == (2, [line])


def test_the_python_api_says_which_extra_it_needs() -> None:
    code = "import sys; sys.modules['torch'] = None; from no_time_to_train import Segmenter; Segmenter(runtime='torch')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "no_time_to_train.errors.MissingExtraError: the runtime torch needs torch, which is not installed "
        '(pip install "no-time-to-train[torch]")'
    )


def test_pre_commit_downloads_nothing() -> None:
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    assert {hook["language"] for hook in repos[0]["hooks"]} == {"system"}
