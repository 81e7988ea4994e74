"""Run a command as a process: signals, streams, and the exit status that a shell or a scheduler reads.

`program` is the entry of `ntt`, `dinov3-fetcher` and `run_lightening.py`. It loads nothing heavy, so that it is ready
before torch is imported.

| exit status | meaning |
| --- | --- |
| 0 | done |
| 1 | a fault of this package (a traceback), or what a command documents |
| 2 | bad input, one line |
| 128 + N | stopped by signal N: 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP |
"""

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, cast

from no_time_to_train.errors import ConfigError, DataNotFoundError, NoTimeToTrainError, OutputError
from no_time_to_train.io.messages import missing_extra
from no_time_to_train.io.redact import redact, remember_link

BAD_INPUT = 2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Within this many seconds a second signal is the same request again, such as one to the process and one to its group.
_SAME_REQUEST = 2.0
# How often it is looked whether a request was lost.
_LOST_SECONDS = 0.3
# Measured: `ntt predict` with the CUDA build of torch crashes inside its libraries at 4 GB and runs at 6 GB.
_ADDRESS_SPACE = 6_000_000_000
_NO_MEMORY = (
    "cannot allocate memory",
    "can't allocate memory",
    "failed to map segment",
    "not enough memory",
    "out of memory",
    "resource_exhausted",
    "std::bad_alloc",
)


class Stopped(BaseException):
    """A request to stop, by SIGINT, SIGTERM or SIGHUP.

    It is neither an `Exception`, which libraries catch, nor a `KeyboardInterrupt` or `SystemExit`, for which Lightning
    has exit statuses of its own.

    Attributes:
        signum: The signal's number.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class _Requests:
    """The requests to stop that this process has received."""

    process: int = 0
    first: int | None = None
    since: float = 0.0
    answered: bool = False
    again: bool = False


def is_program() -> bool:
    """Return whether this process was started as a command, rather than importing the package."""
    return _Requests.process == os.getpid()


def catch_signals() -> None:
    """Raise `Stopped` in the main thread on SIGINT, SIGTERM and SIGHUP.

    Does nothing unless `program` is running, so that importing code keeps its own handlers. A signal that is ignored,
    as under nohup, stays ignored. To be called again after a library has installed handlers of its own.
    """
    if not is_program():
        return
    for signum in _SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _stop)


def _stop(signum: int, _: FrameType | None) -> None:
    if not is_program():
        # A forked child, such as a data loader's worker, has inherited the handler.
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
    elif _Requests.first is None:
        _Requests.first, _Requests.since = signum, time.monotonic()
        # Not `threading`, whose locks the main thread may hold now.
        _thread.start_new_thread(_repeat_if_lost, (threading.get_ident(),))
        raise Stopped(signum)
    elif _Requests.again:
        _Requests.again = False
        if not _Requests.answered:
            raise Stopped(_Requests.first)
    elif time.monotonic() - _Requests.since > _SAME_REQUEST:
        # Whoever asks twice does not wait for cleaning up; the next run removes what is unfinished.
        os._exit(128 + _Requests.first)


def _repeat_if_lost(thread: int) -> None:
    """Raise `Stopped` again where it was lost: destructors, callbacks and some libraries swallow every exception.

    Args:
        thread: The main thread. It is cleaning up as long as it handles `Stopped`, or an error that came of it.
    """
    lost = 0
    while not _Requests.answered and _Requests.first is not None:
        time.sleep(_LOST_SECONDS)
        handled: Any = sys._current_exceptions().get(thread)
        error = handled[1] if isinstance(handled, tuple) else handled  # Python 3.11 gives the type and traceback too
        while error is not None and not isinstance(error, Stopped):
            error = error.__cause__ or error.__context__
        lost = lost + 1 if error is None else 0
        # Once may be by chance, between two steps of cleaning up.
        if lost > 1 and not _Requests.answered:
            lost, _Requests.again = 0, True
            os.kill(os.getpid(), _Requests.first)


def _report_unraisable(unraisable: Any) -> None:
    if unraisable.exc_type is not Stopped:
        sys.__unraisablehook__(unraisable)


def program(main: Callable[[list[str]], int], prog: str) -> int:
    """Run a command with the arguments of this process.

    Everything that it prints, logs or raises passes `redact`, and is printable in any locale.

    Args:
        main: Takes the arguments, handles bad input, and returns the exit status.
        prog: The program's name, for messages.

    Returns:
        The exit status; see the table above.
    """
    _use_utf8()
    _Requests.process, _Requests.first, _Requests.answered, _Requests.again = os.getpid(), None, False, False
    sys.unraisablehook = _report_unraisable
    for arg in sys.argv[1:]:
        remember_link(arg)
    _open_closed_streams()
    sys.stdout, sys.stderr = _redacting(sys.stdout, "the standard output"), _redacting(sys.stderr, "")
    catch_signals()
    try:
        _check_process()
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except NoTimeToTrainError as error:
        if "--debug" in sys.argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:
        # Whoever read the output has closed it, as `head` does. Python would complain again while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except BaseException as error:
        _Requests.answered = True
        if _Requests.first is None and isinstance(error, KeyboardInterrupt):
            _Requests.first = signal.SIGINT
        if _Requests.first is None and "--debug" not in sys.argv:
            command = " ".join([prog, *(arg for arg in sys.argv[1:2] if not arg.startswith("-"))])
            short: object = missing_extra(str(error), command) if isinstance(error, ImportError) else None
            if is_out_of_memory(error):
                short = f"{prog}: {_out_of_memory(error)}"
            if short is not None:
                print(f"error: {short}", file=sys.stderr)
                return BAD_INPUT
        if _Requests.first is None:
            raise
        status = 1
    _Requests.answered = True
    return _stopped(_Requests.first) if _Requests.first is not None else status


def _stopped(signum: int) -> int:
    # Only the process that was started by the user speaks, not the others of a distributed run.
    if os.environ.get("LOCAL_RANK", "0") == "0":
        what = "interrupted" if signum == signal.SIGINT else f"stopped by {signal.Signals(signum).name}"
        print(f"{what}: nothing is half-written, and the same command can be run again", file=sys.stderr)
    return 128 + signum


def parse_in_this_process() -> None:
    """Keep jsonargparse from running Python once more to learn `sys.path`, for the stubs of other libraries.

    A signal at that moment left this child with a closed pipe, and its traceback on the terminal.
    """
    import typeshed_client

    search_path = [Path(place) for place in sys.path if place]
    typeshed_client.get_search_context = partial(typeshed_client.get_search_context, search_path=search_path)


def check_arguments(args: Sequence[str]) -> None:
    """Refuse arguments that are not text, before a parser fails on them.

    Raises:
        ConfigError: An argument is not valid UTF-8.
    """
    for arg in args:
        try:
            arg.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"the argument {os.fsencode(arg)!r} is not valid UTF-8",
                remedy="rename the file or folder, or name the folder that contains it",
            ) from error


def _check_process() -> None:
    """Refuse what no command can run with, and warn of what may crash a library."""
    if sys.flags.optimize > 1:
        raise ConfigError(
            "PYTHONOPTIMIZE=2 (python -OO) removes the docstrings that transformers and the options are built from",
            remedy="unset PYTHONOPTIMIZE, or set it to 1",
        )
    try:
        os.getcwd()  # noqa: PTH109 # Path.cwd() is the same call
    except FileNotFoundError as error:
        raise DataNotFoundError(
            "the working directory has been deleted", remedy="change to a folder that exists"
        ) from error
    try:
        import resource
    except ImportError:  # not on every system
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < _ADDRESS_SPACE:
        print(
            f"warning: this process may use {limit / 1e9:.1f} GB of address space (ulimit -v); with less than "
            f"{_ADDRESS_SPACE / 1e9:.0f} GB, torch may crash while it is loaded",
            file=sys.stderr,
        )


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one that it was raised from, says that memory ran out.

    Examples:
        >>> is_out_of_memory(ImportError("libx.so: failed to map segment from shared object"))
        True
        >>> is_out_of_memory(ValueError("unrelated"))
        False
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        named = isinstance(error, ImportError | OSError | RuntimeError)
        if isinstance(error, MemoryError) or (named and any(words in str(error).lower() for words in _NO_MEMORY)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _out_of_memory(error: BaseException) -> str:
    detail = " ".join(str(error).split())[:200]
    return (
        f"not enough memory{': ' + detail if detail else ''} (free some memory, raise the limit that ulimit -v shows, "
        "or set a smaller image or batch size)"
    )


def _use_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale is ASCII: other file names could not be opened."""
    if sys.getfilesystemencoding() == "ascii":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606 # this program again


