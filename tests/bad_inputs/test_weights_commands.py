"""`ntt inspect, validate, convert, fetch, doctor` and `dinov3-fetcher`: files that are none, names that are unknown."""

import io
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from tests.bad_inputs.conftest import CONFIGS, Judge
from tests.bad_inputs.table import Case, Given
from tests.bad_inputs.test_predict import pickle_that_runs


def fetcher(name: str, content: str, says: list[str]) -> Case:
    """`dinov3-fetcher` with a configuration."""
    start = "dinov3-fetcher", "--config"
    return Case(f"dinov3-fetcher: {name}", lambda f: [*start, f.text("training.json", content)], says)


def inspected(name: str, content: bytes | str, says: list[str]) -> Case:
    """`ntt inspect` of a file; the suffix is the name's."""
    return Case(f"inspect: {name}", lambda f: ["inspect", f.text(name, content)], says)


def a_zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("readme.txt", "no weights")
    return stream.getvalue()


def a_list() -> bytes:
    stream = io.BytesIO()
    torch.save([torch.zeros(2)], stream)
    return stream.getvalue()


def cut_folder(f: Given) -> Path:
    """Write a folder like the shipped encoder's, of whose weights the end is missing."""
    folder = CONFIGS.parent / "checkpoints" / "quickstart" / "encoder"
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        content = (folder / name).read_bytes()
        f.text(f"dino/{name}", content[:9999])
    return f.path("dino")


def new(f: Given) -> list[str]:
    return [str(f.root / "new"), "--to", "hf"]


FETCH_AGAIN = "fetch the file again"
FOLDER_AGAIN = "fetch it again: ntt fetch"
HEADER = struct.pack("<Q", 2**62) + b"{}"

