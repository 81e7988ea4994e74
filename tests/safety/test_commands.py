"""Every command on tiny data: it reaches no network, and writes neither token nor home folder."""

import http.client
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from no_time_to_train.cli.ntt import COMMANDS
from tests.safety.watching import closed_network
from tests.safety.workplace import HOME, INPUTS, TOKEN, Workplace, prepare, run_all

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning"),
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:.*tensorboard:DeprecationWarning"),
]

NAMES = (
    *("inspect", "convert to hf", "convert to meta", "convert to equinox", "validate", "export"),
    *("export beside the weights", "compare", "sample-references", "write-shapes"),
    *("export-pipeline", "demo", "quickstart-report", "predict", "test", "validate the targets", "predict the targets"),
    *(f"test_mode {mode}" for mode in ("fill_memory", "fill_memory_neg", "postprocess_memory", "test", "vis_memory")),
    *("fit", "convert a checkpoint", "info", "completion", "references check", "references convert", "memory show"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """All commands, run one after another."""
    home = tmp_path_factory.mktemp("any") / HOME
    place = prepare(home / "work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("HF_TOKEN", TOKEN)
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
            patch.delenv(name, raising=False)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.chdir(place.folder)
        run_all(place)
    return place


@pytest.mark.parametrize("name", NAMES)
def test_no_command_reaches_the_network(place: Workplace, name: str) -> None:
    assert place.ran[name].attempts == []
    assert place.ran[name].status == 0, place.ran[name].printed


def test_every_command_was_run(place: Workplace) -> None:
    assert set(place.ran) == set(NAMES)
    ran = {part for name in NAMES for part in (name, name.split()[0])}
    assert ran >= set(COMMANDS) - {"setup", "fetch", "doctor"}


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: socket.create_connection(("127.0.0.1", 1), timeout=1),
        lambda: socket.socket().connect_ex(("127.0.0.1", 1)),
        lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"", ("127.0.0.1", 1)),
        lambda: socket.getaddrinfo("localhost", 80),
        lambda: socket.gethostbyname("localhost"),
        lambda: urllib.request.urlopen("http://localhost/"),
        lambda: http.client.HTTPConnection("localhost").connect(),
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_an_attempt_is_counted_even_if_it_is_swallowed(attempt: Callable[[], object]) -> None:
    with closed_network() as attempts, suppress(Exception):
        attempt()
    assert attempts


def test_onnx_runtime_reports_to_nobody(tmp_path: Path) -> None:
    """Its official builds would, from C++ where no test here could see it, and would number the machine at home."""
    code = "import no_time_to_train.runtime.onnx_session, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    quiet = {"ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "CI", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in quiet} | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout == "1\n"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def written(place: Workplace) -> Iterator[tuple[str, bytes]]:
    """Give every file that the commands wrote in the home folder, and what they printed."""
    home = place.folder.parent
    for path in sorted(home.rglob("*")):
        inside = path.relative_to(home).parts
        if path.is_file() and not (inside[0] == "work" and inside[1] in INPUTS):
            yield "/".join(inside), path.read_bytes()
    for name, ran in place.ran.items():
        yield f"printed by {name}", ran.printed.encode()


def test_no_token_is_written(place: Workplace) -> None:
    assert [name for name, content in written(place) if TOKEN.encode() in content] == []


def test_no_home_folder_is_written(place: Workplace) -> None:
    """Users typed relative paths: whatever names the home folder was resolved by the program.

    Lightning's checkpoints remember where the best one lies, for the run to go on; they are not made to be shared.
    """
    home = os.fsencode(place.folder.parent)
    found = [name for name, content in written(place) if home in content]
    assert [name for name in found if not name.endswith(".ckpt")] == []


def test_the_search_would_find_them(place: Workplace) -> None:
    """Outputs of every kind were looked at, and none is packed so that text in it could not be found."""
    endings = {Path(name).suffix for name, _ in written(place)}
    assert endings >= {".onnx", ".json", ".html", ".safetensors", ".yaml", ".ckpt", ".csv", ".png", ".pth", ".eqx"}
    names = {name for name, _ in written(place)}
    assert {
        "work/found/predictions.json",
        "work/found/report.html",
        "work/report/parity.json",
        "work/runs/test/lightning_logs/version_0/metrics.json",
    } <= names
    checkpoints = [content for name, content in written(place) if name.endswith(".ckpt")]
    assert checkpoints
    assert all(b"pytorch-lightning_version" in content for content in checkpoints)
