"""The list of messages: read from a small package, and from the real one against errors that really happen."""

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from docs_tools.messages import Message, error_classes, messages
from docs_tools.source import Package
from docs_tools.troubleshooting import messages_page
from no_time_to_train import errors
from no_time_to_train.configs.encoders import resolve_encoder
from no_time_to_train.data.coco import load_coco
from no_time_to_train.data.inputs import as_image
from no_time_to_train.data.references import load_references
from no_time_to_train.errors import NoTimeToTrainError
from no_time_to_train.io.atomic import write_text_atomic
from no_time_to_train.matching import MemoryBank
from no_time_to_train.weights import check_folder, inspect_weights

ERRORS = '''
class RootError(Exception):
    """Root of all."""

class AError(RootError, ValueError):
    """Something is wrong.

    More of it.
    """

class BError(AError):
    """Something else is."""
'''

RAISES = '''
"""What can go wrong."""

from small.errors import AError, BError

AGAIN = "do it again"
MOST = 2**10
BROKEN = "broken"

class _Odd(Exception):
    pass

def plain(path, names):
    raise AError(f"{path.parent} holds {len(names)} of at most {MOST}: {', '.join(names)}", remedy=AGAIN)

def either(path, given):
    what = "is a folder" if path.is_dir() else "is not there"
    raise BError(f"{path} {what}{': ' + given if given else ''}", remedy="name a file" if given else "name one")

def caught(path):
    try:
        if path.suffix:
            raise _Odd("the name has a dot")
        raise _Odd(f"the name is {path!r}")
    except _Odd as odd:
        raise _made(path, str(odd)) from odd
    except OSError as error:
        raise _made(path, f"it cannot be read, {error.strerror or error}") from error

def quoted(path):
    raise _made(path, f"{BROKEN!r} is its state")

def _made(source, why):
    return AError(f"{source}: {why}", remedy=f"mend {source}")
'''


def small_package(folder: Path, raises: str = RAISES, errors: str = ERRORS) -> Package:
    root = folder / "small"
    root.mkdir()
    (root / "errors.py").write_text(errors)
    (root / "raises.py").write_text(raises)
    return Package.read(root)


def test_texts_are_put_together_from_what_the_source_says(tmp_path: Path) -> None:
    found = {message.text: message for message in messages(small_package(tmp_path))}
    assert {text: message.remedies for text, message in found.items()} == {
        "<path parent> holds <number of names> of at most 1024: <names>": ("do it again",),
        "<path> is a folder: <given>": ("name a file", "name one"),
        "<path> is not there: <given>": ("name a file", "name one"),
        "<source>: the name has a dot": ("mend <source>",),
        "<source>: the name is <path>": ("mend <source>",),
        "<source>: it cannot be read, <reason>": ("mend <source>",),
        "<source>: 'broken' is its state": ("mend <source>",),
    }
    assert found["<path> is a folder: <given>"].error == "BError"
    assert found["<source>: the name has a dot"].module == "small.raises"


def test_a_class_tells_what_it_is(tmp_path: Path) -> None:
    found = error_classes(small_package(tmp_path))
    assert list(found) == ["RootError", "AError", "BError"]
    assert found["AError"].meaning == "Something is wrong."
    assert (found["BError"].parents, found["BError"].builtins) == (("AError",), ("ValueError",))


def test_a_class_that_nothing_raises_is_refused(tmp_path: Path) -> None:
    unused = ERRORS + '\nclass CError(RootError):\n    """Never."""\n'
    with pytest.raises(ValueError, match="nothing raises CError: remove the class, or raise it"):
        messages(small_package(tmp_path, errors=unused))


@pytest.mark.parametrize("built", ['AError("no remedy")', 'AError(remedy="no message")'])
def test_an_error_without_a_message_or_a_remedy_is_refused(tmp_path: Path, built: str) -> None:
    with pytest.raises(ValueError, match=r"small.raises:\d+ builds AError without a message or a remedy"):
        messages(small_package(tmp_path, RAISES + f"\ndef wrong():\n    raise {built}\n"))