CASES = [
    Case("inspect: nothing named", lambda f: ["inspect"], ["path", "--help"]),
    Case("inspect: not there", lambda f: ["inspect", "nowhere.pth"], ["no weights at nowhere.pth", "check the path"]),
    Case("inspect: an empty folder", lambda f: ["inspect", f.folder("dino")], ["no weights in the folder", "nothing"]),
    Case("inspect: a folder of notes", lambda f: ["inspect", f.folder("dino", "a.txt")], ["holds a.txt", "fetch"]),
    inspected("empty.safetensors", "", ["empty.safetensors is empty", FETCH_AGAIN]),
    inspected("text.safetensors", "no weights", ["text.safetensors is not a complete safetensors file", FETCH_AGAIN]),
    inspected("long header.safetensors", HEADER, ["long header.safetensors is not a complete", FETCH_AGAIN]),
    inspected("text.pth", "no weights", ["text.pth is no", FETCH_AGAIN]),
    inspected("list.pth", a_list(), ["list.pth holds no state dict", "save the model's state_dict()"]),
    inspected("zip.pth", a_zip(), ["zip.pth is not a complete PyTorch weights file", FETCH_AGAIN]),
    inspected("text.eqx", "no weights", ["text.eqx", FETCH_AGAIN]),
    inspected("weights.h5", "no weights", ["weights.h5", "safetensors"]),
    Case(
        "inspect: cut off",
        lambda f: ["inspect", f.cut(f.shop.encoder / "model.safetensors")],
        ["model.safetensors is not a complete safetensors file", FETCH_AGAIN],
    ),
    Case(
        "inspect: a pickle that runs a command",
        lambda f: ["inspect", pickle_that_runs(f)],
        ["weights.pth is a pickle that asks for more than tensors", "safetensors"],
    ),
    Case(
        "inspect: not to be read",
        lambda f: ["inspect", f.unreadable(f.shop.encoder / "model.safetensors")],
        ["model.safetensors may not be read", "check its permissions"],
    ),
    Case("inspect: a flag with text", lambda f: ["inspect", "x", "--json=perhaps"], ["json", "perhaps", "--help"]),
    Case("validate: not there", lambda f: ["validate", "nowhere"], ["no folder nowhere", FOLDER_AGAIN]),
    Case("validate: a file", lambda f: ["validate", f.text("dino")], ["no folder", "dino", FOLDER_AGAIN]),
    Case("validate: an empty folder", lambda f: ["validate", f.folder("dino")], ["dino", FOLDER_AGAIN]),
    Case("validate: a SAM2", lambda f: ["validate", f.shop.sam2_weights], ["sam2_weights", FOLDER_AGAIN]),
    Case(
        "validate: weights cut off",
        lambda f: ["validate", cut_folder(f)],
        ["model.safetensors is not a complete safetensors file", FOLDER_AGAIN],
    ),
    Case("convert: not there", lambda f: ["convert", "nowhere", *new(f)], ["no weights at nowhere", "check the path"]),
    Case("convert: one name", lambda f: ["convert", f.shop.encoder, "--to", "hf"], ["destination", "--help"]),
    Case("convert: no layout", lambda f: ["convert", f.shop.encoder, "new"], ["to", "--help"]),
    Case("convert: unknown layout", lambda f: ["convert", f.shop.encoder, "new", "--to", "onnx"], ["onnx", "equinox"]),
    Case(
        "convert: a taken folder",
        lambda f: ["convert", f.shop.encoder, f.out, "--to", "hf"],
        ["out is there already", "name a new one"],
    ),
    Case(
        "convert: a taken file",
        lambda f: ["convert", f.shop.encoder, f.text("a.pth"), "--to", "meta"],
        ["a.pth is there already", "name a new one"],
    ),
    Case(
        "convert: another suffix",
        lambda f: ["convert", f.shop.encoder, "new.safetensors", "--to", "equinox"],
        ["new.safetensors is not the name of an Equinox file", "end in .eqx"],
    ),
    Case(
        "convert: under a file",
        lambda f: ["convert", f.shop.encoder, f.under_a_file, "--to", "hf"],
        ["cannot write", "a_file", "name a folder"],
    ),
    Case(
        "convert: a folder that nobody may write in",
        lambda f: ["convert", f.shop.encoder, f.read_only() / "a.pth", "--to", "meta"],
        ["cannot write", "read_only", "Permission denied", "name a file"],
    ),
    Case(
        "convert: a full disk, folder",
        lambda f: ["convert", f.shop.encoder, f.disk() / "new", "--to", "hf"],
        ["cannot write", "No space left", "disk"],
    ),
    Case(
        "convert: a full disk, file",
        lambda f: ["convert", f.shop.encoder, f.disk() / "new.pth", "--to", "meta"],
        ["cannot write", "No space left", "disk"],
    ),
    Case(
        "convert: a full disk, Equinox",
        lambda f: ["convert", f.shop.encoder, f.disk() / "new.eqx", "--to", "equinox"],
        ["cannot write", "No space left", "disk"],
    ),
    Case("convert: SAM2", lambda f: ["convert", f.shop.sam2_weights, *new(f)], ["sam2_weights", "encoder"]),
    Case(
        "convert: cut off",
        lambda f: ["convert", f.cut(f.shop.encoder / "model.safetensors"), *new(f)],
        ["model.safetensors is not a complete safetensors file", FETCH_AGAIN],
    ),
    Case("fetch: nothing named", lambda f: ["fetch"], ["name", "--help"]),
    Case("fetch: no name", lambda f: ["fetch", ""], ["unknown encoder ''", "known are"]),
    Case("fetch: an unknown name", lambda f: ["fetch", "dinov3_huge"], ["dinov3_huge", "did you mean dinov3_"]),
    Case("fetch: an unknown source", lambda f: ["fetch", "small", "--source", "ftp"], ["source", "ftp", "timm"]),
    Case(
        "fetch: a link from the Hub",
        lambda f: ["fetch", "https://x.org/a.pth", "--source", "hub"],
        ["leave --source out"],
    ),
    Case(
        "fetch: a link's revision",
        lambda f: ["fetch", "https://x.org/a.pth?Signature=secret", "--revision", "main"],
        ["a link has no revisions", "leave --revision out"],
    ),
    Case("fetch: another protocol", lambda f: ["fetch", "ftp://x.org/a.pth"], ["ftp://x.org/a.pth", "https"]),
    Case(
        "fetch: never released",
        lambda f: ["fetch", "dinov3_giant"],
        ["Meta released no weights of dinov3_giant", "ntt fetch dinov3_huge_plus"],
    ),
    Case(
        "fetch: into a taken folder",
        lambda f: ["fetch", "small", "--root", f.out],
        ["out holds files of its own", "name a new folder with --root"],
    ),
    Case("fetch: under a file", lambda f: ["fetch", "small", "--root", f.under_a_file], ["a_file", "folder"]),
    Case(
        "fetch: where nobody may write",
        lambda f: ["fetch", "small", "--root", f.read_only() / "dino"],
        ["read_only", "Permission denied", "folder"],
    ),
    Case("fetch: NUL in a path", lambda f: ["fetch", "small", "--root", "a\0b"], ["a\\x00b", "name another"]),
    Case("doctor: an unknown encoder", lambda f: ["doctor", "dinov3_huge"], ["dinov3_huge", "did you mean dinov3_"]),
    Case("doctor: a link", lambda f: ["doctor", "https://x.org/a.pth"], ["a link", "ntt fetch says"]),
    Case("doctor: an unknown source", lambda f: ["doctor", "small", "--source", "url"], ["source", "url", "timm"]),
    Case("dinov3-fetcher: no configuration", lambda f: ["dinov3-fetcher"], ["config", "--help"]),
    Case(
        "dinov3-fetcher: not there", lambda f: ["dinov3-fetcher", "--config", "no.json"], ["no.json", "check --config"]
    ),
    Case("dinov3-fetcher: a folder", lambda f: ["dinov3-fetcher", "--config", f.out], ["out", "check --config"]),
    fetcher("no JSON", "{", ["training.json", "check --config"]),
    fetcher("a list", "[]", ["training.json", "check --config"]),
    fetcher("no root", "{}", ["neither train.dino_root nor paths.dataset_root", "set train.dino_root"]),
    fetcher("a root that is a number", '{"train": {"dino_root": 5}}', ["dino_root", "5", "correct it"]),
    fetcher("a section that is a list", '{"train": []}', ["train", "not a JSON object", "correct it"]),
    fetcher(
        "an unknown model",
        '{"train": {"dino_root": "d", "dino_model": "huge"}}',
        ["unknown encoder 'huge'", "known are"],
    ),
    Case("ntt: no command", lambda f: [""], ["ntt has no command ''", "it has demo"]),
    Case("ntt: an unknown command", lambda f: ["predicts"], ["predicts", "predict"]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_refused(case: Case, refused: Judge) -> None:
    refused(case)