def _open_closed_streams() -> None:
    """Put the null device where the process was started with a standard stream closed (`>&-`).

    Else the next file that is opened gets the stream's number, and whatever a library prints is written into that file;
    and `print` sends to the standard output what is for a standard error that is not there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # All lower numbers are taken, so that this is the one that it gets.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # as long as the process


class _Redacting:
    """A text stream that masks secrets and can print every character.

    Args:
        stream: The stream to write to; all but writing is its own.
        name: For the error when it cannot be written to. If empty, what cannot be written is thrown away: whoever does
            not read messages is not to stop the work or change its exit status.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name

    def write(self, text: str) -> int:
        """Write text without its secrets; returns the length of what was given."""
        try:
            self._stream.write(redact(text))
        except OSError as error:
            self._fail(error)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            self._stream.flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        if self._name and isinstance(error, BrokenPipeError):
            raise error
        # Python writes what is still buffered when it exits, and complains again.
        self._stream = open(os.devnull, "w")  # noqa: PTH123 # as long as the process
        if self._name:
            raise OutputError(
                f"cannot write to {self._name}: {error.strerror or error}", remedy="make room, or send it elsewhere"
            ) from error

    def writelines(self, lines: Sequence[str]) -> None:
        """Write several pieces of text."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _redacting(stream: Any, name: str) -> TextIO:
    if isinstance(stream, _Redacting):
        return cast(TextIO, stream)
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    return cast(TextIO, _Redacting(stream, name))
