"""Clients of exported files, what each of them opens, and how exact its answers have to be."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Layout = Literal["flat", "transformers.js"]
Precision = Literal["fp32", "fp16", "int8"]
LAYOUTS: tuple[Layout, ...] = ("flat", "transformers.js")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
SIDE = 96
# On the input of SAM2, one for each prompt.
POINTS = ((96.0, 96.0), (30.0, 40.0), (150.0, 160.0))


@dataclass(frozen=True)
class Case:
    """One exported encoder and SAM2.

    Attributes:
        encoder: The encoder's folder, relative to that of all exports.
        sam2: That of SAM2.
        subfolder: Of either, the folder of its graphs.
        suffix: What follows the names of the graphs.
    """

    layout: Layout
    opset: int
    precision: Precision
    encoder: str
    sam2: str
    subfolder: str
    suffix: str

    @classmethod
    def of(cls, layout: Layout, opset: int, precision: Precision) -> "Case":
        """Return the case with its places."""
        if layout == "flat":
            folder = f"flat-{opset}-{precision}"
            return cls(layout, opset, precision, f"{folder}/encoder", f"{folder}/sam2", "", "")
        suffix = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}[precision]
        folder = f"transformers.js-{opset}"
        return cls(layout, opset, precision, f"{folder}/encoder", f"{folder}/sam2", "onnx", suffix)


@dataclass(frozen=True)
class Client:
    """A program that opens exported files, in the row of the table.

    Attributes:
        title: Its name there.
        opset: Of the files that it opens.
        precisions: Of these files.
        sam2: It runs SAM2 too.
    """

    title: str
    opset: int = 23
    precisions: tuple[Precision, ...] = PRECISIONS
    sam2: bool = True

    @property
    def cases(self) -> tuple[Case, ...]:
        """What it opens."""
        return tuple(Case.of(layout, self.opset, precision) for layout in LAYOUTS for precision in self.precisions)


CLIENTS = {
    "onnxruntime-oldest": Client("onnxruntime", opset=17),
    "onnxruntime-opset23": Client("onnxruntime", precisions=("fp32", "int8")),
    "onnxruntime-opset23-fp16": Client("onnxruntime", precisions=("fp16",)),
    "onnxruntime-newest": Client("onnxruntime"),
    "transformers.js-node": Client("transformers.js in Node"),
    "transformers.js-chromium": Client("transformers.js in Chromium"),
    "onnxruntime-web-chromium": Client("onnxruntime-web in Chromium"),
    "optimum": Client("Optimum's `ORTModelForFeatureExtraction`", sam2=False),
    "openvino": Client("OpenVINO"),
}


@dataclass(frozen=True)
class Limits:
    """Largest differences: of features and logits as shares of the largest, of predicted IoUs as they are."""

    features: float
    logits: float
    predicted_iou: float


# fp32: two backends' noise, below 1e-6, and tenfold. fp16: eleven bits, over the layers. int8: what one percent of the
# cosine of a token (`export.verify.LEAST_COSINE`) may be in its largest number.
LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(1e-5, 1e-5, 1e-5),
    "fp16": Limits(5e-3, 5e-3, 5e-3),
    "int8": Limits(0.2, 0.2, 0.2),
}


def jobs(inputs: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the job of each client, by the name of its file: the inputs and the cases."""
    for name, client in CLIENTS.items():
        yield Path(f"{name}.json"), {"sam2": client.sam2, "cases": [asdict(case) for case in client.cases], **inputs}
