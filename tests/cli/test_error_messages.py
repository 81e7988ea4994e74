"""What goes wrong in a command becomes one line and an exit status, in one place for all programs."""

import sys
from argparse import ArgumentError
from typing import NoReturn

import pytest

from no_time_to_train.cli.error_messages import in_one_line, run_command
from no_time_to_train.errors import ConfigError


def describe(error: Exception) -> str | None:
    return in_one_line(error, "mend it") if isinstance(error, ConfigError | OSError) else None


def failing(error: BaseException) -> NoReturn:
    raise error


def test_the_status_is_the_command_s() -> None:
    assert run_command(lambda args: len(args), ["one", "--debug", "two"], describe) == 2
    assert run_command(lambda args: None, [], describe) == 0


def test_bad_input_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ConfigError("size is\n-1", remedy="set 1 or more")
    assert run_command(lambda args: failing(wrong), [], describe) == 2
    assert run_command(lambda args: 0, ["\udc80"], describe) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: size is -1 (set 1 or more)"
    assert lines[1].startswith("error: the argument b'\\x80' is not valid UTF-8")
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("error", "args"),
    [(ConfigError("x", remedy="y"), ["--debug"]), (BrokenPipeError(), []), (MemoryError(), []), (KeyError("a"), [])],
    ids=["debug", "closed pipe", "memory", "fault of the package"],
)
def test_what_others_answer_goes_on(error: Exception, args: list[str]) -> None:
    with pytest.raises(type(error)):
        run_command(lambda args: failing(error), args, describe)


def test_ctrl_c_is_status_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda args: failing(KeyboardInterrupt()), [], describe) == 130
    assert "nothing is half-written" in capsys.readouterr().err


def test_a_class_of_a_yaml_whose_library_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "jax2onnx", raising=False)
    said = ArgumentError(
        None,
        'Parser key "trainer.callbacks":\n  Does not validate against any of the Union subtypes\n  Errors:\n'
        "    - No module named 'jax2onnx'\n    - Not a valid subclass of Callback",
    )
    assert in_one_line(said, "--help lists what there is") == (
        'trainer.callbacks needs jax2onnx, which is not installed (pip install "no-time-to-train[jax]")'
    )
    assert "needs" not in in_one_line(ValueError("No module named 'my_package'"), "correct it")
