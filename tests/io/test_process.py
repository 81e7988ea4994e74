"""How commands begin and end: signals, streams, locales, and what a process lacks."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from no_time_to_train.cli.error_messages import CHECK_PATH, in_one_line
from no_time_to_train.errors import ConfigError
from no_time_to_train.io.process import check_arguments, is_out_of_memory
from tests.tiny import TinyData, small_model_arguments, write_config, write_dataset

ROOT = Path(__file__).parents[2]

# Waits within a file that is being written; `program` comes first, as in the real entries.
WRITING = """
import sys, time
from pathlib import Path
from no_time_to_train.io.atomic import atomic_path
from no_time_to_train.io.process import program

def main(args):
    with atomic_path(Path(args[0])) as temporary:
        temporary.write_text("half")
        print("ready", flush=True)
        time.sleep(60)
    return 0

sys.exit(program(main, "waiting"))
"""


def start(code: str, *args: str, **environment: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", code, *args]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(code: str, *args: str, **environment: str) -> tuple[int, str, str]:
    process = start(code, *args, **environment)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129)])
def test_a_signal_is_the_exit_status_and_leaves_nothing_half_written(name: str, status: int, tmp_path: Path) -> None:
    process = start(WRITING, str(tmp_path / "a.txt"))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert len(err.splitlines()) == 1
    assert "nothing is half-written" in err
    assert not list(tmp_path.iterdir())


def test_under_nohup_a_closed_terminal_stops_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\nfrom no_time_to_train.io.process import program\n"
        "sys.exit(program(lambda args: os.kill(os.getpid(), signal.SIGHUP) or 0, 'x'))"
    )
    command = ["nohup", sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, cwd=tmp_path, check=False, timeout=60)
    assert done.returncode == 0


def test_asked_twice_it_ends_at_once(tmp_path: Path) -> None:
    """The second request, some seconds later, does not wait for what hangs while it cleans up."""
    hanging = (
        "        try:\n            print('ready', flush=True)\n            time.sleep(60)\n"
        "        finally:\n            print('held', flush=True)\n            time.sleep(60)\n"
    )
    code = WRITING.replace('        print("ready", flush=True)\n        time.sleep(60)\n', hanging)
    assert hanging in code
    process = start(code, str(tmp_path / "a.txt"))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.stdout.readline() == "held\n"
    process.terminate()  # the same request, such as one for the process and one for its group
    time.sleep(2.5)
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 143


SWALLOWING = """
import sys, time
from no_time_to_train.io.process import program

class Slow:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(60)

def in_a_destructor():
    Slow()

def in_a_library():
    try:
        print("ready", flush=True)
        time.sleep(60)
    except:
        pass

def main(args):
    globals()[args[0]]()
    time.sleep(60)
    print("went on")
    return 0

