"""What every killed command is put to: a folder with an older run's output, a kill, a look, and the command again."""

import io
import json
import random
import shutil
import signal
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from safetensors.torch import save

from no_time_to_train.batch.run_locks import is_lock
from no_time_to_train.io.stale_files import is_unfinished
from tests.kills.driver import Command, Ended, Forker, Moment, draw_moment

Files = dict[str, bytes]


def files_of(folder: Path) -> Files:
    """Read all files below a folder, by their paths within it, but for what differs from run to run."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name, content in finished(found).items():
        if name.endswith("metrics.json") or "instances/" in name:
            document = json.loads(content)
            # How long it took, and the times and the inode of an image.
            document.pop("seconds_per_image", None)
            document.pop("stamp", None)
            found[name] = json.dumps(document).encode()
        elif name.endswith(".pth"):
            # torch writes the name of the file that it writes to, which is an unfinished one's, into it.
            found[name] = save(torch.load(io.BytesIO(content), weights_only=True))
    return found


def finished(files: Files) -> Files:
    """Leave out what tells by its name, or that of its folder, that it is not finished."""
    return {name: content for name, content in files.items() if not _is_left(name)}


def _is_left(name: str) -> bool:
    """Return whether a killed run leaves a file of this name, which the next run removes."""
    return any(is_unfinished(part) or is_lock(part) for part in name.split("/"))


class Scenario(ABC):
    """A command, what lies in its folder before it runs, and what must be true whenever it is killed.

    Args:
        root: A folder of its own for all that it needs; the command writes below `root / "run"`.

    Attributes:
        name: Of the command.
        run: Where it writes.
        old: What the older run left there, in the folder `root / "old"`.
        new: What the command leaves there, over that, when nobody kills it.
        moment: When the latest kill was.
    """

    name: str

    def __init__(self, root: Path) -> None:
        self.root, self.run = root, root / "run"
        self.old: Files = {}
        self.new: Files = {}
        self.whole: Ended | None = None
        self.moment = Moment()
        root.mkdir(parents=True)

    @abstractmethod
    def command(self) -> Command:
        """Return the command."""

    def older(self) -> Command | None:
        """Return the command that fills the folder before."""
        return None

    def again(self) -> Command:
        """Return what a user runs after a kill."""
        return self.command()

    @abstractmethod
    def look(self, files: Files) -> None:
        """Check what a kill left; `files` are those that are not marked as unfinished."""

    def is_given_up(self, name: str) -> bool:
        """Tell whether a file lies where no later run writes, so that what is left over there stays."""
        return False

    def check_end(self, files: Files) -> None:
        """Check what there is when the command has run again."""
        assert_same(files, self.new)

    def put_inputs(self) -> None:
        """Put into the folder what the command reads there; here nothing."""
        return

    def prepare_new(self) -> None:
        """Bring about what has changed since the older run; here nothing."""
        return

    def learn(self, forker: Forker) -> None:
        """Run the older command and the command, each to its end, and keep what they leave."""
        self.run.mkdir()
        self.put_inputs()
        older = self.older()
        if older is not None:
            forker.finish(older, self.run)
            self.old = files_of(self.run)
        shutil.copytree(self.run, self.root / "old", symlinks=True)
        self.prepare_new()
        self.whole = forker.finish(self.command(), self.run)
        self.new = files_of(self.run)
        assert finished(self.new) == self.new

    def begin(self) -> None:
        """Put the folder into the state that the older run left."""
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.copytree(self.root / "old", self.run, symlinks=True)

    def kill(self, forker: Forker, rng: random.Random, signum: int = signal.SIGKILL) -> bool:
        """Run the command, send it a signal at a random moment, and look at what is there.

        Returns:
            Whether the signal ended the command before it was done.
        """
        assert self.whole is not None
        self.moment = draw_moment(rng, self.whole, signum)
        before = self.unfinished()
        ended = forker.run(self.command(), self.run, self.moment)
        # Ended by the signal, or done before it came.
        expected = {self.moment.status, 0}
        if self.moment.after is not None and not ended.said:
            # A moment that no change of files defines may be before the program has installed its handlers. Then the
            # system ends it, as it does with every process that only starts.
            expected.add(-signum)
        assert ended.status in expected, (ended.status, ended.said)
        files = files_of(self.run)
        if signum != signal.SIGKILL:
            assert "Traceback" not in ended.said, ended.said
            assert not ended.left, f"{ended.left} processes are left"
            if ended.status == 0:
                self.check_end(files)
            else:
                # It had the time to remove what it had begun, though not yet what earlier kills have left.
                assert self.unfinished() <= before
        self.look(finished(files))
        return ended.status != 0

    def unfinished(self) -> set[str]:
        """Return the names of half-written files that a later run is to remove."""
        files = files_of(self.run)
        return {name for name in files.keys() - finished(files).keys() if not self.is_given_up(name)}

    def end(self, forker: Forker) -> None:
        """Run the command again, and check that nothing tells of the kills."""
        forker.finish(self.again(), self.run)
        files = files_of(self.run)
        left = sorted(self.unfinished())
        assert not left, left
        self.check_end(finished(files))


def assert_same(files: Files, expected: Files) -> None:
    """Compare files, and name those that differ."""
    differing = sorted(name for name in files.keys() | expected.keys() if files.get(name) != expected.get(name))
    assert not differing, differing


def generation(name: str, files: Files, *, old: Files, new: Files) -> set[str]:
    """Tell whether a file is the older run's, the command's, or both alike.

    Raises:
        AssertionError: It is neither: it was torn, or is wrong.
    """
    found = {kind for kind, of in (("old", old), ("new", new)) if of.get(name) == files[name]}
    assert found, f"{name} is neither the older run's nor the new one's"
    return found


def one_generation(names: list[str], files: Files, *, old: Files, new: Files) -> None:
    """Check that files that belong together are all the older run's or all the command's."""
    kinds = [generation(name, files, old=old, new=new) for name in names]
    assert set.intersection({"old", "new"}, *kinds), f"of two runs: {dict(zip(names, kinds, strict=True))}"
