"""Commands on weights, killed: fetch, convert, export."""

import random
import shutil
import signal
from pathlib import Path

import onnx

from no_time_to_train.runtime.onnx_session import read_onnx_file
from no_time_to_train.weights import check_folder
from no_time_to_train.weights.conversion import convert_weights
from no_time_to_train.weights.hub.staging import WORKSHOP
from tests.golden_files import golden
from tests.kills.driver import Command, Forker
from tests.kills.scenario import Files, Scenario, assert_same, files_of, finished, one_generation
from tests.weights.fetching import corrupt_last_byte
from tests.weights.hub_server import TOKEN, Fault, Hub

REPOSITORY = "someone/dinov3-tiny"


class FetchScenario(Scenario):
    """`ntt fetch` of a newer revision over an older one, from a slow server."""

    name = "fetch"

    def __init__(self, root: Path, hub: Hub) -> None:
        super().__init__(root)
        self.hub = hub
        self.newer = convert_weights(golden("vit_mlp_released"), root / "newer", "hf")
        self.older_folder = root / "older"
        shutil.copytree(self.newer, self.older_folder)
        corrupt_last_byte(self.older_folder / "model.safetensors")
        hub.add(REPOSITORY, self.older_folder, revision="1" * 40)

    def command(self) -> Command:
        where = ("--root", str(self.run / "dino"), "--revision", "main", "--quiet")
        return Command("cli", ("fetch", REPOSITORY, *where), {"HF_ENDPOINT": self.hub.url, "HF_TOKEN": TOKEN})

    def older(self) -> Command:
        return self.command()

    def prepare_new(self) -> None:
        self.hub.add(REPOSITORY, self.newer, revision="2" * 40)
        self.hub.always = Fault("slow")

    def look(self, files: Files) -> None:
        check_folder(self.run / "dino", deep=True)
        fetched = [f"dino/{path.name}" for path in self.newer.iterdir()]
        one_generation(fetched, files, old=self.old, new=self.new)

    def check_end(self, files: Files) -> None:
        self.look(files)
        for path in self.newer.iterdir():
            assert files[f"dino/{path.name}"] == path.read_bytes()
        rest = {name for name in files if not name.startswith("dino/")}
        assert rest <= {f"{WORKSHOP}/dino.lock"}, rest


class ConvertScenario(Scenario):
    """`ntt convert`, which writes where nothing is."""

    def __init__(self, root: Path, to: str) -> None:
        super().__init__(root)
        self.to = to
        self.destination = "made" + {"hf": "", "meta": ".pth", "equinox": ".eqx"}[to]
        self.name = f"convert --to {to}"

    def command(self) -> Command:
        source = str(golden("vit_mlp_released")) if self.to != "meta" else str(golden("convnext"))
        return Command("cli", ("convert", source, str(self.run / self.destination), "--to", self.to))

    def kill(self, forker: Forker, rng: random.Random, signum: int = signal.SIGKILL) -> bool:
        if (self.run / self.destination).exists():
            # An earlier kill came behind the end of all work; nothing is converted onto it.
            self.begin()
        return super().kill(forker, rng, signum)

    def look(self, files: Files) -> None:
        if (self.run / self.destination).exists():
            assert_same(files, self.new)
        else:
            assert not files, sorted(files)

    def end(self, forker: Forker) -> None:
        """Convert again; what is there whole is left alone, and said to be there."""
        if not (self.run / self.destination).exists():
            super().end(forker)
            return
        again = forker.run(self.command(), self.run)
        assert (again.status, "is there already" in again.said) == (2, True), again.said
        assert_same(finished(files_of(self.run)), self.new)


class ExportScenario(Scenario):
    """`ntt export` into a folder of its own, over an older export for older runtimes."""

    name = "export"

    def command(self) -> Command:
        return Command("cli", ("export", str(golden("vit_mlp_released")), "--output", str(self.run / "onnx")))

    def older(self) -> Command:
        command = self.command()
        return Command(command.program, (*command.args, "--opset", "17"))

    def look(self, files: Files) -> None:
        read_onnx_file(self.run / "onnx")
        onnx.checker.check_model(str(self.run / "onnx" / "model.onnx"))
        one_generation(sorted(files), files, old=self.old, new=self.new)


class ExportBesideScenario(Scenario):
    """`ntt export` beside the weights, which stay where they are."""

    name = "export beside"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        convert_weights(golden("vit_mlp_released"), root / "hf", "hf")

    def put_inputs(self) -> None:
        shutil.copytree(self.root / "hf", self.run / "hf")

    def command(self) -> Command:
        return Command("cli", ("export", str(self.run / "hf")))

    def look(self, files: Files) -> None:
        for name, content in files.items():
            assert content == self.new[name], name
        assert (self.run / "hf" / "model.safetensors").read_bytes() == self.new["hf/model.safetensors"]
        if "hf/model.onnx" in files:
            read_onnx_file(self.run / "hf")