sys.exit(program(main, "x"))
"""


@pytest.mark.parametrize("where", ["in_a_destructor", "in_a_library"])
def test_a_signal_is_not_lost_where_exceptions_are_swallowed(where: str) -> None:
    """Destructors, callbacks of the garbage collector (JAX has one) and `except:` swallow it: the work went on."""
    process = start(SWALLOWING, where)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    out, err = process.communicate(timeout=20)
    assert process.returncode == 143
    assert out == ""
    assert err.count("\n") == 1
    assert "nothing is half-written" in err


def test_cleaning_up_is_not_stopped_again(tmp_path: Path) -> None:
    """It takes longer here than what is waited before a signal is taken for lost."""
    slow = (
        "        try:\n            print('ready', flush=True)\n            time.sleep(60)\n"
        "        finally:\n            time.sleep(1.5)\n            try:\n                raise KeyError\n"
        "            except KeyError:\n                time.sleep(1.5)\n            print('cleaned', flush=True)\n"
    )
    code = WRITING.replace('        print("ready", flush=True)\n        time.sleep(60)\n', slow)
    assert slow in code
    process = start(code, str(tmp_path / "a.txt"))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    out, _ = process.communicate(timeout=20)
    assert out == "cleaned\n"
    assert process.returncode == 143


def test_the_main_job_tells_a_scheduler_that_it_was_stopped(tmp_path: Path) -> None:
    """Lightning alone ends with 0 after SIGTERM and with 1 after Ctrl-C, as if all were done or the input were bad."""
    data = write_dataset(tmp_path / "data", targets=40)
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        folder = tmp_path / str(status)
        process = start_main_job(data, folder)
        wait_for_overlays(folder, process)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
        assert process.returncode == status, err
        assert "Traceback" not in err
        assert not (folder / "metrics.json").exists()
        assert not [path for path in folder.rglob("*") if "unfinished" in path.name]


def test_two_processes_are_stopped_as_one(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", targets=60)
    process = start_main_job(data, tmp_path / "run", "--trainer.devices", "2", "--trainer.strategy", "ddp")
    wait_for_overlays(tmp_path / "run", process)
    process.terminate()
    _, err = process.communicate(timeout=120)  # the other process holds the pipe as long as it is there
    assert process.returncode == 143, err
    assert err.count("stopped by SIGTERM") == 1
    assert not (tmp_path / "run" / "metrics.json").exists()


def start_main_job(data: TinyData, folder: Path, *more: str) -> subprocess.Popen[str]:
    sam2 = write_config(folder.parent / "sam2")
    command = [
        *(
            sys.executable,
            str(ROOT / "run_lightening.py"),
            "--config",
            str(ROOT / "pl_configs" / "custom_dataset.yaml"),
        ),
        *data.arguments,
        *small_model_arguments(sam2),
        *("--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(folder), "--model.overlays", "-1"),
        *("--model.model_cfg.sam2_infer_cfgs.points_per_side", "4", *more),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_overlays(folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the run has written a picture, so that it is at work on its targets."""
    deadline = time.monotonic() + 240
    while not list(folder.glob("overlays/*.png")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_file_names_are_utf8_in_any_locale() -> None:
    code = (
        "import sys\nfrom no_time_to_train.io.process import check_arguments, program\n"
        "sys.exit(program(lambda args: check_arguments(args) or (0 if args == ['\\u00fc'] else 3), 'x'))"
    )
    # The code after -c is not among the arguments; orig_argv holds it.
    assert run(code, "ü", LC_ALL="POSIX", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")[0] == 0


def test_an_argument_that_is_not_text_is_named() -> None:
    with pytest.raises(ConfigError, match=r"b'/data/\\xff' is not valid UTF-8 \(rename"):
        check_arguments(["--images", "/data/\udcff"])


@pytest.mark.parametrize(
    ("environment", "message"),
    [({"PYTHONOPTIMIZE": "2"}, "unset PYTHONOPTIMIZE")],
)
def test_what_no_command_runs_with_is_said_in_a_line(environment: dict[str, str], message: str) -> None:
    status, _, err = run(WRITING, **environment)
    assert status == 2
    assert err.startswith("error: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_deleted_working_directory_is_named(tmp_path: Path) -> None:
    code = f"import os\nos.chdir({str(tmp_path)!r})\nos.rmdir({str(tmp_path)!r})\n" + WRITING
    status, _, err = run(code, "a.txt")
    assert (status, err) == (2, "error: the working directory has been deleted (change to a folder that exists)\n")


def test_too_little_memory_for_a_library_is_said_in_a_line(tmp_path: Path) -> None:
    data = write_dataset(tmp_path)
    arguments = ("predict", "--images", str(data.images), "--output", str(tmp_path / "out"), "--random-init")
    references = ("--references", str(data.references), "--reference-images", str(data.images))
    code = (
        "import resource, sys\nresource.setrlimit(resource.RLIMIT_AS, (1_500_000_000,) * 2)\n"
        "from no_time_to_train.cli import main\nsys.exit(main())"
    )
    status, _, err = run(code, *arguments, *references)
    assert "warning: this process may use 1.5 GB of address space (ulimit -v)" in err
    assert "Traceback" not in err
    # Some libraries end the process themselves, after a line of their own.
    assert status == 2 or "Cannot load" in err or "Memory allocation" in err
    assert not (tmp_path / "out" / "predictions.json").exists()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(12, os.strerror(12)),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_what_says_that_memory_ran_out(error: Exception) -> None:
    outer = ValueError("unrelated")
    outer.__cause__ = error
    assert is_out_of_memory(error)
    assert is_out_of_memory(outer)


def test_other_errors_are_not_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(ValueError("a class called out of memory"))


def test_a_fault_is_a_traceback_without_secrets() -> None:
    code = (
        "import sys\nfrom no_time_to_train.io.process import program\n"
        "from no_time_to_train.io.redact import remember_secret\n"
        "remember_secret('hf_' + 'abcdefgh')\n"
        "def main(args):\n"
        "    try:\n        raise ValueError('it said hf_abc' + 'defgh')\n"
        "    except ValueError as error:\n        raise RuntimeError('with hf_abc' + 'defgh') from error\n"
        "sys.exit(program(main, 'x'))"
    )
    status, out, err = run(code)
    assert status == 1
    assert "Traceback" in err
    assert "hf_abcdefgh" not in out + err
    assert "RuntimeError: with ..." in err


def test_without_a_temporary_folder_the_remedy_names_tmpdir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nonexistent"])
    with pytest.raises(FileNotFoundError) as caught:
        tempfile.gettempdir()
    assert "set TMPDIR to a folder" in in_one_line(caught.value, CHECK_PATH)
