"""The drawings of docs/architecture.md, as SVG: `python -m docs_tools.diagrams` writes them anew."""

import html
import itertools
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
WIDTH = 960
_LINE = 16
_MOST_IN_A_ROW = 6
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1d2b2a; text-anchor: middle }
.name { font-weight: 600; font-size: 14px }
.note { fill: #55686a; font-size: 12px }
.lane { fill: #55686a; font-size: 13px; text-anchor: start; font-weight: 600 }
.plain { fill: #f3f6f6; stroke: #a8b8b8 }
.work { fill: #d9efec; stroke: #3f9b90 }
.kept { fill: #fdf0d5; stroke: #c69a3a }
.arrow { fill: none; stroke: #55686a; stroke-width: 1.5; marker-end: url(#head) }
""".strip()

# What each folder and module does.
NOTES = {
    "__main__": "python -m no_time_to_train",
    "cli": "ntt, and run_lightening.py by YAML",
    "training": "distillation; the shipped models",
    "pl_wrapper": "the main job for Lightning",
    "batch": "many images: journal, results, report",
    "segmenter": "the Python API",
    "parity": "torch, Equinox and ONNX compared",
    "export": "ONNX, through JAX",
    "models": "the two baselines",
    "proposers": "SAM2: prompts to masks",
    "encoders": "images to features; torch, ONNX",
    "jax_models": "DINOv3 as Equinox modules; JAX",
    "results": "COCO datasets, AP, drawings",
    "runtime": "ONNX Runtime",
    "matching": "memory and matching",
    "weights": "files, layouts, fetching",
    "data": "images, COCO, references",
    "configs": "encoders, settings, limits",
    "io": "files, parsers, redaction, signals",
    "errors": "what failed, and what mends it",
}


def read_floors() -> list[list[str]]:
    """Return the floors that the import contract holds, from the top floor to the ground."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [floor.split(" | ") for floor in layers]


@dataclass(frozen=True)
class Box:
    """A box with a name and lines of notes below it.

    Attributes:
        x: Of its left side.
        y: Of its top.
        width: In pixels.
        name: The first line.
        notes: The other lines.
        kind: Its style: `plain`, `work` for what computes, `kept` for what is kept in files.
    """

    x: int
    y: int
    width: int
    name: str
    notes: tuple[str, ...] = ()
    kind: str = "plain"

    @property
    def height(self) -> int:
        """In pixels."""
        return 18 + _LINE * (1 + len(self.notes))

    @property
    def left(self) -> tuple[int, int]:
        """The middle of its left side."""
        return self.x, self.y + self.height // 2

    @property
    def right(self) -> tuple[int, int]:
        """The middle of its right side."""
        return self.x + self.width, self.y + self.height // 2

    @property
    def top(self) -> tuple[int, int]:
        """The middle of its top."""
        return self.x + self.width // 2, self.y

    @property
    def bottom(self) -> tuple[int, int]:
        """The middle of its bottom."""
        return self.x + self.width // 2, self.y + self.height

    def drawn(self) -> list[str]:
        """Return its SVG."""
        middle = self.x + self.width // 2
        lines = [(self.name, "name"), *((note, "note") for note in self.notes)]
        return [
            f'<rect class="{self.kind}" x="{self.x}" y="{self.y}" width="{self.width}" height="{self.height}" rx="6"/>',
            *(
                f'<text class="{style}" x="{middle}" y="{self.y + 22 + _LINE * index}">{html.escape(text)}</text>'
                for index, (text, style) in enumerate(lines)
            ),
        ]


def floors() -> str:
    """Draw which part may import which: each only from floors below its own."""
    parts, y = [], 40
    for floor in read_floors():
        # Rows of a floor with many boxes are closer to each other than floors are.
        boxes = math.ceil(len(floor) / math.ceil(len(floor) / _MOST_IN_A_ROW))
        for row in (floor[begin : begin + boxes] for begin in range(0, len(floor), boxes)):
            width = (WIDTH - 40 - 12 * (len(row) - 1)) // len(row)
            for index, name in enumerate(row):
                parts += Box(20 + index * (width + 12), y, width, name, (NOTES[name],), "work").drawn()
            y += 54
        y += 8
    lane = '<text class="lane" x="20" y="26">A file imports only from floors below its own</text>'
    return _picture([lane, *parts], y + 8, "The package's folders and modules, floor over floor")


def data_way() -> str:
    """Draw the way from references and targets to instances, and the encoder's three forms."""
    reference = Box(20, 44, 150, "reference", ("image, mask or box,", "class"))
    window = Box(215, 44, 150, "window", ("a square around", "the object"))
    features = Box(410, 44, 150, "encoder", ("patch features", "(h, w, D)"), "work")
    mean = Box(605, 44, 150, "mean", ("over the patches", "in the mask"))
    memory = Box(800, 44, 140, "MemoryBank", ("a prototype a class;", ".safetensors"), "kept")

    target = Box(20, 216, 150, "target", ("image",))
    encoded = Box(215, 170, 345, "encoder", ("the whole image: patch features (h, w, D)",), "work")
    masks = Box(215, 250, 345, "SAM2", ("prompts: masks, each with its predicted IoU",), "work")
    match = Box(605, 196, 150, "match_masks", ("pool, score,", "suppress, merge", "softly"), "work")
    found = Box(800, 204, 140, "instances", ("mask, box, score,", "class"), "plain")
    results = Box(800, 310, 140, "files", ("COCO results, AP,", "overlays"), "kept")

    weights = Box(20, 440, 150, "weights", ("any layout: tables", "of names"), "kept")
    torch = Box(260, 400, 220, "torch: FeatureEncoder", ("transformers' modules",), "work")
    equinox = Box(260, 484, 220, "JAX: Equinox modules", ("load_eqx_encoder",), "work")
    onnx = Box(560, 476, 180, "model.onnx", ("bound to the weights'", "own bytes"), "kept")
    runtime = Box(800, 484, 140, "OnnxEncoder", ("ONNX Runtime",), "work")
    parity = Box(560, 400, 380, "parity", ("the same images through all three, compared",), "plain")

    boxes = [
        *(reference, window, features, mean, memory),
        *(target, encoded, masks, match, found, results),
        *(weights, torch, equinox, onnx, runtime, parity),
    ]
    arrows = [
        *(_between(one, other) for one, other in itertools.pairwise(boxes[:5])),
        _bent(target.right, encoded.left),
        _bent(target.right, masks.left),
        _bent(encoded.right, match.left),
        _bent(masks.right, match.left),
        _down(memory, match),
        _between(match, found),
        _path([found.bottom, results.top]),
        _bent(weights.right, torch.left),
        _bent(weights.right, equinox.left),
        _between(equinox, onnx),
        _between(onnx, runtime),
        _between(torch, parity),
        _path([equinox.top, (equinox.top[0], 467), (640, 467), (640, parity.bottom[1])]),
        _path([runtime.top, (runtime.top[0], parity.bottom[1])]),
    ]
    lanes = [
        _lane(26, "References become memory (Segmenter.add_reference, test_mode fill_memory)"),
        _lane(154, "Targets become instances (Segmenter.predict, ntt predict, test_mode test)"),
        _lane(386, "The encoder in its three forms; matching takes torch or ONNX Runtime"),
    ]
    drawn = [part for box in boxes for part in box.drawn()]
    return _picture([*lanes, *arrows, *drawn], 566, "The way of the data, and the three forms of the encoder")


def _lane(y: int, text: str) -> str:
    return f'<text class="lane" x="20" y="{y}">{html.escape(text)}</text>'


def _between(one: Box, other: Box) -> str:
    return _path([one.right, other.left])


def _bent(start: tuple[int, int], end: tuple[int, int]) -> str:
    middle = (start[0] + end[0]) // 2
    return _path([start, (middle, start[1]), (middle, end[1]), end])


def _down(one: Box, other: Box) -> str:
    """Draw from the bottom of a box to the top of another, turning half way."""
    (x1, y1), (x2, y2) = one.bottom, other.top
    return _path([(x1, y1), (x1, y1 + 30), (x2, y1 + 30), (x2, y2)])


def _path(points: Sequence[tuple[int, int]]) -> str:
    return f'<polyline class="arrow" points="{" ".join(f"{x},{y}" for x, y in points)}"/>'


def _picture(parts: Sequence[str], height: int, title: str) -> str:
    head = '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    size = f"{WIDTH} {height}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" width="{WIDTH}" height="{height}">',
            f"<title>{html.escape(title)}</title>",
            f"<style>\n{_STYLE}\n</style>",
            f'<defs>{head}<path d="M0 0 L8 4 L0 8 z" fill="#55686a"/></marker></defs>',
            f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


DRAWINGS = {"floors.svg": floors, "data_way.svg": data_way}

if __name__ == "__main__":
    for name, draw in DRAWINGS.items():
        (IMAGES / name).write_text(draw(), encoding="utf-8")