@pytest.fixture(scope="module")
def package() -> Package:
    return Package.read(Path(errors.__file__).parent)


@pytest.fixture(scope="module")
def found(package: Package) -> list[Message]:
    return messages(package)


def test_every_class_is_on_the_page(package: Package) -> None:
    page = messages_page(package)
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        assert f"\n\n### {name}\n\n" in f"\n\n{page}"
        assert inspect.getdoc(kind) or name
    assert page.count("### ") - page.count("#### ") == len(inspect.getmembers(errors, inspect.isclass))
    assert "<dt><code>there is no reference yet</code></dt>\n<dd>add_reference or load_memory first</dd>" in page
    assert "<var>&lt;path&gt;</var> is not valid JSON: <var>&lt;reason&gt;</var>" in page


def test_no_message_is_empty(found: list[Message]) -> None:
    assert not [message for message in found if not message.text.strip() or not all(message.remedies)]


def _coco_with(folder: Path, **changes: object) -> Path:
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4]} | changes
    images = [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}]
    document = {"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": [annotation]}
    path = folder / "coco.json"
    path.write_text(json.dumps(document))
    return path


def _text_in(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# What users do, and the error that comes of it.
MISTAKES: dict[str, Callable[[Path], object]] = {
    "encoder": lambda folder: resolve_encoder("dinov3_smal"),
    "far encoder": lambda folder: resolve_encoder("?"),
    "no json": lambda folder: load_coco(_text_in(folder / "a.json", "{")),
    "not there": lambda folder: load_coco(folder / "a.json"),
    "list": lambda folder: load_coco(_text_in(folder / "a.json", "[]")),
    "box": lambda folder: load_coco(_coco_with(folder, bbox=[1, 2])),
    "flag": lambda folder: load_coco(_coco_with(folder, iscrowd=7)),
    "category": lambda folder: load_coco(_coco_with(folder, category_id=5)),
    "pickle": lambda folder: load_references(
        _text_in(folder / "a.pkl", "cos\nsystem\n."), annotations=_coco_with(folder)
    ),
    "weights": lambda folder: inspect_weights(folder / "a.safetensors"),
    "empty weights": lambda folder: inspect_weights(_text_in(folder / "a.safetensors", "")),
    "ending": lambda folder: inspect_weights(_text_in(folder / "a.txt", "a")),
    "folder": lambda folder: inspect_weights(folder),
    "fetched": lambda folder: check_folder(folder / "a"),
    "memory": lambda folder: MemoryBank.load(folder / "a.safetensors"),
    "classes": lambda folder: MemoryBank(["a", "a"], 4, "f"),
    "image": lambda folder: as_image(folder / "a.png"),
    "array": lambda folder: as_image(np.zeros((2, 2, 5), np.uint8)),
    "output": lambda folder: write_text_atomic(folder, "a"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_is_really_raised_is_in_the_list(mistake: str, found: list[Message], tmp_path: Path) -> None:
    with pytest.raises(NoTimeToTrainError) as raised:
        MISTAKES[mistake](tmp_path)
    error = raised.value
    fitting = [
        message
        for message in found
        if message.error == type(error).__name__
        and _pattern(message.text).fullmatch(error.message)
        and any(_pattern(remedy).fullmatch(error.remedy) for remedy in message.remedies)
    ]
    assert fitting, str(error)
    # A pattern of fields alone would fit everything.
    assert any(len(re.sub("<[^<>]*>", "", message.text)) > 8 for message in fitting)


def _pattern(text: str) -> re.Pattern[str]:
    """Make a pattern in which every field fits anything."""
    parts = re.split("<[^<>]*>", text)
    return re.compile(".*".join(re.escape(part) for part in parts), re.DOTALL)
