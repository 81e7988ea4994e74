"""The house: import contracts, sizes of files and folders, what can be imported without torch, what loads little."""

import functools
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import grimp
import pytest

from no_time_to_train.io.messages import EXTRAS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "no_time_to_train"
FILES = sorted(PACKAGE.rglob("*.py"))
CONTRACTS: dict[str, dict[str, Any]] = {
    contract["id"]: contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
}
_DEEPEST = 5


def import_graph() -> grimp.ImportGraph:
    return grimp.build_graph(
        "no_time_to_train", include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )


def test_contracts_are_kept() -> None:
    # In a process of its own: it configures logging anew, at which a handler of absl closes what pytest captures.
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_contracts_are_about_every_room() -> None:
    """A new room has a floor (the contract is exhaustive), and a decision on torch, JAX and Lightning."""
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES} - {"__init__", "__main__"}
    named = {
        rule: {module.split(".")[1] for module in CONTRACTS[rule]["source_modules"]} for rule in ("torch-free", "jax")
    }
    above = {"cli", "training"}  # They use everything.
    with_jax = {"export", "jax_models", "parity"}
    assert named["torch-free"] | named["jax"] | above | with_jax == rooms


def test_no_folder_is_full() -> None:
    folders = {path.parent for path in FILES}
    files = {folder: [path for path in folder.iterdir() if path.is_file()] for folder in folders}
    full = {str(folder): len(inside) for folder, inside in files.items() if len(inside) > 12}
    assert not full


def test_no_file_is_long() -> None:
    long = {str(path): count for path in FILES if (count := len(path.read_text().splitlines())) > 400}
    assert not long


def longest_chain(graph: grimp.ImportGraph, folder: str) -> tuple[str, ...]:
    """Return the longest chain of imports among the modules of one folder."""
    siblings = graph.find_children(folder)

    @functools.cache
    def below(module: str) -> tuple[str, ...]:
        chains = [below(other) for other in graph.find_modules_directly_imported_by(module) & siblings]
        return (module, *max(chains, key=len, default=()))

    return max(map(below, sorted(siblings)), key=len, default=())


def test_folders_are_not_deep() -> None:
    graph = import_graph()
    folders = {module.rpartition(".")[0] for module in graph.modules if module.count(".") > 1}
    chains = {folder.partition(".")[2]: longest_chain(graph, folder) for folder in folders}
    assert not {folder: chain for folder, chain in chains.items() if len(chain) > _DEEPEST}


# `load` makes torch's tensors. The others are not pure yet: what becomes so has to leave this set.
_WITH_TORCH = {"weights.load"}
_BLOCKED = """
import importlib, sys
blocked, modules = (argument.split(",") for argument in sys.argv[1:])
sys.modules.update(dict.fromkeys(blocked))
for module in modules:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        print(module, error)
"""


def test_rooms_below_the_line_are_imported_without_extras() -> None:
    """Other packages are seen here too: `safetensors.torch`, for one, imports torch."""
    graph, contract = import_graph(), CONTRACTS["torch-free"]
    modules = {module for room in contract["source_modules"] for module in (room, *graph.find_descendants(room))}
    blocked = EXTRAS.keys() | contract["forbidden_modules"]
    command = [sys.executable, "-c", _BLOCKED, ",".join(blocked), ",".join(sorted(modules))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert {line.split()[0].partition(".")[2] for line in done.stdout.splitlines()} == _WITH_TORCH, done.stdout


@pytest.mark.parametrize(
    "module",
    ["no_time_to_train", "no_time_to_train.cli", "no_time_to_train.data.references", "no_time_to_train.errors"],
)
def test_what_is_light_stays_light(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_python_api_loads_networks_when_they_are_built() -> None:
    """transformers and torchvision take longer to import than torch."""
    code = "import sys; from no_time_to_train import Segmenter\n"
    code += "sys.exit(bool({'transformers', 'torchvision'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("module", ["segmenter", "cli.predict", "batch.run", "results.drawing"])
def test_looking_into_images_needs_no_trainer(module: str) -> None:
    code = (
        f"import sys, no_time_to_train.{module}; sys.exit('lightning' in sys.modules or 'torchmetrics' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "code",
    ["import no_time_to_train", "from no_time_to_train.cli import main; main(['--help'])"],
    ids=["import", "help"],
)
def test_what_is_asked_for_often_loads_nothing_large(code: str) -> None:
    """Seconds are benchmarks' matter; what would take them is not there."""
    told = (
        "import sys; print({'torch', 'jax', 'numpy', 'transformers', 'lightning'} & set(sys.modules), file=sys.stderr)"
    )
    code_and_told = f"import contextlib\nwith contextlib.suppress(SystemExit):\n    {code}\n{told}"
    done = subprocess.run([sys.executable, "-c", code_and_told], check=True, capture_output=True, text=True)
    assert done.stderr.strip() == "set()"
