"""`ntt predict`."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from no_time_to_train.cli.options import (
    SEVERAL,
    OptionalPath,
    OptionalReferences,
    OptionalTexts,
    Output,
    Paths,
    Settings,
)
from no_time_to_train.configs.recommended import SHIPPED, pair_at_hand, said_of_default
from no_time_to_train.errors import ConfigError, DataNotFoundError
from no_time_to_train.results.formats import FormatName


def predict(
    images: Paths,
    *,
    output: Output,
    references: Annotated[OptionalReferences, Parameter(alias="-r")] = None,
    reference_images: OptionalPath = None,
    negative_references: OptionalReferences = None,
    class_names: OptionalTexts = None,
    memory: Annotated[OptionalPath, Parameter(alias="-m")] = None,
    settings: Settings = None,
    encoder: str | None = None,
    encoder_weights: OptionalPath = None,
    sam2: str | None = None,
    sam2_weights: OptionalPath = None,
    random_init: bool = False,
    points_per_side: int | None = None,
    min_score: float = 0.3,
    overlays: bool = True,
    report: bool = False,
    format: Annotated[list[FormatName] | None, SEVERAL] = None,
    polygons: bool = False,
    crops: bool = False,
    strict: bool = False,
    clean: bool = False,
    shard: str | None = None,
    every: int | None = None,
    device: str = "cpu",
    runtime: Literal["torch", "onnx"] | None = None,
    provider: str | None = None,
    bundle: OptionalPath = None,
) -> int:
    """Find objects like a few references in folders of images; an interrupted run goes on where it stopped.

    Args:
        images: Image files, folders of them, videos, patterns in quotes ("photos/**/*.jpg"), text files of paths
            (list.txt), and - for paths from standard input, as many as you like, one after another.
        output: The folder to write: predictions.json in COCO's form, a JSON file and an overlay for each image.
        references: What to look for: a folder by class (refs/apple/1.jpg), a COCO JSON, a folder of LabelMe, YOLO, VOC
            or CVAT, or IMAGE:CLASS@x,y,width,height and IMAGE:CLASS@x,y; several of them too. References without a mask
            get theirs from SAM2.
        reference_images: Folder of the references' images, where it is not near their annotations.
        negative_references: What the classes are taken for and are not, in the same forms.
        class_names: Classes of the references to look for, in this order; all of them if not given.
        memory: A memory file in the place of references, as --test_mode fill_memory and Segmenter.save_memory write it.
        settings: YAMLs of the matching baselines, whose models and thresholds are taken, a later one over an earlier
            one. Where no model is named, those that ntt setup fetched are taken, or the shipped ones.
        encoder: A registry name, or a weights file or folder, or onnx:DIR, before that of the settings.
        encoder_weights: The encoder's weights, before those of the settings.
        sam2: A SAM2 configuration's name or a folder, before that of the settings.
        sam2_weights: SAM2's weights, before those of the settings.
        random_init: Draw random weights for whatever has none; the masks mean nothing then.
        points_per_side: Points along each side of the grid at which SAM2 is asked; small objects need more, and time
            grows with its square.
        min_score: Instances of a lower score are left out.
        overlays: Draw what was found.
        report: Write report.html too: references and images with what was found, to be filtered, in one file.
        format: Write a folder of this name too, which other programs open, with links to the images or copies; as many
            as you like, such as yolo-seg labelme.
        polygons: Write masks as polygons instead of RLE, for programs that do not read RLE.
        crops: Write each instance as a PNG, transparent around it, into crops/CLASS/ too.
        strict: Stop at the first image that cannot be read, and end with status 2.
        clean: Remove what earlier runs wrote into the output of images that are not among these.
        shard: I/N looks at every N-th image from the I-th on, so that N processes or machines with one output share the
            work; once they have ended, the command without it writes predictions.json.
        every: Of videos, look at every N-th frame; at about one a second if not given.
        device: Where it runs, such as cpu or cuda.
        runtime: torch, or onnx for ONNX Runtime and NumPy alone, with folders of ntt export as --encoder and --sam2;
            onnx with a bundle or where torch is not installed.
        provider: What ONNX Runtime runs on, in the place of --device: cpu, cuda, coreml, directml or openvino.
        bundle: A folder that ntt export-pipeline wrote, or quickstart for the models that the project ships; YAMLs of
            --settings go over its settings.
    """
    # Before anything is loaded: torch alone takes seconds.
    settings = settings or []
    if runtime != "torch":
        settings, bundle = without_bundle(settings, bundle)
    pair, notice = None, None
    if not settings and bundle is None and not any((encoder, encoder_weights, sam2, sam2_weights, random_init)):
        pair = pair_at_hand() if runtime != "onnx" and provider is None and find_spec("torch") else None
        notice = said_of_default(pair)
        if pair is None and runtime == "torch":
            settings = [Path(SHIPPED)]
        elif pair is None:
            bundle = Path(SHIPPED)
    opened = None
    if bundle is not None:
        from no_time_to_train.runtime.bundle import read_bundle

        _check_bundle_alone(runtime, encoder, encoder_weights, sam2, sam2_weights, random_init)
        opened, runtime = read_bundle(bundle), "onnx"
        if references is None and memory is None:
            memory = opened.memory
    if provider is not None and runtime == "torch":
        raise ConfigError("--provider is of ONNX Runtime, and --runtime is torch", remedy="give --device")
    runtime = "onnx" if provider is not None else runtime
    if (references is None) == (memory is None):
        got = "got neither" if memory is None else "got both"
        raise ConfigError(
            f"expected references, or a memory of them, {got}", remedy="give one of --references and --memory"
        )
    if class_names is not None and references is None:
        raise ConfigError("class names are of references, and a memory has its own", remedy="leave out --class-names")
    if not 0 <= min_score <= 1:
        raise ConfigError(f"min_score is {min_score}, expected 0 to 1", remedy="0.3 is usual")
    formats = list(dict.fromkeys(format or []))
    if shard is not None and (report or formats or crops or clean):
        raise ConfigError(
            "a shard has not seen all images, and report, format, crops and clean are of all",
            remedy="give them to the run without --shard, which comes after the shards",
        )
    if every is not None and every < 1:
        raise ConfigError(f"every is {every}, expected 1 or more", remedy="--every 30 looks at every 30th frame")
    from no_time_to_train.batch.results import outside_exports
    from no_time_to_train.data.inputs import check_not_replaced
    from no_time_to_train.io.atomic import check_writable
    from no_time_to_train.results.coco_output import PREDICTIONS
    from no_time_to_train.results.formats.folders import CROPS, check_export, write_export

    check_writable(output)
    exports = [*formats, CROPS] if crops else [*formats]
    for name in exports:
        check_export(output / name, name)
    from no_time_to_train.data.references import negative_references as of_classes
    from no_time_to_train.data.references import read_references, reference_set

    if reference_images is not None and not reference_images.is_dir():
        raise DataNotFoundError(f"there is no folder {reference_images}", remedy="check --reference-images")
    read: dict[str, list[Path]] = {"memory": [] if memory is None else [memory]}
    if references is not None:
        found_references = read_references(references, reference_images)
        names = reference_set(found_references.dataset, class_names).class_names
        read["references"] = list(found_references.files)
        if negative_references is not None:
            negatives = read_references(negative_references, reference_images, negative=True)
            of_classes(negatives.dataset, names)
            read["negative_references"] = list(negatives.files)
    for option, files in read.items():
        for file in files:
            check_not_replaced([output / PREDICTIONS], {option: file})
    from rich.console import Console

    from no_time_to_train.batch.advice import advice
    from no_time_to_train.batch.image_paths import common_folder, find_images, image_files, share_of
    from no_time_to_train.batch.outdated_files import find_left_over, remove_left_over_of, told
    from no_time_to_train.batch.report import ReferenceFiles, write_report
    from no_time_to_train.batch.run import OVERLAYS, REPORT, RESULTS, predict_images, summary
    from no_time_to_train.batch.run_locks import sole_run
    from no_time_to_train.cli.error_messages import CHECK_PATH, in_one_line
    from no_time_to_train.cli.predictor import build_segmenter, load_settings
    from no_time_to_train.data.named.named_paths import named_paths
    from no_time_to_train.io.file_stamps import FileStamp
    from no_time_to_train.io.messages import plain_console
    from no_time_to_train.io.redact import printable
    from no_time_to_train.matching import MemoryBank
    from no_time_to_train.models.steps import run_fingerprint

    images = named_paths(images, but=output / OVERLAYS)
    found = outside_exports(find_images(images, but=output / OVERLAYS, every=every), output)
    if every is not None and not any(image.video or image.fault for image in found):
        raise ConfigError("--every is of videos, and none is named", remedy="leave it out, or name a video")
    if shard is not None:
        found = share_of(found, shard)
    if memory is not None:
        MemoryBank.load(memory).finalize()  # what is wrong with it is known before models are built
    if notice is not None:
        print(notice, file=sys.stderr)
    config = load_settings(
        settings,
        bundle=opened,
        encoder=encoder,
        encoder_weights=encoder_weights,
        sam2=sam2,
        sam2_weights=sam2_weights,
        random_init=random_init,
        points_per_side=points_per_side,
        **({} if pair is None else {"defaults": pair.settings()}),
    )
    segmenter = build_segmenter(config, provider or device, runtime)
    if memory is not None:
        segmenter.load_memory(memory)
    if references is not None:
        segmenter.add_references(references, reference_images, class_names=class_names)
        if negative_references is not None:
            segmenter.add_references(negative_references, reference_images, negative=True)
    run = run_fingerprint(segmenter.baseline, segmenter.references, min_score)
    remedy = "wait until it has ended, or name another --output"
    with sole_run(output, "ntt predict", remedy=remedy, share=shard or ""):
        outcome = predict_images(
            segmenter,
            found,
            output,
            run=run,
            image_root=common_folder(images),
            min_score=min_score,
            overlays=overlays,
            polygons=polygons,
            strict=strict,
            whole=shard is None,
            console=Console(stderr=True),
        )
        if report:
            shown = None
            if references is not None:
                shown = ReferenceFiles(references, reference_images, negative_references)
            write_report(
                output / REPORT,
                segmenter,
                outcome,
                found,
                run=run,
                min_score=min_score,
                references=shown,
                settings=settings,
            )
        if exports and outcome.dataset is not None:
            by_name = {image.name: image for image in found}
            looked_at = [
                (by_name[entry["file_name"]], FileStamp.from_json(entry["stamp"])) for entry in outcome.entries
            ]
            with image_files(looked_at, output) as sources:
                for name in exports:
                    form = "coco-polygons" if polygons and name == "coco" else name
                    write_export(output / name, form, outcome.dataset, sources)
        unreadable = {image.name for image, _ in outcome.unreadable}
        seen = [image for image in found if image.name not in unreadable]
        left_over = find_left_over(output, seen) if shard is None else []
        if clean:
            remove_left_over_of(output, left_over)
    console = plain_console()
    console.print(summary(outcome, segmenter.class_names))
    for line in advice(outcome, segmenter.class_names, config, min_score):
        console.print(printable(line))
    if segmenter.random_weights:
        console.print(f"random weights ({', '.join(segmenter.random_weights)}): the instances mean nothing")
    kept = f", {outcome.kept} of them from an earlier run" if outcome.kept else ""
    where = output / RESULTS if shard is None else f"shard {shard}; without --shard, {RESULTS} is written of all"
    console.print(f"{len(outcome.entries)} image{'' if len(outcome.entries) == 1 else 's'}{kept}: {where}")
    if report:
        console.print(f"to look at: {output / REPORT}")
    elif shard is None and outcome.entries:
        console.print("next: the same command with --report writes a page to look at, and looks at no image again")
    if formats:
        console.print(f"for annotation tools: {', '.join(str(output / name) for name in formats)}")
    if crops:
        console.print(f"crops: {output / CROPS}")
    for _, error in outcome.unreadable:
        print(f"left out: {in_one_line(error, CHECK_PATH)}", file=sys.stderr)
    for image in outcome.changed:
        print(
            f"changed: {printable(' '.join(str(image.path).split()))} was written to or removed after it was read; the "
            "result is of what was read (run the same command again)",
            file=sys.stderr,
        )
    if left_over:
        print(printable(told(left_over, removed=clean)), file=sys.stderr)
    if not outcome.entries and found:
        raise ConfigError(f"none of {len(found)} images could be read", remedy="the lines above say why")
    return 0


def without_bundle(settings: list[Path], bundle: Path | None) -> tuple[list[Path], Path | None]:
    """Take a shipped bundle that stands among the settings by its name, as `--config quickstart`."""
    from no_time_to_train.runtime.bundle import shipped_bundle

    for path in settings:
        if bundle is None and not path.exists() and shipped_bundle(str(path)) is not None:
            return [other for other in settings if other != path], path
    return settings, bundle


def _check_bundle_alone(
    runtime: str | None,
    encoder: str | None,
    encoder_weights: Path | None,
    sam2: str | None,
    sam2_weights: Path | None,
    random_init: bool,
) -> None:
    """Refuse options that name models if a bundle is given, because a bundle has its own models.

    Raises:
        ConfigError: There is one.
    """
    given = {
        "--encoder": encoder,
        "--encoder-weights": encoder_weights,
        "--sam2": sam2,
        "--sam2-weights": sam2_weights,
        "--random-init": random_init or None,
        "--runtime torch": runtime if runtime == "torch" else None,
    }
    named = [name for name, value in given.items() if value is not None]
    if named:
        raise ConfigError(
            f"{', '.join(named)} was given with a bundle, which has its own models for ONNX Runtime",
            remedy=f"leave out {named[0]}, or --bundle",
        )
