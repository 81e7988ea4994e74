"""Synthetic scenes for training: drawn once, kept as arrays on disk, read as memory maps.

Every base shape is combined with every base texture and every palette, so that a model must learn the three apart. The
shapes and textures of the novel classes are never among them.
"""

import itertools
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from jaxtyping import Int16, UInt8

from no_time_to_train.configs.limits import MOST_SCENES, check_number
from no_time_to_train.data.synthetic.classes import BASE_CLASSES, PALETTES, ShapeClass
from no_time_to_train.data.synthetic.scenes import check_drawable, render_scene
from no_time_to_train.errors import OutputError
from no_time_to_train.io.atomic import atomic_folder, check_writable, refuse_others

BASE_SHAPES = tuple(dict.fromkeys(kind.shape for kind in BASE_CLASSES))
BASE_TEXTURES = tuple(dict.fromkeys(kind.texture for kind in BASE_CLASSES))
TRAINING_KINDS: tuple[ShapeClass, ...] = tuple(
    ShapeClass(f"{texture}_{shape}_{palette}", shape, texture, palette)
    for shape, texture, palette in itertools.product(BASE_SHAPES, BASE_TEXTURES, PALETTES)
)
MAX_OBJECTS = 6
# Raised whenever the same parameters would give other arrays.
_VERSION = 1
_MANIFEST = "manifest.json"
_ARRAYS = ("images", "instances", "kinds")
_PART = 4  # the other parts of a seed are those of shapes.py
_CHUNK = 256


@dataclass(frozen=True)
class TrainingScenes:
    """Scenes with all their objects.

    Attributes:
        images: sRGB, 0-255.
        instances: Which object is seen at a pixel: 0 for the background, k + 1 for the k-th object.
        kinds: Index into `TRAINING_KINDS` of each object, -1 where a scene has fewer.
    """

    images: UInt8[np.ndarray, "N S S 3"]
    instances: UInt8[np.ndarray, "N S S"]
    kinds: Int16[np.ndarray, "N 6"]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class _Parameters:
    seed: int
    size: int
    count: int
    version: int = _VERSION


def training_scenes(root: Path | str, *, seed: int = 0, size: int = 256, count: int = 20000) -> TrainingScenes:
    """Write the scenes, or find them written, and map them into memory.

    Scene i depends on the seed and i alone. All processor cores draw.

    Args:
        root: Folder of the arrays; 262 kB a scene at 256 pixels.
        seed: The same seed gives the same scenes.
        size: Side of the square images in pixels.
        count: Number of scenes.

    Raises:
        ConfigError: `count` is less than 1, or no scene can be drawn of `size` or `seed`.
        OutputError: `root` is in use for something else, holds damaged arrays, cannot be written, or has no room.
    """
    check_number("the number of training scenes", count, 1, MOST_SCENES, "every scene is written to the disk")
    check_drawable(size, seed)
    root, parameters = Path(root), _Parameters(seed, size, count)
    if not _is_written(root, parameters):
        if root.exists() and (not root.is_dir() or (any(root.iterdir()) and not (root / _MANIFEST).is_file())):
            raise OutputError(f"{root} holds something else than training scenes", remedy="name a new or empty folder")
        refuse_others(root, re.compile(rf"{_MANIFEST}|({'|'.join(_ARRAYS)})\.npy"), "training scenes")
        check_writable(root)
        _check_room(root, parameters)
        with atomic_folder(root) as beside:
            _write(beside, parameters)
            (beside / _MANIFEST).write_text(json.dumps(asdict(parameters)) + "\n")
    try:
        arrays = [np.load(root / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _ARRAYS]
    except (OSError, ValueError, EOFError) as error:
        raise OutputError(
            f"{root} holds damaged training scenes: {error}", remedy="remove it, and they are drawn again"
        ) from error
    return TrainingScenes(*arrays)


def _check_room(root: Path, parameters: _Parameters) -> None:
    """Refuse a disk without room: a process that writes to a map of a file on a full one is killed.

    Raises:
        OutputError: There is none.
    """
    place = root.absolute()
    while not place.exists():
        place = place.parent
    wanted, free = parameters.count * (4 * parameters.size**2 + 2 * MAX_OBJECTS), shutil.disk_usage(place).free
    if wanted > free:
        raise OutputError(
            f"{parameters.count} scenes of {parameters.size} pixels take {wanted:,} bytes, the disk of {root} has "
            f"{free:,} free",
            remedy="make room, name a folder on another disk, or ask for fewer scenes",
        )


def _is_written(root: Path, parameters: _Parameters) -> bool:
    try:
        return bool(json.loads((root / _MANIFEST).read_text()) == asdict(parameters))
    except (OSError, ValueError):
        return False


def _write(folder: Path, parameters: _Parameters) -> None:
    count, size = parameters.count, parameters.size
    shapes = {"images": (count, size, size, 3), "instances": (count, size, size), "kinds": (count, MAX_OBJECTS)}
    arrays = {
        name: np.lib.format.open_memmap(
            folder / f"{name}.npy", mode="w+", dtype=np.int16 if name == "kinds" else np.uint8, shape=shape
        )
        for name, shape in shapes.items()
    }
    starts = range(0, count, _CHUNK)
    chunks = [range(start, min(start + _CHUNK, count)) for start in starts]
    workers = min(len(chunks), len(os.sched_getaffinity(0)))
    if workers == 1:
        for chunk in chunks:
            _store(arrays, chunk, _draw(parameters, chunk))
    else:
        # Forked processes would inherit torch's threads in an unknown state.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for chunk, drawn in zip(chunks, pool.map(_draw, itertools.repeat(parameters), chunks), strict=True):
                _store(arrays, chunk, drawn)
    for array in arrays.values():
        array.flush()


def _store(arrays: Mapping[str, np.ndarray], chunk: range, drawn: Sequence[np.ndarray]) -> None:
    for array, part in zip(arrays.values(), drawn, strict=True):
        array[chunk.start : chunk.stop] = part


def _draw(parameters: _Parameters, chunk: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    size = parameters.size
    images = np.empty((len(chunk), size, size, 3), np.uint8)
    instances = np.zeros((len(chunk), size, size), np.uint8)
    kinds = np.full((len(chunk), MAX_OBJECTS), -1, np.int16)
    for row, index in enumerate(chunk):
        rng = np.random.default_rng([parameters.seed, _PART, index])
        scene = render_scene(rng, TRAINING_KINDS, size=size, num_objects=(1, MAX_OBJECTS))
        images[row] = scene.image
        for place, instance in enumerate(scene.instances):
            instances[row][instance.mask] = place + 1
            kinds[row, place] = instance.class_index
    return images, instances, kinds
