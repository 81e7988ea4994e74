"""What a user sees while weights are fetched: who is waited for, the licence, a bar with speed and time left."""

import sys
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from no_time_to_train.io.paths import without_home
from no_time_to_train.io.redact import printable, redact


class FetchDisplay:
    """Shows a fetch on the standard error output.

    Args:
        quiet: Show neither the bar nor what is going on; the licence is shown all the same.
        stream: Where to write instead.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.quiet = quiet
        self._console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet,
        )
        self._task: TaskID | None = None
        self._file = ("", 0)
        self._announced: list[str] = []

    def __enter__(self) -> "FetchDisplay":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress.tasks:
            self._progress.stop()

    def say(self, text: str) -> None:
        """Show a line, unless it is to be quiet."""
        if not self.quiet:
            self.tell(text)

    def tell(self, text: str) -> None:
        """Show a line in any case."""
        self._console.print(printable(redact(without_home(text))), markup=False)

    def announce(self, text: str, *, always: bool = False) -> None:
        """Show a line before the first byte comes; not at all if none does.

        Args:
            text: The line.
            always: Even if it is to be quiet.
        """
        if always or not self.quiet:
            self._announced.append(text)

    def begin(self, name: str, size: int) -> None:
        """Begin a file of so many bytes; its bar appears with the first of them."""
        self._file, self._task = (name, size), None

    def advance(self, count: int) -> None:
        """Move the bar on by so many bytes, or back."""
        if self._task is None and count:
            for text in self._announced:
                self.tell(text)
            self._announced.clear()
            name, size = self._file
            self._progress.start()
            self._task = self._progress.add_task(name, total=size)
        if self._task is not None:
            self._progress.advance(self._task, count)
