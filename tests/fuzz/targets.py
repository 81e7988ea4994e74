"""The readers of foreign files: what valid files of each look like, and how it is read."""

import hashlib
import io
import json
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import safetensors.torch
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from no_time_to_train.batch.image_paths import InputImage
from no_time_to_train.batch.journal import Journal
from no_time_to_train.batch.results import found_dataset
from no_time_to_train.cli.predictor import load_settings
from no_time_to_train.data.masks import decode_mask, encode_mask
from no_time_to_train.data.references import load_references
from no_time_to_train.export import export_onnx
from no_time_to_train.io.file_stamps import FileStamp
from no_time_to_train.matching import MemoryBank
from no_time_to_train.models.cache.feature_cache import FeatureCache
from no_time_to_train.runtime.onnx_session import read_onnx_file
from no_time_to_train.weights import inspect_weights
from no_time_to_train.weights.conversion import convert_weights
from no_time_to_train.weights.formats.equinox import array_header
from no_time_to_train.weights.formats.reader import open_weights
from no_time_to_train.weights.hub.manifest import MANIFEST, check_folder
from tests.data.coco_documents import document
from tests.fuzz.forms import Target, behind_its_length, packed_safetensors, taken_apart, the_whole
from tests.fuzz.mutation import Form, Parts
from tests.fuzz.reference_files import REFERENCE_FILES
from tests.golden_files import golden
from tests.safety.archives import pack as pack_archive

# Masks of larger images are decoded by callers that hold such an image.
_MOST_PIXELS = 2**22
_KEY = "a key"


# COCO ----------------------------------------------------------------------------------------------------------------


def _coco() -> Target:
    return Target(Form(({"document.json": json.dumps(document()).encode()},), the_whole), "refs.json", _read_references)


def _read_references(path: Path, annotations: Path | None = None) -> None:
    found = load_references(path, annotations=annotations)
    for reference in found.references:
        height, width = reference.image.height, reference.image.width
        if reference.annotation.segmentation is not None and height * width <= _MOST_PIXELS:
            mask = decode_mask(reference.annotation, height, width)
            assert mask.shape == (height, width)


def _reference_set() -> Target:
    sets: list[Any] = [
        {5: [{"img_id": 7, "ann_ids": [11]}], 2: [{"img_id": 3, "ann_ids": [10]}]},
        {2: {3: [10]}, 5: [(7, [11, 13]), (3, (12,))]},
    ]
    parts = tuple({"pickle": pickle.dumps(content, protocol)} for content in sets for protocol in (0, 2, 4))

    def beside(folder: Path) -> None:
        (folder / "coco.json").write_text(json.dumps(document()))

    def read(path: Path) -> None:
        _read_references(path, path.with_name("coco.json"))

    return Target(Form(parts, the_whole), "refs.pkl", read, beside)


# Weights -------------------------------------------------------------------------------------------------------------


@cache
def _tiny() -> dict[str, torch.Tensor]:
    """Return the tensors of an encoder of one block, in transformers' layout."""
    with TemporaryDirectory() as folder:
        hf = convert_weights(golden("vit_mlp_released"), Path(folder) / "hf", "hf")
        tensors = safetensors.torch.load((hf / "model.safetensors").read_bytes())
    return {name: tensor for name, tensor in tensors.items() if ".layer." not in name or ".layer.0." in name}


@cache
def _tiny_as(to: str) -> bytes:
    """Return the same encoder in another layout: `meta`, `equinox`."""
    with TemporaryDirectory() as folder:
        save_file(_tiny(), Path(folder) / "a.safetensors")
        name = {"meta": "a.pth", "equinox": "a.eqx"}[to]
        return convert_weights(Path(folder) / "a.safetensors", Path(folder) / name, to).read_bytes()  # type: ignore[arg-type] # one of the two


def _look_at_weights(path: Path) -> None:
    report = inspect_weights(path)
    report.as_text()
    report.as_json()
    inspect_weights(path, headers_only=True)
    for tensor in open_weights(path).tensors.values():
        tensor.array()


def _safetensors_weights() -> Target:
    return Target(Form((packed_safetensors(_tiny()),), behind_its_length), "model.safetensors", _look_at_weights)


def _index() -> Target:
    names = sorted(_tiny())
    index = {"metadata": {}, "weight_map": {name: f"{index % 2}.safetensors" for index, name in enumerate(names)}}

    def beside(folder: Path) -> None:
        for part in range(2):
            save_file({name: _tiny()[name] for name in names[part::2]}, folder / f"{part}.safetensors")

    parts = ({"index.json": json.dumps(index).encode()},)
    return Target(Form(parts, the_whole), "model.safetensors.index.json", _look_at_weights, beside)


