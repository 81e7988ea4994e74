"""What the package imports is what `pyproject.toml` names, so that no other package's choice takes it away."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

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


def _declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {_normal(re.split(r"[\[<>=!~;, ]", entry, maxsplit=1)[0]) for entry in project["dependencies"]}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_import_is_a_declared_dependency() -> None:
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
        if not declared & {_normal(name) for name in distributions.get(module, [module])}
    }
    assert not missing
