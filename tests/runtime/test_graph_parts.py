"""A graph in parts gives what it gives whole."""

import numpy as np
import pytest

from no_time_to_train.runtime.graph_parts import GraphPart, open_parts
from no_time_to_train.runtime.onnx_session import OnnxFile, open_session, read_onnx_file
from tests.runtime.quickstart import FOLDER

EMBEDDINGS = ("image_embeddings.0", "image_embeddings.1", "image_embeddings.2")
PROMPTS = ("input_points", "input_labels", "input_boxes")


@pytest.fixture(scope="module")
def file() -> OnnxFile:
    return read_onnx_file(FOLDER / "sam2" / "prompt_encoder_mask_decoder.onnx")


@pytest.fixture(scope="module")
def parts(file: OnnxFile) -> tuple[GraphPart, GraphPart, GraphPart]:
    return open_parts(file, EMBEDDINGS, ("iou_scores",))


def test_each_part_takes_and_gives_what_it_has_to(parts: tuple[GraphPart, GraphPart, GraphPart]) -> None:
    shared, tokens, masks = parts
    assert set(shared.inputs) == set(EMBEDDINGS)
    assert set(tokens.inputs) - set(shared.outputs) == set(PROMPTS)
    assert "iou_scores" in tokens.outputs
    assert set(masks.outputs) == {"pred_masks", "object_score_logits"} - set(tokens.outputs)
    assert set(masks.inputs) <= {*EMBEDDINGS, *shared.outputs, *tokens.outputs}
    # Drawing needs no prompt any more, and the prompts need no embedding.
    assert not set(PROMPTS) & set(masks.inputs)
    assert not set(EMBEDDINGS) & set(tokens.inputs)


def test_the_parts_together_are_the_graph(file: OnnxFile, parts: tuple[GraphPart, GraphPart, GraphPart]) -> None:
    random, session = np.random.default_rng(0), open_session(file)
    sides = {value.name: value.shape for value in session.get_inputs()}
    values = {name: random.normal(size=sides[name]).astype(np.float32) for name in EMBEDDINGS}
    values |= {
        "input_points": random.uniform(0, 192, (1, 5, 2, 2)).astype(np.float32),
        "input_labels": random.integers(0, 2, (1, 5, 2)),
        "input_boxes": np.empty((1, 0, 4), np.float32),
    }
    names = [value.name for value in session.get_outputs()]
    expected = dict(zip(names, session.run(names, values), strict=True))
    found = dict(values)
    for part in parts:
        found |= part(found)
    for name in names:
        # Cut elsewhere, other operators are fused: rounding of float32, of logits of up to 30.
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4)
    # Single prompts can be taken out between the parts.
    rows = np.array([3, 0])
    taken = {name: found[name][rows] for name in parts[2].inputs if name in parts[1].outputs}
    masks = parts[2]({**found, **taken})["pred_masks"]
    np.testing.assert_allclose(masks[0], expected["pred_masks"][0][rows], atol=1e-4)