def _pth() -> Target:
    """Archives of torch's, whose pickle is changed within them; and the legacy form, which is one stream."""
    legacy = io.BytesIO()
    torch.save({"norm.weight": torch.ones(3)}, legacy, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(io.BytesIO(_tiny_as("meta"))) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}

    def pack(parts: Parts) -> bytes:
        if len(parts) == 1:
            return the_whole(parts)
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name, content in parts.items():
                archive.writestr(name, content)
        return stream.getvalue()

    return Target(Form((parts, {"legacy": legacy.getvalue()}), pack), "a.pth", _look_at_weights)


def _eqx() -> Target:
    content = _tiny_as("equinox")
    end = content.index(b"\n")

    def pack(parts: Parts) -> bytes:
        line = parts["header.json"].replace(b"\n", b" ")
        return line + b" " * (-(len(line) + 1) % 64) + b"\n" + parts["arrays"]

    parts = {"header.json": content[:end], "arrays": content[end + 1 :]}
    return Target(Form((parts,), pack), "a.eqx", _look_at_weights)


@cache
def _equimo_arrays() -> bytes:
    """Return the arrays of a ViT of one block, as Equimo writes them."""
    dim, hidden = 64, 256
    shapes: list[tuple[int, ...]] = [(dim, 3, 16, 16), (dim, 1, 1), (16,), (1, dim), (4, dim)]
    shapes += [*[(dim,)] * 6, (3 * dim, dim), (dim, dim), (dim,), (hidden, dim), (hidden,), (dim, hidden), (dim,)]
    shapes += [(dim,)] * 4
    return b"".join(
        array_header(np.dtype(np.float32), shape) + struct.pack("<f", 1.0) * math.prod(shape) for shape in shapes
    )


def _equimo() -> Target:
    metadata = json.dumps({"model_config": {"use_mask_token": False}}).encode()
    parts = {"metadata.json": metadata, "weights.eqx": _equimo_arrays()}
    return Target(Form((parts,), pack_archive), "a.tar.lz4", _look_at_weights)


def _equimo_folder() -> Target:
    def beside(folder: Path) -> None:
        (folder / "metadata.json").write_text("{}")

    return Target(Form(({"arrays": _equimo_arrays()},), the_whole), "weights.eqx", _look_at_weights, beside)


