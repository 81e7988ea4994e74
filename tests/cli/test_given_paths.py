"""Paths as users give them: empty, with variables or `~`, and for runs that do not read or write them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import dict_to_namespace

from no_time_to_train.cli import main as ntt
from no_time_to_train.cli.lightning.command import main
from no_time_to_train.pl_wrapper.run_settings import with_root

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "pl_configs" / "quickstart.yaml"
SMALL = ["--shots", "1", "--num-targets", "1", "--size", "32"]


@pytest.fixture(autouse=True)
def nothing_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--root", ""], "--root is empty, expected a path"),
        (["--root="], "--root is empty"),
        (["--root", "${HOME}/x"], r"--root is \$\{HOME\}/x, expected a path without variables"),
    ],
)
def test_a_command_takes_no_empty_path_and_no_variable(
    given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ntt(["write-shapes", *given, *SMALL]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_of_several_paths_none_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert ntt(["predict", "--images", "", "--output", "out"]) == 2
    assert "--images is empty" in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--root", "~/shapes"], ["--root=~/shapes"]])
def test_a_command_fills_in_the_home_folder(given: list[str], tmp_path: Path) -> None:
    """A shell leaves `--root=~/shapes` as it is."""
    assert ntt(["write-shapes", *given, *SMALL]) == 0
    assert (tmp_path / "home" / "shapes" / "references.json").is_file()


def test_a_run_fills_in_the_home_folder(tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    data = {"root": Path("${trainer.default_root_dir}/x"), "folders": [Path("~"), Path("a/~")], "name": "~/c"}
    run = {"trainer": {"default_root_dir": "~/run"}, "ckpt_path": "~/a.ckpt", "out_path": Path("~/b"), "data": data}
    settings = dict_to_namespace(run)
    filled = with_root(settings)
    assert filled.trainer.default_root_dir == f"{home}/run"
    assert (filled.ckpt_path, filled.out_path) == (f"{home}/a.ckpt", Path(home, "b"))
    assert filled.data.root == Path(home, "run", "x")
    assert (filled.data.folders, filled.data.name) == ([Path(home), Path("a/~")], "~/c")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "data.init_args.root",
            "${HOME}/shapes",
            r"data\.root is \$\{HOME\}/shapes, expected a path without variables",
        ),
        ("data.init_args.root", "x/${trainer.default_root_dir}", "begin its paths with"),
        ("trainer.default_root_dir", "${trainer.default_root_dir}/x", "trainer.default_root_dir is"),
        ("data.init_args.root", "", r"data\.root is empty"),
        ("model.init_args.model_cfg.encoder_ckpt_path", "", "encoder_ckpt_path is empty"),
    ],
)
def test_a_run_takes_no_empty_path_and_no_variable(
    key: str, value: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load(QUICKSTART.read_text())
    *parts, last = key.split(".")
    place = config
    for part in parts:
        place = place[part]
    place[last] = value
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    assert main(["--config", str(tmp_path / "own.yaml")]) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data.root", ""], r"--data\.root is empty"),
        (["--trainer.default_root_dir="], r"--trainer\.default_root_dir is empty"),
        (["--out_path", ""], "--out_path is empty"),
        (["--ckpt_path", ""], "ckpt_path is empty"),
        (
            ["--out_path", "a.safetensors"],
            "test_mode full does not write a memory file, and --out_path is a.safetensors",
        ),
        (["--ckpt_path", "a.safetensors"], "test_mode full does not begin with a memory file.*fill_memory_neg"),
    ],
)
def test_a_run_uses_every_path_that_it_takes(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or says that it would not."""
    root = ["--trainer.default_root_dir", str(tmp_path / "run")]
    assert main(["--config", str(QUICKSTART), *root, *args]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_memory_has_the_ending_by_which_it_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = "no_time_to_train.pl_wrapper.sam2matcher_pl.Sam2MatcherLightningModel"
    args = ["--config", str(QUICKSTART), "--trainer.default_root_dir", str(tmp_path / "run"), "--model", module]
    args += ["--model.test_mode", "fill_memory", "--out_path", str(tmp_path / "memory.txt")]
    assert main(args) == 2
    assert re.search(r"memory\.txt, expected a name that ends in \.safetensors", capsys.readouterr().err)


def test_a_command_says_which_options_it_misses(capsys: pytest.CaptureFixture[str]) -> None:
    assert ntt(["sample-references"]) == 2
    assert "lacks what is required: --annotations, --shots, --output (" in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--path", "s3://a/b"], ["s3://a/b"]])
def test_an_argument_is_named_though_it_needs_no_name(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ntt(["inspect", *given]) == 2
    assert "--path is s3://a/b, expected a path on this machine" in capsys.readouterr().err
