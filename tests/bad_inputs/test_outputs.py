"""`ntt predict` where nothing can be written; and what stays of a run whose disk fills up."""

import json

import pytest

from tests.bad_inputs.conftest import Judge, run
from tests.bad_inputs.table import Case, Given

pytestmark = [pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")]

CASES = [
    Case(
        "predict: output under a file",
        lambda f: f.predict("--output", f.under_a_file),
        ["cannot write", "a_file", "name a folder"],
    ),
    Case("predict: a file as output", lambda f: f.predict("--output", f.text("out")), ["cannot write", "given/out"]),
    Case(
        "predict: output where nobody may write",
        lambda f: f.predict("--output", f.read_only()),
        ["cannot write", "read_only", "Permission denied"],
    ),
    Case("predict: output in /proc", lambda f: f.predict("--output", "/proc/new"), ["cannot write", "/proc/new"]),
    Case(
        "predict: output on a disk that is read-only",
        lambda f: f.predict("--output", f.disk("ro,size=1m") / "new"),
        ["cannot write", "Read-only file system"],
    ),
    Case(
        "predict: output on a full disk",
        lambda f: f.predict("--output", f.disk("size=4k,nr_inodes=1")),
        ["cannot write", "No space left"],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_refused(case: Case, refused: Judge) -> None:
    refused(case)


def test_a_disk_that_fills_up(given: Given, capfd: pytest.CaptureFixture[str]) -> None:
    """What was done before is whole, and a run with room goes on from there."""
    disk = given.disk("size=28k")
    images = ["--images", str(given.shop.data.images)]
    capfd.readouterr()
    assert run(given.predict(*images, "--output", disk / "found")) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: cannot write")
    assert "No space left" in said
    assert said.count("\n") == 1
    done = sorted((disk / "found" / "instances").iterdir())
    assert done
    assert all(json.loads(path.read_text())["height"] == 48 for path in done)
    assert not (disk / "found" / "predictions.json").exists()
    assert not [path for path in (disk / "found").rglob("*") if path.name.startswith(".")]
