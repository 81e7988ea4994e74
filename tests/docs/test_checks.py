"""The checks of the pages' examples themselves: what is wrong must not pass."""

from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks_of, commands_in
from tests.docs.command_lines import parse
from tests.docs.python_names import missing_names

PAGE = """# Title

- A list with

  <!-- runs -->
  ```bash
  ntt inspect FILE  # a comment
  ntt convert A 'B; C' \\
    --to hf
  ```

<!-- saved as refs.json -->

```json
{"a": 1}
```

```
output
```
"""


def test_blocks_are_found_with_their_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    bash, json, output = blocks_of(page)
    assert (bash.language, bash.runs, bash.path, bash.line) == ("bash", True, None, 7)
    assert commands_in(bash) == [["ntt", "inspect", "FILE"], ["ntt", "convert", "A", "B; C", "--to", "hf"]]
    assert (json.language, json.runs, json.path) == ("json", False, "refs.json")
    assert (output.language, output.runs, output.path, output.text) == ("", False, None, "output\n")


@pytest.mark.parametrize("line", ["ntt inspect FILE | less", "ntt inspect $F", "ntt inspect a; ls", "echo > file"])
def test_what_needs_a_shell_is_refused(line: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"```bash\n{line}\n```\n")
    with pytest.raises(ValueError, match="only plain commands"):
        commands_in(blocks_of(page)[0])


@pytest.mark.parametrize(
    "line",
    [
        "ntt predicts --images a --output b",
        "ntt predict --images a --output b --min-scores 0.3",
        "ntt predict --images a --output b --min-score high",
        "ntt predict --images a --output b --config pl_configs/nowhere.yaml",
        "ntt convert a b --to onnx",
        "dinov3-fetcher --configuration c.json",
        "make tea",
        "python -m benchmarks.nowhere",
        "python run_lightning.py --config pl_configs/quickstart.yaml",
        "python run_lightening.py --config pl_configs/nowhere.yaml",
        "python run_lightening.py --config pl_configs/quickstart.yaml --trainer.device 2",
        "torchrun --nproc=2 run_lightening.py --config pl_configs/quickstart.yaml --model.overlay 3",
        "torchrun --nprocesses=2 run_lightening.py --config pl_configs/quickstart.yaml",
        "srun -N 2 run_lightening",
        "curl example.com",
    ],
)
def test_wrong_commands_do_not_pass(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises((AssertionError, SystemExit, pytest.fail.Exception)):
        parse(line.split(), monkeypatch)


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ("from no_time_to_train import Segmenters", "no_time_to_train has no Segmenters"),
        ("import no_time_to_train.nowhere", "there is no module no_time_to_train.nowhere"),
        ("from no_time_to_train import Segmenter\nSegmenter().add_references_of(1)", "Segmenter has no add_references"),
        ("from no_time_to_train import Segmenter\ns = Segmenter()\ns.save_memory(file='x')", "no option file"),
        ("from no_time_to_train import Segmenter\ns = Segmenter()\nprint(s.nothing)", "Segmenter has no nothing"),
        (
            "from no_time_to_train.export import export_onnx\nexport_onnx('a', 'b', 'c').read()",
            "Path has no read",
        ),
    ],
)
def test_wrong_names_do_not_pass(source: str, missing: str) -> None:
    (found,) = missing_names(source)
    assert missing in found


def test_right_names_pass() -> None:
    source = (
        "from pathlib import Path\nfrom no_time_to_train import Segmenter\n"
        "s = Segmenter('dinov3_base', precision='bf16')\ns.baseline.encoder\ns.add_reference('a', box=(1, 2, 3, 4), "
        "label='b')\nPath('x').parent.name\n"
    )
    assert missing_names(source) == []
    with pytest.raises(SyntaxError):
        missing_names("from import")
