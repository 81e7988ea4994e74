"""The standard streams of a command: every character, closed streams, pipes without a reader, full disks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.io.test_process import ROOT, run, start

PRINTING = (
    "import sys\nfrom no_time_to_train.io.process import program\n"
    "sys.exit(program(lambda args: print('\\u00fc', '\\ud800', file=sys.stdout) or 0, 'x'))"
)


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {}])
def test_every_character_can_be_printed(environment: dict[str, str]) -> None:
    status, out, err = run(PRINTING, **environment)
    assert (status, err) == (0, "")
    assert out.strip().endswith("\\ud800")


def test_a_closed_pipe_is_not_an_error() -> None:
    code = (
        "import sys\nfrom no_time_to_train.io.process import program\n"
        "sys.exit(program(lambda args: [print('line') for _ in range(100000)] and 0, 'x'))"
    )
    process = start(code)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) == 141


OPENING = """
import os, sys
from no_time_to_train.io.process import program

def main(args):
    with open(args[0], "w") as stream:
        os.write(int(args[1]), b"from a library")
        print("to the user", file=sys.stderr)
        stream.write("whole")
    return 0

sys.exit(program(main, "x"))
"""


@pytest.mark.parametrize(("closed", "number"), [("<&-", 0), (">&-", 1), ("2>&-", 2), ("<&- >&- 2>&-", 1)])
def test_no_file_gets_the_number_of_a_closed_stream(closed: str, number: int, tmp_path: Path) -> None:
    """What libraries print would be written into it, and messages would go to the standard output."""
    path = tmp_path / "written.txt"
    command = ["bash", "-c", f'"$@" {closed}', "-", sys.executable, "-c", OPENING, str(path), str(number)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0
    assert path.read_text() == "whole"
    assert "to the user" not in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_output_that_cannot_be_written_is_named() -> None:
    code = (
        "import sys\nfrom no_time_to_train.io.process import program\n"
        "sys.exit(program(lambda args: print('result') or print('note', file=sys.stderr) or 0, 'x'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for stream, status in (("stdout", 2), ("stderr", 0)):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-c", code],
                env=environment,
                text=True,
                check=False,
                timeout=60,
                stdout=full if stream == "stdout" else subprocess.PIPE,
                stderr=full if stream == "stderr" else subprocess.PIPE,
            )
        # Messages that nobody can read do not stop the work.
        assert done.returncode == status
        if stream == "stdout":
            assert "error: cannot write to the standard output: No space left on device" in done.stderr
            assert "Traceback" not in done.stderr
        else:
            assert done.stdout == "result\n"


def test_messages_that_nobody_reads_do_not_stop_the_work(tmp_path: Path) -> None:
    """A bar of progress would else end a fetch when `2>&1 | head` has seen enough."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom no_time_to_train.io.process import program\n"
        "from no_time_to_train.weights.hub.progress import FetchDisplay\n"
        "def main(args):\n"
        "    sys.stdin.readline()\n"
        "    with FetchDisplay() as display:\n"
        "        display.tell('note')\n"
        "    Path(args[0]).write_text('done')\n"
        "    return 0\n"
        "sys.exit(program(main, 'x'))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x")]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stdin is not None
    process.stderr.close()
    process.stdin.write("\n")
    process.stdin.close()
    assert process.wait(60) == 0
    assert (tmp_path / "x").read_text() == "done"
