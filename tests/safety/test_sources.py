"""What no file of the project calls: what runs a stranger's code, or a shell, or races for a file's name."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(
    [*(ROOT / "no_time_to_train").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py"), ROOT / "run_lightening.py"]
)

NEVER = {
    *("pickle.load", "pickle.loads", "marshal.load", "marshal.loads", "shelve.open", "joblib.load", "dill.load"),
    *("cloudpickle.load", "cloudpickle.loads", "torch.hub.load", "torch.package.PackageImporter"),
    *("yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all"),
    *("eval", "exec", "os.system", "os.popen", "tempfile.mktemp"),
    *("equinox.tree_deserialise_leaves", "eqx.tree_deserialise_leaves"),  # its default takes pickled arrays
}
SAFE_LOADERS = {"SafeLoader", "CSafeLoader", "_EachKeyOnce"}  # the last is yaml_files.py's, derived from the first


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` of what is called; the last name alone where something else stands before it."""
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else node.attr
    return node.id if isinstance(node, ast.Name) else ""


def imported_as(tree: ast.AST) -> dict[str, str]:
    """Return the full name of what a file has imported, by the name that it uses."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
    return names


def faults(source: str) -> Iterator[str]:
    """Say what is wrong with a file's calls, each with its line."""
    tree = ast.parse(source)
    names = imported_as(tree)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        first, _, rest = dotted(call.func).partition(".")
        name = names.get(first, first) + (f".{rest}" if rest else "")
        given = {keyword.arg: keyword.value for keyword in call.keywords}

        def is_given(argument: str, value: object, given: dict[str | None, ast.expr] = given) -> bool:
            node = given.get(argument)
            return isinstance(node, ast.Constant) and node.value is value

        where = f"line {call.lineno}: {name}"
        if name in NEVER:
            yield where
        reads_checkpoint = name == "torch.load" or name.endswith(("load_checkpoint", "load_from_checkpoint"))
        handed_on = None in given and "weights_only" not in given
        # One that hands all its arguments on stands between others, and asks for nothing itself.
        if reads_checkpoint and not is_given("weights_only", True) and not handed_on:
            yield f"{where} without weights_only=True"
        if name == "numpy.load" and not is_given("allow_pickle", False):
            yield f"{where} without allow_pickle=False"
        if "allow_pickle" in given and not is_given("allow_pickle", False):
            yield f"{where} with allow_pickle"
        if name in {"yaml.load", "yaml.load_all"} and not (
            "Loader" in given and dotted(given["Loader"]).rpartition(".")[2] in SAFE_LOADERS
        ):
            yield f"{where} without a safe loader"
        # Of a completion's script, it is the shell that will read it.
        if "shell" in given and not is_given("shell", False) and name.rpartition(".")[2] != "generate_completion":
            yield f"{where} with a shell"
        if "trust_remote_code" in given and not is_given("trust_remote_code", False):
            yield f"{where} with trust_remote_code"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_runs_what_is_not_its_own(path: Path) -> None:
    assert list(faults(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle; pickle.loads(b'')",
        "from pickle import load as read; read(f)",
        "import torch; torch.load(f)",
        "import torch; torch.load(f, weights_only=False)",
        "import torch as t; t.load(f, weights_only=w)",
        "import torch; torch.load(f, **more, weights_only=False)",
        "io.load_checkpoint(path)",
        "import numpy as np; np.load(f)",
        "import numpy as np; np.load(f, allow_pickle=True)",
        "np.lib.format.read_array(f, allow_pickle=True)",
        "import yaml; yaml.load(f)",
        "import yaml; yaml.load(f, Loader=yaml.Loader)",
        "eval('1')",
        "import subprocess; subprocess.run('ls', shell=True)",
        "from tempfile import mktemp; mktemp()",
    ],
)
def test_each_of_them_would_be_found(source: str) -> None:
    assert list(faults(source))


def test_the_project_s_own_unpickler_is_the_only_one() -> None:
    """A subclass of pickle's Unpickler stands in one file, whose tests show what it refuses."""
    with_unpickler = {
        path.relative_to(ROOT).as_posix()
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute | ast.Name) and dotted(node).endswith("Unpickler")
    }
    assert with_unpickler == {"no_time_to_train/io/safe_pickle.py"}
