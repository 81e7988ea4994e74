"""Measure how features change when linear layers have 4-bit weights, as in transformers.js's `model_q4.onnx`.

``python -m benchmarks.four_bits [WEIGHTS...]`` exports each, quantizes it with onnxruntime's quantizers (operator
`MatMulNBits`, blocks of 32, activations in float32), and prints how far the tokens are from those of the fp32 file, and
whether an int8 file would pass with that. Without an argument it takes the shipped encoder and a `dinov3_small` with
random weights.
"""

import argparse
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnxruntime.quantization import matmul_nbits_quantizer as quantizers

from no_time_to_train.configs.sam2 import IMAGE_MEAN, IMAGE_STD
from no_time_to_train.encoders.torch_encoder import build_encoder
from no_time_to_train.export.onnx import export_onnx
from no_time_to_train.export.verify import LEAST_COSINE, drift_between, natural_noise, normalise
from no_time_to_train.runtime.onnx_session import MODEL_FILE

SHAPES = ((1, 3, 96, 96), (2, 3, 64, 160), (1, 3, 224, 224))
BLOCK = 32
SHIPPED = Path(__file__).parents[1] / "checkpoints" / "quickstart" / "encoder"


def with_matmuls(path: Path) -> onnx.ModelProto:
    """Return a graph whose linear layers are `MatMul` and `Add`, since the quantizers leave `Gemm` out."""
    model = onnx.load(path)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = []
    for index, node in enumerate(model.graph.node):
        if node.op_type != "Gemm" or node.input[1] not in weights:
            nodes.append(node)
            continue
        options = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        weight, name = weights[node.input[1]], f"linear_{index}"
        columns = np.ascontiguousarray(weight.T if options.get("transB") else weight)
        model.graph.initializer.append(numpy_helper.from_array(columns, f"{name}.weight"))
        result, bias = list(node.output), list(node.input[2:])
        product = [f"{name}.product"] if bias else result
        nodes.append(helper.make_node("MatMul", [node.input[0], f"{name}.weight"], product, name=name))
        if bias:
            nodes.append(helper.make_node("Add", [*product, *bias], result))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def quantized(path: Path) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Yield the graph in 4 bits, by each of the quantizers that need no images."""
    for name, symmetric, algorithm in (
        ("rounded, symmetric", True, None),
        ("rounded, asymmetric", False, None),
        ("HQQ", False, quantizers.HQQWeightOnlyQuantConfig(block_size=BLOCK)),
    ):
        work = quantizers.MatMulNBitsQuantizer(
            with_matmuls(path), bits=4, block_size=BLOCK, is_symmetric=symmetric, algo_config=algorithm
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            work.process()
        yield name, work.model.model


def tokens(model: onnx.ModelProto, images: list[np.ndarray]) -> list[np.ndarray]:
    """Return the tokens of each batch of images."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return [session.run(["last_hidden_state"], {"pixel_values": pixels})[0] for pixels in images]


def measure(weights: Path, folder: Path) -> None:
    """Print a line for each quantizer."""
    path = export_onnx(weights, output=folder / "exported", copy_weights=True, verify=False) / MODEL_FILE
    images = [normalise(natural_noise(shape, seed=seed), IMAGE_MEAN, IMAGE_STD) for seed, shape in enumerate(SHAPES)]
    expected = tokens(onnx.load(path), images)
    for name, model in quantized(path):
        layers = sum(node.op_type == "MatMulNBits" for node in model.graph.node)
        drift = drift_between(zip(expected, tokens(model, images), strict=True), SHAPES)
        passes = "passes" if drift.least_cosine >= LEAST_COSINE["int8"] else "does not pass"
        print(f"{weights.name}, {name}, {layers} layers: {drift}; {passes}")


def main() -> None:
    """Measure each encoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="*", type=Path)
    chosen = parser.parse_args().weights
    logging.getLogger().setLevel(logging.WARNING)  # the quantizers' module lets everything be logged
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not chosen:
            random = folder / "random_dinov3_small"
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="dinov3_small has random weights")
                encoder: Any = build_encoder("dinov3_small", random_init=True, seed=0)
            encoder.model.save_pretrained(random)
            chosen = [SHIPPED, random]
        for weights in chosen:
            measure(weights, folder / weights.name)


if __name__ == "__main__":
    main()
