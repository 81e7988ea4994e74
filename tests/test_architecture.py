"""The floors of the house: a room imports only from floors below its own."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "no_time_to_train"

# From the ground up. Rooms of one floor may not import each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("io",),
    ("configs",),
    ("matching", "weights", "data"),
    ("results", "runtime"),
    ("encoders", "jax_models"),
    ("proposers",),
    ("models",),
    ("export",),
    ("segmenter", "parity"),
    ("batch",),
    ("pl_wrapper",),
    ("training",),
    ("cli",),
    ("__main__",),
)
HEIGHT = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Return the rooms that a file imports, also within functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("no_time_to_train.")}


FILES = sorted(path for path in PACKAGE.rglob("*.py") if room_of(path) != "__init__")


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in FILES} == set(HEIGHT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_come_from_below(path: Path) -> None:
    room = room_of(path)
    wrong = {other for other in imports_of(path) - {room} if HEIGHT[other] >= HEIGHT[room]}
    assert not wrong


def test_no_folder_is_full() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    full = {str(folder): count for folder in folders if (count := len(list(folder.glob("*.py")))) > 12}
    assert not full


def test_no_file_is_long() -> None:
    long = {str(path): count for path in FILES if (count := len(path.read_text().splitlines())) > 400}
    assert not long


@pytest.mark.parametrize(
    "module",
    ["no_time_to_train", "no_time_to_train.cli", "no_time_to_train.data.references", "no_time_to_train.errors"],
)
def test_what_is_light_stays_light(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'jax' in sys.modules)"
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


def packages_of(path: Path) -> set[str]:
    """Return the names of the packages that a file imports, also within functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
    return names


def test_jax_and_torch_keep_to_their_rooms() -> None:
    with_jax = {room_of(path) for path in FILES if packages_of(path) & {"jax", "equinox"}}
    assert with_jax == {"jax_models", "export", "parity"}
    assert not [path for path in FILES if room_of(path) == "jax_models" and "torch" in packages_of(path)]
