"""What `ntt predict` says of bundles and runtimes that do not go together."""

from pathlib import Path

import pytest

from no_time_to_train.cli import main


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bundle", "nothing"], "there is no bundle in nothing: it has no pipeline.yaml"),
        (["--config", "nothing"], "there is no file nothing"),
        (["--bundle", "quickstart", "--encoder", "dinov3_base"], "--encoder was given with a bundle"),
        (["--bundle", "quickstart", "--random-init"], "--random-init was given with a bundle"),
        (["--bundle", "quickstart", "--runtime", "torch"], "--runtime torch was given with a bundle"),
        (["--runtime", "torch", "--provider", "cuda"], "--provider is of ONNX Runtime"),
        (["--encoder", "dinov3_base", "--provider", "cpu"], "no model.onnx of an encoder in dinov3_base"),
        (["--bundle", "quickstart", "--provider", "tpu"], "onnxruntime has no device 'tpu' here"),
        (["--runtime", "onnx", "--encoder", "dinov3_base"], "no model.onnx of an encoder in dinov3_base"),
        (["--bundle", "quickstart"], "expected references, or a memory of them, got neither"),
    ],
)
def test_one_line(options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "image.png"
    from PIL import Image

    Image.new("RGB", (64, 64), "red").save(image)
    references = tmp_path / "references.json"
    references.write_text(
        '{"images": [{"id": 1, "file_name": "image.png", "width": 64, "height": 64}], "categories": [{"id": 1, "name": '
        '"a"}], "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 8, 40, 40], "area": 1600, '
        '"iscrowd": 0}]}'
    )
    command = ["predict", "--images", str(image), "--output", str(tmp_path / "out"), *options]
    if "got neither" not in message:
        command += ["--references", str(references), "--reference-images", str(tmp_path)]
    assert main(command) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
