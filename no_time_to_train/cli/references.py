"""`ntt references check`, `ntt references convert`, `ntt memory show`."""

import json as json_module
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from no_time_to_train.cli.options import (
    GivenPath,
    OptionalPath,
    OptionalTexts,
    Output,
    References,
    Settings,
)
from no_time_to_train.io.paths import without_home
from no_time_to_train.io.redact import printable

if TYPE_CHECKING:
    from no_time_to_train.segmenter import Segmenter


def check(
    references: References,
    *,
    images: OptionalPath = None,
    output: Output = Path("references.png"),
    class_names: OptionalTexts = None,
    settings: Settings = None,
    bundle: OptionalPath = None,
    device: str = "cpu",
) -> int:
    """Look at references before they are used: a contact sheet of their masks, and what is doubtful about them.

    With models, of --config or --bundle, missing masks are drawn and each reference is compared with its class; without
    them, only what the files say is checked. The status is 1 if there are warnings.

    Args:
        references: In any form that ntt predict takes.
        images: Folder of the images, where it is not near the annotations.
        output: The contact sheet to write, a PNG.
        class_names: Classes to look at, in this order; all if not given.
        settings: YAMLs of the matching baselines.
        bundle: A folder that ntt export-pipeline wrote, or quickstart for the shipped models.
        device: Where models run, such as cpu or cuda.
    """
    from no_time_to_train.data.inputs import check_not_replaced
    from no_time_to_train.data.references import read_references, reference_set
    from no_time_to_train.io.atomic import check_writable
    from no_time_to_train.results.reference_checks import check_references
    from no_time_to_train.results.reference_sheet import write_reference_sheet

    check_writable(output.parent)
    found = read_references(references, images)
    for file in found.files:
        check_not_replaced([output], {"--references": file})
    chosen = reference_set(found.dataset, class_names)
    models = _models(settings, bundle, device)
    checked = check_references(chosen, found.images, models)
    write_reference_sheet(checked, found.images, output)
    lines = [line for each in checked for line in each.lines]
    for line in lines:
        print(printable(line))
    print(f"{without_home(str(output))}: {len(checked)} references of {len(chosen.class_names)} classes")
    if models is None:
        drawn = sum(each.annotation.segmentation is None for each in checked)
        missing = f"{drawn} masks were not drawn, and " if drawn else ""
        print(f"{missing}references were not compared with one another: give --config or --bundle quickstart for it")
    return int(bool(lines))


def convert(
    references: References,
    *,
    output: Output,
    images: OptionalPath = None,
    settings: Settings = None,
    bundle: OptionalPath = None,
    device: str = "cpu",
) -> None:
    """Write references of any form as COCO JSON, with file names relative to it.

    With models, of --config or --bundle, masks that are missing are drawn and written.

    Args:
        references: In any form that ntt predict takes.
        output: The JSON file to write.
        images: Folder of the images, where it is not near the annotations.
        settings: YAMLs of the matching baselines.
        bundle: A folder that ntt export-pipeline wrote, or quickstart for the shipped models.
        device: Where models run, such as cpu or cuda.
    """
    from no_time_to_train.data.references import read_references, reference_set, write_references
    from no_time_to_train.results.reference_checks import check_references, with_drawn_masks

    found = read_references(references, images)
    models = _models(settings, bundle, device)
    if models is not None:
        checked = check_references(reference_set(found.dataset), found.images, models)
        found = replace(found, dataset=with_drawn_masks(found.dataset, checked))
    write_references(found, output)
    count, classes = len(found.dataset.annotations), len(found.dataset.categories)
    print(f"{without_home(str(output))}: {count} references of {classes} classes")


def show(file: GivenPath, *, json: bool = False) -> None:
    """Tell what a memory file holds: classes and references, and the encoder that it was filled with.

    Args:
        file: As Segmenter.save_memory and --test_mode fill_memory write it.
        json: Print JSON.
    """
    from no_time_to_train.matching import MemoryBank

    memory = MemoryBank.load(file)
    counts = zip(memory.class_names, memory.counts(), memory.counts(negative=True), strict=True)
    classes = [{"name": name, "references": own, "negatives": not_own} for name, own, not_own in counts]
    told = {
        "file": without_home(str(file)),
        "bytes": file.stat().st_size,
        "encoder": memory.encoder_name,
        "encoder_fingerprint": memory.encoder_fingerprint,
        "image_size": memory.image_size,
        "embed_dim": memory.embed_dim,
        "classes": classes,
    }
    if json:
        print(json_module.dumps(told, indent=2))
        return
    size = f" at {memory.image_size}" if memory.image_size else ""
    print(
        printable(f"{told['file']}: {told['bytes']:,} bytes, filled with {memory.encoder_name or 'an encoder'}{size}")
    )
    for entry in classes:
        negatives = f", {entry['negatives']} negative" if entry["negatives"] else ""
        print(printable(f"{entry['name']}: {entry['references']} references{negatives}"))


def _models(settings: list[Path] | None, bundle: Path | None, device: str) -> "Segmenter | None":
    """Build the models that were named; None if none were."""
    from no_time_to_train.cli.predict import without_bundle

    settings, bundle = without_bundle(settings or [], bundle)
    if not settings and bundle is None:
        return None
    from no_time_to_train.cli.predictor import build_segmenter, load_settings
    from no_time_to_train.runtime.bundle import read_bundle

    opened = None if bundle is None else read_bundle(bundle)
    config = load_settings(settings, bundle=opened)
    return build_segmenter(config, device, None if opened is None else "onnx")
