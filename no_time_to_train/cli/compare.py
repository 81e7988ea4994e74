"""`ntt compare`."""

import json as json_module
from typing import Annotated, Any

from no_time_to_train.cli.options import SEVERAL, OptionalPath, OptionalPaths, OptionalTexts
from no_time_to_train.configs.image_size import parse_image_size
from no_time_to_train.configs.limits import TOGETHER, check_number
from no_time_to_train.errors import ConfigError
from no_time_to_train.io.atomic import check_writable
from no_time_to_train.io.paths import without_home

# Each is held in memory.
_MOST = 1000


def compare(
    encoder: str | None = None,
    *,
    weights: OptionalPaths = None,
    onnx: OptionalPaths = None,
    eqx: OptionalPaths = None,
    image: OptionalPaths = None,
    random: int | None = None,
    image_size: OptionalTexts = None,
    batch_size: Annotated[list[int] | None, SEVERAL] = None,
    block_debug: bool = False,
    report: OptionalPath = None,
    tolerance: float | None = None,
    json: bool = False,
) -> int:
    """Compare an encoder or a SAM2 in torch, Equinox and ONNX, and find where they drift apart.

    Of an encoder every token is compared; of a SAM2 the embeddings of images and the masks of points and boxes.

    The status is 0 if all verdicts hold, 1 if one fails, 2 after bad input.

    Args:
        encoder: A registry name such as dinov3_small or sam2_hiera_tiny, whose weights are looked for under
            checkpoints/ if none are named; or a weights file or folder.
        weights: Of the torch model, the reference: a file or folder of any layout. Of two, one is compared with the
            other. With neither --onnx nor --eqx, both are made of these weights and compared.
        onnx: Folders that `ntt export` wrote.
        eqx: Weights for the Equinox model, in any layout: an encoder's .eqx file, or the same as torch's.
        image: Photographs; noise with the statistics of photographs if left out.
        random: How many images of noise; 2 if neither this nor photographs are given.
        image_size: Heights and widths, such as 224x224 256x384; 224x224 if left out. A SAM2 takes its own size only.
        batch_size: Images at a time; 1 if left out. Images are repeated to fill a batch.
        block_debug: Look at every stage of every block too, and name the first that errs by more than it rounds.
        report: Write a folder with a page, index.html, and its pictures; stages are looked at for it too.
        tolerance: Of the largest difference in fp32 on a CPU, in units of the largest value where that is above 1;
            1e-5 if left out.
        json: Print the whole result as JSON.
    """
    from no_time_to_train.parity.html_report import check_replaceable, write_report
    from no_time_to_train.parity.runner import Request, compare_backends
    from no_time_to_train.parity.sam2.runner import compare_named_sam2, names_sam2
    from no_time_to_train.parity.text_report import format_text

    if image and random is not None:
        raise ConfigError("--image and --random were both given", remedy="choose one")
    check_number("--random", random, 1, _MOST, "every image is in memory")
    for count in batch_size or []:
        check_number("--batch-size", count, 1, _MOST, TOGETHER)
    if tolerance is not None and not tolerance >= 0:
        raise ConfigError(f"--tolerance is {tolerance}", remedy="give a number such as 1e-5")
    if report is not None:
        check_replaceable(report)
        check_writable(report)
    request = Request(
        encoder=encoder,
        weights=tuple(weights or ()),
        onnx=tuple(onnx or ()),
        eqx=tuple(eqx or ()),
        images=tuple(image or ()),
        num_random=2 if random is None else random,
        image_sizes=tuple(parse_image_size(text) for text in image_size or []),
        batch_sizes=tuple(batch_size or [1]),
        blocks=block_debug or report is not None,
        pictures=report is not None,
        tolerance=tolerance,
    )
    result = compare_named_sam2(request) if names_sam2(request) else compare_backends(request)
    page = None if report is None else write_report(result, report)
    if json:
        told: dict[str, Any] = result.to_dict() | ({} if page is None else {"page": str(page)})
        print(json_module.dumps(told, indent=2))
    else:
        print(format_text(result))
        if page is not None:
            print(f"report: {without_home(str(page))}")
    return 0 if result.ok else 1
