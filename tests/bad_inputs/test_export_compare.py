"""`ntt export` and `ntt compare`."""

import pytest

from tests.bad_inputs.conftest import Judge
from tests.bad_inputs.table import Case, Given
from tests.bad_inputs.test_predict import pickle_that_runs, spoiled


def export(name: str, *more: str, says: list[str]) -> Case:
    """`ntt export` into a new folder."""
    return Case(f"export: {name}", lambda f: ["export", f.shop.encoder, "--output", "new", *more], says)


def compare(name: str, *more: str, says: list[str]) -> Case:
    """`ntt compare` of an encoder with what is made of it."""
    return Case(f"compare: {name}", lambda f: ["compare", "--weights", f.shop.encoder, *more], says)


def onnx_folder(f: Given) -> list[str]:
    return [str(f.text("onnx/model.onnx", "no graph").parent)]


CASES = [
    Case("export: nothing named", lambda f: ["export"], ["encoder", "--help"]),
    Case(
        "export: an unknown encoder", lambda f: ["export", "dinov3_smal"], ["dinov3_smal", "did you mean dinov3_small"]
    ),
    Case("export: no weights", lambda f: ["export", "dinov3_small"], ["dinov3_small", "ntt fetch"]),
    Case(
        "export: weights of another encoder",
        lambda f: ["export", "dinov3_small", "--weights", f.shop.encoder],
        ["does not hold dinov3_small", "dinov3_quickstart_tiny"],
    ),
    Case(
        "export: text",
        lambda f: ["export", f.text("a.pth"), "--output", "new"],
        ["a.pth is no", "fetch the file again"],
    ),
    Case(
        "export: cut off",
        lambda f: ["export", f.cut(f.shop.encoder / "model.safetensors"), "--output", "new"],
        ["model.safetensors is not a complete safetensors file", "fetch the file again"],
    ),
    Case(
        "export: a pickle that runs a command",
        lambda f: ["export", pickle_that_runs(f), "--output", "new"],
        ["weights.pth is a pickle that asks for more than tensors", "safetensors"],
    ),
    Case(
        "export: weights of NaN",
        lambda f: ["export", spoiled(f.shop.encoder, f.path("bad.safetensors"), float("nan")), "--output", "new"],
        ["gives NaN or Inf", "ntt inspect says which"],
    ),
    export("a size in words", "--image-size", "large", says=["'large' is not an image size", "224 or 256x384"]),
    export("no size", "--image-size", "0", says=["a height and a width", "dynamic"]),
    export("a negative size", "--image-size=-16", says=["'-16' is not an image size", "224"]),
    export("a size between patches", "--image-size", "65x64", says=["65x64", "patch size 16", "use 64x64"]),
    export("no batch", "--batch-size", "0", says=["--batch-size is 0", "at least 1"]),
    export("a batch in words", "--batch-size", "two", says=["'two' is not a batch size", "dynamic"]),
    export("an old opset", "--opset", "9", says=["opset 9", "use 23, or 17"]),
    export("an unknown precision", "--precision", "fp8", says=["precision", "fp8", "int8"]),
    Case(
        "export: into a taken folder",
        lambda f: ["export", f.shop.encoder, "--output", f.out],
        ["out is there already", "name a new folder"],
    ),
    Case(
        "export: under a file",
        lambda f: ["export", f.shop.encoder, "--output", f.under_a_file],
        ["cannot write", "a_file", "name a folder"],
    ),
    Case(
        "export: where nobody may write",
        lambda f: ["export", f.shop.encoder, "--output", f.read_only() / "new"],
        ["cannot write", "read_only", "Permission denied"],
    ),
    Case(
        "export: in quarters beside the weights",
        lambda f: ["export", f.shop.encoder, "--output", f.shop.encoder, "--precision", "int8"],
        ["holds the weights themselves", "name another folder"],
    ),
    Case(
        "export: a full disk",
        lambda f: ["export", f.shop.encoder, "--output", f.disk() / "new"],
        ["cannot", "No space left", "disk"],
    ),
    Case("compare: nothing named", lambda f: ["compare"], ["0 encoders were named", "name --weights"]),
    Case(
        "compare: an unknown encoder", lambda f: ["compare", "--encoder", "dinov3_smal"], ["did you mean dinov3_small"]
    ),
    Case("compare: weights not there", lambda f: ["compare", "--weights", "no.pth"], ["no.pth", "check the path"]),
    Case(
        "compare: weights of another encoder",
        lambda f: ["compare", "--encoder", "dinov3_small", "--weights", f.shop.encoder],
        ["does not hold dinov3_small", "dinov3_quickstart_tiny"],
    ),
    compare("an image not there", "--image", "no.jpg", says=["no image at no.jpg", "check the path"]),
    compare("images and noise", "--image", "no.jpg", "--random", "2", says=["--image and --random", "choose one"]),
    compare("no noise", "--random", "0", says=["--random is 0", "1 or more"]),
    compare("too much noise", "--random", "100000", says=["--random is 100000", "lower it"]),
    compare("a size between patches", "--image-size", "65", says=["65x65", "patch size 16", "use 64x64"]),
    compare("a size in words", "--image-size", "large", says=["'large' is not an image size", "224"]),
    compare("no batch", "--batch-size", "0", says=["--batch-size is 0", "1 or more"]),
    compare("a batch in words", "--batch-size", "two", says=["--batch-size", "two", "--help"]),
    compare("a negative tolerance", "--tolerance", "-1", says=["--tolerance is -1.0", "1e-5"]),
    compare("no tolerance", "--tolerance", "nan", says=["--tolerance is nan", "1e-5"]),
    compare("a tolerance in words", "--tolerance", "small", says=["--tolerance is small, expected a number", "--help"]),
    Case(
        "compare: a folder without a graph",
        lambda f: ["compare", "--weights", f.shop.encoder, "--onnx", f.folder("onnx")],
        ["onnx", "ntt export"],
    ),
    Case(
        "compare: a graph that is none",
        lambda f: ["compare", "--weights", f.shop.encoder, "--onnx", *onnx_folder(f)],
        ["model.onnx", "ntt export"],
    ),
    Case(
        "compare: Equinox weights that are none",
        lambda f: ["compare", "--weights", f.shop.encoder, "--eqx", f.text("a.eqx")],
        ["a.eqx", "fetch the file again"],
    ),
    Case(
        "compare: a report in a taken folder",
        lambda f: ["compare", "--weights", f.shop.encoder, "--report", f.out],
        ["out", "name a new"],
    ),
    Case(
        "compare: a report under a file",
        lambda f: ["compare", "--weights", f.shop.encoder, "--report", f.under_a_file],
        ["cannot write", "a_file", "name a folder"],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_refused(case: Case, refused: Judge) -> None:
    refused(case)
