"""`run_lightening.py` answers `--help` and mistakes in YAML before it imports torch and Lightning."""

import subprocess
import sys
from pathlib import Path

import pytest

from no_time_to_train.cli.lightning.arguments import HELP, SUBCOMMANDS, answer_early, names_subcommand

ROOT = Path(__file__).parents[3]
_WITHOUT = """
import sys
sys.modules |= dict.fromkeys(("torch", "lightning", "jax", "transformers"))
from no_time_to_train.cli.lightning.arguments import answer_early
sys.exit(answer_early(sys.argv[1:]))
"""


def without_torch(*args: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT, *args], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_help_needs_no_torch() -> None:
    status, said = without_torch("--help")
    assert (status, said) == (0, HELP)
    assert all(f"\n  {name} " in HELP for name in SUBCOMMANDS)


def test_a_mistake_in_a_yaml_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("model: [")
    (tmp_path / "unknown.yaml").write_text(
        "model:\n  class_path: no_time_to_train.pl_wrapper.sam2matcher_pl.Sam2MatcherLightningModel\n"
        "  init_args:\n    model_cfg:\n      encoder_cfg:\n        nam: dinov3_small\n"
    )
    for name, said in (
        ("broken", "is not valid YAML"),
        ("unknown", "model.model_cfg.encoder_cfg has no setting 'nam': EncoderConfigArgs does not take it"),
        ("missing", "there is no file"),
    ):
        status, text = without_torch("--config", str(tmp_path / f"{name}.yaml"))
        assert status == 2
        assert text.startswith("error: ")
        assert said in text
        assert text.count("\n") == 1


@pytest.mark.parametrize("model", ["5", "null", "[1]", "{init_args: 3, class_path: [1]}", "{model_cfg: 3}", "{1: 2}"])
def test_what_the_parser_refuses_is_left_to_it(model: str, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text(f"model: {model}\n")
    quickstart = str(ROOT / "pl_configs" / "quickstart.yaml")
    assert answer_early(["--config", quickstart, "--config", str(tmp_path / "odd.yaml")]) is None


@pytest.mark.parametrize("path", sorted((ROOT / "pl_configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_what_is_right_goes_on(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subcommand = ["fit"] if "train" in path.stem or "distill" in path.stem else []
    assert answer_early([*subcommand, "--config", str(path), "--data.max_targets", "3"]) is None
    assert capsys.readouterr() == ("", "")


def test_options_are_looked_at_too(capsys: pytest.CaptureFixture[str]) -> None:
    quickstart = str(ROOT / "pl_configs" / "quickstart.yaml")
    assert answer_early(["--config", quickstart, "--model.model_cfg.precison=bf16"]) == 2
    assert "did you mean precision?" in capsys.readouterr().err
    # Another's module takes what it likes.
    for option in ("--model", "--model.class_path"):
        assert answer_early(["--config", quickstart, option, "mine.Module", "--model.model_cfg.nam", "3"]) is None


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], False),
        (["test"], True),
        (["--config", "a.yaml"], False),
        (["--config", "a.yaml", "fit"], True),
        (["-c", "test"], False),
        (["--config=a.yaml", "-h"], True),
        (["--data.max_targets", "3"], False),
    ],
)
def test_a_subcommand_stands_first_or_behind_configurations(args: list[str], expected: bool) -> None:
    assert names_subcommand(args) == expected
