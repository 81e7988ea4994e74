import json
from pathlib import Path

import pytest

from no_time_to_train.cli import main
from tests.tiny import TinyData, write_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    return write_dataset(tmp_path_factory.mktemp("data") / "here", targets=6)


def sample(data: TinyData, output: Path, *more: str) -> int:
    return main(["sample-references", "--annotations", str(data.targets), "--output", str(output), *more])


def test_references_are_sampled_by_seed(data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert sample(data, tmp_path / f"{name}.json", "--shots", "2", "--seed", seed) == 0
    assert "4 references of 2 classes" in capsys.readouterr().out
    first, again, other = ((tmp_path / f"{name}.json").read_text() for name in "abc")
    assert first == again != other
    assert len(json.loads(first)["annotations"]) == 4


def test_the_annotation_file_is_not_replaced_by_what_is_sampled_from_it(
    data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, link = tmp_path / "all.json", tmp_path / "link.json"
    own.write_bytes(data.targets.read_bytes())
    link.symlink_to(own)
    for output in (own, link):
        args = ["--annotations", str(own), "--output", str(output), "--shots", "1"]
        assert main(["sample-references", *args]) == 2
        assert "which the output would replace" in capsys.readouterr().err
    assert own.read_bytes() == data.targets.read_bytes()


def test_flags_take_dashes_and_need_no_value(
    data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample(data, tmp_path / "few.json", "--shots", "99") == 2
    assert "disc (6), square (6)" in capsys.readouterr().err
    assert not (tmp_path / "few.json").exists()
    for spelling in (["--allow-fewer"], ["--allow_fewer", "true"], ["--allow-fewer=true"]):
        assert sample(data, tmp_path / "few.json", *spelling, "--shots", "99") == 0


def test_shapes_are_written(tmp_path: Path) -> None:
    args = ["--size", "64", "--shots", "1", "--num-targets", "2"]
    assert main(["write-shapes", "--root", str(tmp_path / "shapes"), *args]) == 0
    assert (tmp_path / "shapes" / "references.json").is_file()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["sample-reference"], "sample-references"),
        (["sample-references", "--shots", "2"], "annotations"),
        (["sample-references", "--annotations", "x.json", "--shots", "two", "--output", "y"], "two"),
        (["sample-references", "--annotations", "nowhere.json", "--shots", "2", "--output", "y"], "nowhere.json"),
        (["write-shapes", "--root", "x", "--shots", "0"], "at least one shot"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_unwritable_output(data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert sample(data, tmp_path / "file" / "refs.json", "--shots", "1") == 2
    assert "cannot write" in capsys.readouterr().err