def _manifest() -> Target:
    with TemporaryDirectory() as folder:
        save_file(_tiny(), Path(folder) / "model.safetensors")
        report = inspect_weights(Path(folder) / "model.safetensors")
    assert report.sha256 is not None
    files = {
        "model.safetensors": {"size": report.files["model.safetensors"], "sha256": report.sha256["model.safetensors"]}
    }
    files |= {
        name: {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
        for name in ("config.json", "preprocessor_config.json")
    }
    content = {
        "kind": "hub",
        "source": "a/b",
        "revision": "1" * 40,
        "encoder": None,
        "fetched": "2026-01-01",
        "files": files,
    }

    def beside(folder: Path) -> None:
        save_file(_tiny(), folder / "model.safetensors")
        for name in ("config.json", "preprocessor_config.json"):
            (folder / name).write_text("{}")

    def read(path: Path) -> None:
        check_folder(path.parent, deep=True)

    return Target(Form(({"manifest.json": json.dumps(content).encode()},), the_whole), MANIFEST, read, beside)


def _config() -> Target:
    """`config.json` beside weights."""
    with TemporaryDirectory() as folder:
        hf = convert_weights(golden("vit_mlp_released"), Path(folder) / "hf", "hf")
        content = (hf / "config.json").read_bytes()

    def beside(folder: Path) -> None:
        save_file(_tiny(), folder / "model.safetensors")
        (folder / "preprocessor_config.json").write_text("{}")

    def read(path: Path) -> None:
        check_folder(path.parent)

    return Target(Form(({"config.json": content},), the_whole), "config.json", read, beside)


@cache
def _exported() -> tuple[bytes, bytes]:
    with TemporaryDirectory() as folder:
        save_file(_tiny(), Path(folder) / "a.safetensors")
        made = export_onnx(Path(folder) / "a.safetensors", output=Path(folder) / "onnx", verify=False)
        return (made / "model.onnx").read_bytes(), (made / "model.safetensors").read_bytes()


def _onnx() -> Target:
    def beside(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(_exported()[1])

    return Target(Form(({"model": _exported()[0]},), the_whole), "model.onnx", read_onnx_file, beside)


def _onnx_weights() -> Target:
    """The weights beside an ONNX file."""

    def beside(folder: Path) -> None:
        (folder / "model.onnx").write_bytes(_exported()[0])

    def read(path: Path) -> None:
        read_onnx_file(path.parent)

    return Target(Form((taken_apart(_exported()[1]),), behind_its_length), "model.safetensors", read, beside)


# What the project writes for itself ----------------------------------------------------------------------------------


def _memory() -> Target:
    with TemporaryDirectory() as folder:
        bank = MemoryBank(["a", "b"], 4, "fingerprint", image_size=64)
        for index in (0, 1, 1):
            bank.add_mean(index, torch.ones(4), index == 1)
        bank.add_mean(1, torch.ones(4), False)
        bank.save(Path(folder) / "a.safetensors")
        content = (Path(folder) / "a.safetensors").read_bytes()

    def read(path: Path) -> None:
        bank = MemoryBank.load(path)
        bank.rows()
        if all(bank.counts()):
            assert bank.prototypes.shape == (len(bank.class_names), bank.embed_dim)

    return Target(Form((taken_apart(content),), behind_its_length), "memory.safetensors", read)


def _settings() -> Target:
    # Every setting that a YAML has, in a tree that is JSON and so YAML too, and one in YAML's own words.
    model: dict[str, Any] = {
        "name": "matching_baseline_noAMG",
        "sam2_cfg_file": "sam2_hiera_t.yaml",
        "sam2_ckpt_path": None,
        "encoder_cfg": {"name": "dinov3_small", "img_size": 64, "resize_policy": "stretch", "prefer_plus": False},
        "memory_bank_cfg": {"crop_scale": 1.2, "negative_sigma": 0.8, "debias": {"enabled": True}},
        "sam2_infer_cfgs": {"points_per_side": 4, "iou_thr": 0.1, "prompt_selection": "prior"},
        "feature_cache": {"folder": None, "max_gb": 1.0},
        "precision": "fp32",
        "random_init": True,
    }
    amg = {key: value for key, value in model.items() if key != "sam2_infer_cfgs"}
    amg |= {"name": "matching_baseline", "sam2_amg_cfg": {"points_per_side": 4, "pred_iou_thresh": 0.1}}
    documents = [{"model": {"class_path": "a", "init_args": {"model_cfg": cfg}}} for cfg in (model, amg)]
    parts = ({"settings.json": json.dumps(documents[0]).encode()}, {"settings.json": json.dumps(documents[1]).encode()})
    return Target(
        Form((*parts, {"yaml": yaml.safe_dump(documents[0]).encode()}), the_whole),
        "settings.yaml",
        lambda path: load_settings([path]),
    )


def _journal() -> Target:
    mask = np.zeros((4, 4), dtype=bool)
    mask[:2, :2] = True
    instance = {"category": "a", "category_id": 1, "bbox": [0.0, 0.0, 2.0, 2.0], "score": 0.5, "area": 4}
    instance |= {"segmentation": encode_mask(mask)}
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    image = stream.getvalue()
    digest = hashlib.sha256(image).hexdigest()
    entry = {
        "file_name": "a.png",
        "height": 4,
        "width": 4,
        "instances": [instance],
        "best_scores": {"a": 0.5},
        "run": "x",
        "stamp": FileStamp(len(image), 0, 0, 0, digest, settled=False).to_json(),
    }

    def beside(folder: Path) -> None:
        (folder / "a.png").write_bytes(image)

    def read(path: Path) -> None:
        found = Journal(path.parent, "x", ["a"], 0.3).read(InputImage(path.with_name("a.png"), "a.png"))
        if found is not None:
            json.loads("".join(found_dataset([found], ["a"], path.parent).parts(path.parent)))

    return Target(Form(({"entry.json": json.dumps(entry).encode()},), the_whole), "a.png.json", read, beside)


def _cached() -> Target:
    with TemporaryDirectory() as folder:
        cache = FeatureCache(Path(folder), 10**6)
        cache.put(_KEY, {"a": torch.ones(2, 3), "b": torch.zeros(2, dtype=torch.bfloat16)})
        (entry,) = (path for path in Path(folder).rglob("*") if path.is_file())
        name, content = entry.relative_to(folder).as_posix(), entry.read_bytes()

    def read(path: Path) -> None:
        FeatureCache(path.parents[1], 10**6).get(_KEY)

    return Target(Form((taken_apart(content),), behind_its_length), name, read)


MAKERS: Mapping[str, Callable[[], Target]] = {
    "coco": _coco,
    "reference_set": _reference_set,
    **REFERENCE_FILES,
    "safetensors": _safetensors_weights,
    "index": _index,
    "pth": _pth,
    "eqx": _eqx,
    "equimo": _equimo,
    "equimo_folder": _equimo_folder,
    "manifest": _manifest,
    "config": _config,
    "onnx": _onnx,
    "onnx_weights": _onnx_weights,
    "memory": _memory,
    "settings": _settings,
    "journal": _journal,
    "cached": _cached,
}


@cache
def target(name: str) -> Target:
    """Make a target, once."""
    return MAKERS[name]()
