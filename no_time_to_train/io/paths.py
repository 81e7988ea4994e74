"""Paths that users give: what they may be, how they are shown, and how their files are opened."""

import errno
import os
import re
import stat
from io import BufferedReader
from pathlib import Path, PurePath, PureWindowsPath

from no_time_to_train.errors import ConfigError

ONLY_LOCAL = "only local paths are read and written: copy or mount what is stored elsewhere"
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO (named pipe)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def is_address(path: Path | str) -> bool:
    """Return whether a path is an address such as `s3://bucket/key`, of which `Path` makes a folder called `s3:`.

    Examples:
        >>> is_address("s3://bucket/key"), is_address(Path("memory://key")), is_address("C:/key"), is_address("a/b:/c")
        (True, True, False, False)
    """
    first = str(path).split("/", 1)[0]
    return len(first) > 2 and first.endswith(":")


def check_local(path: Path | str, name: str) -> None:
    """Refuse an empty path, and what would become a local folder of that name: an address, or a variable.

    Args:
        path: What was given.
        name: The setting or option that it was given as.

    Raises:
        ConfigError: It is one.
    """
    if is_address(path):
        raise ConfigError(f"{name} is {as_given(path)}, expected a path on this machine", remedy=ONLY_LOCAL)
    if not str(path).strip():
        # As a `Path` it would be the working directory: "$OUT" in a script where OUT is not set.
        raise ConfigError(f"{name} is empty, expected a path", remedy="name one, or leave it out")
    if "${" in str(path):
        raise ConfigError(
            f"{name} is {path}, expected a path without variables",
            remedy="write it in full; a YAML of a run may begin its paths with ${trainer.default_root_dir}",
        )


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading, if it is a regular one; links are followed.

    Reading a FIFO, a socket or a terminal may wait forever, and a device may have no end. Use this for every file that
    a user names, or that others may have put into a folder.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be opened, or is not a regular file; `strerror` says which.

    Examples:
        >>> open_regular(Path("/dev/null"))
        Traceback (most recent call last):
            ...
        OSError: [Errno 22] it is a device, expected a regular file: '/dev/null'
    """
    # Opening alone can rewind a tape or wait for a writer, so that the kind comes first.
    _check_regular(path, path.stat().st_mode)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        # Another file may have taken its place since.
        _check_regular(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def is_file(path: Path) -> bool:
    """Return whether there is a regular file; a name that no file system takes is of none."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Return whether there is a folder; a name that no file system takes is of none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def read_regular(path: Path) -> bytes:
    """Return the content of a regular file; see `open_regular`.

    Raises:
        OSError: It cannot be read, or is not a regular file.
    """
    with open_regular(path) as stream:
        return stream.read()


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        error = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(error, f"it is {kind}, expected a regular file", str(path))


def without_home(text: str) -> str:
    """Put `~` in the place of the home folder: what is printed ends up in logs and reports that others read.

    Examples:
        >>> without_home(f"{Path.home()}/photos: 3 images")
        '~/photos: 3 images'
    """
    home = os.environ.get("HOME", "").rstrip("/")
    # Where a path begins, and not within another one.
    return re.sub(rf"(?<![\w.~-]){re.escape(home)}/", "~/", text) if home else text


def in_home(path: str) -> str:
    """Put the home folder in the place of `~` at the beginning of a path; the reverse of `without_home`.

    Examples:
        >>> in_home("~/photos") == f"{Path.home()}/photos", in_home("a/~/b"), in_home("~a")
        (True, 'a/~/b', '~a')
    """
    return str(Path(path).expanduser()) if path == "~" or path.startswith("~/") else path


def as_given(path: Path | str) -> str:
    """Return an address as the user wrote it, without its secrets: `Path` takes one of its two slashes."""
    text = str(path) if isinstance(path, str) else re.sub(r"^([^/]+:)/?", r"\1//", str(path))
    # Without what opens a link to whoever has it.
    return re.sub(r"(?<=//)[^/@]+@", "", text.partition("?")[0])


def path_as_named(path: Path | str) -> str:
    """Return a path as it was named, or its end where the whole would tell of the machine, of Windows too."""
    parts, windows = PurePath(path), PureWindowsPath(path)
    if windows.drive or windows.root:
        return windows.name
    return parts.name if parts.is_absolute() or ".." in parts.parts or "~" in parts.parts[:1] else parts.as_posix()
