"""Images of every kind: as targets, as references, for training. Those that can be used are; others are named."""

import io
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.bad_inputs.conftest import Judge, run
from tests.bad_inputs.table import Case, Given

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has random weights:UserWarning"),
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
]


def picture(mode: str = "RGB", size: tuple[int, int] = (64, 48), form: str = "PNG", **options: Any) -> bytes:
    """Return an image file of a square on a background."""
    width, height = size
    pixels = np.full((height, width, 3), 110, np.uint8)
    pixels[height // 4 : height // 2 + 1, width // 4 : width // 2 + 1] = (220, 30, 30)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, form, **options)
    return stream.getvalue()


def sixteen_bits() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)).save(stream, "PNG")
    return stream.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(form="JPEG", exif=exif)


def animated() -> bytes:
    frames = [Image.new("P", (64, 48), shade) for shade in (10, 90)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


def bomb() -> bytes:
    """Return a PNG that says it has 10^10 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    begin = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return begin + struct.pack(">I", 1000) + b"IDAT" + bytes(1000)


def floats() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((48, 64), 0.5, np.float32)).save(stream, "TIFF")
    return stream.getvalue()


# Each with its width and height as seen.
USABLE: dict[str, tuple[bytes, tuple[int, int]]] = {
    "one pixel.png": (picture(size=(1, 1)), (1, 1)),
    "long.png": (picture(size=(30_000, 10)), (30_000, 10)),
    "tall.png": (picture(size=(10, 30_000)), (10, 30_000)),
    "cmyk.jpg": (picture("CMYK", form="JPEG"), (64, 48)),
    "grey.jpg": (picture("L", form="JPEG"), (64, 48)),
    "16 bits.png": (sixteen_bits(), (64, 48)),
    "palette.png": (picture("P"), (64, 48)),
    "alpha.png": (picture("RGBA"), (64, 48)),
    "grey with alpha.png": (picture("LA"), (64, 48)),
    "one bit.png": (picture("1"), (64, 48)),
    "turned.jpg": (turned(), (48, 64)),
    "animated.gif": (animated(), (64, 48)),
    "großes Bild, 画像.webp": (picture(form="WEBP"), (64, 48)),
    "png called.jpg": (picture(), (64, 48)),
}
JPEG = picture(size=(640, 480), form="JPEG")
UNUSABLE: dict[str, tuple[bytes, list[str]]] = {
    "broken tail.jpg": (JPEG[: len(JPEG) // 2], ["is broken or cut off", "fetch the file again"]),
    "broken tail.png": (picture()[:-40], ["is broken or cut off", "fetch the file again"]),
    "empty.jpg": (b"", ["is not an image that Pillow can read", "check the file"]),
    "text.png": (b"some text", ["is not an image that Pillow can read", "check the file"]),
    "floats.tif": (floats(), ["holds float pixels", "scale it to 8 bits"]),
    "bomb.png": (bomb(), ["has more pixels than is safe to decode", "make the image smaller"]),
}


def one_pixel_reference(f: Given, name: str) -> list[str]:
    """Write references of which the first is in an image of one's own: the whole of it, as a box."""
    content, (width, height) = USABLE[name]
    document = json.loads(f.shop.data.references.read_text())
    document["images"][0] |= {"file_name": name, "width": width, "height": height}
    document["annotations"][0] |= {"bbox": [0, 0, width, height]}
    del document["annotations"][0]["segmentation"]
    f.text(f"references/{name}", content)
    for entry in document["images"][1:]:
        f.text(f"references/{entry['file_name']}", (f.shop.data.images / entry["file_name"]).read_bytes())
    path = f.text("references.json", json.dumps(document))
    return ["--references", str(path), "--reference-images", str(path.parent / "references")]


def as_target(name: str) -> Case:
    content, says = UNUSABLE[name]
    return Case(
        f"predict --strict: {name}",
        lambda f: f.predict("--strict", "--images", f.text(name, content)),
        [name, *says],
    )


def test_usable_targets(given: Given, capfd: pytest.CaptureFixture[str]) -> None:
    """All are looked at, at the size at which people see them."""
    for name, (content, _) in USABLE.items():
        given.text(f"photos/{name}", content)
    for name, (content, _) in UNUSABLE.items():
        given.text(f"photos/{name}", content)
    assert run(given.predict("--images", given.path("photos"))) == 0
    lines = capfd.readouterr().err.splitlines()
    left_out = [line for line in lines if line.startswith("left out: ")]
    assert len(left_out) == len(UNUSABLE)
    for name, (_, says) in UNUSABLE.items():
        (line,) = (line for line in left_out if name in line)
        assert all(part in line for part in says), line
    document = json.loads((given.out / "predictions.json").read_text())
    sizes = {image["file_name"]: (image["width"], image["height"]) for image in document["images"]}
    assert sizes == {name: size for name, (_, size) in USABLE.items()}


@pytest.mark.parametrize("name", ["one pixel.png", "long.png", "turned.jpg", "cmyk.jpg", "großes Bild, 画像.webp"])
def test_usable_references(name: str, given: Given) -> None:
    assert run(given.predict(*one_pixel_reference(given, name))) == 0
    assert (given.out / "predictions.json").is_file()


def test_usable_training_images(given: Given) -> None:
    """Training and validation views are made of images of any shape."""
    for name, (content, _) in USABLE.items():
        given.text(f"photos/{name}", content)
    folders = ("--data.scenes", "null", "--data.folders", json.dumps([str(given.path("photos"))]))
    assert (
        run(given.fit(*folders, "--data.num_val", str(len(USABLE) - 4), "--trainer.enable_progress_bar", "false")) == 0
    )
    assert (given.out / "student" / "model.safetensors").is_file()


@pytest.mark.parametrize("case", [as_target(name) for name in UNUSABLE], ids=str)
def test_refused(case: Case, refused: Judge) -> None:
    refused(case)
