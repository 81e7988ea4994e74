"""What released encoders are published to say about one photograph, COCO's 39769: two cats on a pink couch.

Source: the transformers maintainers' integration tests, for the photograph resized to 224x224 bilinearly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from no_time_to_train.configs.encoders import EncoderConfig
from no_time_to_train.data.images import load_image
from no_time_to_train.encoders.base import Encoder
from no_time_to_train.parity.inputs import preprocess_images
from no_time_to_train.weights.hub.manifest import read_manifest
from no_time_to_train.weights.inspect import sha256_of

_PHOTOGRAPH, _PHOTOGRAPH_SIZE = "000000039769", (640, 480)
_SIDE = 224
# They are printed to six digits, but by another build and decoder; the maintainers allow 1e-4 themselves. The mildest
# mistake known costs 6e-4 on small encoders.
_TOLERANCE = 5e-4

Values = tuple[float, ...]
# The first values of the CLS token, and of the first patch token.
PUBLISHED: Mapping[str, tuple[Values, Values]] = {
    "dinov3_small": (
        (0.463562, -0.415609, 0.408237, -0.126613, -0.286637),
        (-0.038754, -0.250895, -0.016393, -0.455474, 0.571582),
    ),
    "dinov3_small_plus": (
        (-0.471349, -1.365779, -0.317983, 0.377219, -0.769086),
        (0.144552, -0.388117, -0.393434, -0.157695, -0.600380),
    ),
    "dinov3_base": (
        (1.034643, -0.180609, -0.341018, -0.066377, -0.011384),
        (-0.082524, -0.456273, -0.728030, -0.430680, -0.152880),
    ),
    "dinov3_large": (
        (0.484527, -0.582215, 0.480636, 0.592040, 0.945166),
        (-0.211367, -0.490864, -0.257131, 0.101764, 0.154511),
    ),
    "dinov3_huge_plus": (
        (-0.064576, -0.148867, -0.621524, 0.634879, 0.152696),
        (-0.093817, 0.287407, -0.050037, 0.428043, 0.094562),
    ),
    "dinov3_7b": (
        (0.275440, -0.261354, 0.067772, 0.049936, -0.158747),
        (0.044442, -0.052542, 0.070775, -0.065112, -0.026547),
    ),
}


@dataclass(frozen=True)
class KnownAnswer:
    """What an encoder says about the photograph, beside what it is published to say.

    Attributes:
        encoder: The registry's name.
        image: The photograph's file.
        max_abs: The largest difference over the published values.
        tolerance: What is allowed.
        genuine: Whether the weights are known to be the released ones: by their hash, or fetched from their repository.
    """

    encoder: str
    image: str
    max_abs: float
    tolerance: float
    genuine: bool

    @property
    def agrees(self) -> bool:
        """Return whether it says what is published."""
        return self.max_abs <= self.tolerance

    @property
    def ok(self) -> bool:
        """Return whether there is nothing wrong: weights that are others may say something else."""
        return self.agrees or not self.genuine

    def __str__(self) -> str:
        """Say it in a sentence."""
        told = f"{self.encoder} on {self.image}: {self.max_abs:.1e} from the published values"
        if self.agrees:
            return f"{told}, as it should be"
        if self.genuine:
            return f"{told}, although these are the released weights: expected at most {self.tolerance:.0e}"
        return f"{told}: these are other weights, or it is another photograph"


def is_the_photograph(path: Path, image: Image.Image) -> bool:
    """Return whether an image goes by COCO's name and has its size."""
    return _PHOTOGRAPH in path.stem and image.size == _PHOTOGRAPH_SIZE


def check_known_answer(
    encoder: Encoder,
    weights: Path,
    image: Path,
    *,
    published: Mapping[str, tuple[Values, Values]] = PUBLISHED,
) -> KnownAnswer | None:
    """Compare what an encoder says about the photograph with what is published.

    Args:
        encoder: A torch encoder.
        weights: Where its weights came from.
        image: A photograph.
        published: By the encoder's name, the first values of the CLS token and of the first patch.

    Returns:
        None if it is another photograph by its name or size, or nothing is published of the encoder.

    Raises:
        ImageReadError: The file is not an image.
    """
    answers = published.get(encoder.config.name)
    if answers is None:
        return None
    picture = load_image(image)
    if not is_the_photograph(image, picture):
        return None
    pixels = torch.from_numpy(preprocess_images([picture], (_SIDE, _SIDE), encoder.config))
    with torch.inference_mode():
        features = encoder(pixels.to(encoder.device))
    said = (features.cls[0], features.patches[0, 0, 0])
    differences = [
        np.abs(values[: len(expected)].float().cpu().numpy() - np.asarray(expected)).max()
        for values, expected in zip(said, answers, strict=True)
    ]
    largest = float(max(differences))
    return KnownAnswer(encoder.config.name, image.name, largest, _TOLERANCE, _is_genuine(encoder.config, weights))


def _is_genuine(entry: EncoderConfig, weights: Path) -> bool:
    if weights.is_file():
        return entry.file_hash is not None and sha256_of(weights).startswith(entry.file_hash)
    manifest = read_manifest(weights)
    return manifest is not None and manifest.kind == "hub" and manifest.source == entry.hub_id
