"""The examples of README.md, CONTRIBUTING.md and docs/: no block escapes. Each is run, or parsed, or looked through.

A block with `<!-- runs -->` before it is run, all of a page's in one folder and in their order; one with
`<!-- saved as NAME -->` is written there under that name. All other commands are put to the programs' own parsers, and
all other Python is compiled and its names looked up.
"""

import inspect
import json
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import yaml

from no_time_to_train.data.coco import load_coco
from tests.docs.blocks import PAGES, ROOT, Block, blocks_of, commands_in
from tests.docs.command_lines import parse, run
from tests.docs.python_names import missing_names
from tests.docs.workplace import prepare

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
]

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUNNING_PAGES = [page for page in PAGES if any(block.runs for block in blocks_of(page))]
CHECKED = {"bash", "python", "json", "yaml"}
# Output and drawings.
SHOWN = {"", "text", "mermaid"}
# For programs that are not installed with this package.
FOREIGN = {"js"}


def of_language(language: str, *, all_of_them: bool = False) -> list[Any]:
    chosen = [block for block in BLOCKS if block.language == language and (all_of_them or not block.runs)]
    return [pytest.param(block, id=str(block)) for block in chosen]


def test_every_block_is_of_a_known_kind() -> None:
    for block in BLOCKS:
        assert block.language in CHECKED | SHOWN | FOREIGN, block
        if block.language in SHOWN:
            commands = ("$ ", ".venv/", "python ", "ntt ", "make ", "import ", "from ")
            assert not any(line.lstrip().startswith(commands) for line in block.text.splitlines()), block
        assert not block.runs or block.language in {"bash", "python"}, block
    assert {"README.md", "start.md", "dataset.md"} <= {page.name for page in RUNNING_PAGES}


@pytest.mark.parametrize("block", of_language("bash"))
def test_commands_are_understood(
    block: Block, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    commands = commands_in(block)
    assert commands
    for words in commands:
        with monkeypatch.context() as patch:
            parse(words, patch)


@pytest.mark.parametrize("block", of_language("python"))
def test_python_names_what_is_there(block: Block) -> None:
    assert missing_names(block.text) == []


@pytest.mark.parametrize("block", of_language("json", all_of_them=True))
def test_json_is_json(block: Block) -> None:
    assert json.loads(block.text)


@pytest.mark.parametrize("block", of_language("yaml", all_of_them=True))
def test_yaml_names_classes_that_are_there(block: Block) -> None:
    waiting = [yaml.safe_load(block.text)]
    assert waiting[0]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, dict):
            if "class_path" in entry:
                parameters = inspect.signature(resolve_name(entry["class_path"])).parameters
                assert set(entry.get("init_args", {})) <= set(parameters), entry
            waiting += entry.values()
        elif isinstance(entry, list):
            waiting += entry


@pytest.mark.parametrize("page", RUNNING_PAGES, ids=lambda page: page.name)
def test_pages_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(prepare(tmp_path))
    for block in blocks_of(page):
        if block.path is not None:
            Path(block.path).write_text(block.text)
        if not block.runs:
            continue
        if block.language == "python":
            exec(compile(block.text, str(block), "exec"), {"__name__": "__main__"})  # noqa: S102 # it is our own
            continue
        for words in commands_in(block):
            run(words)
            check_what_was_written(words)


def check_what_was_written(words: list[str]) -> None:
    """Look at what a command says that it writes."""
    given = dict(pairwise(words))
    if "predict" in words:
        assert load_coco(Path(given.get("-o") or given["--output"]) / "predictions.json").images
    elif "sample-references" in words:
        assert load_coco(Path(given["--output"])).annotations
    elif "--out_path" in given:
        assert Path(given["--out_path"]).is_file()
    elif "vis_memory" in words:
        assert list(Path(given["--trainer.default_root_dir"], "memory").glob("*.png"))
    elif "--trainer.default_root_dir" in given:
        assert json.loads(Path(given["--trainer.default_root_dir"], "metrics.json").read_text())["images"] > 0
