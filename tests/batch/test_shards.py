"""`ntt predict --shard`: processes share the images of one output."""

from pathlib import Path

import pytest

from tests.batch.test_predict import predict, read
from tests.tiny import TinyData

pytestmark = pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning")


def test_shards_share_the_work_and_a_last_run_collects_it(settings: Path, data: TinyData, tmp_path: Path) -> None:
    assert predict(settings, data, tmp_path / "alone") == 0
    for share, count in (("2/3", 1), ("1/3", 2), ("3/3", 1)):
        assert predict(settings, data, tmp_path / "shared", "--shard", share) == 0
        assert not (tmp_path / "shared" / "predictions.json").exists()
        assert count <= len(list((tmp_path / "shared" / "instances").glob("*.json"))) <= 4
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "shared" / "instances").glob("*.json")}
    assert len(stamps) == 4
    assert predict(settings, data, tmp_path / "shared") == 0
    assert all(path.stat().st_mtime_ns == time for path, time in stamps.items())
    alone, shared = (read(tmp_path / folder / "predictions.json") for folder in ("alone", "shared"))
    assert shared["annotations"] == alone["annotations"]
    assert shared["images"] == alone["images"]
    assert [path.name for path in (tmp_path / "shared").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("share", ["0/3", "4/3", "1", "1/0", "a/b", "-1/2", "1/3 ", "1/" + "9" * 40])
def test_shards_that_are_none(
    share: str, settings: Path, data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(settings, data, tmp_path / "out", f"--shard={share}") == 2
    assert "expected I/N with I from 1 to N" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_shard_writes_nothing_of_all_images(
    settings: Path, data: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in (["--report", "true"], ["--format", "coco"], ["--clean", "true"]):
        assert predict(settings, data, tmp_path, "--shard", "1/2", *option) == 2
        assert "a shard has not seen all images" in capsys.readouterr().err
